//! The first answer of a location's storage. A wrong endpoint may refuse, hang up, or say nothing at all, and is told within
//! [`PATIENCE`] and in one line.
//!
//! Below us three others try again: the client sends a request four times and waits 30 s for each, Lance takes what is left of
//! that for a storage that throttles and does it all four times, and a command has several requests. That is patience for a
//! storage that has answered before; for the first answer it is eight minutes of silence.

use super::StoreOptions;
use super::location::ENDPOINTS;
use crate::error::{Error, ErrorKind, Result, quoted};
use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

/// How long a storage may take to its first answer, its client's tries included, unless `client_retry_timeout` says so. A
/// storage that is at work answers a listing within a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name of Lance's storage option for it, and that of the variable, which goes before the option there as well.
const OPTION: &str = "client_retry_timeout";
const VARIABLE: &str = "OBJECT_STORE_CLIENT_RETRY_TIMEOUT";

/// What a client's error says where no answer came, before it says why.
const UNANSWERED: &str = "HTTP error: ";

/// What it says where something else answered than was asked for...
const NO_LISTING: &str = "Got invalid list response";

/// ...and before an answer that refuses.
const ANSWERED: &str = "non-2xx status code: ";

/// How much of that is told.
const WHY_CHARS: usize = 120;

/// Waits for `asking`, the first request to the storage of `uri`.
///
/// # Errors
/// Those of `asking`; `Storage` in one line when nothing answers, with the endpoint and what to look at.
pub(super) async fn first_answer<T>(
    uri: &str,
    options: &StoreOptions,
    asking: impl Future<Output = Result<T>>,
) -> Result<T> {
    // A disk is asked by system calls, which no time limit ends.
    if !uri.starts_with("s3://") {
        return asking.await;
    }
    let variable = |name: &str| std::env::var(name).ok();
    let patience = patience(&options.storage_options, variable);
    let told = |why: &str| unanswered(uri, &options.storage_options, variable, why);
    tokio::select! {
        biased;
        answer = asking => answer.map_err(|e| {
            let raw = e.source().map_or_else(String::new, ToString::to_string);
            match strange(&e.to_string(), &raw) {
                Some(why) if e.kind() == ErrorKind::Storage => told(&why),
                _ => e,
            }
        }),
        () = options.clock.sleep(patience) => {
            let silent = format!("no answer in {} s, which {OPTION} bounds", patience.as_secs());
            Err(told(&silent))
        }
    }
}

/// Why what came is no answer of an object store, if it is none, by what an error tells of its `cause`. S3 answers with a document,
/// also when it refuses.
fn strange(told: &str, cause: &str) -> Option<String> {
    if let Some((_, why)) = told.split_once(UNANSWERED) {
        return Some(why.to_owned());
    }
    if cause.contains(NO_LISTING) {
        return Some(String::from("what it answers to a listing is none"));
    }
    let (_, document) = cause.split_once(ANSWERED)?;
    let (_, answer) = told.split_once(ANSWERED)?;
    (!document.contains("<Error>")).then(|| format!("it answers {}", quoted(answer.trim())))
}

fn patience(
    options: &HashMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Duration {
    let option = || {
        let named = |(name, _): &(&String, &String)| name.eq_ignore_ascii_case(OPTION);
        Some(options.iter().find(named)?.1.clone())
    };
    let asked_for = variable(VARIABLE).or_else(option);
    let seconds = asked_for.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

fn unanswered(
    uri: &str,
    options: &HashMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
    why: &str,
) -> Error {
    let why: String = why.chars().take(WHY_CHARS).collect();
    let is_one = |name: &str| ENDPOINTS.contains(&name.to_ascii_lowercase().as_str());
    let given = options.iter().find(|(name, _)| is_one(name));
    let given = given.map(|(_, endpoint)| endpoint.clone()).or_else(|| {
        let mut names = ENDPOINTS.iter().map(|name| name.to_ascii_uppercase());
        names.find_map(|name| variable(&name))
    });
    let endpoint = given.as_deref().unwrap_or("AWS");
    Error::new(
        ErrorKind::Storage,
        format!(
            "{uri}: {endpoint} does not answer as an object store: {why}; check the endpoint (AWS_ENDPOINT, or endpoint in [watch.storage_options]), whether it runs, and the network or proxy on the way"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{PATIENCE, first_answer, patience, strange, unanswered};
    use crate::error::{Error, ErrorKind};
    use crate::store::StoreOptions;
    use std::collections::HashMap;
    use std::time::Duration;

    fn options(name: &str, value: &str) -> HashMap<String, String> {
        HashMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn patience_is_what_the_client_was_given() {
        let none = |_: &str| None;
        assert_eq!(patience(&HashMap::new(), none), PATIENCE);
        let option = options("CLIENT_retry_timeout", "7");
        assert_eq!(patience(&option, none), Duration::from_secs(7));
        let variable = |name: &str| (name.starts_with("OBJECT_STORE")).then(|| "9".to_owned());
        assert_eq!(patience(&option, variable), Duration::from_secs(9));
        assert_eq!(
            patience(&options("client_retry_timeout", "x"), none),
            PATIENCE
        );
    }

    #[test]
    fn an_endpoint_that_does_not_answer_is_named_with_its_location() {
        let told = |given, variable: Option<&str>| {
            let variable = |name: &str| {
                let value = variable.filter(|_| name == "AWS_ENDPOINT_URL");
                value.map(str::to_owned)
            };
            unanswered("s3://b/p", &given, variable, "reset").to_string()
        };
        let of_option = told(options("endpoint", "http://a:1"), Some("http://b:2"));
        assert!(
            of_option.starts_with(
                "s3://b/p: http://a:1 does not answer as an object store: reset; check"
            )
        );
        assert!(told(HashMap::new(), Some("http://b:2")).contains(": http://b:2 does"));
        assert!(told(HashMap::new(), None).contains(": AWS does"));
    }

    #[test]
    fn what_s3_would_not_say_is_not_its_answer() {
        let status = |body: &str| format!("GET x - Server returned non-2xx status code: {body}");
        for (cause, why) in [
            ("HTTP error: refused".to_owned(), Some("refused")),
            (
                "Got invalid list response: x".into(),
                Some("what it answers to a listing is none"),
            ),
            (
                status("403 Forbidden: "),
                Some(r#"it answers "403 Forbidden:""#),
            ),
            (
                status("404 Not Found: {\"no\":1}"),
                Some(r#"it answers "404 Not Found: {\"no\":1}""#),
            ),
            (
                status("403 Forbidden: <?xml?><Error><Code>AccessDenied</Code>"),
                None,
            ),
            ("disk full".into(), None),
        ] {
            assert_eq!(strange(&cause, &cause).as_deref(), why);
        }
    }

    #[tokio::test]
    async fn silence_ends_and_other_errors_stay() {
        let options = StoreOptions {
            storage_options: options("client_retry_timeout", "0"),
            ..StoreOptions::default()
        };
        let silent = first_answer::<()>("s3://b/p", &options, std::future::pending());
        let told = silent.await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Storage);
        assert!(told.to_string().contains("no answer in 0 s"), "{told}");
        let denied = async { Err::<(), _>(Error::new(ErrorKind::Storage, "403: denied")) };
        let told = first_answer("s3://b/p", &options, denied)
            .await
            .unwrap_err();
        assert_eq!(told.to_string(), "403: denied");
    }
}
