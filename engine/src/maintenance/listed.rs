//! The indexes that a version lists, as reindexing sees them: what each covers, and what keeps it from being extended.

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use arrow_schema::DataType;
use futures::TryStreamExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_index::is_system_index;
use lance_index::pbold::InvertedIndexDetails;
use lance_index::scalar::InvertedIndexParams;
use lance_table::format::{Fragment, IndexMetadata};
use lance_table::io::manifest::read_manifest_indexes;
use object_store::ObjectMeta;
use roaring::RoaringBitmap;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The postings of a text index before it had partitions.
const OLD_TEXT: &str = "invert.lance";

/// Values of scalar-quantised vectors that Lance moves at once, those of a partition: it counts them in 32 bits.
const MOST_QUANTISED: u64 = u32::MAX as u64;

/// One index: the segments of one name.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) segments: Vec<IndexMetadata>,
    /// Why this release of Lance can read none of it, if so.
    pub(crate) unreadable: Option<String>,
    /// What is wrong with its files; nothing until [`look_at_files`].
    pub(crate) damaged: Option<String>,
}

/// What `dataset`'s version lists, in name order; also what Lance hides because it cannot read it.
pub(crate) async fn listed_indexes(dataset: &Dataset) -> Result<Vec<Listed>> {
    let objects = dataset.object_store(None).await?;
    let location = dataset.manifest_location();
    let all = read_manifest_indexes(&objects, location, dataset.manifest()).await?;
    // Lance's own listing also says what a segment covers after a rewrite that it has not followed yet.
    let usable = dataset.load_indices().await?;
    let mut by_name: BTreeMap<&str, Listed> = BTreeMap::new();
    for segment in all.iter().filter(|segment| !is_system_index(segment)) {
        let listed = by_name.entry(&segment.name).or_insert_with(|| Listed {
            name: segment.name.clone(),
            segments: Vec::new(),
            unreadable: None,
            damaged: None,
        });
        match usable.iter().find(|usable| usable.uuid == segment.uuid) {
            Some(usable) => {
                listed.unreadable = missing_tokenizer(usable).or(listed.unreadable.take());
                listed.segments.push(usable.clone());
            }
            None => {
                listed.unreadable = Some(kind_of(segment));
                listed.segments.push(segment.clone());
            }
        }
    }
    Ok(by_name.into_values().collect())
}

/// Says of each of `listed` what is wrong with its files, by a listing of each segment. Those of `before`, as an earlier look
/// found them, are not listed again if they were sound.
///
/// # Errors
/// Those of the storage.
pub(crate) async fn look_at_files(
    store: &Store,
    dataset: &Dataset,
    listed: &mut [Listed],
    before: &[Listed],
) -> Result<()> {
    let uuids = |of: &Listed| of.segments.iter().map(|s| s.uuid).collect::<Vec<_>>();
    for index in listed {
        let sound = before.iter().filter(|known| known.damaged.is_none());
        if sound.into_iter().any(|known| uuids(known) == uuids(index)) {
            continue;
        }
        index.damaged = match index.check_files(store, dataset).await {
            Ok(_) => None,
            Err(e) if e.kind() == ErrorKind::Unfit => Some(e.to_string()),
            Err(e) => return Err(e),
        };
    }
    Ok(())
}

/// The indexes of `dataset` that cover some of `fragments`: they have to follow when those are rewritten.
pub(crate) async fn followers(dataset: &Dataset, fragments: &RoaringBitmap) -> Result<Vec<Listed>> {
    let mut listed = listed_indexes(dataset).await?;
    listed.retain(|index| !covered_by(&index.segments).is_disjoint(fragments));
    Ok(listed)
}

/// The ids of `fragments`, as coverage counts them.
pub(crate) fn ids_of<'a>(fragments: impl IntoIterator<Item = &'a Fragment>) -> RoaringBitmap {
    let ids = fragments.into_iter();
    ids.filter_map(|f| u32::try_from(f.id).ok()).collect()
}

/// Attached to an error that ends in its own remedy.
#[derive(Debug)]
pub(crate) struct SaysWhatToDo;

/// The last word of an index's type, as its details name it.
pub(crate) fn kind_of(segment: &IndexMetadata) -> String {
    let details = segment.index_details.as_ref();
    let url = details.map_or("", |details| details.type_url.as_str());
    let word = url.rsplit(['.', '/']).next().unwrap_or_default();
    word.strip_suffix("IndexDetails").unwrap_or(word).to_owned()
}

/// That it is an index of text by a tokenizer which this build does not have: Lance lists it, and fails when it opens it.
fn missing_tokenizer(segment: &IndexMetadata) -> Option<String> {
    let details = segment.index_details.as_ref()?;
    let details: InvertedIndexDetails = details.to_msg().ok()?;
    let params = InvertedIndexParams::try_from(&details).ok()?;
    params.build().err()?;
    let tokenizer = details.base_tokenizer.unwrap_or_default();
    Some(format!(
        "{} with the tokenizer {tokenizer}",
        kind_of(segment)
    ))
}

/// Whether it is an index of vectors.
pub(crate) fn is_vector(segment: &IndexMetadata) -> bool {
    kind_of(segment) == "Vector"
}

/// The fragments that `segments` cover together.
pub(crate) fn covered_by(segments: &[IndexMetadata]) -> RoaringBitmap {
    let bitmaps = segments.iter().filter_map(|s| s.fragment_bitmap.as_ref());
    bitmaps.fold(RoaringBitmap::new(), |all, bitmap| all | bitmap)
}

impl Listed {
    /// Which of `fragments` it does not cover.
    pub(crate) fn uncovered(&self, fragments: &RoaringBitmap) -> RoaringBitmap {
        fragments - covered_by(&self.segments)
    }

    /// Whether `segments`, which are to replace it, cover all `fragments`.
    ///
    /// # Errors
    /// `Unfit`: Lance leaves something out without an error, what it cannot read among it.
    pub(crate) fn check_coverage(
        &self,
        fragments: &RoaringBitmap,
        segments: &[IndexMetadata],
    ) -> Result<()> {
        let left = fragments - covered_by(segments);
        if left.is_empty() {
            return Ok(());
        }
        let all = fragments.len();
        let why = match (&left & covered_by(&self.segments)).len() {
            0 => format!(
                "Lance does not extend it over {} of {all} fragments",
                left.len()
            ),
            lost => format!("Lance cannot read what it holds of {lost} of {all} fragments"),
        };
        Err(Error::new(ErrorKind::Unfit, why))
    }

    /// Lance makes an index of a table without enough rows a definition alone, and trains it once there are.
    pub(crate) fn is_definition(&self) -> bool {
        self.segments.iter().all(|segment| {
            let without_files = segment.files.as_ref().is_none_or(Vec::is_empty);
            let without_rows = segment.fragment_bitmap.as_ref();
            without_files && without_rows.is_some_and(RoaringBitmap::is_empty)
        })
    }

    /// Whether building it anew costs no more than extending it over all `fragments`: it covers none of them and is not
    /// trained, or says of zones of rows what may be in them and nothing of single rows.
    pub(crate) fn is_cheap_anew(&self, fragments: &RoaringBitmap) -> bool {
        let is_of_zones = |s| ["ZoneMap", "BloomFilter"].contains(&kind_of(s).as_str());
        let is_trained = self.segments.iter().any(is_vector);
        let covers_none = covered_by(&self.segments).is_disjoint(fragments);
        (covers_none && !is_trained) || self.segments.iter().all(is_of_zones)
    }

    /// Whether it is a graph of vectors.
    pub(crate) async fn is_graph(&self, dataset: &Dataset) -> Result<bool> {
        Ok(self.segments.iter().any(is_vector)
            && dataset.index_statistics(&self.name).await?.contains("HNSW"))
    }

    /// Refuses what cannot be extended whatever is tried.
    ///
    /// # Errors
    /// `Unfit`: Lance cannot read it, or its column is gone.
    pub(crate) fn check_extensible(&self, dataset: &Dataset) -> Result<()> {
        let unfit = |why: String| Err(Error::new(ErrorKind::Unfit, why));
        if let Some(kind) = &self.unreadable {
            let why = format!(
                "this release cannot read indexes of its type or version ({kind}); what built it must extend it"
            );
            return unfit(why).map_err(|e| e.with(SaysWhatToDo));
        }
        let fields = self.segments.iter().flat_map(|segment| &segment.fields);
        match fields
            .into_iter()
            .find(|field| dataset.schema().field_by_id(**field).is_none())
        {
            Some(field) => unfit(format!("its column (field {field}) is gone")),
            None => Ok(()),
        }
    }

    /// Looks whether the files of the index stand on storage, by a listing of each segment. Gives the names of all.
    ///
    /// # Errors
    /// `Unfit` names the first that does not, or has another size than the version says.
    pub(crate) async fn check_files(
        &self,
        store: &Store,
        dataset: &Dataset,
    ) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let here = |segment: &&IndexMetadata| segment.base_id.is_none();
        for segment in self.segments.iter().filter(here) {
            let name = format!("_indices/{}", segment.uuid);
            let expected = segment.files.as_deref();
            if expected.is_some_and(<[_]>::is_empty) || self.is_definition() {
                continue;
            }
            let folder = dataset.indices_dir().join(segment.uuid.to_string());
            let listed: Vec<ObjectMeta> = store
                .objects
                .list(Some(folder.clone()))
                .try_collect()
                .await?;
            let found: BTreeMap<String, u64> = listed
                .into_iter()
                .filter_map(|meta| {
                    let below: Vec<_> = meta.location.prefix_match(&folder)?.collect();
                    let parts: Vec<&str> = below.iter().map(AsRef::as_ref).collect();
                    Some((parts.join("/"), meta.size))
                })
                .collect();
            let wrong = match expected {
                None => found.is_empty().then(|| format!("{name} is gone or empty")),
                Some(files) => files.iter().find_map(|file| match found.get(&file.path) {
                    None => Some(format!("{name}/{} is gone", file.path)),
                    Some(size) if file.size_bytes > 0 && *size != file.size_bytes => Some(format!(
                        "{name}/{} has {size} bytes, not {}",
                        file.path, file.size_bytes
                    )),
                    Some(_) => None,
                }),
            };
            if let Some(wrong) = wrong {
                return Err(Error::new(ErrorKind::Unfit, wrong));
            }
            names.extend(found.into_keys());
        }
        Ok(names)
    }

    /// Looks whether the index can follow a rewrite of what it covers.
    ///
    /// # Errors
    /// `Unfit`: its files are not all there, or Lance cannot move what they hold.
    pub(crate) async fn check_movable(&self, store: &Store, dataset: &Dataset) -> Result<()> {
        if self.check_files(store, dataset).await?.contains(OLD_TEXT) {
            let why =
                "a text index of an old release, which Lance can search and extend and cannot move";
            return Err(Error::new(ErrorKind::Unfit, why));
        }
        self.check_quantised(dataset).await
    }

    /// Asks how large the partitions of a vector index are, where they may be too large to be moved.
    async fn check_quantised(&self, dataset: &Dataset) -> Result<()> {
        let of = |field| Some(dataset.schema().field_by_id(field)?.data_type());
        let mut fields = self.segments.iter().flat_map(|s| &s.fields).copied();
        let Some((dimension, is_one_a_row)) = fields.find_map(|field| dimension_of(&of(field)?))
        else {
            return Ok(());
        };
        let covered = covered_by(&self.segments);
        let fragments = dataset.fragments().iter();
        let covered =
            fragments.filter(|f| u32::try_from(f.id).is_ok_and(|id| covered.contains(id)));
        let rows: usize = covered.filter_map(|f| f.physical_rows).sum();
        if is_one_a_row && (rows as u64).saturating_mul(dimension) <= MOST_QUANTISED {
            return Ok(());
        }
        match overflowing(&dataset.index_statistics(&self.name).await?, dimension) {
            None => Ok(()),
            Some(size) => Err(Error::new(
                ErrorKind::Unfit,
                format!(
                    "one of its partitions holds {size} vectors of {dimension} values, more than Lance can move at once; \
                     build it with more partitions"
                ),
            )),
        }
    }
}

/// How many values a vector of a column has, and whether each row has one vector rather than several.
fn dimension_of(column: &DataType) -> Option<(u64, bool)> {
    match column {
        DataType::FixedSizeList(_, dimension) => Some((u64::from(dimension.unsigned_abs()), true)),
        DataType::List(item) => Some((dimension_of(item.data_type())?.0, false)),
        _ => None,
    }
}

/// The vectors of the largest partition that is too large, if one is, by Lance's statistics of a vector index.
fn overflowing(statistics: &str, dimension: u64) -> Option<u64> {
    let statistics: Value = serde_json::from_str(statistics).ok()?;
    let segments = statistics["indices"].as_array()?.iter();
    let quantised =
        segments.filter(|s| s["index_type"].as_str().is_some_and(|t| t.ends_with("SQ")));
    let partitions = quantised
        .filter_map(|s| s["partitions"].as_array())
        .flatten();
    let largest = partitions.filter_map(|p| p["size"].as_u64()).max()?;
    (largest.saturating_mul(dimension) > MOST_QUANTISED).then_some(largest)
}

/// Bytes of the files of a segment, as far as its version says.
pub(super) fn segment_bytes(segment: &IndexMetadata) -> u64 {
    let files = segment.files.iter().flatten();
    files.map(|file| file.size_bytes).sum()
}

/// Bytes of the index segments that `after` has and `before` has not, by index.
pub(super) async fn new_index_bytes(
    before: &Dataset,
    after: &Dataset,
) -> Result<BTreeMap<String, u64>> {
    let had = before.load_indices().await?;
    let has = after.load_indices().await?;
    let is_new = |s: &&IndexMetadata| had.iter().all(|h| h.uuid != s.uuid);
    let of_rows = |s: &&IndexMetadata| !is_system_index(s);
    let mut bytes = BTreeMap::new();
    for segment in has.iter().filter(is_new).filter(of_rows) {
        *bytes.entry(segment.name.clone()).or_default() += segment_bytes(segment);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{dimension_of, overflowing};
    use arrow_schema::{DataType, Field};
    use serde_json::json;

    #[test]
    fn a_row_has_one_vector_or_several() {
        let float = Field::new_list_field(DataType::Float32, true);
        let one = DataType::FixedSizeList(float.into(), 16);
        let several = DataType::new_list(one.clone(), true);
        assert_eq!(dimension_of(&one), Some((16, true)));
        assert_eq!(dimension_of(&several), Some((16, false)));
        assert_eq!(dimension_of(&DataType::Utf8), None);
    }

    #[test]
    fn a_partition_of_scalar_quantised_vectors_may_be_too_large() {
        let of = |kind: &str, size: u64| {
            let partitions = json!([{ "size": 10 }, { "size": size }]);
            json!({ "indices": [{ "index_type": kind, "partitions": partitions }] }).to_string()
        };
        assert_eq!(overflowing(&of("IVF_HNSW_SQ", 2_796_202), 1_536), None);
        assert_eq!(
            overflowing(&of("IVF_HNSW_SQ", 2_796_203), 1_536),
            Some(2_796_203)
        );
        assert_eq!(overflowing(&of("IVF_SQ", 1 << 32), 1), Some(1 << 32));
        assert_eq!(overflowing(&of("IVF_PQ", 1 << 32), 1_536), None);
        assert_eq!(overflowing("{}", 1_536), None);
    }
}
