//! The disk that a location lies on.

use super::Place;
use crate::decide::room::Room;
use std::io;

impl Place {
    /// What is free of its disk; `None` of a bucket, which has no end to tell. A file system that is away may take its
    /// time to answer.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn room(&self) -> io::Result<Option<Room>> {
        let uri = self.store.uri();
        if uri.contains("://") {
            return Ok(None);
        }
        let told = rustix::fs::statvfs(uri)?;
        Ok(Some(Room {
            free: told.f_bavail.saturating_mul(told.f_frsize),
            all: told.f_blocks.saturating_mul(told.f_frsize),
        }))
    }

    /// The same, away from the threads that others wait for.
    pub(crate) async fn measure(self) -> Option<Room> {
        let uri = self.uri.clone();
        let measuring = tokio::task::spawn_blocking(move || self.room());
        match measuring.await.map_err(io::Error::other).flatten() {
            Ok(room) => room,
            Err(error) => {
                tracing::debug!(place = uri, %error, "its disk tells no free space now");
                None
            }
        }
    }
}
