//! Rows by Arrow Flight: the unmodified drivers of PyPI against a running agent.

use crate::{eventually, python};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use squire_tests::{Child, Lake, PATIENCE, loopback};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

/// An agent that takes rows by Flight.
struct Served {
    lake: Lake,
    port: u16,
    http: u16,
    /// Settings of `[agent]`, and what clients need to know of them.
    settings: String,
    client: Vec<(&'static str, String)>,
}

impl Served {
    fn new(tables: &[&str]) -> Self {
        Self {
            lake: Lake::with_tables(tables),
            port: loopback::free_port(),
            http: loopback::free_port(),
            settings: String::new(),
            client: Vec::new(),
        }
    }

    fn with(tables: &[&str], settings: &str) -> Self {
        let settings = settings.to_owned();
        Self {
            settings,
            ..Self::new(tables)
        }
    }

    /// Starts an agent, and waits until it listens; or until it is stopped at a seam.
    fn start(&self, failpoints: &str) -> Child {
        let config = self.lake.path("squire.toml");
        fs::write(&config, format!("[agent]\n{}", self.settings)).expect("the configuration");
        let [flight, http] = [self.port, self.http].map(|port| format!("127.0.0.1:{port}"));
        let (config, spool) = (config.to_string_lossy(), self.lake.path("spool"));
        let spool = spool.to_string_lossy();
        let agent = self.lake.with_seam(
            failpoints,
            &[
                "agent",
                &self.lake.uri,
                "--spool",
                &spool,
                "--listen",
                &http,
                "--flight",
                &flight,
                "--config",
                &config,
                "--grace",
                "1s",
            ],
        );
        eventually("the agent listens", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())
        });
        agent
    }

    /// Starts `flight.py SCENARIO ARGS`.
    fn begin(&self, scenario: &str, args: &[&str]) -> Talk {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/external/flight.py");
        let port = self.port.to_string();
        let mut command = Command::new(python());
        command.arg(script).args([&port, scenario]).args(args);
        command.env_remove("TOKEN").env_remove("CERT");
        command.envs(self.client.iter().cloned());
        Talk::of(command)
    }

    /// What it says.
    fn says(&self, scenario: &str, args: &[&str]) -> Vec<Value> {
        self.begin(scenario, args).rest()
    }

    fn status(&self) -> Value {
        let (code, body) = loopback::ask(self.http, "GET", "/status", "").expect("an answer");
        assert_eq!(code, 200);
        let status: Value = serde_json::from_str(&body).expect("a document");
        status["flight"].clone()
    }

    async fn ids(&self, table: &str) -> Vec<i64> {
        self.lake.ids(table).await
    }
}

/// A program that prints documents, and goes on when it is told to.
struct Talk {
    child: std::process::Child,
    input: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Talk {
    fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        Self {
            input: child.stdin.take(),
            said: BufReader::new(child.stdout.take().expect("piped")),
            child,
        }
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("a document"))
    }

    fn go_on(&mut self) {
        let input = self.input.as_mut().expect("not at its end");
        input.write_all(b"\n").expect("it listens");
    }

    fn rest(mut self) -> Vec<Value> {
        drop(self.input.take());
        let mut said = Vec::new();
        while let Some(document) = self.next() {
            said.push(document);
        }
        assert!(self.child.wait().expect("its end").success(), "{said:?}");
        said
    }
}

fn ends(mut agent: Child) {
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
}

/// A refusal: the words that a client is told.
fn refused<'a>(document: &'a Value, words: &[&str]) -> &'a str {
    let text = document["text"]
        .as_str()
        .unwrap_or_else(|| panic!("not refused: {document}"));
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn adbc_ingests_in_every_mode() {
    let served = Served::new(&["t"]);
    let agent = served.start("");
    let said = served.says("modes", &[]);
    refused(&said[2], &["table new exists already"]);
    assert_eq!(
        said[2]["error"], "ProgrammingError",
        "AlreadyExists: {}",
        said[2]
    );
    let counts: Vec<&Value> = said
        .iter()
        .filter(|d| d.get("rows").is_some())
        .map(|d| &d["rows"])
        .collect();
    assert_eq!(counts, [3, 2, 2, 1, 4, 1, 3, 2]);
    assert_eq!(served.ids("t").await, [0, 1, 2, 3, 4]);
    assert_eq!(
        served.lake.rows("t").await[2].1,
        "m-2",
        "merged by the table's key"
    );
    assert_eq!(served.ids("new").await, [0, 1, 2, 3]);
    assert_eq!(served.ids("other").await, [5, 6, 7, 8]);
    assert_eq!(
        served.lake.rows("third").await[0].1,
        "f-0",
        "merged by the key that was given"
    );
    let status = served.status();
    assert_eq!(status["requests"]["committed"], 8);
    assert_eq!(status["requests"]["rejected"], 1);
    assert_eq!(
        (&status["rows"], &status["streams"]),
        (&json!(18), &json!(0))
    );
    ends(agent);
    served.lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_flight_with_the_words_of_the_command_line() {
    let served = Served::new(&["t"]);
    let agent = served.start("");
    let said = served.says("refusals", &[]);
    let words: [&[&str]; 12] = [
        &["INVALID_ARGUMENT", "wrong"],
        &["NOT_FOUND", "missing"],
        &["INVALID_ARGUMENT", "\"no name\" is not a table name"],
        &[
            "INVALID_ARGUMENT",
            "there is no option squire.modus",
            "squire.mode",
        ],
        &["INVALID_ARGUMENT", "declares the key id"],
        &["INVALID_ARGUMENT", "no message at all"],
        &["answers no queries"],
        &["overwriting would empty the table"],
        &["wrong"],
        &["missing"],
        &["has 2 parts"],
        &["01JD2Q3V5W6X7Y8Z9A0B1C2D3E is not open"],
    ];
    assert_eq!(said.len(), words.len(), "{said:#?}");
    for (document, words) in said.iter().zip(words) {
        let text = refused(document, &[])
            .to_uppercase()
            .replace([' ', '_'], "");
        for word in words {
            let word = word.to_uppercase().replace([' ', '_'], "");
            assert!(text.contains(&word), "{word:?} is not in: {document}");
        }
    }
    assert!(served.ids("t").await.is_empty());
    ends(agent);
    assert_eq!(served.lake.log().len(), 1, "only the table was made");
}

#[test]
fn an_address_that_others_reach_wants_a_token_and_a_certificate() {
    let lake = Lake::with_tables(&["t"]);
    let (address, spool) = (
        format!("0.0.0.0:{}", loopback::free_port()),
        lake.path("spool"),
    );
    let spool = spool.to_string_lossy();
    let args = [
        "agent",
        &lake.uri,
        "--spool",
        &spool,
        "--flight",
        &address,
        "--until-empty",
    ];
    lake.run(&args)
        .failed(2, "other machines reach this address");
}

/// Nothing is sent but the columns, and the answer is there.
#[test]
fn columns_are_refused_before_the_first_row_is_sent() {
    let served = Served::new(&["t"]);
    let agent = served.start("");
    let said = served.says("early", &[]);
    assert_eq!(said[0], json!({ "answer": null }));
    refused(&said[1], &["column `wrong`"]);
    ends(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_put_is_answered_with_its_operation_and_a_repeated_one_with_the_same() {
    let served = Served::new(&["t"]);
    let agent = served.start("");
    let said = served.says("plain", &[]);
    let [first, seen, again, other, coded] = &said[..] else {
        panic!("{said:#?}")
    };
    assert_eq!(first["outcome"], "committed");
    assert_eq!(
        (&first["rows"], &first["tables"]),
        (&json!(10), &json!({ "t": 2 }))
    );
    assert_eq!(seen["squire-op"], first["op"]);
    assert_eq!(
        seen["squire-manifest-version"],
        first["manifest_version"].to_string()
    );
    assert_eq!(again["outcome"], "already_committed");
    for field in ["op", "rows", "manifest_version"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    refused(other, &["one"]);
    assert_eq!(coded["rows"], 2);
    assert_eq!(served.ids("t").await, (0..12).collect::<Vec<_>>());
    let log = served.lake.log();
    let logged = log
        .iter()
        .find(|entry| entry["op"] == first["op"])
        .expect("logged");
    assert_eq!(logged["message"], "by hand");
    assert_eq!(logged["manifest_version"], first["manifest_version"]);
    ends(agent);
    served.lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_adbc_is_one_commit_of_all_its_tables() {
    let served = Served::new(&["t", "u"]);
    let agent = served.start("");
    let mut talk = served.begin("transactions", &[]);
    assert_eq!(talk.next().expect("a step")["step"], "before");
    assert!(served.ids("t").await.is_empty() && served.ids("u").await.is_empty());
    talk.go_on();
    assert_eq!(talk.next().expect("a step")["step"], "committed");
    let log = served.lake.log();
    let tables = log[0]["tables"].as_array().expect("tables").len();
    assert_eq!(
        (tables, &log[0]["batch"]),
        (3, &json!("pair")),
        "{}",
        log[0]
    );
    talk.go_on();
    let said = talk.rest();
    refused(&said[0], &["one mode"]);
    refused(&said[1], &["pair"]);
    assert_eq!(
        served.ids("t").await,
        [0, 1, 2],
        "what was rolled back is not there"
    );
    assert_eq!(served.ids("made").await, [0, 1, 2, 3]);
    assert_eq!(served.ids("u").await, [0, 1, 2]);
    ends(agent);
    served.lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_named_takes_only_what_names_it() {
    let served = Served::new(&["t", "u"]);
    let agent = served.start("");
    let mut talk = served.begin("named", &[]);
    assert_eq!(talk.next().expect("a step")["step"], "before");
    assert_eq!(served.ids("t").await, [7]);
    talk.go_on();
    let said = talk.rest();
    assert_eq!(
        (&said[0]["outcome"], &said[0]["rows"]),
        (&json!("committed"), &json!(4))
    );
    refused(&said[1], &["is not open"]);
    assert_eq!(served.ids("t").await, [0, 1, 7]);
    assert_eq!(served.ids("u").await, [0, 1]);
    ends(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_too_old_is_over_and_its_late_rows_are_no_commit() {
    let served = Served::with(&["t"], "flight_transaction_age = \"1s\"\n");
    let agent = served.start("");
    let mut talk = served.begin("open_transaction", &[]);
    assert_eq!(talk.next().expect("a step")["step"], "put");
    eventually("the transaction is over", PATIENCE, || {
        let held = served.status()["bytes"].clone();
        (held == 0).then_some(()).ok_or_else(|| held.to_string())
    });
    talk.go_on();
    let said = talk.rest();
    refused(&said[0], &["is not open"]);
    assert_eq!(served.ids("t").await, [4, 5]);
    ends(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_within_limits_and_a_silent_one_ends() {
    let settings = "flight_message_bytes = \"1MiB\"\nmax_input_bytes = \"4MiB\"\nmax_rows = 20000\nflight_idle = \"1s\"\n";
    let served = Served::with(&["t"], settings);
    let agent = served.start("");
    let said = served.says("limits", &[]);
    refused(&said[0], &["agent.flight_message_bytes", "fewer rows"]);
    assert_eq!(said[1]["rows"], 1_000);
    refused(&said[2], &["max_input_bytes"]);
    refused(&said[3], &["max_rows"]);
    refused(&said[5], &["agent.flight_idle"]);
    assert_eq!(served.ids("t").await.len(), 1_000);
    ends(agent);
}

/// A stream is read in parts: what the agent holds does not grow with it.
#[test]
fn a_large_stream_of_flight_is_not_held() {
    let served = Served::new(&["t"]);
    let mut agent = served.start("");
    let said = served.says("large", &[]);
    assert_eq!(
        (&said[0]["outcome"], &said[0]["rows"]),
        (&json!("committed"), &json!(4_000_000))
    );
    let peak = agent.peak_memory() >> 20;
    assert!(peak < 350, "a peak of {peak} MiB");
    assert_eq!(
        served.status()["bytes"],
        0,
        "the rows that lay aside are gone"
    );
    ends(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_asks_for_the_token_and_shows_its_certificate() {
    let mut served = Served::new(&["t"]);
    let (cert, key) = (served.lake.path("cert.pem"), served.lake.path("key.pem"));
    let token = served.lake.path("token");
    fs::write(&token, "secret-of-flight").expect("token");
    certify(&cert, &key);
    let [token, cert, key] = [token, cert, key].map(|path| path.to_string_lossy().into_owned());
    served.settings = format!(
        "flight_token_file = {token:?}\nflight_tls_cert = {cert:?}\nflight_tls_key = {key:?}\n"
    );
    let mut agent = served.start("");
    served.client = vec![("CERT", cert)];
    let without = &served.says("one", &["t", "0", "2", "x"])[0];
    refused(without, &["missing or wrong token"]);
    served.client.push(("TOKEN", "another".to_owned()));
    refused(
        &served.says("one", &["t", "0", "2", "x"])[0],
        &["missing or wrong token"],
    );
    served.client[1].1 = "secret-of-flight".to_owned();
    assert_eq!(
        served.says("one", &["t", "0", "2", "x"])[0]["outcome"],
        "committed"
    );
    assert_eq!(
        served.says("modes", &[])[0]["rows"],
        3,
        "ADBC shows it, too"
    );
    agent.signal(Signal::SIGTERM);
    let said = agent.wait().ok();
    assert!(
        !said.stderr.contains("secret-of-flight"),
        "the token is in the log"
    );
}

/// A certificate for 127.0.0.1, by the library that moto brings.
fn certify(cert: &std::path::Path, key: &std::path::Path) {
    const MAKE: &str = r#"
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "squire")])
now = datetime.datetime.now(datetime.timezone.utc)
names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(names, False).add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256()))
open(sys.argv[1], "wb").write(made.public_bytes(serialization.Encoding.PEM))
open(sys.argv[2], "wb").write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
"#;
    let made = Command::new(python())
        .args(["-c", MAKE])
        .arg(cert)
        .arg(key)
        .status();
    assert!(made.expect("python").success());
}

/// The stop is asked for while a stream is open: it is finished and committed, and nothing new is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_the_streams_of_flight_that_are_open() {
    let served = Served::new(&["t"]);
    let mut agent = served.start("");
    let mut talk = served.begin("held", &[]);
    assert_eq!(talk.next().expect("a step")["step"], "begun");
    eventually("the stream is there", PATIENCE, || {
        match served.status()["streams"].as_u64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    agent.signal(Signal::SIGTERM);
    eventually(
        "the agent listens no more",
        PATIENCE,
        || match TcpStream::connect(("127.0.0.1", served.port)) {
            Ok(_) => Err("it does".to_owned()),
            Err(_) => Ok(()),
        },
    );
    talk.go_on();
    let said = talk.rest();
    assert_eq!(
        (&said[0]["outcome"], &said[0]["rows"]),
        (&json!("committed"), &json!(4))
    );
    refused(&said[1], &[]);
    agent.wait().ok();
    assert_eq!(served.ids("t").await, [0, 1, 2, 3]);
    served.lake.assert_at_rest();
}

/// The agent dies at a seam; the client sends the same rows with the same batch id to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_flight_are_there_once_wherever_the_agent_was_killed() {
    for seam in [
        "write.after_stage",
        "sidecar.after_put",
        "write.after_phase_b",
        "publish.before_commit",
        "publish.after_commit",
    ] {
        let served = Served::new(&["t"]);
        let agent = served.start(&format!("{seam}=return(kill)"));
        let lost = &served.says("one", &["t", "0", "5", "same"])[0];
        assert!(lost["outcome"].is_null(), "{seam}: {lost}");
        let ended = agent.wait();
        assert_eq!(ended.code, None, "{seam}: {}", ended.stderr);
        let agent = served.start("");
        let again = &served.says("one", &["t", "0", "5", "same"])[0];
        assert_eq!(again["rows"], 5, "{seam}: {again}");
        let expected = match seam {
            "publish.after_commit" => "already_committed",
            _ => again["outcome"].as_str().expect("an outcome"),
        };
        assert_eq!(again["outcome"], expected, "{seam}");
        assert_eq!(served.ids("t").await, [0, 1, 2, 3, 4], "{seam}");
        ends(agent);
        served.lake.daemon_pass("0s").ok();
        served.lake.assert_at_rest();
    }
}

/// Both blocks of Python in the README's section, with rows and an address of the test's.
#[tokio::test(flavor = "multi_thread")]
async fn the_readme_s_examples_of_flight_work() {
    let served = Served::new(&["orders", "lines", "readings"]);
    let agent = served.start("");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(path).expect("README.md");
    let section = readme
        .split("\n### ")
        .find(|s| s.starts_with("Rows by Arrow Flight SQL"))
        .expect("the section");
    let blocks = section.split("```python\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|b| b.split("```").next().expect("its end"))
        .collect();
    assert_eq!(blocks.len(), 2);
    let rows = "import pyarrow as pa\nschema = pa.schema([pa.field('id', pa.int64(), False), pa.field('value', pa.string())])\n\
                orders = lines = readings = pa.table([[1, 2], ['a', 'b']], schema=schema)\n";
    let script = format!("{rows}{}", blocks.concat());
    let script = script.replace("127.0.0.1:9466", &format!("127.0.0.1:{}", served.port));
    let done = Command::new(python())
        .args(["-c", &script])
        .output()
        .expect("python");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{told}");
    for table in ["orders", "lines", "readings"] {
        assert_eq!(served.ids(table).await, [1, 2], "{table}");
    }
    ends(agent);
}
