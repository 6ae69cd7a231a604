//! What the agent takes by Arrow Flight.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, gauge, integer};

/// How a put, or the end of a transaction, may end.
const OUTCOMES: [&str; 8] = [
    "committed",
    "already_committed",
    "in_transaction",
    "empty",
    "rejected",
    "conflict",
    "unknown",
    "failed",
];

/// Zero in a daemon, and in an agent that takes nothing by Flight.
#[derive(Clone, Debug)]
pub(crate) struct FlightMetrics {
    requests: IntCounterVec,
    rows: IntCounter,
    streams: IntGauge,
    transactions: IntGauge,
    bytes: IntGauge,
}

/// A stream that is being received, as long as this lives.
#[derive(Debug)]
pub(crate) struct Streaming(IntGauge);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl FlightMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let help = "Puts and ends of transactions that came by Flight, by how they ended.";
        let requests = counters(r, "squire_agent_flight_requests_total", help, &["outcome"])?;
        for outcome in OUTCOMES {
            requests.with_label_values(&[outcome]).inc_by(0);
        }
        let help = "Rows committed that came by Flight.";
        let rows = counter(r, "squire_agent_flight_rows_total", help)?;
        let help = "Streams of rows that are being received by Flight.";
        let streams = gauge(r, "squire_agent_flight_streams", help)?;
        let help = "Open transactions of Flight.";
        let transactions = gauge(r, "squire_agent_flight_transactions", help)?;
        let help = "Bytes of rows that came by Flight and are not committed yet.";
        let bytes = gauge(r, "squire_agent_flight_bytes", help)?;
        Ok(Self {
            requests,
            rows,
            streams,
            transactions,
            bytes,
        })
    }

    /// A call has ended so, and committed so many rows.
    pub(crate) fn ended(&self, outcome: &str, rows: u64) {
        self.requests.with_label_values(&[outcome]).inc();
        self.rows.inc_by(rows);
    }

    /// A stream begins.
    pub(crate) fn stream(&self) -> Streaming {
        self.streams.inc();
        Streaming(self.streams.clone())
    }

    /// So many transactions are open, and so many bytes are on their way.
    pub(crate) fn shows(&self, open: usize, bytes: u64) {
        self.transactions.set(integer(open as u64));
        self.bytes.set(integer(bytes));
    }

    /// All of it, for `/status`.
    pub(crate) fn shown(&self) -> serde_json::Value {
        let of = |outcome: &str| self.requests.with_label_values(&[outcome]).get();
        let outcomes: serde_json::Map<String, serde_json::Value> = OUTCOMES
            .iter()
            .map(|outcome| ((*outcome).to_owned(), of(outcome).into()))
            .collect();
        serde_json::json!({
            "requests": outcomes,
            "rows": self.rows.get(),
            "streams": self.streams.get(),
            "transactions": self.transactions.get(),
            "bytes": self.bytes.get(),
        })
    }
}
