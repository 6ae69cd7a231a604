//! Claims: which daemon works on what, so that two of them do not rewrite the same fragments. They spare work and guard nothing:
//! whoever ignores one, or loses it, races as any two runs do, and one of them lands.
//!
//! ```text
//! claims/<what>.1.json          put if absent: it is mine
//! claims/<what>.2.json          put if absent above one that has expired, or to renew my own: the newest counts
//! ```
//! A claim never changes, and each has a number that is used once while others stand, so that of two daemons that find an
//! expired one only one gets the next. It has expired when its time has passed since the storage took it, by the clock of the
//! storage alone. A daemon that ends removes its claims; those of one that was killed expire.

use super::Store;
use super::records::{Records, content_of, is_denied};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::OpId;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use squire_failpoints::{Seam, hit};
use std::time::Duration;

/// The format of a record. One that cannot be read is waited for as long as one of ours: it is worth no more than that.
const FORMAT: u32 = 1;

/// How many digits of a digest name what is claimed.
const KEY_DIGITS: usize = 32;

/// A claim that nobody took over for so long is of a table that nobody works on any more. Also beyond what clocks differ.
const FORGOTTEN: chrono::TimeDelta = chrono::TimeDelta::days(1);

/// How often it is tried to be the one that puts the next number.
const TRIES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// What is worked on, for people.
    what: String,
    holder: String,
    expiry_ms: u64,
}

/// A claim of ours.
#[derive(Debug)]
pub struct Claim {
    records: Records,
    key: String,
    number: u64,
    /// A number that is being put, and may have been.
    renewing: Option<u64>,
    record: Record,
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claimed {
    /// It is ours until it expires, and can be renewed.
    Mine(Claim),
    /// Another holder works on it; unless it is renewed, it expires after what is `left`.
    Theirs {
        /// Who, as they call themselves.
        holder: String,
        /// How long it holds still.
        left: Duration,
    },
    /// Claims cannot be put here: nobody knows what others do.
    Nowhere,
}

fn key_of(what: &str) -> String {
    let digest = Sha256::digest(what.as_bytes());
    let mut key: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    key.truncate(KEY_DIGITS);
    key
}

/// What a claim's object is about, and its number.
fn parts(meta: &ObjectMeta) -> Option<(&str, u64)> {
    let name = meta.location.filename()?.strip_suffix(".json")?;
    let (key, number) = name.split_once('.')?;
    Some((key, number.parse().ok()?))
}

/// The claim of `key` that counts.
fn newest<'a>(listed: &'a [ObjectMeta], key: &str) -> Option<(u64, &'a ObjectMeta)> {
    let numbered = listed.iter().filter_map(|meta| Some((parts(meta)?, meta)));
    let of_key = numbered.filter(|((of, _), _)| *of == key);
    of_key
        .map(|((_, number), meta)| (number, meta))
        .max_by_key(|newest| newest.0)
}

impl Records {
    async fn claims(&self) -> Result<Vec<ObjectMeta>> {
        let listed = self.objects.list(Some(self.area("claims")));
        Ok(listed.try_collect().await?)
    }

    fn claim_path(&self, key: &str, number: u64) -> Path {
        self.area("claims").join(format!("{key}.{number}.json"))
    }

    async fn put_claim(&self, key: &str, number: u64, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|e| Error::internal("encoding a claim").caused_by(e))?;
        self.put(&self.claim_path(key, number), bytes).await
    }

    /// Removes claims that are worth nothing any more; one that stays expires.
    async fn drop_claims(&self, paths: Vec<Path>) {
        for path in paths {
            self.objects.inner.delete(&path).await.ok();
        }
    }

    /// The claim at `meta`; `None` when it is gone.
    async fn read_claim(&self, meta: &ObjectMeta, expiry: Duration) -> Result<Option<Record>> {
        let Some(bytes) = content_of(&self.objects, &meta.location).await? else {
            return Ok(None);
        };
        let unknown = || Record {
            format: FORMAT,
            what: String::new(),
            holder: String::from("another daemon"),
            expiry_ms: millis(expiry),
        };
        Ok(Some(
            serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown()),
        ))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Store {
    /// Claims `what`, a table by its name or path, or all of them, for `holder`, who renews it within `expiry` or ends it. `managed`
    /// says whether this is a store, or a location of plain tables.
    ///
    /// # Errors
    /// Those of the storage; nothing is claimed then that would not expire.
    pub async fn claim(
        &self,
        managed: bool,
        what: &str,
        holder: &str,
        expiry: Duration,
    ) -> Result<Claimed> {
        let records = match managed {
            true => vec![&self.records],
            false => self.plain_records().await,
        };
        // The second place is of this machine alone, where two daemons meet, too.
        for records in records {
            match self.claim_in(records, what, holder, expiry).await {
                Err(e) if is_denied(&e) => {}
                claimed => return claimed,
            }
        }
        Ok(Claimed::Nowhere)
    }

    async fn claim_in(
        &self,
        records: &Records,
        what: &str,
        holder: &str,
        expiry: Duration,
    ) -> Result<Claimed> {
        let (key, record) = (
            key_of(what),
            Record {
                format: FORMAT,
                what: what.to_owned(),
                holder: holder.to_owned(),
                expiry_ms: millis(expiry),
            },
        );
        for _ in 0..TRIES {
            let listed = records.claims().await?;
            let newest = newest(&listed, &key);
            if let Some((_, meta)) = newest
                && let Some(theirs) = records.read_claim(meta, expiry).await?
                && theirs.holder != holder
            {
                let left = left(&theirs, meta, records.now(self.new_op()).await?);
                if let Some(left) = left {
                    let holder = theirs.holder;
                    return Ok(Claimed::Theirs { holder, left });
                }
            }
            let number = newest.map_or(1, |(number, _)| number + 1);
            match records.put_claim(&key, number, &record).await {
                Ok(()) => {}
                // Another one was faster.
                Err(e) if e.kind() == ErrorKind::Conflict => continue,
                Err(e) => return Err(e),
            }
            hit(Seam::ClaimAfterPut)?;
            // A listing may miss what is put while it goes on, and see that which that one removed as gone: then the number
            // was given before.
            let after = records.claims().await?;
            if self::newest(&after, &key).is_some_and(|(newest, _)| newest > number) {
                records
                    .drop_claims(vec![records.claim_path(&key, number)])
                    .await;
                continue;
            }
            let now = DateTime::<Utc>::from_timestamp_millis(
                i64::try_from(self.clock().now_ms()).unwrap_or(i64::MAX),
            );
            let over = |meta: &&ObjectMeta| {
                let forgotten = now.is_some_and(|now| now - meta.last_modified > FORGOTTEN);
                parts(meta).is_some_and(|(of, _)| of == key || forgotten)
            };
            let over = listed.iter().filter(over).map(|meta| meta.location.clone());
            records.drop_claims(over.collect()).await;
            return Ok(Claimed::Mine(Claim {
                records: records.clone(),
                key,
                number,
                renewing: None,
                record,
            }));
        }
        Ok(Claimed::Theirs {
            holder: String::from("another daemon"),
            left: expiry,
        })
    }
}

/// How long a claim holds still; `None` when it has expired.
fn left(record: &Record, meta: &ObjectMeta, now: DateTime<Utc>) -> Option<Duration> {
    let age = (now - meta.last_modified).to_std().unwrap_or_default();
    let left = Duration::from_millis(record.expiry_ms).saturating_sub(age);
    (!left.is_zero()).then_some(left)
}

impl Claim {
    /// Lets it begin anew. Whether it is ours still: another one may have taken it after it expired.
    ///
    /// # Errors
    /// Those of the storage; it holds as long as it did.
    pub async fn renew(&mut self) -> Result<bool> {
        let next = self.number + 1;
        self.renewing = Some(next);
        match self.records.put_claim(&self.key, next, &self.record).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Conflict => {
                self.renewing = None;
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        let old = self.records.claim_path(&self.key, self.number);
        (self.number, self.renewing) = (next, None);
        self.records.drop_claims(vec![old]).await;
        Ok(true)
    }

    /// Ends it: what was claimed is free.
    ///
    /// # Errors
    /// Those of seams alone: a claim that cannot be removed expires.
    pub async fn release(self) -> Result<()> {
        hit(Seam::ClaimBeforeRemove)?;
        let numbers = [Some(self.number), self.renewing];
        let paths = numbers.into_iter().flatten();
        let paths = paths.map(|number| self.records.claim_path(&self.key, number));
        self.records.drop_claims(paths.collect()).await;
        self.records.tidy().await;
        Ok(())
    }
}

impl Records {
    /// What the clock of the storage says: when it took an object that is put now and removed.
    pub(super) async fn now(&self, probe: OpId) -> Result<DateTime<Utc>> {
        let at = self.area("probe").join(probe.to_string());
        self.put(&at, b"clock".to_vec()).await?;
        let now = self.objects.inner.head(&at).await;
        self.objects.inner.delete(&at).await?;
        Ok(now?.last_modified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, StoreOptions};

    const LONG: Duration = Duration::from_secs(3_600);

    async fn store(dir: &std::path::Path) -> Store {
        let options = StoreOptions {
            durability: Durability::Process,
            ..StoreOptions::default()
        };
        Store::connect(&dir.to_string_lossy(), options)
            .await
            .unwrap()
    }

    fn mine(claimed: Claimed) -> Claim {
        match claimed {
            Claimed::Mine(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    fn holder(claimed: Claimed) -> String {
        match claimed {
            Claimed::Theirs { holder, left } => {
                assert!(left <= LONG);
                holder
            }
            other => panic!("{other:?}"),
        }
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("squire-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[tokio::test]
    async fn one_of_two_holds_a_claim_until_it_ends() {
        let dir = scratch("claims");
        let (a, b) = (store(&dir).await, store(&dir).await);
        for managed in [false, true] {
            let mut claim = mine(a.claim(managed, "t", "a", LONG).await.unwrap());
            assert_eq!(holder(b.claim(managed, "t", "b", LONG).await.unwrap()), "a");
            let other = mine(b.claim(managed, "u", "b", LONG).await.unwrap());
            assert!(claim.renew().await.unwrap());
            assert_eq!(holder(b.claim(managed, "t", "b", LONG).await.unwrap()), "a");
            claim.release().await.unwrap();
            let claim = mine(b.claim(managed, "t", "b", LONG).await.unwrap());
            // Its own, of an attempt that was dropped, is in nobody's way.
            let again = mine(b.claim(managed, "t", "b", LONG).await.unwrap());
            assert_eq!(again.number, claim.number + 1);
            again.release().await.unwrap();
            other.release().await.unwrap();
        }
        assert!(
            !dir.join(".squire").try_exists().unwrap(),
            "nothing is left beside plain tables"
        );
        let left = std::fs::read_dir(dir.join("_squire/claims")).unwrap();
        assert_eq!(left.count(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn an_expired_claim_is_taken_over_and_its_holder_learns_of_it() {
        let dir = scratch("expired-claims");
        let (a, b) = (store(&dir).await, store(&dir).await);
        let mut late = mine(a.claim(false, "t", "a", Duration::ZERO).await.unwrap());
        let next = mine(b.claim(false, "t", "b", LONG).await.unwrap());
        assert!(!late.renew().await.unwrap());
        // What it removes is its own.
        late.release().await.unwrap();
        assert_eq!(holder(a.claim(false, "t", "a", LONG).await.unwrap()), "b");
        next.release().await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn of_many_that_find_one_expired_one_gets_it() {
        let dir = scratch("many-claims");
        let first = store(&dir).await;
        let _dead = mine(
            first
                .claim(true, "t", "dead", Duration::ZERO)
                .await
                .unwrap(),
        );
        let mut stores = Vec::new();
        for _ in 0..8 {
            stores.push(store(&dir).await);
        }
        let holders: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let claims = stores.iter().zip(&holders);
        let claims = claims.map(|(store, name)| store.claim(true, "t", name, LONG));
        let claimed = futures::future::join_all(claims).await;
        let is_mine = |c: &Result<Claimed>| matches!(c, Ok(Claimed::Mine(_)));
        assert_eq!(
            claimed.iter().filter(|c| is_mine(c)).count(),
            1,
            "{claimed:?}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
