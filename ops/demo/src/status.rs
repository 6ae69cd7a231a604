//! What daemon and agents say over HTTP. Fields that are missing count as nothing: this is a view.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that takes longer is not worth waiting for in a view.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What an agent counts for lost commits that it made again.
const AGENT_CONFLICTS: &str = "squire_agent_conflicts_total ";

/// One table.
#[derive(Debug, Default, Clone)]
pub(crate) struct TableState {
    /// Its name.
    pub(crate) name: String,
    /// Fragments, and those that a rewrite would improve.
    pub(crate) fragments: (u64, u64),
    /// Versions on storage.
    pub(crate) versions: u64,
    /// Visible rows.
    pub(crate) rows: u64,
    /// Bytes of the visible version.
    pub(crate) bytes: u64,
    /// What the daemon does with it, and why.
    pub(crate) doing: String,
}

/// What the daemon says.
#[derive(Debug, Default, Clone)]
pub(crate) struct Observed {
    /// The tables.
    pub(crate) tables: Vec<TableState>,
    /// Compactions, reindexes, cleanups and conflicts of maintenance.
    pub(crate) maintenance: [u64; 4],
    /// Its last errors.
    pub(crate) errors: Vec<String>,
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The tables of `squire status --json`, or of one store in the daemon's `/status`.
pub(crate) fn tables(store: &Value) -> Vec<TableState> {
    let state = |table: &Value| TableState {
        name: text(table, "table").to_owned(),
        fragments: (
            number(table, "fragments"),
            number(table, "candidate_fragments"),
        ),
        versions: number(table, "versions"),
        rows: number(table, "rows"),
        bytes: number(table, "bytes"),
        doing: match (text(table, "state"), text(table, "reason")) {
            (state, "") => state.to_owned(),
            (state, reason) => format!("{state}: {reason}"),
        },
    };
    list(store, "tables").map(state).collect()
}

/// Reads the daemon's `/status`.
pub(crate) fn observed(document: &Value) -> Observed {
    let mut observed = Observed::default();
    observed
        .tables
        .extend(list(document, "stores").flat_map(tables));
    // Of the whole daemon, or of each store.
    for part in std::iter::once(document).chain(list(document, "stores")) {
        let maintenance = part.get("maintenance").unwrap_or(&Value::Null);
        let kinds = ["compactions", "reindexes", "cleanups", "conflicts"];
        for (sum, kind) in observed.maintenance.iter_mut().zip(kinds) {
            *sum += number(maintenance, kind);
        }
        let errors = list(part, "last_errors").map(|e| match e.as_str() {
            Some(text) => text.to_owned(),
            None => e.to_string(),
        });
        observed.errors.extend(errors);
    }
    observed
}

/// The daemon's view; `None` while it does not answer.
pub(crate) async fn ask_daemon(address: SocketAddr) -> Option<Observed> {
    let body = get(address, "/status").await?;
    serde_json::from_str(&body)
        .ok()
        .map(|document: Value| observed(&document))
}

/// The commits that an agent lost and made again; `None` while it does not answer.
pub(crate) async fn ask_agent(address: SocketAddr) -> Option<u64> {
    let body = get(address, "/metrics").await?;
    let value = body
        .lines()
        .find_map(|line| line.strip_prefix(AGENT_CONFLICTS))?;
    value.trim().parse().ok()
}

/// HTTP/1.0, so that the answer is neither chunked nor kept open.
async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1).filter(|status| *status == "200")?;
        Some(body.to_owned())
    };
    tokio::time::timeout(TIMEOUT, exchange).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_with_and_without_its_fields_is_read() {
        let full = json!({"stores": [{
            "tables": [{"table": "flights", "fragments": 7, "candidate_fragments": 3, "versions": 9,
                "rows": 10, "bytes": 11, "state": "idle", "reason": "nothing to do"}],
            "maintenance": {"compactions": 1, "reindexes": 2, "cleanups": 3, "conflicts": 4},
            "last_errors": ["a", {"error": "b"}]}]});
        let seen = observed(&full);
        assert_eq!(seen.tables[0].fragments, (7, 3));
        assert_eq!(seen.tables[0].doing, "idle: nothing to do");
        assert_eq!(seen.maintenance, [1, 2, 3, 4]);
        assert_eq!(seen.errors, ["a", r#"{"error":"b"}"#]);
        let whole = observed(&json!({"maintenance": {"cleanups": 3}, "last_errors": ["c"]}));
        assert_eq!(
            (whole.maintenance, whole.errors),
            ([0, 0, 3, 0], vec!["c".to_owned()])
        );
        let bare = observed(&json!({"stores": [{"tables": [{}]}]}));
        assert_eq!(bare.tables[0].versions, 0);
        assert!(observed(&json!(null)).tables.is_empty());
    }
}
