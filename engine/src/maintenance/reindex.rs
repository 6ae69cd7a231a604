//! Reindexing: extends existing indexes over new rows and builds declared ones, each independently.

use super::Target;
use super::declare::{MIN_VECTOR_ROWS, Training, index_params};
use super::index_proof::{prove_extended, prove_index};
use super::listed::{Listed, covered_by, ids_of, is_vector, listed_indexes, new_index_bytes};
use super::rehearsal::{base_of, commit_rehearsed};
use super::run::{MaintenanceReport, Run, Work};
use crate::error::{Disposition, Error, ErrorKind, Result, caught};
use crate::journal::Amounts;
use crate::oversight::Oversight;
use crate::store::Store;
use crate::store::state::IndexDeclaration;
use lance::Dataset;
use lance::deps::datafusion::error::DataFusionError;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::IndexType;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::optimize::OptimizeOptions;
use squire_failpoints::{Seam, hit};
use std::collections::BTreeSet;
use std::error::Error as _;
use std::future::IntoFuture;
use std::sync::Arc;

struct Reindex<'a> {
    declared: Vec<(String, IndexDeclaration)>,
    except: &'a BTreeSet<String>,
}

impl Store {
    /// Extends every index of `target` that does not cover all rows and builds declared ones, `except` those that are
    /// named. An index that cannot be built yet is reported as pending, one that fails as failed; neither stops a sibling.
    pub async fn reindex(
        &self,
        target: &Target,
        except: &BTreeSet<String>,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let declared = match target {
            Target::Plain(_) => Vec::new(),
            Target::Pinned(table) => {
                let snapshot = self.load().await?;
                snapshot
                    .state
                    .indexes_of(table)
                    .map(|(n, d)| (n.to_owned(), d.clone()))
                    .collect()
            }
        };
        self.maintain(target, &Reindex { declared, except }, oversight)
            .await
    }
}

#[async_trait::async_trait]
impl Work for Reindex<'_> {
    fn kind(&self) -> &'static str {
        "reindex"
    }

    async fn attempt(
        &self,
        run: &Run<'_>,
        store: &Store,
        mut head: Dataset,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        report.pending_indexes.clear();
        report.failed_indexes.clear();
        report.unfit_indexes.clear();
        let listed = listed_indexes(&head).await?;
        let missing = |name: &String| listed.iter().all(|index| index.name != *name);
        let due = |name: &String| missing(name) && !self.except.contains(name);
        let extended = || listed.iter().filter(|i| !self.except.contains(&i.name));
        let built = || self.declared.iter().filter(|(name, _)| due(name));
        let ahead = extended().count() + built().count();
        run.oversight.planned("indexes", ahead as u64);
        let before = head.clone();
        for index in extended() {
            run.check_cancelled()?;
            let done = caught("extending it", extend(&mut head, index, run, store)).await;
            settle_one(&index.name, done, run, report).await?;
        }
        for (name, declaration) in built() {
            run.check_cancelled()?;
            let done = caught(
                "building it",
                build(&mut head, name, declaration, run, store),
            )
            .await;
            settle_one(name, done, run, report).await?;
        }
        let amounts = Amounts {
            indexed: new_index_bytes(&before, &head).await?,
            ..Amounts::default()
        };
        store
            .ledger()
            .add(run.path(), amounts, store.clock().now_ms());
        Ok(())
    }
}

/// What became of one index.
enum Outcome {
    /// It covered everything.
    Complete,
    /// It was built, or extended over what it did not cover.
    Covered,
    /// It was built anew, since extended it would have lost rows.
    Rebuilt(String),
    /// It cannot be built yet.
    Pending(String),
}

/// A lost race ends the attempt, and so do a lost licence and a wish to stop; any other failure stays with its index.
async fn settle_one(
    name: &str,
    done: Result<Outcome>,
    run: &Run<'_>,
    report: &mut MaintenanceReport,
) -> Result<()> {
    run.oversight.did(1);
    match done {
        Ok(Outcome::Complete) => Ok(()),
        Ok(Outcome::Covered) => {
            report.indexes.push(name.to_owned());
            Ok(hit(Seam::MaintainAfterReindex)?)
        }
        Ok(Outcome::Rebuilt(why)) => {
            report.rebuilt_indexes.push((name.to_owned(), why));
            Ok(hit(Seam::MaintainAfterReindex)?)
        }
        Ok(Outcome::Pending(why)) => {
            report.pending_indexes.push((name.to_owned(), why));
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::Cancelled => Err(e),
        Err(e) if e.disposition() == Disposition::Fail && run.is_licensed().await? => {
            let why = match (e.kind(), run.target) {
                _ if is_short_of_memory(&e) => String::from(
                    "its values cannot be sorted in the memory that one attempt has; raise [budget] memory",
                ),
                (ErrorKind::Storage, _) => e.brief(),
                (_, Target::Pinned(_)) => format!(
                    "{}; withdraw it (squire index --withdraw) and declare it again",
                    e.brief()
                ),
                (_, Target::Plain(_)) => format!("{}; drop it and create it again", e.brief()),
            };
            report.failed_indexes.push((name.to_owned(), why));
            if e.kind() == ErrorKind::Unfit {
                report.unfit_indexes.push(name.to_owned());
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Whether Lance gave up because even what it spills did not leave room enough.
fn is_short_of_memory(e: &Error) -> bool {
    let mut cause = e.source();
    while let Some(error) = cause {
        if let Some(failed) = error.downcast_ref::<DataFusionError>() {
            return matches!(failed.find_root(), DataFusionError::ResourcesExhausted(_));
        }
        cause = error.source();
    }
    false
}

/// Extends `index` over the fragments that it does not cover, as one version above `head`.
async fn extend(
    head: &mut Dataset,
    index: &Listed,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    index.check_files(store, head).await?;
    let fragments = ids_of(head.fragments().iter());
    if index.uncovered(&fragments).is_empty() {
        return Ok(Outcome::Complete);
    }
    index.check_extensible(head)?;
    let staged = match stage(head, index, merged_with(head, index), run, store).await {
        // Of a field of a struct, Lance extends them no more once their fragments were rewritten; they are cheap to build.
        Err(e) if e.disposition() == Disposition::Fail && index.is_of_zones() => {
            return anew(head, index, &e, run, store).await;
        }
        staged => staged?,
    };
    let segments = staged.load_indices_by_name(&index.name).await?;
    if covered_by(&segments).is_disjoint(&fragments) && is_untrained(head, index).await? {
        let few = String::from("the table has too few rows to train it");
        return Ok(Outcome::Pending(few));
    }
    index.check_coverage(&(fragments & ids_of(staged.fragments().iter())), &segments)?;
    let base = base_of(&staged, head).await?;
    let Err(unfit) = prove_extended(&base, &staged, &index.name).await else {
        commit_rehearsed(head, &staged).await?;
        return Ok(Outcome::Covered);
    };
    if unfit.kind() != ErrorKind::Unfit {
        return Err(unfit);
    }
    // It has lost rows, or Lance would lose them: by dot product, vectors that were there are not found any more beside
    // added ones. Built from the rows it has them all.
    anew(head, index, &unfit, run, store).await
}

/// How `index` is extended: merged with its last segment. With stable row ids an updated row keeps its id, and an older
/// segment that is left as it is still has it under its old value; only the deletion, which a compaction takes away, hid
/// that. There all segments become one.
fn merged_with(head: &Dataset, index: &Listed) -> OptimizeOptions {
    let all = match head.manifest().uses_stable_row_ids() {
        true => index.segments.len(),
        false => 1,
    };
    OptimizeOptions::merge(all.max(1))
}

/// Whether there is nothing of `index` yet, or any more, and too few rows to train it.
async fn is_untrained(head: &Dataset, index: &Listed) -> Result<bool> {
    if index.is_definition() {
        return Ok(true);
    }
    let is_vector = index.segments.iter().all(is_vector);
    let is_emptied = covered_by(&index.segments).is_disjoint(&ids_of(head.fragments().iter()));
    Ok(is_vector && is_emptied && head.count_rows(None).await? < MIN_VECTOR_ROWS)
}

/// Builds `index` from the rows, as one version above `head`, because of `why`.
async fn anew(
    head: &mut Dataset,
    index: &Listed,
    why: &Error,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    let staged = stage_anew(head, index, run, store).await?;
    let segments = staged.load_indices_by_name(&index.name).await?;
    index.check_coverage(
        &(ids_of(head.fragments().iter()) & ids_of(staged.fragments().iter())),
        &segments,
    )?;
    prove_built(head, &staged, &index.name).await?;
    commit_rehearsed(head, &staged).await?;
    Ok(Outcome::Rebuilt(why.brief()))
}

/// A rehearsal in which Lance did with `index` what `options` say.
async fn stage(
    head: &Dataset,
    index: &Listed,
    options: OptimizeOptions,
    run: &Run<'_>,
    store: &Store,
) -> Result<Dataset> {
    let options = options
        .index_names(vec![index.name.clone()])
        .transaction_properties(run.properties.clone());
    let mut staged = store.rehearsal(run, head, None).await?;
    run.unless_cancelled(staged.optimize_indices(&options))
        .await?;
    Ok(staged)
}

/// A rehearsal in which `index` was built from the rows, by the parameters that it has.
async fn stage_anew(
    head: &Dataset,
    index: &Listed,
    run: &Run<'_>,
    store: &Store,
) -> Result<Dataset> {
    let Some(segment) = index.segments.iter().find(|s| !is_vector(s)) else {
        return stage(head, index, OptimizeOptions::retrain(), run, store).await;
    };
    let field = segment.fields.first().copied().unwrap_or_default();
    let column = head.schema().field_path(field)?;
    let built = head
        .open_scalar_index_for_maintenance(&column, &segment.uuid, &NoOpMetricsCollector)
        .await?;
    let params = built.derive_index_params()?;
    let mut staged = store.rehearsal(run, head, None).await?;
    let columns = [column.as_str()];
    let built = staged
        .create_index_builder(&columns, IndexType::Scalar, &params)
        .name(index.name.clone())
        .replace(true)
        .transaction_properties(run.properties.clone())
        .progress(Arc::new(run.oversight.clone()))
        .into_future();
    run.unless_cancelled(built).await?;
    Ok(staged)
}

/// Checks that the index `name`, built from the rows, answers in `staged` as it should.
async fn prove_built(head: &Dataset, staged: &Dataset, name: &str) -> Result<()> {
    prove_index(&base_of(staged, head).await?, staged, name).await
}

async fn build(
    head: &mut Dataset,
    name: &str,
    declaration: &IndexDeclaration,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    let rows = head.count_rows(None).await?;
    let column = declaration.column.as_str();
    let field = head.schema().field(column).map(|field| field.data_type());
    let of_attempt = store.memory().attempt() / 2;
    let training = Training::of(&declaration.kind, rows, field.as_ref());
    if let Some(why) = training.does_not_fit(of_attempt) {
        return Ok(Outcome::Pending(why));
    }
    let samples = training.samples(of_attempt);
    let (kind, params) = index_params(&declaration.kind, rows, field.as_ref(), samples)?;
    if kind.is_vector() && rows < MIN_VECTOR_ROWS {
        return Ok(Outcome::Pending(format!(
            "a vector index needs {MIN_VECTOR_ROWS} rows to train and the table has {rows}"
        )));
    }
    let mut staged = store.rehearsal(run, head, None).await?;
    let columns = [column];
    let built = staged
        .create_index_builder(&columns, kind, params.as_ref())
        .name(name.to_owned())
        .transaction_properties(run.properties.clone())
        .progress(Arc::new(run.oversight.clone()))
        .into_future();
    run.unless_cancelled(built).await?;
    let segments = staged.load_indices_by_name(name).await?;
    if kind.is_vector() && covered_by(&segments).is_empty() {
        let nulls = format!("column {column} has too few vectors to train it");
        return Ok(Outcome::Pending(nulls));
    }
    prove_built(head, &staged, name).await?;
    commit_rehearsed(head, &staged).await?;
    Ok(Outcome::Covered)
}

#[cfg(test)]
mod tests {
    use super::{DataFusionError, Error, is_short_of_memory};

    #[test]
    fn what_lacks_memory_is_told_from_what_else_fails() {
        let failed = |e: DataFusionError| Error::from(lance::Error::from(e));
        let exhausted = DataFusionError::ResourcesExhausted(String::from("a sort"));
        let within = DataFusionError::Context(String::from("x"), Box::new(exhausted));
        assert!(is_short_of_memory(&failed(within)));
        let other = DataFusionError::Execution(String::from("Resources exhausted"));
        assert!(!is_short_of_memory(&failed(other)));
    }
}
