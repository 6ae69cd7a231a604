//! Reindexing: extends existing indexes over new rows and builds declared ones, each independently.

use super::declare::{Asked, MIN_VECTOR_ROWS, fitting_params, outgrown};
use super::deltas::merges;
use super::index_proof::{prove_answers, prove_extended, prove_index};
use super::listed::{
    Listed, SaysWhatToDo, covered_by, ids_of, is_vector, listed_indexes, new_index_bytes,
    segment_bytes,
};
use super::plan::beyond_us;
use super::rehearsal::{base_of, commit_index};
use super::run::{MaintenanceReport, Run, Work};
use super::{Shown, Target};
use crate::error::{Disposition, Error, ErrorKind, Result, caught};
use crate::journal::Amounts;
use crate::oversight::Oversight;
use crate::store::Store;
use crate::store::state::IndexDeclaration;
use lance::Dataset;
use lance::deps::datafusion::error::DataFusionError;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::optimize::OptimizeOptions;
use lance_index::{IndexParams, IndexType};
use lance_table::format::Fragment;
use squire_failpoints::{Seam, hit};
use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::Arc;

/// Which indexes of a table are looked after, and how closely.
#[derive(Debug, Clone, Default)]
pub struct Reindexing {
    /// Those that are left alone.
    pub except: BTreeSet<String>,
    /// Asks those that cover all rows for a sample of them, too: a rewrite of another client may have cost them some.
    pub asks_all: bool,
}

struct Reindex<'a> {
    declared: Vec<(String, IndexDeclaration)>,
    how: &'a Reindexing,
}

impl Store {
    /// Extends every index of `target` that does not cover all rows and builds declared ones. An index that cannot be built
    /// yet is reported as pending, one that fails as failed; neither stops a sibling.
    pub async fn reindex(
        &self,
        target: &Target,
        how: &Reindexing,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let (path, pin, declared) = match target.shown() {
            Shown::Head(path) => {
                self.check_plain(&path).await?;
                (path.into_owned(), None, Vec::new())
            }
            Shown::Pin(table) => {
                let snapshot = self.load().await?;
                let entry = snapshot.state.table(table)?;
                let declared = snapshot.state.indexes_of(table);
                let declared = declared.map(|(n, d)| (n.to_owned(), d.clone())).collect();
                (entry.path.clone(), Some(entry.version), declared)
            }
        };
        let reindex = Reindex { declared, how };
        // A run is recorded before it looks, and publishes when it ends. Where there is nothing to do, to look is enough;
        // what cannot be looked at is for the run to tell.
        if !how.asks_all && self.is_indexed(&path, pin, &reindex).await.unwrap_or(false) {
            return Ok(MaintenanceReport {
                pin,
                ..MaintenanceReport::default()
            });
        }
        self.maintain(target, &reindex, oversight).await
    }

    /// Whether all that `reindex` asks for is there, whole, in the latest version of the table at `path`, which is the one at
    /// `pin` if it has one.
    async fn is_indexed(
        &self,
        path: &str,
        pin: Option<u64>,
        reindex: &Reindex<'_>,
    ) -> Result<bool> {
        let head = self.latest(path).await?;
        let is_drifted = pin.is_some_and(|pin| pin != head.manifest().version);
        let listed = listed_indexes(&head).await?;
        if is_drifted
            || beyond_us(head.manifest()).is_some()
            || reindex.missing(&listed).next().is_some()
        {
            return Ok(false);
        }
        let fragments = ids_of(head.fragments().iter());
        for index in reindex.extended(&listed) {
            if !index.uncovered(&fragments).is_empty() {
                return Ok(false);
            }
            index.check_files(self, &head).await?;
        }
        Ok(true)
    }
}

impl Reindex<'_> {
    /// What is declared and not there.
    fn missing<'a>(
        &'a self,
        listed: &'a [Listed],
    ) -> impl Iterator<Item = &'a (String, IndexDeclaration)> {
        let is_due = |name: &String| {
            listed.iter().all(|index| index.name != *name) && !self.how.except.contains(name)
        };
        self.declared.iter().filter(move |(name, _)| is_due(name))
    }

    /// What is there.
    fn extended<'a>(&'a self, listed: &'a [Listed]) -> impl Iterator<Item = &'a Listed> {
        listed.iter().filter(|i| !self.how.except.contains(&i.name))
    }

    fn declaration(&self, name: &str) -> Option<&IndexDeclaration> {
        let declared = self.declared.iter().find(|(declared, _)| declared == name);
        declared.map(|(_, declaration)| declaration)
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
        let ahead = self.extended(&listed).count() + self.missing(&listed).count();
        run.oversight.planned("indexes", ahead as u64);
        for index in self.extended(&listed) {
            run.check_cancelled()?;
            let before = head.clone();
            let declared = self.declaration(&index.name);
            let extending = extend(&mut head, (index, declared), self.how.asks_all, run, store);
            let done = caught("extending it", extending).await;
            count_written(&before, &head, (run, store), report).await?;
            settle_one(&index.name, done, (run, store), report).await?;
        }
        for (name, declaration) in self.missing(&listed) {
            run.check_cancelled()?;
            let before = head.clone();
            let building = build(&mut head, name, declaration, run, store);
            let done = caught("building it", building).await;
            count_written(&before, &head, (run, store), report).await?;
            settle_one(name, done, (run, store), report).await?;
        }
        Ok(())
    }
}

/// Counts what was written into indexes between two versions.
async fn count_written(
    before: &Dataset,
    head: &Dataset,
    (run, store): (&Run<'_>, &Store),
    report: &mut MaintenanceReport,
) -> Result<()> {
    let amounts = Amounts {
        indexed: report.wrote(new_index_bytes(before, head).await?),
        ..Amounts::default()
    };
    let now = store.clock().now_ms();
    store.ledger().add(run.path(), amounts, now);
    Ok(())
}

/// What became of one index.
enum Outcome {
    /// It covered everything.
    Complete,
    /// It was built, or extended over what it did not cover.
    Covered,
    /// It was extended at the second try; what the first one wrote is left over.
    Retried,
    /// It was built anew: extended it would have lost rows, or it had been trained on a table of another size.
    Rebuilt(String),
    /// It cannot be built yet.
    Pending(String),
}

/// A lost race ends the attempt, and so do a lost licence, a table that was dropped and a wish to stop; any other failure stays
/// with its index.
async fn settle_one(
    name: &str,
    done: Result<Outcome>,
    (run, store): (&Run<'_>, &Store),
    report: &mut MaintenanceReport,
) -> Result<()> {
    run.oversight.did(1);
    match done {
        Ok(Outcome::Complete) => Ok(()),
        Ok(done @ (Outcome::Covered | Outcome::Retried)) => {
            report.retried |= matches!(done, Outcome::Retried);
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
        Err(e)
            if e.disposition() == Disposition::Fail
                && run.is_licensed().await?
                && !run.is_gone(store).await? =>
        {
            let why = why_failed(&e, run.target);
            report.failed_indexes.push((name.to_owned(), why));
            if e.kind() == ErrorKind::Unfit {
                report.unfit_indexes.push(name.to_owned());
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Why the index failed, and what to do.
fn why_failed(e: &Error, target: &Target) -> String {
    if is_short_of_memory(e) {
        return String::from(
            "its values cannot be sorted in the memory that one attempt has; raise [budget] memory",
        );
    }
    let why = e.brief();
    if e.attached::<SaysWhatToDo>().is_some() {
        return why;
    }
    let renewal = target.renewal();
    match e.kind() {
        ErrorKind::Storage => format!("{why}; where that stays so, {renewal}"),
        _ => format!("{why}; {renewal}"),
    }
}

/// Whether Lance gave up because even what it spills did not leave room enough.
fn is_short_of_memory(e: &Error) -> bool {
    let failed = e
        .causes()
        .find_map(|cause| cause.downcast_ref::<DataFusionError>());
    let root = failed.map(DataFusionError::find_root);
    matches!(root, Some(DataFusionError::ResourcesExhausted(_)))
}

/// Whether Lance found too few vectors to train by, nulls and what is no number left out.
fn has_too_few(e: &Error) -> bool {
    let few = |cause: &lance::Error| matches!(cause, lance::Error::Unprocessable { .. });
    e.causes()
        .any(|cause| cause.downcast_ref().is_some_and(few))
}

/// Extends `index` over the fragments that it does not cover, as one version above `head`. One that covers them all is asked
/// for some of them, if it `is_asked`.
async fn extend(
    head: &mut Dataset,
    (index, declared): (&Listed, Option<&IndexDeclaration>),
    is_asked: bool,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    index.check_files(store, head).await?;
    let fragments = ids_of(head.fragments().iter());
    if index.uncovered(&fragments).is_empty() {
        return match is_asked {
            true => ask(head, index, run, store).await,
            false => Ok(Outcome::Complete),
        };
    }
    index.check_extensible(head)?;
    if let Some(declaration) = declared
        && let Some(why) = outgrown(head, index, declaration).await?
        && let Some(outcome) = retrain(head, index, declaration, why, run, store).await?
    {
        return Ok(outcome);
    }
    let (staged, retried) = match stage_extended(head, index, run, store).await {
        // Of a field of a struct, Lance extends none of them any more that covers nothing, and none of zones once its fragments
        // were rewritten. To build the first costs what extending it would, and the others are cheap to build.
        Err(e) if e.disposition() == Disposition::Fail && index.is_cheap_anew(&fragments) => {
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
    tracing::debug!(op = %run.op, target = %run.target, index = index.name, "extended, proving it");
    let Err(unfit) = prove_extended(&base, &staged, &index.name).await else {
        tracing::debug!(op = %run.op, target = %run.target, index = index.name, "proved, committing it");
        commit_index((store, run), head, &staged).await?;
        return Ok(match retried {
            true => Outcome::Retried,
            false => Outcome::Covered,
        });
    };
    if unfit.kind() != ErrorKind::Unfit {
        return Err(unfit);
    }
    // It has lost rows, or Lance would lose them: by dot product, vectors that were there are not found any more beside
    // added ones. Built from the rows it has them all.
    anew(head, index, &unfit, run, store).await
}

/// Asks `index`, which covers all rows, for some of them, and builds it anew if it has lost some.
async fn ask(head: &mut Dataset, index: &Listed, run: &Run<'_>, store: &Store) -> Result<Outcome> {
    index.check_extensible(head)?;
    match prove_answers(head, &index.name).await {
        Ok(()) => Ok(Outcome::Complete),
        Err(e) if e.kind() == ErrorKind::Unfit => anew(head, index, &e, run, store).await,
        Err(e) => Err(e),
    }
}

/// A rehearsal in which `index` was extended, and whether it took a second try. Segments that others built by themselves may
/// not merge: then the last is merged alone.
async fn stage_extended(
    head: &Dataset,
    index: &Listed,
    run: &Run<'_>,
    store: &Store,
) -> Result<(Dataset, bool)> {
    let merged = merged_with(head, index, store.options().whole_index);
    let staged = stage(head, index, OptimizeOptions::merge(merged), run, store).await;
    match staged {
        Err(e) if e.disposition() == Disposition::Fail && merged != 1 => {
            tracing::debug!(index = index.name, merged, error = %e, "its segments do not merge");
            let staged = stage(head, index, OptimizeOptions::merge(1), run, store).await;
            Ok((staged?, true))
        }
        staged => Ok((staged?, false)),
    }
}

/// How many of the last segments of `index` are merged when it is extended. With stable row ids an updated row keeps its
/// id, and an older segment that is left as it is still has it under its old value; only the deletion, which a compaction takes
/// away, hid that. There all segments become one.
fn merged_with(head: &Dataset, index: &Listed, whole: u64) -> usize {
    let all = index.segments.len();
    if head.manifest().uses_stable_row_ids() {
        return all.max(1);
    }
    let covered = covered_by(&index.segments);
    let is_covered = |f: &&Fragment| u32::try_from(f.id).is_ok_and(|id| covered.contains(id));
    let (old, new): (Vec<&Fragment>, Vec<&Fragment>) =
        head.manifest().fragments.iter().partition(is_covered);
    let rows = |of: &[&Fragment]| of.iter().filter_map(|f| f.physical_rows).sum::<usize>() as u128;
    let newest_first: Vec<u64> = index.segments.iter().rev().map(segment_bytes).collect();
    let bytes: u64 = newest_first.iter().sum();
    match rows(&old) {
        // What it is of is gone.
        0 => all.max(1),
        old => {
            let added = u128::from(bytes) * rows(&new) / old;
            let added = u64::try_from(added).unwrap_or(u64::MAX);
            merges(&newest_first, added, whole)
        }
    }
}

/// Builds `index` from the rows as it is declared, because of `why`; `None` where that does not fit into memory.
async fn retrain(
    head: &mut Dataset,
    index: &Listed,
    declaration: &IndexDeclaration,
    why: String,
    run: &Run<'_>,
    store: &Store,
) -> Result<Option<Outcome>> {
    let rows = head.count_rows(None).await?;
    let Ok((kind, params)) = asked_for(head, declaration, rows, store)? else {
        return Ok(None);
    };
    let built = (declaration.column.as_str(), kind, params.as_ref());
    let staged = stage_built(head, &index.name, built, run, store).await?;
    let segments = staged.load_indices_by_name(&index.name).await?;
    index.check_coverage(&ids_of(head.fragments().iter()), &segments)?;
    prove_built(head, &staged, &index.name).await?;
    commit_index((store, run), head, &staged).await?;
    Ok(Some(Outcome::Rebuilt(why)))
}

/// What Lance is asked to build of `declaration` over so many rows, within an attempt's memory; or why that does not fit.
fn asked_for(
    head: &Dataset,
    declaration: &IndexDeclaration,
    rows: usize,
    store: &Store,
) -> Result<std::result::Result<Asked, String>> {
    let column = head.schema().field(&declaration.column);
    let column = column.map(|field| field.data_type());
    let most = store.memory().attempt() / 2;
    fitting_params(&declaration.kind, rows, column.as_ref(), most)
}

/// A rehearsal in which the index `name` was built from the rows, in place of what there is of it.
async fn stage_built(
    head: &Dataset,
    name: &str,
    (column, kind, params): (&str, IndexType, &dyn IndexParams),
    run: &Run<'_>,
    store: &Store,
) -> Result<Dataset> {
    let mut staged = store.rehearsal(run, head, None).await?;
    let columns = [column];
    let built = staged
        .create_index_builder(&columns, kind, params)
        .name(name.to_owned())
        .replace(true)
        .transaction_properties(run.properties.clone())
        .progress(Arc::new(run.oversight.clone()))
        .into_future();
    run.unless_cancelled(built).await?;
    Ok(staged)
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
    commit_index((store, run), head, &staged).await?;
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
    let built = (
        column.as_str(),
        IndexType::Scalar,
        &params as &dyn IndexParams,
    );
    stage_built(head, &index.name, built, run, store).await
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
    if head.schema().field(column).is_none() {
        let gone = format!(
            "column {column} is not there; withdraw it: `squire index STORE TABLE {column} --withdraw --name {name}`"
        );
        return Err(Error::new(ErrorKind::Unfit, gone).with(SaysWhatToDo));
    }
    let (kind, params) = match asked_for(head, declaration, rows, store)? {
        Ok(asked) => asked,
        Err(why) => return Ok(Outcome::Pending(why)),
    };
    if kind.is_vector() && rows < MIN_VECTOR_ROWS {
        return Ok(Outcome::Pending(format!(
            "a vector index needs {MIN_VECTOR_ROWS} rows to train and the table has {rows}"
        )));
    }
    let built = (column, kind, params.as_ref());
    let few = || Outcome::Pending(format!("column {column} has too few vectors to train it"));
    let staged = match stage_built(head, name, built, run, store).await {
        Err(e) if kind.is_vector() && has_too_few(&e) => return Ok(few()),
        staged => staged?,
    };
    let segments = staged.load_indices_by_name(name).await?;
    if kind.is_vector() && covered_by(&segments).is_empty() {
        return Ok(few());
    }
    prove_built(head, &staged, name).await?;
    commit_index((store, run), head, &staged).await?;
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
