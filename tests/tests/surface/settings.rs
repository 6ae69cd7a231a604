//! The configuration as people make and ask it: `config init`, `check`, `show`.

use crate::tools::lake;

#[test]
fn a_configuration_is_made_and_tried() {
    let lake = lake();
    let file = lake.path("squire.toml").to_string_lossy().into_owned();
    lake.run(&["config", "init", &file]).ok();
    lake.run(&["config", "check", &file, "--probe"]).ok();
    let shown = lake.run(&["config", "show", &file]).ok().stdout;
    assert!(
        shown.contains("# default") && !shown.contains("squire.toml:"),
        "{shown}"
    );
    std::fs::write(&file, format!("[[watch]]\nuri = \"{}\"\n", lake.uri)).expect("written");
    lake.run(&["config", "init", &file])
        .failed(3, "stays as it is");
    let probed = lake.run(&["config", "check", &file, "--probe"]).ok().stdout;
    assert!(probed.contains(": opens"), "{probed}");

    // The file is fine in all of these; where it is used is not.
    let probe = |text: &str, why: &str| {
        std::fs::write(&file, text).expect("written");
        lake.run(&["config", "check", &file, "--probe"])
            .failed(78, why);
    };
    probe(
        "[[watch]]\nuri = \"/nowhere/lake\"\n",
        "/nowhere/lake: failed",
    );
    let token = lake.path("token");
    std::fs::write(&token, "\n").expect("written");
    let empty = format!("[daemon]\ntoken_file = \"{}\"\n", token.display());
    probe(&empty, "the token must be one line");
    for text in ["", " \n", "a b\n"] {
        std::fs::write(&token, text).expect("written");
        let said = format!("{file}:2:1: [daemon] token_file: {}", token.display());
        lake.run(&["config", "check", &file]).failed(2, &said);
    }
    std::fs::write(&token, "a-token\n").expect("written");
    lake.run(&["config", "check", &file]).ok();
    let secret = "[[watch]]\nuri = \"s3://b/l\"\n[watch.storage_options]\nregion = \"r\"\nsecret_access_key = \"env:NOT_SET_HERE\"\n";
    probe(secret, "NOT_SET_HERE");
    lake.run(&["config", "check", &file])
        .failed(2, "NOT_SET_HERE");
    std::fs::write(&file, "[policy]\nretention = \"1s\"\n").expect("written");
    lake.run(&["config", "check", &file, "--probe"])
        .failed(2, "retention");
}

#[test]
fn a_pattern_without_a_table_is_named() {
    let lake = lake();
    let file = lake.path("squire.toml").to_string_lossy().into_owned();
    let section = |name: &str| format!("[[table]]\nname = \"{name}\"\nretention = \"2d\"\n");
    let text = format!(
        "[[watch]]\nuri = \"{}\"\n{}{}",
        lake.uri,
        section("t*"),
        section("raw_*")
    );
    std::fs::write(&file, text).expect("written");
    lake.run(&["config", "check", &file]).ok();
    let probed = lake.run(&["config", "check", &file, "--probe"]).ok().stdout;
    assert!(probed.contains("\"raw_*\" fits no table"), "{probed}");
    assert!(!probed.contains("\"t*\""), "{probed}");
    let strange = crate::tools::checked(&lake, &["--config", &file], [3, 1]);
    assert!(strange.stdout.contains("[[table]] raw_*"), "{strange:?}");
}
