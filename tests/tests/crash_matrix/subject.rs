//! The operations of the matrix: what stands before each, its command, and what it does to the rows.

use crate::ends::Reader;
use crate::plain::PlainSubject;
use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use nix::sys::signal::Signal;
use serde_json::Value;
use squire_tests::{Child, Done, Lake, armed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of one table.
pub type Rows = BTreeMap<i64, String>;

/// An operation that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An append to one table.
    Append,
    /// An append to two tables in one commit.
    TwoTables,
    /// A merge: one row replaced, others added.
    Merge,
    /// A delete by predicate.
    Delete,
    /// A delete by key.
    DeleteByKey,
    /// The replacement of all rows.
    Overwrite,
    /// The replacement of a slice: one row goes, three come.
    Replace,
    /// A new table.
    Create,
    /// A new column.
    AlterAdd,
    /// A column that goes.
    AlterDrop,
    /// A column that is written anew with a wider type.
    AlterWiden,
    /// An append that brings a column.
    Evolve,
    /// A table that goes.
    Drop,
    /// A compaction.
    Compact,
    /// A compaction under which others change and delete rows, so that it has to carry.
    Carry,
    /// The building of a declared index.
    Reindex,
    /// The removal of old versions, of two tables and the manifest, with the archive before it.
    Cleanup,
    /// The publish of an external compaction.
    RepairPublish,
    /// The publish of external rows.
    RepairForce,
    /// The removal of external rows.
    RepairDiscard,
    /// The recovery of a two-table commit that landed one table.
    ResolveHalf,
    /// The recovery of a two-table commit that landed both.
    ResolveComplete,
    /// The recovery of a create that landed after it had been aborted.
    ResolveCreate,
    /// The recovery of a compaction that died before it committed, and the removal of what it had rewritten.
    Reclaim,
    /// A pass of the daemon: the recovery of a two-table commit that landed one table, an archive, a compaction.
    DaemonPass,
    /// A run on a plain table.
    Plain(PlainSubject),
}

/// Who runs the operation that goes wrong; the commit log tells its publishes from those of others by this.
const VICTIM: &str = "victim";
/// Whoever else writes.
const OTHER: &str = "other";
/// And once more.
const LATER: &str = "later";
/// Who changes a row under a rewrite, and adds one.
const CHANGER: &str = "changer";
/// Who deletes a row under a rewrite.
const DELETER: &str = "deleter";
/// The table that [`Subject::Create`] makes.
const MADE: &str = "made";
/// Four fragments are enough for a compaction, and operations run one after the other.
const DAEMON_CONFIG: &str = "[policy]\nmin_candidate_fragments = 4\n[budget]\nmax_concurrent = 1\n";
/// Ids that only the external program writes.
const EXTERNAL: std::ops::Range<i64> = 900..903;

impl Subject {
    /// Whether it changes rows, so that its answer must agree with them.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Append
                | Self::TwoTables
                | Self::Merge
                | Self::Delete
                | Self::DeleteByKey
                | Self::Overwrite
                | Self::Replace
                | Self::Create
                | Self::AlterAdd
                | Self::AlterDrop
                | Self::AlterWiden
                | Self::Evolve
        )
    }

    /// Whether the table has other columns afterwards.
    fn changes_columns(self) -> bool {
        matches!(
            self,
            Self::AlterAdd | Self::AlterDrop | Self::AlterWiden | Self::Evolve
        )
    }

    /// Whether it acts on external versions, which stand in every writer's way until it is done.
    pub fn is_repair(self) -> bool {
        matches!(
            self,
            Self::RepairPublish | Self::RepairForce | Self::RepairDiscard
        )
    }

    /// Whether it recovers what another operation left.
    pub fn is_recovery(self) -> bool {
        matches!(
            self,
            Self::ResolveHalf
                | Self::ResolveComplete
                | Self::ResolveCreate
                | Self::Reclaim
                | Self::DaemonPass
        )
    }

    /// The tables that stand before it.
    fn tables(self) -> &'static [&'static str] {
        match self {
            Self::TwoTables
            | Self::Cleanup
            | Self::Drop
            | Self::ResolveHalf
            | Self::ResolveComplete
            | Self::DaemonPass => &["a", "b"],
            _ => &["a"],
        }
    }

    /// How many commits stand before it, each of them a fragment of three rows in every table.
    fn commits(self) -> i64 {
        match self {
            Self::Compact | Self::Carry | Self::Reindex | Self::Reclaim | Self::Cleanup => 4,
            _ => 2,
        }
    }

    fn command(self, lake: &Lake) -> Vec<String> {
        let uri = lake.uri.as_str();
        let files = lake.batch(VICTIM, self.tables(), 100..103);
        let file = format!("{files}/a.csv");
        let schema = lake.path("schema.json").to_string_lossy().into_owned();
        let config = lake.path("daemon.toml").to_string_lossy().into_owned();
        let reviewed;
        let args: Vec<&str> = match self {
            Self::Append => vec!["write", uri, "a", &file],
            Self::TwoTables => vec!["commit", uri, &files],
            Self::Merge => {
                lake.csv("victim/a.csv", [1, 100, 101].map(victims));
                vec!["write", uri, "a", &file, "--mode", "merge"]
            }
            Self::Delete => vec!["delete", uri, "a", "--where", "id = 1"],
            Self::DeleteByKey => {
                lake.csv("victim/a.csv", [(1, String::new())]);
                settings(lake, VICTIM, "delete", &["a"]);
                vec!["commit", uri, &files]
            }
            Self::Overwrite => vec!["write", uri, "a", &file, "--mode", "overwrite"],
            Self::Replace => {
                lake.csv("victim/a.csv", [1, 100, 101].map(victims));
                let slice = "id = 1 OR id BETWEEN 100 AND 110";
                vec![
                    "write", uri, "a", &file, "--mode", "replace", "--where", slice,
                ]
            }
            Self::Create => vec!["create", uri, MADE, "--schema", &schema, "--key", "id"],
            Self::Compact | Self::Carry => vec!["optimize", uri, "--table", "a"],
            Self::AlterAdd => vec!["alter", uri, "a", "add", "note", "utf8"],
            Self::AlterDrop => vec!["alter", uri, "a", "drop", "n"],
            Self::AlterWiden => vec!["alter", uri, "a", "widen", "n", "int64"],
            Self::Evolve => {
                let rows = (100..103).map(|id| format!("{id},{VICTIM}-{id},{id}\n"));
                let rows = format!("id,value,note\n{}", rows.collect::<String>());
                std::fs::write(lake.path("victim/a.csv"), rows).expect("rows");
                vec!["write", uri, "a", &file, "--schema-change", "add"]
            }
            Self::Drop => vec!["drop", uri, "a"],
            Self::Reindex => vec!["reindex", uri, "--table", "a"],
            Self::Cleanup => return vec![uri.to_owned()],
            Self::DaemonPass => {
                std::fs::write(&config, DAEMON_CONFIG).expect("the configuration");
                vec![
                    "daemon", uri, "--once", "--grace", "0s", "--config", &config,
                ]
            }
            Self::RepairPublish => vec!["repair", uri, "--publish"],
            Self::RepairForce => {
                reviewed = lake.table_status("a", "head").to_string();
                vec![
                    "repair", uri, "--table", "a", "--force", "--head", &reviewed,
                ]
            }
            Self::RepairDiscard => vec!["repair", uri, "--table", "a", "--discard"],
            Self::ResolveHalf | Self::ResolveComplete | Self::ResolveCreate | Self::Reclaim => {
                vec!["recover", uri, "--force"]
            }
            Self::Plain(_) => unreachable!("it has a scene of its own"),
        };
        args.into_iter().map(str::to_owned).collect()
    }

    /// What a publish of the commit log does to the rows of one of its tables.
    pub fn apply(self, entry: &Value, rows: &mut Rows) {
        let (kind, actor) = (&entry["kind"], entry["actor"].as_str().expect("actor"));
        if kind == "repair" && entry["message"] == "repair --force" {
            rows.extend(named("external", EXTERNAL));
        }
        if kind != "logical" || entry["tables"][0]["from"] == 0 {
            return;
        }
        match (actor, self) {
            (OTHER, _) => {
                rows.extend(named(OTHER, 200..203));
                rows.insert(1, format!("{OTHER}-1"));
            }
            (LATER, _) => rows.extend(named(LATER, 300..303)),
            (CHANGER, _) => rows.extend([11, 400].map(|id| (id, format!("{CHANGER}-{id}")))),
            (DELETER, _) => drop(rows.remove(&21)),
            (VICTIM, Self::AlterAdd | Self::AlterDrop | Self::AlterWiden) => {}
            (VICTIM, Self::Delete | Self::DeleteByKey) => drop(rows.remove(&1)),
            (VICTIM, Self::Merge | Self::Replace) => rows.extend([1, 100, 101].map(victims)),
            (VICTIM, Self::Overwrite) => *rows = named(VICTIM, 100..103),
            (VICTIM, _) => rows.extend(named(VICTIM, 100..103)),
            _ => panic!("nobody is called {actor}: {entry}"),
        }
    }

    /// The tables that a logical publish of `actor` moves together.
    pub fn written_by(self, actor: &str, visible: &[String]) -> Vec<String> {
        match (actor, self) {
            (VICTIM, Self::Create) => vec![MADE.to_owned()],
            (VICTIM, Self::Drop) => vec!["a".to_owned()],
            (VICTIM, _) => self.tables().iter().map(|t| (*t).to_owned()).collect(),
            _ => visible.to_vec(),
        }
    }
}

fn victims(id: i64) -> (i64, String) {
    (id, format!("{VICTIM}-{id}"))
}

fn named(name: &str, ids: std::ops::Range<i64>) -> Rows {
    ids.map(|id| (id, format!("{name}-{id}"))).collect()
}

/// The columns that a merge was refused for lacking.
fn lacking(refused: &Done) -> Vec<String> {
    let document = refused.json();
    let message = document["error"]["message"].as_str().expect("a message");
    let named = message
        .split_once("lacks ")
        .and_then(|(_, rest)| rest.split_once(" of table"));
    let names = named.into_iter().flat_map(|(names, _)| names.split(", "));
    names
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

fn settings(lake: &Lake, batch: &str, mode: &str, tables: &[&str]) {
    let text: String = tables
        .iter()
        .map(|t| format!("[tables.{t}]\nmode = \"{mode}\"\n"))
        .collect();
    std::fs::write(lake.path(batch).join("batch.toml"), text).expect("batch.toml");
}

/// A store on which an operation goes wrong.
pub struct Scene {
    pub lake: Lake,
    pub subject: Subject,
    /// A reader that pinned the snapshot before it.
    pub reader: Reader,
}

impl Scene {
    pub async fn new(subject: Subject) -> Self {
        let lake = Lake::with_tables(subject.tables());
        for i in 0..subject.commits() {
            let batch = lake.batch(&format!("before{i}"), subject.tables(), i * 10..i * 10 + 3);
            lake.run(&["commit", &lake.uri, &batch]).ok();
        }
        if subject == Subject::DaemonPass {
            // Only table a gets as many fragments as make it due.
            for i in 2..4 {
                let batch = lake.batch(&format!("before{i}"), &["a"], i * 10..i * 10 + 3);
                lake.run(&["commit", &lake.uri, &batch]).ok();
            }
        }
        if subject == Subject::Reindex {
            lake.run(&["index", &lake.uri, "a", "id", "--type", "btree"])
                .ok();
        }
        if matches!(subject, Subject::AlterDrop | Subject::AlterWiden) {
            lake.run(&["alter", &lake.uri, "a", "add", "n", "int32"])
                .ok();
        }
        let reader = Reader::pin(&lake).await;
        let scene = Self {
            lake,
            subject,
            reader,
        };
        scene.set_the_stage().await;
        scene
    }

    /// What recovery and repair find.
    async fn set_the_stage(&self) {
        let table = format!("{}/a.lance", self.lake.uri);
        match self.subject {
            Subject::DaemonPass => self.leave_a_commit("write.after_commit_table=1*return(kill)"),
            Subject::ResolveHalf => self.leave_a_commit("write.after_commit_table=1*return(kill)"),
            Subject::ResolveComplete => self.leave_a_commit("write.after_phase_b=1*return(kill)"),
            Subject::Reclaim => {
                let args = ["optimize", &self.lake.uri, "--table", "a"];
                let seam = "maintain.after_rewrite=1*return(kill)";
                let done = self.lake.with_seam(seam, &args).wait();
                assert_eq!(done.code, None, "{done:?}");
            }
            Subject::ResolveCreate => self.leave_a_dead_create(),
            Subject::RepairForce | Subject::RepairDiscard => {
                append_externally(&table, EXTERNAL).await
            }
            Subject::RepairPublish => {
                let mut dataset = Dataset::open(&table).await.expect("the table");
                let compacted = compact_files(&mut dataset, CompactionOptions::default(), None);
                compacted.await.expect("compaction");
            }
            _ => {}
        }
    }

    fn leave_a_commit(&self, failpoints: &str) {
        let files = self.lake.batch(VICTIM, self.subject.tables(), 100..103);
        let args = ["commit", &self.lake.uri, &files, "--actor", VICTIM];
        let done = self.lake.with_seam(failpoints, &args).wait();
        assert_eq!(done.code, None, "{done:?}");
    }

    /// A create is aborted while it is stopped before its put; it wakes, lands, and is killed.
    fn leave_a_dead_create(&self) {
        let schema = self.lake.path("schema.json").to_string_lossy().into_owned();
        let args = [
            "create",
            &self.lake.uri,
            MADE,
            "--schema",
            &schema,
            "--actor",
            VICTIM,
        ];
        let failpoints = "commit.before_put=1*return(stop);write.after_commit_table=1*return(kill)";
        let mut child = self.lake.with_seam(failpoints, &args);
        child.wait_stopped();
        self.others_recover();
        let done = child.resume();
        assert_eq!(done.code, None, "{done:?}");
    }

    /// Starts the operation that goes wrong. What is to be carried happens on the way.
    pub fn start(&self, failpoints: &str) -> Child {
        if self.subject != Subject::Carry {
            return self.start_undisturbed(failpoints);
        }
        let rewritten = armed("maintain.after_rewrite", 1, "stop");
        let mut child = self.start_undisturbed(&format!("{rewritten};{failpoints}"));
        child.wait_stopped();
        self.write(CHANGER, "merge", [11, 400]);
        self.write(DELETER, "delete", [21]);
        child.signal(Signal::SIGCONT);
        child
    }

    fn start_undisturbed(&self, failpoints: &str) -> Child {
        let command = self.subject.command(&self.lake);
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        if self.subject == Subject::Cleanup {
            return self.lake.with_seam_in("squire-clean", failpoints, &args);
        }
        args.extend([
            "--json",
            "--actor",
            if self.subject.is_recovery() {
                "resolver"
            } else {
                VICTIM
            },
        ]);
        self.lake.with_seam(failpoints, &args)
    }

    /// Runs it once more, as whoever finds it undone does. It must succeed now.
    pub fn repeat(&self) {
        // What was dropped cannot be dropped again.
        if !self.subject.is_write() && self.subject != Subject::Drop {
            self.start_undisturbed("").wait().ok();
        }
    }

    fn write(&self, name: &str, mode: &str, ids: impl IntoIterator<Item = i64>) {
        let status = self.lake.status();
        let tables = status["tables"].as_array().expect("tables").iter();
        let tables: Vec<&str> = tables.map(|t| t["table"].as_str().expect("name")).collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        for table in &tables {
            let rows = ids.iter().map(|id| (*id, format!("{name}-{id}")));
            self.lake.csv(&format!("{name}/{table}.csv"), rows);
        }
        settings(&self.lake, name, mode, &tables);
        let batch = self.lake.path(name).to_string_lossy().into_owned();
        let args = ["commit", &self.lake.uri, &batch];
        let more = ["--actor", name, "--grace", "0s", "--json"];
        let all = [args.as_slice(), &more].concat();
        let mut done = self.lake.run(&all);
        for _ in 0..4 {
            match done.code {
                // It completed what stood in its way, and had read its files for the columns from before.
                Some(75) if self.subject.changes_columns() => {}
                // A merge has to say what every column becomes: null, of those that come and go here.
                Some(2) if self.subject.changes_columns() => {
                    let more = lacking(&done);
                    let header = ["id", "value"]
                        .into_iter()
                        .chain(more.iter().map(String::as_str));
                    let mut text = header.collect::<Vec<_>>().join(",") + "\n";
                    for id in &ids {
                        text += &format!("{id},{name}-{id}{}\n", ",".repeat(more.len()));
                    }
                    std::fs::write(self.lake.path(name).join("a.csv"), text).expect("rows");
                }
                _ => break,
            }
            done = self.lake.run(&all);
        }
        let done = done.ok();
        assert_eq!(done.json()["outcome"], "committed");
    }

    /// Someone else writes to every table, a row that the operation touches among them. Whatever it left in the way is
    /// resolved on the way.
    pub fn others_write(&self) {
        if self.subject == Subject::Create {
            let command = self.subject.command(&self.lake);
            let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
            args.extend(["--actor", OTHER, "--grace", "0s"]);
            let done = self.lake.run(&args);
            assert!(matches!(done.code, Some(0 | 3)), "{done:?}");
        }
        if self.subject.is_repair() {
            let command = self.subject.command(&self.lake);
            let args: Vec<&str> = command.iter().map(String::as_str).collect();
            self.lake.run(&args).ok();
        }
        self.write(OTHER, "merge", [1, 200, 201, 202]);
    }

    /// And once more.
    pub fn others_write_more(&self) {
        self.write(LATER, "append", 300..303);
    }

    /// Recovery by someone who does not wait.
    pub fn others_recover(&self) {
        self.lake
            .run(&["recover", &self.lake.uri, "--force", "--json"])
            .ok();
    }

    /// The logical publishes of the operation that goes wrong. Never more than one.
    pub fn published(&self) -> bool {
        let log = self.lake.log();
        let published = log
            .iter()
            .filter(|e| e["actor"] == VICTIM && e["kind"] == "logical")
            .count();
        assert!(published <= 1, "published {published} times: {log:#?}");
        published == 1
    }

    /// Whether the operation has its effect, as a user sees it.
    pub async fn has_effect(&self) -> bool {
        let status = || self.lake.status()["tables"][0].clone();
        match self.subject {
            Subject::Compact => status()["fragments"] == 1,
            // And what was changed meanwhile.
            Subject::Carry => status()["fragments"] == 2,
            Subject::Reindex => status()["indexes"][0]["missing"] == false,
            Subject::RepairPublish | Subject::RepairForce | Subject::RepairDiscard => {
                let table = status();
                table["pin"] == table["head"]
            }
            Subject::Cleanup => {
                let state = self
                    .lake
                    .store()
                    .await
                    .load()
                    .await
                    .expect("snapshot")
                    .state;
                !state.floors.is_empty()
            }
            Subject::Reclaim => self.lake.status()["stranded_bytes"] == 0,
            // What it has to remove is gone.
            Subject::ResolveCreate => {
                let dead = std::path::Path::new(&self.lake.uri).join(format!("{MADE}.lance"));
                !dead.join("_versions").exists()
            }
            _ => self.published(),
        }
    }

    /// The operation that the answer names.
    pub fn op_in(done: &Done) -> Option<String> {
        let document: Value = serde_json::from_str(&done.stdout).ok()?;
        let op = document["op"].as_str().or(document["error"]["op"].as_str());
        op.map(str::to_owned)
    }
}

/// Another program appends rows, or makes a table of them.
pub async fn append_externally(table: &str, ids: std::ops::Range<i64>) {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    let values: Vec<String> = named("external", ids.clone()).into_values().collect();
    let rows = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Int64Array::from(ids.collect::<Vec<_>>())),
            Arc::new(StringArray::from(values)),
        ],
    );
    let params = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    InsertBuilder::new(table)
        .with_params(&params)
        .execute(vec![rows.expect("rows")])
        .await
        .expect("append");
}
