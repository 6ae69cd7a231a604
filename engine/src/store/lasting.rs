//! Records that last: JSON beside the records of operations, each with its format, put anew as a whole. Of two processes the last to
//! put one wins, so nothing may depend on it.

use super::{Records, Store, content_of, unless_denied};
use crate::error::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Which record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lasting {
    /// The name of its object.
    pub(crate) name: &'static str,
    /// The newest format that this release reads, and the one that it writes.
    pub(crate) format: u32,
    /// What a damaged one is removed for.
    pub(crate) to_begin: &'static str,
}

#[derive(Serialize, Deserialize)]
struct Formatted<T> {
    format: u32,
    #[serde(flatten)]
    record: T,
}

impl Records {
    /// The record here, if there is one.
    ///
    /// # Errors
    /// `Internal` for a damaged one, `FormatTooNew`, and those of the storage.
    pub(crate) async fn lasting<T: DeserializeOwned>(&self, of: &Lasting) -> Result<Option<T>> {
        let path = self.area(of.name);
        let Some(bytes) = content_of(&self.objects, &path).await? else {
            return Ok(None);
        };
        let formatted: Formatted<T> = serde_json::from_slice(&bytes).map_err(|e| {
            let damaged = format!("/{path} is damaged; remove it to {}", of.to_begin);
            Error::new(ErrorKind::Internal, damaged).caused_by(e)
        })?;
        if formatted.format > of.format {
            let newer = format!(
                "/{path} has format {}, this squire reads up to {}; upgrade squire",
                formatted.format, of.format
            );
            return Err(Error::new(ErrorKind::FormatTooNew, newer));
        }
        Ok(Some(formatted.record))
    }

    /// Puts the record here, whatever stood there.
    pub(crate) async fn put_lasting<T: Serialize>(&self, of: &Lasting, record: T) -> Result<()> {
        let format = of.format;
        let bytes = serde_json::to_vec(&Formatted { format, record })
            .map_err(|e| Error::internal(format!("encoding {}", of.name)).caused_by(e))?;
        let path = self.area(of.name);
        self.objects.inner.put(&path, bytes.into()).await?;
        Ok(())
    }
}

impl Store {
    /// Where what lasts of this location may stand, the first that may be written first. A store has one place.
    pub(crate) async fn lasting_records(&self) -> Result<Vec<&Records>> {
        Ok(match self.has_manifest().await? {
            true => vec![&self.records],
            false => self.plain_records().await,
        })
    }

    /// Puts the record of this location into the first place that takes it.
    ///
    /// # Errors
    /// Those of the storage, when no place takes it.
    pub(crate) async fn put_lasting<T: Serialize>(&self, of: &Lasting, record: &T) -> Result<()> {
        let mut put = Ok(());
        for records in self.lasting_records().await? {
            put = records.put_lasting(of, record).await;
            if put.is_ok() {
                break;
            }
        }
        put
    }

    /// The record of this location, from the first place that has it.
    ///
    /// # Errors
    /// Those of [`Records::lasting`].
    pub(crate) async fn lasting<T: DeserializeOwned>(&self, of: &Lasting) -> Result<Option<T>> {
        for records in self.lasting_records().await? {
            if let Some(Some(record)) = unless_denied(records.lasting(of).await)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}
