//! The disks that locations lie on.

use prometheus::{Error, IntGaugeVec, Registry};

use super::register::{gauges, integer};
use super::tables::forget;

#[derive(Clone, Debug)]
pub(super) struct DiskGauges {
    free: IntGaugeVec,
    min_free: IntGaugeVec,
}

impl DiskGauges {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let help = "What is free on the disk of a local location.";
        let free = gauges(r, "squire_disk_free_bytes", help, &["store"])?;
        let help = "What maintenance leaves free on the disk of a local location (min_free).";
        let min_free = gauges(r, "squire_disk_min_free_bytes", help, &["store"])?;
        Ok(Self { free, min_free })
    }

    /// What is not known, or not limited, is not shown.
    pub(super) fn set(&self, store: &str, free: Option<u64>, least: Option<u64>) {
        for (gauge, value) in [(&self.free, free), (&self.min_free, least)] {
            match value {
                Some(value) => gauge.with_label_values(&[store]).set(integer(value)),
                None => forget(gauge, &[store]),
            }
        }
    }
}
