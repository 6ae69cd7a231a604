//! `flight_...` of `[agent]`: where rows are taken by Arrow Flight, and how much at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::file::Refused;
use crate::units;

/// What of `[agent]` is about Arrow Flight. The fields are called in the file as they are here, behind `flight_`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FlightConfig {
    /// Address of the server; `None` is off.
    #[serde(rename = "flight", serialize_with = "units::show_listen")]
    pub(crate) listen: Option<SocketAddr>,
    /// File with the bearer token that every call must show; `None`: none is asked for.
    #[serde(rename = "flight_token_file")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate and key in PEM; `None`: no TLS.
    #[serde(rename = "flight_tls_cert")]
    pub(crate) tls_cert: Option<PathBuf>,
    #[serde(rename = "flight_tls_key")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Streams of rows at one time.
    #[serde(rename = "flight_streams")]
    pub(crate) streams: usize,
    /// Bytes of one message, which is a batch of rows and is held.
    #[serde(rename = "flight_message_bytes", serialize_with = "units::show_size")]
    pub(crate) message_bytes: u64,
    /// Bytes that streams and open transactions have on disk together.
    #[serde(rename = "flight_bytes", serialize_with = "units::show_size")]
    pub(crate) bytes: u64,
    /// How long a stream may go without a message.
    #[serde(rename = "flight_idle", serialize_with = "units::show_duration")]
    pub(crate) idle: Duration,
    /// Open transactions at one time.
    #[serde(rename = "flight_transactions")]
    pub(crate) transactions: usize,
    /// How long a transaction may be open once rows are in it.
    #[serde(
        rename = "flight_transaction_age",
        serialize_with = "units::show_duration"
    )]
    pub(crate) transaction_age: Duration,
}

impl FlightConfig {
    /// Why it must not listen there: whoever reaches it could write, or read the token on its way.
    pub(crate) fn is_open_to_others(&self) -> Option<&'static str> {
        let address = self.listen?;
        let is_safe = self.token_file.is_some() && self.tls_cert.is_some();
        (!is_safe && !address.ip().is_loopback()).then_some(
            "other machines reach this address: set flight_token_file, flight_tls_cert and flight_tls_key, or listen on 127.0.0.1",
        )
    }
}

pub(super) fn check_flight(flight: &FlightConfig) -> Result<(), Refused> {
    let files = [
        ("agent.flight_token_file", &flight.token_file),
        ("agent.flight_tls_cert", &flight.tls_cert),
        ("agent.flight_tls_key", &flight.tls_key),
    ];
    let both = "a certificate needs its key, and a key its certificate; set both, or none";
    let none = "0 takes no rows at all; use \"off\" for flight instead";
    let wrong = [
        (
            flight.tls_cert.is_some() != flight.tls_key.is_some(),
            match flight.tls_cert {
                Some(_) => "agent.flight_tls_cert",
                None => "agent.flight_tls_key",
            },
            both,
        ),
        (flight.streams == 0, "agent.flight_streams", none),
        (
            flight.message_bytes == 0,
            "agent.flight_message_bytes",
            none,
        ),
        (flight.bytes == 0, "agent.flight_bytes", none),
        (
            flight.idle.is_zero(),
            "agent.flight_idle",
            "0s ends every stream; use a duration such as \"60s\"",
        ),
        (
            flight.transaction_age.is_zero(),
            "agent.flight_transaction_age",
            "0s ends every transaction; use a duration such as \"10min\"",
        ),
    ];
    if let Some((_, path, why)) = wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
        return Err(Refused::at(path, why));
    }
    // Whether they can be read is the agent's to find out.
    for (path, file) in files {
        if let Some(file) = file
            && std::fs::metadata(file).is_err_and(|e| e.kind() == ErrorKind::NotFound)
        {
            let why = format!(
                "{} does not exist; put it there, or leave it out",
                file.display()
            );
            return Err(Refused::at(path, why));
        }
    }
    match flight.is_open_to_others() {
        Some(why) => Err(Refused::at("agent.flight", why)),
        None => Ok(()),
    }
}
