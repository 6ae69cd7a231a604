//! Against a real socket: what a client sees, byte by byte.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may spawn: it supervises its own server"
)]

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::fuzz_tests::seeds;

#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    requests: Mutex<Vec<Ask>>,
}

impl StatusSource for Fake {
    fn status(&self, scope: &Scope) -> Value {
        match scope.location() {
            None => json!({ "tables": [{ "name": "t" }] }),
            Some(location) => json!({ "of": location }),
        }
    }
    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
    fn unready(&self) -> &'static str {
        "not ready\n"
    }
    fn healthy(&self) -> bool {
        true
    }
    fn metrics(&self) -> String {
        "squire_drift 0\n".to_owned()
    }
    fn request(&self, ask: Ask) -> Result<Value, Refusal> {
        if ask.what.kind.as_deref() == Some("unknown") {
            return Err(Refusal::Unknown("there are: /lake/other".to_owned()));
        }
        if ask.verb == ControlVerb::Resume {
            return Err(Refusal::NotNow("nothing is paused".to_owned()));
        }
        self.requests.lock().unwrap().push(ask);
        Ok(json!({ "queued": 1 }))
    }
}

struct Running {
    address: SocketAddr,
    source: Arc<Fake>,
    cancel: CancellationToken,
    server: JoinHandle<io::Result<()>>,
}

async fn start(token: Option<&str>) -> Running {
    start_with(Access::of(token)).await
}

async fn start_with(access: Access) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (source, cancel) = (Arc::new(Fake::default()), CancellationToken::new());
    let server = tokio::spawn(serve(
        listener,
        Arc::clone(&source) as Source,
        access,
        cancel.clone(),
    ));
    Running {
        address,
        source,
        cancel,
        server,
    }
}

impl Running {
    /// Sends bytes and reads until the server closes.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses a body may reset the connection after its answer.
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.send(&request).await
    }
}

#[tokio::test]
async fn reading_pages_answer() {
    let running = start(None).await;
    let metrics = running.get("/metrics").await;
    assert!(
        metrics.starts_with("HTTP/1.1 200") && metrics.contains("text/plain; version=0.0.4"),
        "{metrics}"
    );
    assert!(metrics.ends_with("squire_drift 0\n"));
    assert!(running.get("/healthz").await.ends_with("ok\n"));
    assert!(running.get("/readyz").await.starts_with("HTTP/1.1 503"));
    running.source.ready.store(true, Ordering::Relaxed);
    assert!(running.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(
        running
            .get("/status")
            .await
            .ends_with("{\"tables\":[{\"name\":\"t\"}]}")
    );
    let page = running.get("/").await;
    assert!(
        page.contains("text/html")
            && page.contains("content-security-policy")
            && page.contains("<title>squire</title>")
    );
    assert!(running.get("/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn changing_calls_are_off_without_a_token() {
    let running = start(None).await;
    let answer = running
        .post("/api/v1/optimize", "Authorization: Bearer x\r\n", "")
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("changing calls are off: set daemon.token_file"));
}

#[tokio::test]
async fn changing_calls_need_the_token() {
    let running = start(Some("secret-token")).await;
    let headers = [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic secret-token\r\n",
        "Authorization: Bearer secret-token\r\nAuthorization: Bearer x\r\n",
    ];
    for header in headers {
        let answer = running.post("/api/v1/cleanup", header, "").await;
        assert!(
            answer.starts_with("HTTP/1.1 401") && !answer.contains("secret-token"),
            "{header:?}: {answer}"
        );
    }
    assert!(
        running
            .get("/api/v1/cleanup")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert!(running.source.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn changing_calls_reach_the_source() {
    let running = start(Some("secret-token")).await;
    let auth = "Authorization: bearer secret-token\r\n";
    for verb in ControlVerb::ALL
        .into_iter()
        .filter(|verb| *verb != ControlVerb::Resume)
    {
        let answer = running.post(&format!("/api/v1/{verb}"), auth, "").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"queued\":1}"),
            "{answer}"
        );
    }
    assert!(
        running
            .post("/api/v1/pause", auth, "{\"store\":\"s\",\"table\":\"t\"}")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        running
            .post("/api/v1/pause?store=s&table=t", auth, "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    for body in [
        "{}",
        "{\"table\":\"t\"}",
        "{\"store\":\"s\",\"table\":null}",
    ] {
        let path = "/api/v1/pause?store=s&table=t";
        let answer = running.post(path, auth, body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{body}: {answer}");
    }
    let (some_s, some_t) = (Some("s".to_owned()), Some("t".to_owned()));
    let pause = |what| Ask {
        verb: ControlVerb::Pause,
        what,
    };
    let named = What {
        store: some_s,
        table: some_t,
        ..What::default()
    };
    let asked = running.source.requests.lock().unwrap()[7..].to_vec();
    assert_eq!(asked, vec![pause(named.clone()); 5]);
    let path = "/api/v1/pause?store=s&table=t&kind=optimize&reason=an+audit";
    let answer = running.post(path, auth, "{\"attempt\":7}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let asked = running.source.requests.lock().unwrap()[12..].to_vec();
    let whole = What {
        kind: Some("optimize".to_owned()),
        attempt: Some(7),
        reason: Some("an audit".to_owned()),
        ..named
    };
    assert_eq!(asked, [pause(whole)]);
}

/// A token for one location, one for a table of it, and reading for those alone who have one.
fn scoped() -> Access {
    let (location, table) = ("/lake/s".to_owned(), "t.lance".to_owned());
    Access::with(
        &[
            ("whole", Scope::All),
            ("of-s", Scope::Location(location.clone())),
            ("of-t", Scope::Table { location, table }),
        ],
        false,
    )
}

impl Running {
    async fn read_as(&self, token: &str, path: &str) -> String {
        let auth = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}\r\n"
        ))
        .await
    }

    /// The answer's code to a call, and what was asked of the source.
    async fn asked_as(&self, token: &str, path: &str, body: &str) -> (String, Option<Ask>) {
        let auth = format!("Authorization: Bearer {token}\r\n");
        let answer = self.post(path, &auth, body).await;
        let asked = self.source.requests.lock().unwrap().pop();
        (answer, asked)
    }
}

#[tokio::test]
async fn what_is_kept_for_readers_with_a_token_is_told_to_no_other() {
    let running = start_with(scoped()).await;
    for path in ["/status", "/metrics"] {
        for nobody in ["", "wrong", "of-", "whole2"] {
            let answer = running.read_as(nobody, path).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{nobody}: {answer}");
        }
        let answer = running.read_as("whole", path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // What tells of no table is for whoever watches over the process.
    for path in ["/healthz", "/", "/api/v1/openapi.json"] {
        let answer = running.read_as("", path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    for token in ["of-s", "of-t"] {
        let answer = running.read_as(token, "/status").await;
        assert!(answer.ends_with("{\"of\":\"/lake/s\"}"), "{answer}");
        let answer = running.read_as(token, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(!answer.contains("squire_drift"), "{answer}");
    }
}

#[tokio::test]
async fn a_token_asks_for_nothing_beyond_its_scope() {
    let running = start_with(scoped()).await;
    let what = |table: Option<&str>| What {
        store: Some("/lake/s".to_owned()),
        table: table.map(str::to_owned),
        ..What::default()
    };
    let taken = [
        ("of-s", "", what(None)),
        ("of-s", "{\"store\":\"/lake/s/\"}", what(None)),
        ("of-s", "{\"table\":\"u\"}", what(Some("u"))),
        ("of-t", "", what(Some("t.lance"))),
        ("of-t", "{\"table\":\"t\"}", what(Some("t.lance"))),
    ];
    for (token, body, what) in taken {
        let (answer, asked) = running.asked_as(token, "/api/v1/optimize", body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{body}: {answer}");
        assert_eq!(asked.map(|ask| ask.what), Some(what), "{token} {body}");
    }
    let refused = [
        ("of-s", "optimize", "{\"store\":\"/lake/other\"}", "404"),
        ("of-t", "optimize", "{\"table\":\"u\"}", "404"),
        ("of-s", "optimize", "{\"kind\":\"unknown\"}", "404"),
        ("of-t", "recover", "", "403"),
        ("of-t", "drain", "", "403"),
        ("of-s", "drain", "", "403"),
        ("of-x", "optimize", "", "401"),
    ];
    let mut told = std::collections::BTreeSet::new();
    for (token, verb, body, code) in refused {
        let path = format!("/api/v1/{verb}");
        let (answer, asked) = running.asked_as(token, &path, body).await;
        let start = format!("HTTP/1.1 {code}");
        assert!(
            answer.starts_with(&start),
            "{token} {verb} {body}: {answer}"
        );
        assert!(asked.is_none() && !answer.contains("/lake/"), "{answer}");
        if code == "404" {
            told.extend(answer.rsplit("\r\n").next().map(str::to_owned));
        }
    }
    assert_eq!(told.len(), 1, "what is there and what is not: {told:?}");
    let (answer, _) = running.asked_as("of-s", "/api/v1/recover", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn changing_calls_that_say_nothing_clear_are_refused() {
    let running = start(Some("secret-token")).await;
    let auth = "Authorization: bearer secret-token\r\n";
    let refused = running.post("/api/v1/resume", auth, "").await;
    assert!(
        refused.starts_with("HTTP/1.1 409") && refused.contains("nothing is paused"),
        "{refused}"
    );
    for (path, body) in [
        ("/api/v1/pause", "{\"tabel\":\"t\"}"),
        ("/api/v1/pause", "nonsense"),
        ("/api/v1/pause?tabel=t", ""),
        ("/api/v1/pause?tabel=t", "{\"table\":\"t\"}"),
        ("/api/v1/pause?store=s&store=r", ""),
        ("/api/v1/pause?store=s", "{\"store\":\"r\"}"),
        ("/api/v1/pause", "[]"),
        ("/api/v1/cancel?attempt=one", ""),
        ("/api/v1/cancel?attempt=1", "{\"attempt\":2}"),
    ] {
        let answer = running.post(path, auth, body).await;
        assert!(
            answer.starts_with("HTTP/1.1 400"),
            "{path} {body}: {answer}"
        );
    }
    assert!(
        running
            .post("/api/v1/explode", auth, "")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let running = start(Some("secret-token")).await;
    let auth = "Authorization: Bearer secret-token\r\n";
    let answer = running
        .post("/api/v1/pause", auth, &" ".repeat(MAX_BODY + 1))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_slow_request_is_given_up() {
    let router = Router::new()
        .route("/", get(std::future::pending::<Response>))
        .layer(middleware::from_fn_with_state(
            Duration::from_millis(20),
            limit_time,
        ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn cancellation_ends_the_server() {
    let running = start(None).await;
    assert!(running.get("/healthz").await.starts_with("HTTP/1.1 200"));
    let _idle = TcpStream::connect(running.address).await.unwrap();
    running.cancel.cancel();
    let ended =
        tokio::time::timeout(SHUTDOWN_TIMEOUT + Duration::from_secs(2), running.server).await;
    ended.unwrap().unwrap().unwrap();
}

/// The description, and each of its paths with the methods that it tells of.
fn described() -> (Value, Vec<(String, Vec<String>)>) {
    let document: Value = serde_json::from_str(page::DESCRIPTION).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = |path: &Value| path.as_object().unwrap().keys().cloned().collect();
    let paths = paths.map(|(path, of_path)| (path.clone(), methods(of_path)));
    let paths = paths.collect();
    (document, paths)
}

#[test]
fn the_description_tells_of_every_route_and_of_no_other() {
    let (document, mut told) = described();
    let reading = reading().into_iter().chain(of_tables());
    let reading = reading.map(|(path, _)| (path.to_owned(), vec!["get".to_owned()]));
    let mut routes: Vec<_> = reading.collect();
    routes.push((CHANGING.to_owned(), vec!["post".to_owned()]));
    told.sort();
    routes.sort();
    assert_eq!(told, routes);
    let ask = &document["paths"][CHANGING]["post"];
    let verbs = ask["parameters"][0]["schema"]["enum"].clone();
    assert_eq!(verbs, json!(ControlVerb::ALL.map(ControlVerb::as_str)));
    let target = &document["components"]["schemas"]["Target"]["properties"];
    let mut named: Vec<&String> = target.as_object().unwrap().keys().collect();
    let query = ask["parameters"].as_array().unwrap().iter().skip(1);
    let mut asked: Vec<&str> = query.map(|p| p["name"].as_str().unwrap()).collect();
    named.sort();
    asked.sort_unstable();
    assert_eq!(named, asked, "the query and the body name the same");
    for name in named {
        let value = match name.as_str() {
            "attempt" => json!(7),
            "kind" => json!("compact"),
            _ => json!("x"),
        };
        let one = json!({ name.as_str(): value }).to_string();
        assert!(What::of_body(one.as_bytes()).is_ok(), "{name}");
    }
}

#[tokio::test]
async fn what_is_described_is_there_and_reading_changes_nothing() {
    let running = start(Some("secret-token")).await;
    let auth = "Authorization: Bearer secret-token\r\n";
    for (path, methods) in described().1 {
        if methods == ["get"] {
            let answer = running.get(&path).await;
            let known = ["HTTP/1.1 200", "HTTP/1.1 503"].iter();
            assert!(
                known.clone().any(|code| answer.starts_with(code)),
                "{path}: {answer}"
            );
            let posted = running.post(&path, auth, "{}").await;
            assert!(posted.starts_with("HTTP/1.1 405"), "{path}: {posted}");
        }
    }
    for verb in ControlVerb::ALL {
        let request =
            format!("GET /api/v1/{verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}\r\n");
        let answer = running.send(&request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{verb}: {answer}");
    }
    assert!(running.source.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_page_runs_its_own_script_and_no_other() {
    let running = start(None).await;
    let page = running.get("/").await;
    let policy = page
        .lines()
        .find(|l| l.starts_with("content-security-policy"));
    let policy = policy.unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"));
    for tag in ["<script", "<style"] {
        assert_eq!(page.matches(tag).count(), 1, "{tag}: one has a digest");
    }
    for elsewhere in [
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "src=",
        "//cdn",
    ] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    for guard in ["x-content-type-options: nosniff", "x-frame-options: DENY"] {
        assert!(page.contains(guard), "{guard}");
    }
}

/// Requests that are broken somewhere, each from its seed: whatever comes is answered or dropped, nothing is asked for without the
/// token, and the next client is served.
#[tokio::test]
async fn broken_requests_ask_for_nothing_and_stop_nobody() {
    let running = start(Some("secret-token")).await;
    for seed in seeds(7, 300) {
        let request = broken(seed);
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // It may be refused before it is read to its end.
        stream.write_all(&request).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let shown = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || shown.starts_with("HTTP/1."),
            "seed {seed}: {shown}"
        );
        let code = shown.split(' ').nth(1).unwrap_or_default();
        assert!(
            ["", "100", "200", "503"].contains(&code) || code.starts_with('4'),
            "seed {seed}: {shown}"
        );
        assert!(!shown.contains("secret-token"), "seed {seed}: {shown}");
    }
    assert!(running.source.requests.lock().unwrap().is_empty());
    assert!(running.get("/healthz").await.starts_with("HTTP/1.1 200"));
}

/// A request without the token, changed in a few places.
fn broken(seed: u64) -> Vec<u8> {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    const TOKENS: [&str; 14] = [
        "\r\n", "\n", "\0", ":", " ", "?", "%", "%00", "/../", "chunked", "HTTP/1.1", "\u{ff}",
        "{", "9",
    ];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pick = |from: &[&str]| from[rng.random_range(0..from.len())].to_owned();
    let verb = pick(&["GET", "POST", "HEAD", "PUT", "TRACE", "PRI", "CONNECT"]);
    let path = pick(&[
        "/",
        "/metrics",
        "/status",
        "/api/v1/cleanup",
        "/api/v1/pause?table=t",
        "*",
    ]);
    let header = pick(&[
        "Content-Length: 2",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked",
        "Authorization: Bearer guess",
        "Upgrade: h2c\r\nConnection: Upgrade",
        "Expect: 100-continue",
    ]);
    let text =
        format!("{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n{{}}");
    let mut bytes = text.into_bytes();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random_range(0..=255),
            1 => bytes.truncate(at.max(1)),
            2 => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                bytes.splice(at..at, token.bytes());
            }
            _ => {
                let again = vec![bytes[at]; rng.random_range(1..5_000)];
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

/// Whoever guesses learns nothing, asks for nothing, and keeps nobody out who has the token.
#[tokio::test]
async fn whoever_guesses_the_token_keeps_nobody_out() {
    let secret = "0123456789abcdef0123456789abcdef";
    let running = start(Some(secret)).await;
    let mut answers = std::collections::BTreeSet::new();
    for guess in 0..secret.len() {
        // All but one letter is right, or one too many, or one too few.
        let mut wrong = secret.as_bytes().to_vec();
        wrong[guess] ^= 1;
        let wrong = String::from_utf8(wrong).unwrap();
        for token in [
            wrong,
            secret[..guess].to_owned(),
            format!("{secret}{guess}"),
        ] {
            let header = format!("Authorization: Bearer {token}\r\n");
            let answer = running.post("/api/v1/cleanup", &header, "").await;
            let lines = answer.lines().filter(|line| !line.starts_with("date: "));
            answers.insert(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    assert_eq!(answers.len(), 1, "all are told the same: {answers:?}");
    assert!(answers.iter().all(|a| a.starts_with("HTTP/1.1 401")));
    assert!(running.source.requests.lock().unwrap().is_empty());
    let header = format!("Authorization: Bearer {secret}\r\n");
    let answer = running.post("/api/v1/cleanup", &header, "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
