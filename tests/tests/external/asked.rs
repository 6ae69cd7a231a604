//! What people ask of a daemon of two stores is about the one that they name.

use crate::metrics::{Served, write_config};
use crate::{eventually, small_commits};
use squire_tests::{Lake, PATIENCE};

/// In each of two stores lies what a killed compaction wrote, and it is too early to take that for dead.
#[test]
fn a_recovery_is_of_the_store_that_is_named() {
    let lakes = [Lake::with_tables(&["t"]), Lake::with_tables(&["t"])];
    for lake in &lakes {
        small_commits(lake, &["t"], 0, 4);
        let seam = "maintain.after_rewrite=1*return(kill)";
        lake.with_seam(seam, &["optimize", &lake.uri]).killed();
    }
    let [named, other] = &lakes;
    let token = named.path("token");
    std::fs::write(&token, "correct-horse\n").expect("token");
    let config = format!("[daemon]\ntoken_file = {:?}\n", token.display().to_string());
    let config = write_config(named, &config);
    let daemon = Served::daemon(named, &[&other.uri, "--config", &config]);
    let stranded = |lake: &Lake| {
        let name = format!("squire_stranded_bytes{{store=\"{}\"}}", lake.uri);
        daemon.metric(&name).unwrap_or_default()
    };
    eventually("what both runs left", PATIENCE, || {
        let bytes = lakes.each_ref().map(stranded);
        let both = bytes.iter().all(|bytes| *bytes > 0.0);
        both.then_some(()).ok_or(format!("{bytes:?}"))
    });
    let left = stranded(other);
    let path = format!("/api/v1/recover?store={}", named.uri);
    let (code, told) = daemon.request("POST", &path, "Authorization: Bearer correct-horse\r\n");
    assert_eq!(code, 200, "{told}");
    eventually("its recovery", PATIENCE, || {
        let bytes = stranded(named);
        (bytes == 0.0).then_some(()).ok_or(bytes.to_string())
    });
    // Both would have been done in one turn.
    assert_eq!(stranded(other), left);
    daemon.stop();
    let left = lakes.each_ref().map(|lake| {
        let plan = lake.run(&["recover", &lake.uri, "--dry-run"]).ok().stdout;
        !plan.contains("nothing to recover")
    });
    assert_eq!(left, [false, true]);
}
