//! Declared indexes: what maintenance builds and keeps, until it is withdrawn.

use super::Target;
use super::listed::{Listed, is_vector};
use super::run::{MaintenanceReport, Run, Work};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::ids::TableName;
use crate::oversight::Oversight;
use crate::publish::Record;
use crate::store::Store;
use crate::store::state::{IndexDeclaration, encode};
use arrow_schema::DataType;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::{IndexParams, IndexType};
use lance_linalg::distance::MetricType;
use serde_json::Value;
use std::sync::Arc;

/// Rows that an IVF_PQ index needs to train: 256 centroids per sub-vector.
pub(super) const MIN_VECTOR_ROWS: usize = 256;

/// Sub-vectors of an IVF_PQ index, where the dimension can be divided by it: a byte each.
const SUB_VECTORS: i32 = 16;

/// What can be declared.
const KINDS: [&str; 9] = [
    "btree",
    "bitmap",
    "label_list",
    "ngram",
    "zonemap",
    "bloomfilter",
    "inverted",
    "ivf_flat",
    "ivf_pq",
];

/// How long a name may be: it stands in every version of the manifest.
const NAME_BYTES: usize = 128;

/// Drops the index of this name.
struct Drop<'a>(&'a str);

impl Store {
    /// Declares an index; maintenance builds it.
    pub async fn declare_index(
        &self,
        table: &TableName,
        name: &str,
        declaration: IndexDeclaration,
    ) -> Result<()> {
        check_name(name)?;
        index_params(&declaration.kind, 0, None, SAMPLES)?;
        let snapshot = self.load().await?;
        let dataset = self.open_pinned(snapshot.state.table(table)?).await?;
        let column = &declaration.column;
        let field = dataset.schema().field(column).ok_or_else(|| {
            let column = quoted(column);
            Error::invalid(format!("table {table} has no column {column}"))
        })?;
        check_fit(&declaration.kind, &field.data_type())
            .map_err(|e| e.context(format!("table {table}: column {}", quoted(column))))?;
        let op = self.new_op();
        let key = format!("index/{table}/{name}");
        self.publish_until(|snapshot| {
            snapshot.state.table(table)?;
            match snapshot
                .state
                .indexes
                .get(&(table.clone(), name.to_owned()))
            {
                Some(existing) if *existing == declaration => return Ok(None),
                Some(existing) => {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!(
                            "table {table} has an index {name:?} on {:?} ({}) already",
                            existing.column, existing.kind
                        ),
                    ));
                }
                None => {}
            }
            let record = Record::new(
                op,
                "declare",
                &self.options().actor,
                format!("index {name} on {table}"),
            );
            Ok(Some((
                vec![(key.clone(), Some(encode(&declaration)?))],
                record,
            )))
        })
        .await
        .map(drop)
    }

    /// Withdraws the declaration of an index, then drops what was built of it: not declared any more, nobody builds it
    /// again. An index that was only built, by whomever, is dropped alike.
    ///
    /// # Errors
    /// `NotFound` when the table has no such index, declared or built.
    pub async fn withdraw_index(
        &self,
        table: &TableName,
        name: &str,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let op = self.new_op();
        let key = (table.clone(), name.to_owned());
        let snapshot = self.load().await?;
        let dataset = self.open_pinned(snapshot.state.table(table)?).await?;
        let is_built = !dataset.load_indices_by_name(name).await?.is_empty();
        if !is_built && !snapshot.state.indexes.contains_key(&key) {
            let missing = format!("table {table} has no index {name:?}; see `squire status`");
            return Err(Error::new(ErrorKind::NotFound, missing));
        }
        let actor = &self.options().actor;
        self.publish_until(|snapshot| {
            if !snapshot.state.indexes.contains_key(&key) {
                return Ok(None);
            }
            let message = format!("index {name} of {table} withdrawn");
            let record = Record::new(op, "withdraw", actor, message);
            Ok(Some((
                vec![(format!("index/{table}/{name}"), None)],
                record,
            )))
        })
        .await?;
        self.maintain(&Target::Pinned(table.clone()), &Drop(name), oversight)
            .await
    }
}

#[async_trait::async_trait]
impl Work for Drop<'_> {
    fn kind(&self) -> &'static str {
        "drop index"
    }

    async fn attempt(
        &self,
        run: &Run<'_>,
        _: &Store,
        head: Dataset,
        _: &mut MaintenanceReport,
    ) -> Result<()> {
        let removed_indices = head.load_indices_by_name(self.0).await?;
        if removed_indices.is_empty() {
            return Ok(());
        }
        let operation = Operation::CreateIndex {
            new_indices: Vec::new(),
            removed_indices,
        };
        let transaction = TransactionBuilder::new(head.manifest().version, operation)
            .transaction_properties(Some(Arc::new(run.properties.clone())))
            .build();
        CommitBuilder::new(Arc::new(head))
            .with_skip_auto_cleanup(true)
            .execute(transaction)
            .await?;
        Ok(())
    }
}

/// A name goes into keys of the manifest, file names and messages. Lance keeps names with two underscores for itself.
fn check_name(name: &str) -> Result<()> {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\');
    if name.trim().is_empty() || name.len() > NAME_BYTES || name.contains(odd) {
        return Err(Error::invalid(format!(
            "{} is no name of an index: give up to {NAME_BYTES} bytes without slashes and control characters",
            quoted(name)
        )));
    }
    if name.starts_with("__") {
        return Err(Error::invalid(format!(
            "{} is no name of an index: names that begin with __ are Lance's own",
            quoted(name)
        )));
    }
    Ok(())
}

/// Refuses an index that Lance cannot build on a column of type `column`: each reindex would fail.
fn check_fit(kind: &str, column: &DataType) -> Result<()> {
    if fits(kind, column) {
        return Ok(());
    }
    let fitting = KINDS.iter().copied().filter(|kind| fits(kind, column));
    let fitting: Vec<&str> = fitting.collect();
    let instead = match fitting.as_slice() {
        [] => String::from("no index"),
        fitting => fitting.join(", "),
    };
    Err(Error::invalid(format!(
        "{kind} cannot be built on its type, {}; {instead} can",
        type_name(column)
    )))
}

/// Whether Lance builds an index of `kind` on a column of type `column`.
fn fits(kind: &str, column: &DataType) -> bool {
    use DataType as T;
    let is_text = |t: &T| matches!(t, T::Utf8 | T::LargeUtf8);
    match kind {
        "btree" | "bitmap" | "zonemap" => !column.is_nested(),
        "bloomfilter" => {
            let narrow = matches!(column, T::Float16);
            let number = column.is_numeric() && !narrow && !column.is_decimal();
            let bytes = matches!(column, T::Binary | T::LargeBinary);
            let temporal = matches!(
                column,
                T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Timestamp(..)
            );
            number || bytes || temporal || is_text(column)
        }
        "label_list" => match column {
            T::List(item) | T::LargeList(item) => !item.data_type().is_nested(),
            _ => false,
        },
        "ngram" => is_text(column),
        "inverted" => match column {
            T::List(item) | T::LargeList(item) => is_text(item.data_type()),
            other => is_text(other),
        },
        "ivf_flat" | "ivf_pq" => match column {
            T::FixedSizeList(item, _) => item.data_type().is_floating(),
            _ => false,
        },
        _ => false,
    }
}

/// A type in a few words: Arrow prints all fields of a struct.
fn type_name(column: &DataType) -> String {
    match column {
        DataType::Struct(_) => String::from("a struct"),
        DataType::List(item) | DataType::LargeList(item) => {
            format!("a list of {}", type_name(item.data_type()))
        }
        DataType::FixedSizeList(item, length) => {
            format!("a list of {length} {}", type_name(item.data_type()))
        }
        DataType::Map(..) => String::from("a map"),
        other => other.to_string(),
    }
}

/// The most sub-vectors up to [`SUB_VECTORS`] that vectors of this type divide into.
fn sub_vectors(column: Option<&DataType>) -> usize {
    let dimension = match column {
        Some(DataType::FixedSizeList(_, dimension)) => *dimension,
        _ => SUB_VECTORS,
    };
    let divisors = (1..=SUB_VECTORS).filter(|n| dimension % n == 0);
    divisors
        .max()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1)
}

/// Vectors that training holds for each centroid: Lance's default, where there is room for them.
pub(super) const SAMPLES: usize = 256;

/// And at least; with fewer, centroids are single vectors.
const LEAST_SAMPLES: usize = 16;

/// Partitions of an index of vectors: one of about 4,096 rows keeps a probe short without many empty ones.
fn partitions(rows: usize) -> usize {
    rows.div_ceil(4_096).clamp(1, 4_096)
}

/// An index of vectors whose number of partitions is so many times too small or too large for its table is built anew: each
/// probe reads too much, or finds too little. By then most of its rows came after it was trained, or have gone.
const OUTGROWN: usize = 4;

/// Why `index` is to be trained anew, if it should be. Only what is declared here has partitions that we chose.
pub(super) async fn outgrown(
    head: &Dataset,
    index: &Listed,
    declaration: &IndexDeclaration,
) -> Result<Option<String>> {
    let is_trained = !index.is_definition() && index.segments.iter().all(is_vector);
    if !is_trained || !declaration.kind.starts_with("ivf_") {
        return Ok(None);
    }
    let statistics = head.index_statistics(&index.name).await?;
    let statistics: Value = serde_json::from_str(&statistics).unwrap_or_default();
    let segments = statistics["indices"].as_array().into_iter().flatten();
    let has = segments
        .filter_map(|of| of["num_partitions"].as_u64())
        .max();
    let Some(has) = has.and_then(|has| usize::try_from(has).ok()) else {
        return Ok(None);
    };
    let rows = head.count_rows(None).await?;
    let wanted = partitions(rows);
    let is_outgrown = rows >= MIN_VECTOR_ROWS
        && (wanted >= has.saturating_mul(OUTGROWN) || has >= wanted.saturating_mul(OUTGROWN));
    Ok(is_outgrown.then(|| {
        format!(
            "it was trained with {has} partitions, and the {rows} rows of the table need {wanted}"
        )
    }))
}

/// What training an index holds: nothing for those that are not trained.
pub(super) struct Training {
    /// Bytes of one vector for each centroid.
    bytes: u64,
}

impl Training {
    /// That of an index of `kind` over so many rows of `column`.
    pub(super) fn of(kind: &str, rows: usize, column: Option<&DataType>) -> Self {
        let centroids = match kind {
            "ivf_flat" => partitions(rows),
            // Eight bits for each part of a vector.
            "ivf_pq" => partitions(rows).max(256),
            _ => 0,
        };
        let vector = match column {
            Some(DataType::FixedSizeList(item, dimension)) => {
                let width = item
                    .data_type()
                    .primitive_width()
                    .unwrap_or(size_of::<f32>());
                width * usize::try_from(*dimension).unwrap_or(0)
            }
            _ => 0,
        };
        Self {
            bytes: (centroids * vector) as u64,
        }
    }

    /// Why it cannot be trained in `most` bytes.
    pub(super) fn does_not_fit(&self, most: u64) -> Option<String> {
        let least = self.bytes * LEAST_SAMPLES as u64;
        (least > most).then(|| {
            format!(
                "training it takes {} MiB, and {} MiB are there for it; raise [budget] memory",
                least >> 20,
                most >> 20
            )
        })
    }

    /// Vectors for each centroid that fit into `most` bytes.
    pub(super) fn samples(&self, most: u64) -> usize {
        let fitting = most.checked_div(self.bytes).unwrap_or(u64::MAX);
        usize::try_from(fitting).map_or(SAMPLES, |fitting| fitting.clamp(LEAST_SAMPLES, SAMPLES))
    }
}

/// What Lance is asked to build, and how.
pub(super) type Asked = (IndexType, Box<dyn IndexParams>);

/// [`index_params`] with as many samples as fit into `most` bytes, or why too few do.
pub(super) fn fitting_params(
    kind: &str,
    rows: usize,
    column: Option<&DataType>,
    most: u64,
) -> Result<std::result::Result<Asked, String>> {
    let training = Training::of(kind, rows, column);
    Ok(match training.does_not_fit(most) {
        Some(why) => Err(why),
        None => Ok(index_params(kind, rows, column, training.samples(most))?),
    })
}

/// What Lance needs to build an index of `kind` over `rows` rows of a column of type `column`.
pub(super) fn index_params(
    kind: &str,
    rows: usize,
    column: Option<&DataType>,
    samples: usize,
) -> Result<Asked> {
    let scalar = |index: IndexType| {
        (
            index,
            Box::new(ScalarIndexParams::default()) as Box<dyn IndexParams>,
        )
    };
    let ivf = IvfBuildParams {
        sample_rate: samples,
        ..IvfBuildParams::new(partitions(rows))
    };
    Ok(match kind {
        "btree" => scalar(IndexType::BTree),
        "bitmap" => scalar(IndexType::Bitmap),
        "label_list" => scalar(IndexType::LabelList),
        "ngram" => scalar(IndexType::NGram),
        "zonemap" => scalar(IndexType::ZoneMap),
        "bloomfilter" => scalar(IndexType::BloomFilter),
        "inverted" => (
            IndexType::Inverted,
            Box::new(InvertedIndexParams::default()),
        ),
        "ivf_flat" => (
            IndexType::IvfFlat,
            Box::new(VectorIndexParams::with_ivf_flat_params(MetricType::L2, ivf)),
        ),
        "ivf_pq" => (
            IndexType::IvfPq,
            Box::new(VectorIndexParams::with_ivf_pq_params(
                MetricType::L2,
                ivf,
                PQBuildParams {
                    num_bits: 8,
                    num_sub_vectors: sub_vectors(column),
                    max_iters: 50,
                    sample_rate: samples,
                    ..PQBuildParams::default()
                },
            )),
        ),
        other => {
            return Err(Error::invalid(format!(
                "unknown index type {}; one of {}",
                quoted(other),
                KINDS.join(", ")
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{KINDS, SAMPLES, Training, check_fit, check_name, fits, index_params, sub_vectors};
    use arrow_schema::{DataType, Field};
    use std::sync::Arc;

    #[test]
    fn sub_vectors_divide_the_dimension() {
        let of = |dimension| {
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            sub_vectors(Some(&DataType::FixedSizeList(item, dimension)))
        };
        assert_eq!([768, 100, 17, 7].map(of), [16, 10, 1, 7]);
    }

    #[test]
    fn training_fits_or_is_not_begun() {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let column = DataType::FixedSizeList(item, 1_536);
        let of = |kind, rows| Training::of(kind, rows, Some(&column));
        // 256 centroids of 6 KiB.
        assert_eq!(of("ivf_pq", 10_000).samples(1 << 30), SAMPLES);
        assert_eq!(of("ivf_pq", 10_000).samples(64 << 20), 42);
        assert!(of("ivf_pq", 10_000).does_not_fit(64 << 20).is_none());
        let why = of("ivf_flat", 10_000_000).does_not_fit(64 << 20);
        assert!(why.is_some_and(|why| why.starts_with("training it takes 228 MiB")));
        assert_eq!(of("btree", 10_000_000).samples(1), SAMPLES);
        assert!(of("btree", 10_000_000).does_not_fit(0).is_none());
    }

    #[test]
    fn each_type_takes_the_indexes_that_lance_builds_on_it() {
        use DataType as T;
        let item = |of: T| Arc::new(Field::new("item", of, true));
        let vector = |of: T| T::FixedSizeList(item(of), 8);
        let scalar = ["btree", "bitmap", "zonemap"];
        let hashed = [&scalar[..], &["bloomfilter"]].concat();
        let text = [
            "btree",
            "bitmap",
            "ngram",
            "zonemap",
            "bloomfilter",
            "inverted",
        ];
        let structure = T::Struct(vec![Field::new("a", T::Int64, true)].into());
        for (column, kinds) in [
            (T::Int64, &hashed[..]),
            (T::Float64, &hashed),
            (T::Binary, &hashed),
            (T::Boolean, &scalar),
            (T::Decimal128(38, 2), &scalar),
            (T::Utf8, &text),
            (T::LargeUtf8, &text),
            (T::List(item(T::Int32)), &["label_list"]),
            (T::List(item(T::Utf8)), &["label_list", "inverted"]),
            (T::List(item(structure.clone())), &[]),
            (structure, &[]),
            (vector(T::Float32), &["ivf_flat", "ivf_pq"]),
            (vector(T::Float16), &["ivf_flat", "ivf_pq"]),
            (vector(T::Int32), &[]),
        ] {
            let fitting = KINDS.iter().copied().filter(|kind| fits(kind, &column));
            let fitting: Vec<&str> = fitting.collect();
            let mut wanted = kinds.to_vec();
            wanted.sort_by_key(|kind| KINDS.iter().position(|k| k == kind));
            assert_eq!(fitting, wanted, "{column}");
        }
        let told = check_fit("ngram", &T::Int64).map_err(|e| e.to_string());
        let said =
            "ngram cannot be built on its type, Int64; btree, bitmap, zonemap, bloomfilter can";
        assert_eq!(told, Err(said.to_owned()));
    }

    #[test]
    fn all_kinds_are_known_and_names_are_checked() {
        for kind in KINDS {
            assert!(index_params(kind, 0, None, SAMPLES).is_ok(), "{kind}");
        }
        let long = "n".repeat(129);
        for name in [
            "",
            " ",
            "a//",
            "a/b",
            "a\n",
            "\u{1b}[2J",
            "__mem_wal",
            &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["id_idx", "größe", "nested.column_idx", "_x"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
