//! Storage faults for tests: latency, errors before and after the effect, throttling, outages, held puts.
//!
//! `SQUIRE_FAULTS` ([`squire_failpoints::FaultSpec`]) says what to do; without the `failpoints` feature there is nothing
//! here. On a plain local path Lance reads and writes data files and finds the latest version past the object-store
//! interface: there only manifest puts, sidecars, lists and deletes meet the faults. A store opened as
//! `file-object-store:///path` sends every request through it; set `LANCE_USE_VERSION_HINT=0` there (fact 16).

use crate::error::{Error, Result};
use lance_io::object_store::WrappingObjectStore;
use std::sync::Arc;

/// The wrapper that `SQUIRE_FAULTS` asks for.
///
/// # Errors
/// `InvalidInput` when it cannot be read, or seams are not compiled in.
pub fn from_env() -> Result<Option<Arc<dyn WrappingObjectStore>>> {
    let spec = squire_failpoints::FaultSpec::from_env().map_err(Error::invalid)?;
    #[cfg(feature = "failpoints")]
    let wrapper = spec.map(injecting::wrapper).transpose()?;
    #[cfg(not(feature = "failpoints"))]
    let wrapper = spec.and(None);
    Ok(wrapper)
}

#[cfg(feature = "failpoints")]
mod injecting;
