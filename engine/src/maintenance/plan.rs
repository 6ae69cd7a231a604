//! What a compaction would do to a table: tasks, and what Lance would spoil and is left alone.

use super::listed::{Listed, kind_of, listed_indexes, segment_bytes};
use super::settings::TableSettings;
use super::tasks::{FragmentFacts, Left, Task, TaskBounds, left, plan_tasks};
use crate::error::{ErrorKind, Result};
use crate::store::Store;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_index::frag_reuse::FRAG_REUSE_INDEX_NAME;
use lance_index::is_system_index;
use lance_table::feature_flags::can_write_dataset;
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use roaring::RoaringBitmap;

/// What a compaction would do.
#[derive(Debug, Default, Clone)]
pub struct CompactionPlan {
    /// What it would rewrite.
    pub tasks: Vec<Task>,
    /// What it would leave as it is, and why.
    pub left: Vec<Left>,
    /// What the table asks for in its configuration and does not get.
    pub not_followed: Vec<String>,
    /// What the table asks for.
    pub(crate) settings: TableSettings,
    /// The bounds of its tasks: the policy's, and those that the table asks for.
    pub(crate) bounds: Option<TaskBounds>,
    /// Rows that earlier rewrites moved are found by a fragment-reuse index. To rewrite indexes now would take what they
    /// say for where rows are, and lose them: this rewrite is added to that index, too.
    pub(crate) defers_remap: bool,
    /// Why there are no tasks, though there is something to do.
    pub left_alone: Option<String>,
}

/// Why nothing may be written to a table, or removed from it: what newer releases refer to is not known.
pub(crate) fn beyond_us(manifest: &Manifest) -> Option<String> {
    let flags = manifest.writer_feature_flags;
    (!can_write_dataset(flags)).then(|| {
        format!(
            "the table uses features of a newer Lance (writer flags {flags:#x}); upgrade squire"
        )
    })
}

/// Fragments that must stay as they are, and why.
struct Held {
    /// All, when it is not known which.
    fragments: Option<RoaringBitmap>,
    why: String,
}

impl Held {
    fn holds(&self, fragment: u64) -> bool {
        let fragments = self.fragments.as_ref();
        fragments.is_none_or(|f| u32::try_from(fragment).is_ok_and(|id| f.contains(id)))
    }
}

/// Fragments with rows that were deleted since `segment` was built, where that would show. Lance leaves what is deleted in
/// an index and passes over it by the deletions of the fragments that the index covers. A rewrite takes these away; with
/// stable row ids the index does not follow it, and what is dead takes the places of others among the first that it finds.
///
/// A segment that others merged says when that was, and nothing of those that it was made of. This release of Lance leaves out
/// what was dead by then; older ones kept it, and no metadata tells which one merged. There the proof's sample is what sees it.
fn held_by_dead(manifest: &Manifest, name: &str, segment: &IndexMetadata) -> Option<Held> {
    let finds_first = matches!(kind_of(segment).as_str(), "Vector" | "Inverted");
    if !finds_first || !manifest.uses_stable_row_ids() {
        return None;
    }
    let covered = segment.fragment_bitmap.as_ref()?;
    let has_dead = |fragment: &&Fragment| {
        let deletions = fragment.deletion_file.as_ref();
        deletions.is_some_and(|deletions| deletions.read_version >= segment.dataset_version)
    };
    let fragments: RoaringBitmap = manifest
        .fragments
        .iter()
        .filter(has_dead)
        .filter_map(|fragment| u32::try_from(fragment.id).ok())
        .filter(|id| covered.contains(*id))
        .collect();
    (!fragments.is_empty()).then(|| Held {
        fragments: Some(fragments),
        why: format!(
            "index {name} has rows that were deleted since it was built, which with stable row ids would take the places of others in what it finds once their fragments are rewritten; build it anew"
        ),
    })
}

/// Says of each task which bytes of indexes have to follow it: the segments over its fragments are written anew, as a whole.
fn follow(tasks: &mut [Task], indexes: &[IndexMetadata]) {
    let follows = |task: &Task, index: &&IndexMetadata| {
        let mut ids = task
            .fragments
            .iter()
            .filter_map(|id| u32::try_from(*id).ok());
        let covered = index.fragment_bitmap.as_ref();
        !is_system_index(index) && covered.is_some_and(|covered| ids.any(|id| covered.contains(id)))
    };
    for task in tasks {
        let following = indexes.iter().filter(|index| follows(task, index));
        task.remapped = following.map(segment_bytes).sum();
    }
}

impl Store {
    /// What is covered by an index that cannot follow a rewrite, one that is `deferred` by a fragment-reuse index if so.
    async fn held(
        &self,
        dataset: &Dataset,
        listed: &[Listed],
        deferred: bool,
    ) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for index in listed {
            let is_stuck = deferred && index.is_graph(dataset).await?;
            let broken = match index.check_movable(self, dataset).await {
                Ok(()) => None,
                Err(e) if e.kind() == ErrorKind::Unfit => Some(e.to_string()),
                Err(e) => return Err(e),
            };
            for segment in &index.segments {
                let why = if segment.base_id.is_some() {
                    // Lance puts the new index here and goes on looking for it there.
                    String::from("lies in the table that this one was cloned from")
                } else if let Some(why) = &broken {
                    format!("cannot follow ({why})")
                } else if let Some(kind) = &index.unreadable {
                    // With stable row ids, too: some types say where rows lie all the same.
                    format!("is of a type or version ({kind}) that this release cannot read")
                } else if is_stuck {
                    String::from(
                        "is a graph behind a fragment-reuse index, from which Lance does not answer after one more rewrite",
                    )
                } else {
                    held.extend(held_by_dead(dataset.manifest(), &index.name, segment));
                    continue;
                };
                held.push(Held {
                    fragments: segment.fragment_bitmap.clone(),
                    why: format!(
                        "index {} {why}, and would lose the rows that are rewritten; drop it or build it anew",
                        index.name
                    ),
                });
            }
        }
        Ok(held)
    }

    /// Plans a compaction of `dataset`, of which nothing is known yet.
    pub(crate) async fn plan_anew(
        &self,
        dataset: &Dataset,
        bounds: &TaskBounds,
    ) -> Result<CompactionPlan> {
        let listed = listed_indexes(dataset).await?;
        self.plan_compaction(dataset, &listed, bounds).await
    }

    /// Plans a compaction of `dataset`, whose indexes are `listed`.
    pub(crate) async fn plan_compaction(
        &self,
        dataset: &Dataset,
        listed: &[Listed],
        bounds: &TaskBounds,
    ) -> Result<CompactionPlan> {
        let mut plan = CompactionPlan::default();
        let mut facts = self.fragment_facts(dataset, listed).await?;
        let manifest = dataset.manifest();
        let settings = match TableSettings::of(&manifest.config) {
            Ok(settings) => settings,
            Err(e) => {
                plan.left_alone = Some(e.to_string());
                return Ok(plan);
            }
        };
        let bounds = &settings.bounds(bounds);
        plan.not_followed = settings.not_followed();
        plan.settings = settings;
        plan.bounds = Some(bounds.clone());
        // What is decoded is larger than what is stored: then there is nothing to do either.
        if plan_tasks(&facts, bounds).is_empty() {
            plan.left = left(&facts, &[], bounds);
            return Ok(plan);
        }
        plan.left_alone = beyond_us(manifest);
        if plan.left_alone.is_some() {
            return Ok(plan);
        }
        let indexes = dataset.load_indices().await?;
        plan.defers_remap = indexes.iter().any(|i| i.name == FRAG_REUSE_INDEX_NAME);
        if plan.defers_remap && manifest.uses_stable_row_ids() {
            plan.left_alone = Some(String::from(
                "stable row ids beside a fragment-reuse index, which this release of Lance cannot extend",
            ));
            return Ok(plan);
        }
        let held = self.held(dataset, listed, plan.defers_remap).await?;
        let hold = |fact: &mut FragmentFacts| fact.held = held.iter().any(|h| h.holds(fact.id));
        facts.iter_mut().for_each(hold);
        self.measure(dataset, &mut facts).await?;
        plan.tasks = plan_tasks(&facts, bounds);
        plan.left = left(&facts, &plan.tasks, bounds);
        if !plan.defers_remap {
            follow(&mut plan.tasks, &indexes);
        }
        if plan.tasks.is_empty() {
            plan.left_alone = held.first().map(|held| held.why.clone());
        }
        Ok(plan)
    }
}
