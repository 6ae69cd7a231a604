//! What is shown, what is taken out again, and what `promtool` says to it.

use std::time::Duration;

use super::*;

fn filled() -> Metrics {
    let metrics = Metrics::new().unwrap();
    let index = |name: &str, age| IndexObservation {
        name: name.to_owned(),
        unindexed_rows: 5,
        age,
    };
    let mut seen = TableObservation {
        fragments: 3,
        rows: 100,
        drift: true,
        ..TableObservation::default()
    };
    seen.indexes = vec![
        index("id", Some(Duration::from_millis(1_500))),
        index("vec", None),
    ];
    metrics.observe_table("s", "t", &seen);
    metrics.observe_table("s", "u", &seen);
    metrics.run_finished(["s", "t", "compact"], Ending::Success, 1.7e9);
    metrics.run_finished(["s", "t", "compact"], Ending::Skipped, 1.8e9);
    metrics.run_retried(["s", "t", "compact"]);
    metrics.removed(
        "s",
        "t",
        Removed {
            fragments: 2,
            bytes: 10,
            versions: 1,
        },
    );
    metrics.index_written(["s", "t", "id"], 12);
    metrics.recovered("s", "forward");
    metrics.invariant_violated("I5");
    let traffic = Traffic {
        reads: 7,
        written_bytes: 9,
        ..Traffic::default()
    };
    metrics.object_store("s", traffic);
    metrics.agent.batch_finished(BatchResult::Committed);
    metrics.set_sidecars("s", 1);
    metrics.scan_duration.observe(0.2);
    metrics.agent.commit_seconds.observe(0.2);
    metrics.agent.spool(3, 1.5);
    metrics.agent.ignored("unknown", 1);
    metrics.agent.waiting("drift", 2);
    metrics.agent.succeeded(1_700_000_000_000);
    metrics
}

#[test]
fn values_are_shown() {
    let text = filled().encode();
    for line in [
        "squire_fragments{store=\"s\",table=\"t\"} 3",
        "squire_drift{store=\"s\",table=\"t\"} 1",
        "squire_index_age_seconds{index=\"id\",store=\"s\",table=\"t\"} 1.5",
        "squire_maintenance_runs_total{kind=\"compact\",result=\"skipped\",store=\"s\",table=\"t\"} 1",
        "squire_last_success_timestamp_seconds{kind=\"compact\",store=\"s\",table=\"t\"} 1700000000",
        "squire_index_bytes_total{index=\"id\",store=\"s\",table=\"t\"} 12",
        "squire_agent_batches_total{result=\"rejected\"} 0",
        "squire_agent_waiting{cause=\"drift\"} 2",
        "squire_agent_last_success_timestamp_seconds 1700000000",
        "squire_object_store_requests_total{op=\"read\",store=\"s\"} 7",
        "squire_object_store_bytes_total{op=\"write\",store=\"s\"} 9",
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is missing in\n{text}"
        );
    }
}

/// The alert on maintenance that does not succeed counts from some time, also when it never did.
#[test]
fn a_run_that_never_succeeds_has_a_time_since_when() {
    let metrics = Metrics::new().unwrap();
    let run = ["s", "t", "reindex"];
    let last = "squire_last_success_timestamp_seconds{kind=\"reindex\",store=\"s\",table=\"t\"}";
    metrics.run_finished(run, Ending::Skipped, 50.0);
    assert!(!metrics.encode().contains(last));
    metrics.run_finished(run, Ending::Failed, 100.0);
    metrics.run_finished(run, Ending::Failed, 200.0);
    assert!(metrics.encode().contains(&format!("{last} 100\n")));
    metrics.due(run, 300.0);
    assert!(metrics.encode().contains(&format!("{last} 100\n")));
    metrics.run_finished(run, Ending::Success, 400.0);
    assert!(metrics.encode().contains(&format!("{last} 400\n")));
}

#[test]
fn a_vanished_table_or_index_leaves_no_gauge() {
    let metrics = filled();
    metrics.forget_table("s", "t");
    let text = metrics.encode();
    let left: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("table=\"t\"") && !line.contains("_total{"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(text.contains("squire_fragments{store=\"s\",table=\"u\"} 3"));
    metrics.observe_table("s", "u", &TableObservation::default());
    let text = metrics.encode();
    let of_index = |line: &&str| line.contains("index=\"") && !line.contains("_total{");
    assert_eq!(text.lines().find(of_index), None);
}

/// `promtool check metrics` where it is installed: names, units and help as Prometheus wants them.
#[test]
fn promtool_has_no_complaint() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else { return };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(filled().encode().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_thousand_tables_do_not_make_a_thousand_series() {
    let metrics = Metrics::new().unwrap();
    metrics.bound_tables(100);
    let seen = |fragments, rows| TableObservation {
        fragments,
        rows,
        indexes: vec![IndexObservation {
            name: "id".into(),
            unindexed_rows: 1,
            age: Some(Duration::from_secs(rows)),
        }],
        unreferenced: vec![("under_1h", 1), ("older", 2)],
        ..TableObservation::default()
    };
    for table in 0..100_u64 {
        metrics.observe_table("lake", &format!("t{table}"), &seen(table, table));
    }
    assert!(
        metrics
            .encode()
            .contains("squire_rows{store=\"lake\",table=\"t99\"} 99")
    );
    for table in 100..1_000_u64 {
        let name = format!("t{table}");
        metrics.observe_table("lake", &name, &seen(2, table));
        let run = ["lake", name.as_str(), "compact"];
        metrics.run_finished(run, Ending::Success, 1_000.0 + table as f64);
    }
    metrics.observe_table("pond", "t", &seen(7, 7));
    let text = metrics.encode();
    for line in [
        "squire_fragments{store=\"lake\"} 6750",
        "squire_fragments{store=\"pond\"} 7",
        "squire_unindexed_rows{store=\"lake\"} 1000",
        "squire_index_age_seconds{store=\"lake\"} 999",
        "squire_unreferenced_bytes{age=\"older\",store=\"lake\"} 2000",
        "squire_last_success_timestamp_seconds{kind=\"compact\",store=\"lake\"} 1100",
        "squire_maintenance_runs_total{kind=\"compact\",result=\"success\",store=\"lake\"} 900",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
    }
    assert!(text.len() < 20_000 && !text.contains("table="), "{text}");
    // They do not come back with a table that goes, but with another bound.
    for table in 0..990 {
        metrics.forget_table("lake", &format!("t{table}"));
    }
    assert!(!metrics.encode().contains("table="));
    metrics.bound_tables(2_000);
    assert!(metrics.encode().contains("table=\"t999\""));
}
