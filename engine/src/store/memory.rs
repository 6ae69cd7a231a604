//! What a process may hold: one limit, and the share of it that each use has.
//!
//! 1. A process makes one [`Memory`] and gives it to every store that it opens.
//! 2. All of them share two caches, whose sizes follow from the limit. In these a session's entries are its own: a place
//!    that is opened anew, with other credentials or at another endpoint, finds nothing of what was there before.
//! 3. A rehearsal's session holds the version that it makes, which stands nowhere else, besides.
//! 4. Handles of tables are kept as long as there is room (`handles`), and what cleanups read of manifests.
//! 5. What remains is for attempts: of what each may hold ([`Memory::attempt`]) follow the batches that it reads and how
//!    far ahead.

use super::handles::{Handles, Kept};
use async_trait::async_trait;
use lance::dataset::transaction::Transaction;
use lance::session::{CacheSpec, Session};
use lance_core::cache::{
    CacheBackend, CacheCodec, CacheEntry, InternalCacheKey, QuickCacheBackend,
    QuickCacheShardPolicy,
};
use lance_io::object_store::ObjectStoreRegistry;
use lance_table::format::{IndexMetadata, Manifest};
use std::collections::HashMap;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The limit where nobody sets one.
const DEFAULT_LIMIT: u64 = 4 << 30;

/// The least that can be worked in: a smaller limit is taken for this one.
const LEAST: u64 = 64 << 20;

/// Manifests, transactions and file footers, at most. Each version of a table has a manifest that names all of its fragments,
/// so with a larger cache a process that commits grows with the square of its table's history.
const METADATA: u64 = 128 << 20;

/// What cleanups read of manifests, at most.
const MANIFESTS: u64 = 128 << 20;

/// Decoded rows in one batch, at most: larger ones make nothing faster.
const BATCH: u64 = 64 << 20;

/// What is read ahead of them, at most: Lance's default on a local disk.
const READ_AHEAD: u64 = 256 << 20;

/// What a token of an n-gram index takes until it is spilled.
const TOKEN: u64 = 16;

/// One arena of the allocator for each so many bytes of the limit, and two at least.
const ARENA: u64 = 512 << 20;

/// What it takes to remember a file: three entries under its path.
const FACTS: u64 = 600;

/// Files that are remembered at most.
const MOST_FACTS: usize = 200_000;

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, NonZero::get) as u64
}

/// See the module's header.
#[derive(Debug, Clone)]
pub struct Memory {
    limit: u64,
    attempts: Arc<AtomicU64>,
    indexes: Arc<QuickCacheBackend>,
    metadata: Arc<QuickCacheBackend>,
    manifests: Arc<QuickCacheBackend>,
    handles: Arc<Kept>,
    /// The number of the next session.
    next: Arc<AtomicU64>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT, 1)
    }
}

impl Memory {
    /// A limit of `limit` bytes for a process with so many attempts at one time.
    pub fn new(limit: u64, attempts: usize) -> Self {
        let cache = |bytes: u64| {
            // One shard: an entry that is larger than its shard is not kept.
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Arc::new(QuickCacheBackend::with_shard_policy(
                bytes,
                QuickCacheShardPolicy::Single,
            ))
        };
        let limit = limit.max(LEAST);
        Self {
            limit,
            attempts: Arc::new(AtomicU64::new(attempts as u64)),
            indexes: cache(limit / 8),
            metadata: cache((limit / 16).min(METADATA)),
            manifests: cache((limit / 32).min(MANIFESTS)),
            handles: Arc::new(Kept::new(limit / 16)),
            next: Arc::default(),
        }
    }

    /// Bytes that one attempt may hold: caches and handles have a quarter of the limit, and a quarter is left for what nobody
    /// counts.
    pub fn attempt(&self) -> u64 {
        self.limit / 2 / self.attempts.load(Ordering::Relaxed).max(1)
    }

    /// From now on there are so many attempts at one time.
    pub fn share_among(&self, attempts: usize) {
        self.attempts.store(attempts as u64, Ordering::Relaxed);
    }

    /// Bytes that a scan reads ahead of rows of which the widest has so many. Two of them fit, however wide they are: a
    /// scan cannot go on before it has a whole batch.
    pub(crate) fn read_ahead(&self, widest_row: u64) -> u64 {
        let share = (self.attempt() / 4).min(READ_AHEAD);
        share.max(widest_row.saturating_mul(2))
    }

    /// Bytes of decoded rows in a batch. Lance decodes one on each core, and writes another meanwhile.
    pub(crate) fn batch(&self) -> u64 {
        (self.attempt() / 2 / (cores() + 2)).min(BATCH)
    }

    /// What only the environment sets, and only when the process starts: of Lance, how much a sort and the builder of an
    /// index hold before they spill, and what every scan reads ahead; of the C library, how many arenas its allocator
    /// keeps. Each thread has one of its own otherwise, and what one has freed no other uses.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        let builders = (cores() / 2).max(1);
        let of_builder = self.attempt() / 2 / builders;
        [
            ("LANCE_MEM_POOL_SIZE", self.attempt().to_string()),
            (
                "LANCE_DEFAULT_IO_BUFFER_SIZE",
                self.read_ahead(0).to_string(),
            ),
            (
                "LANCE_FTS_PARTITION_SIZE",
                (of_builder >> 20).max(1).to_string(),
            ),
            (
                "LANCE_NGRAM_TOKENS_PER_SPILL",
                (self.attempt() / TOKEN).max(1).to_string(),
            ),
            (
                "MALLOC_ARENA_MAX",
                (self.limit / ARENA).clamp(2, cores() * 8).to_string(),
            ),
        ]
    }

    /// A session of a store.
    pub(crate) fn session(&self, registry: Arc<ObjectStoreRegistry>) -> Arc<Session> {
        self.session_that(false, registry)
    }

    /// A session of a rehearsal. The version that it makes is in memory alone, so that is held until the session ends.
    pub(crate) fn rehearsal(&self, registry: Arc<ObjectStoreRegistry>) -> Arc<Session> {
        self.session_that(true, registry)
    }

    fn session_that(&self, holds: bool, registry: Arc<ObjectStoreRegistry>) -> Arc<Session> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let part = |cache| CacheSpec::Backend(part(cache, number, holds));
        let (indexes, metadata) = (part(&self.indexes), part(&self.metadata));
        Arc::new(Session::with_cache_backends(indexes, metadata, registry))
    }

    /// What a store's cleanups keep of manifests.
    pub(crate) fn manifests(&self) -> Arc<dyn CacheBackend> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        part(&self.manifests, number, false)
    }

    /// Files of which a store remembers what it looked up.
    pub(super) fn facts(&self) -> usize {
        usize::try_from(self.limit / 32 / FACTS).map_or(MOST_FACTS, |most| most.min(MOST_FACTS))
    }

    /// The handles of a store.
    pub(super) fn handles(&self) -> Handles {
        Handles::of(&self.handles, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A session's part of a cache: whatever room it finds there, under keys of its own.
#[derive(Debug)]
struct Part {
    cache: Arc<QuickCacheBackend>,
    number: u64,
    /// What commits make, where it stands nowhere else. Lance puts it into the caches and looks for it there first.
    versions: Option<Mutex<HashMap<InternalCacheKey, CacheEntry>>>,
}

/// The part of `cache` that has this number.
fn part(cache: &Arc<QuickCacheBackend>, number: u64, holds: bool) -> Arc<Part> {
    Arc::new(Part {
        cache: cache.clone(),
        number,
        versions: holds.then(Mutex::default),
    })
}

impl Part {
    /// Keys are digests, and so are these.
    fn key(&self, key: &InternalCacheKey) -> InternalCacheKey {
        let own = u128::from_le_bytes(*key.as_bytes()) ^ u128::from(self.number);
        InternalCacheKey::from_bytes(own.to_le_bytes())
    }

    fn held(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        let versions = self.versions.as_ref()?.lock();
        let versions = versions.unwrap_or_else(PoisonError::into_inner);
        versions.get(key).cloned()
    }
}

/// Whether `entry` is what a version consists of: all that a commit leaves in memory.
fn is_of_a_version(entry: &CacheEntry) -> bool {
    entry.is::<Manifest>() || entry.is::<Transaction>() || entry.is::<Vec<IndexMetadata>>()
}

#[async_trait]
impl CacheBackend for Part {
    async fn get_resident(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        match self.held(key) {
            Some(held) => Some(held),
            None => self.cache.get_resident(&self.key(key)).await,
        }
    }

    async fn peek_resident(&self, key: &InternalCacheKey) -> bool {
        self.held(key).is_some() || self.cache.peek_resident(&self.key(key)).await
    }

    async fn get(&self, key: &InternalCacheKey, codec: Option<CacheCodec>) -> Option<CacheEntry> {
        match self.held(key) {
            Some(held) => Some(held),
            None => self.cache.get(&self.key(key), codec).await,
        }
    }

    async fn insert(
        &self,
        key: &InternalCacheKey,
        entry: CacheEntry,
        bytes: usize,
        codec: Option<CacheCodec>,
    ) {
        if let Some(versions) = &self.versions
            && is_of_a_version(&entry)
        {
            let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.insert(*key, entry);
            return;
        }
        self.cache.insert(&self.key(key), entry, bytes, codec).await;
    }

    async fn get_or_insert<'a>(
        &self,
        key: &InternalCacheKey,
        loader: Pin<Box<dyn Future<Output = lance::Result<(CacheEntry, usize)>> + Send + 'a>>,
        codec: Option<CacheCodec>,
    ) -> lance::Result<(CacheEntry, bool)> {
        match self.held(key) {
            Some(held) => Ok((held, true)),
            None => {
                let key = self.key(key);
                self.cache.get_or_insert(&key, loader, codec).await
            }
        }
    }

    /// What is held stays: nothing can read it again.
    async fn clear(&self) {
        self.cache.clear().await;
    }

    async fn num_entries(&self) -> usize {
        self.cache.num_entries().await
    }

    async fn size_bytes(&self) -> usize {
        self.cache.size_bytes().await
    }

    fn capacity_bytes(&self) -> Option<usize> {
        self.cache.capacity_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> InternalCacheKey {
        InternalCacheKey::from_bytes([byte; 16])
    }

    fn part(memory: &Memory, number: u64, holds: bool) -> Arc<Part> {
        super::part(&memory.metadata, number, holds)
    }

    #[tokio::test]
    async fn sessions_share_the_room_and_no_entry() {
        let memory = Memory::new(LEAST, 1);
        let (one, other) = (part(&memory, 1, false), part(&memory, 2, false));
        one.insert(&key(1), Arc::new(1_u8), 1 << 10, None).await;
        assert!(one.get(&key(1), None).await.is_some());
        assert!(other.get(&key(1), None).await.is_none());
        for byte in 2..=255 {
            other
                .insert(&key(byte), Arc::new(byte), 64 << 10, None)
                .await;
        }
        assert!(memory.metadata.size_bytes().await <= 4 << 20);
    }

    #[tokio::test]
    async fn a_version_that_is_rehearsed_is_not_evicted() {
        let memory = Memory::new(LEAST, 1);
        let rehearsal = part(&memory, 1, true);
        let indexes: Vec<IndexMetadata> = Vec::new();
        let more_than_there_is = 64 << 20;
        rehearsal
            .insert(&key(1), Arc::new(indexes), more_than_there_is, None)
            .await;
        for byte in 2..=255 {
            rehearsal
                .insert(&key(byte), Arc::new(byte), 64 << 10, None)
                .await;
        }
        assert!(rehearsal.num_entries().await < 100);
        assert!(rehearsal.get(&key(1), None).await.is_some());
        rehearsal.clear().await;
        assert!(rehearsal.get_resident(&key(1)).await.is_some());
    }

    #[test]
    fn shares_follow_from_the_limit() {
        let small = Memory::new(256 << 20, 2);
        assert_eq!(small.attempt(), 64 << 20);
        assert_eq!(small.read_ahead(0), 16 << 20);
        assert_eq!(small.read_ahead(1 << 30), 2 << 30);
        assert!(small.batch() < 11 << 20);
        let large = Memory::new(1 << 40, 1);
        assert_eq!((large.read_ahead(1), large.batch()), (READ_AHEAD, BATCH));
    }
}
