//! Every refusal names file, line and key; the shipped file says what the code does.

use super::*;

/// The refusal of `text`, without its column.
fn refusal(text: &str) -> String {
    let message = full_refusal(text);
    let mut parts: Vec<&str> = message.splitn(4, ':').collect();
    if parts
        .get(2)
        .is_some_and(|column| column.parse::<u32>().is_ok())
    {
        parts.remove(2);
    }
    parts.join(":")
}

fn full_refusal(text: &str) -> String {
    Config::parse_with(text, "squire.toml", &|_| None)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_refusal_names_the_column_and_what_was_meant() {
    let message = full_refusal("[policy]\n  retentoin = \"7d\"\n");
    assert!(
        message.starts_with("squire.toml:2:3: [policy] retentoin: "),
        "{message}"
    );
    assert!(message.ends_with("did you mean `retention`?"), "{message}");
    let message = full_refusal("[policy]\ndrift = \"adopted\"\n");
    assert!(message.ends_with("did you mean `adopt`?"), "{message}");
    let message = full_refusal("[policy]\nxyz = 1\n");
    assert!(!message.contains("did you mean"), "{message}");
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let text = "[policy]\nretention = \"2d\"\n\n[[watch]]\nuri = \"a\"\n[[watch]]\nuri = \"b\"\n[watch.storage_options]\nkey = \"s3cret\"\n\n[[table]]\nname = \"z\"\nmin_versions = 3\n[[table]]\nname = \"t\"\nretention = \"3d\"\n";
    let config = Config::parse(text, "squire.toml").unwrap();
    let shown = render(&config.settings(text, "squire.toml").unwrap()).join("\n");
    assert_eq!(
        Config::parse(&shown.replace("***", "s3cret"), "shown").unwrap(),
        config
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    let lines = |key: &str| -> Vec<String> {
        let of_key = shown
            .lines()
            .filter(|line| line.starts_with(&format!("{key} = ")));
        of_key
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(
        lines("full_scan_interval"),
        ["full_scan_interval = \"10m\" # default"]
    );
    // The tables are shown by name; what they do not set themselves comes from [policy].
    assert_eq!(
        lines("retention"),
        [
            "retention = \"2d\" # squire.toml:2",
            "retention = \"3d\" # squire.toml:16",
            "retention = \"2d\" # squire.toml:2",
        ]
    );
    assert_eq!(
        lines("min_versions")[2],
        "min_versions = 3 # squire.toml:13"
    );
    assert_eq!(
        lines("uri"),
        ["uri = \"a\" # squire.toml:5", "uri = \"b\" # squire.toml:7"]
    );
    assert_eq!(lines("key"), ["key = \"***\" # squire.toml:9"]);
}

#[test]
fn the_shipped_file_is_the_default() {
    assert_eq!(
        Config::parse(SHIPPED, "squire.toml").unwrap(),
        Config::default()
    );
    assert_eq!(Config::parse("", "empty").unwrap(), Config::default());
}

/// A default is shipped as `#key = value` (no space), prose and examples as `# text`.
#[test]
fn every_default_named_in_the_shipped_file_is_the_real_one() {
    let is_default = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let uncommented: Vec<&str> = SHIPPED
        .lines()
        .map(|line| if is_default(line) { &line[1..] } else { line })
        .collect();
    assert_eq!(
        Config::parse(&uncommented.join("\n"), "squire.toml").unwrap(),
        Config::default()
    );
    let shown = toml::to_string(&Config::default()).unwrap();
    for line in shown.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(' ').next().unwrap();
        assert!(
            SHIPPED
                .lines()
                .any(|line| line.starts_with(&format!("#{key} = "))),
            "{key} is missing in the shipped file"
        );
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let message = refusal("[daemon]\ndrain = \"1m\"\nscan_intervall = \"60s\"\n");
    assert!(
        message.starts_with(
            "squire.toml:3: [daemon] scan_intervall: unknown key `scan_intervall`, expected one of"
        ),
        "{message}"
    );
    assert!(refusal("[deamon]\n").starts_with("squire.toml:1: deamon: unknown key `deamon`"));
    let message =
        refusal("[[table]]\nname = \"t\"\n\n[[table]]\nname = \"u\"\nretentoin = \"1d\"\n");
    assert!(
        message.starts_with("squire.toml:6: [[table]] retentoin: unknown key"),
        "{message}"
    );
}

#[test]
fn bad_values_are_named_with_their_line() {
    let cases = [
        (
            "[policy]\n\nretention = \"7 dayz\"\n",
            "squire.toml:3: [policy] retention: \"7 dayz\" is not a duration; use a duration such as",
        ),
        (
            "[policy]\nretention = 7\n",
            "squire.toml:2: [policy] retention: invalid type: integer `7`, expected a duration such as \"7d\"",
        ),
        (
            "[budget]\nmemory = \"4 gigs\"\n",
            "squire.toml:2: [budget] memory: \"4 gigs\" is not a size; use a size such as",
        ),
        (
            "[daemon]\nlisten = \"localhost\"\n",
            "squire.toml:2: [daemon] listen: \"localhost\" is not an address; use",
        ),
        (
            "[policy]\nmax_deleted_ratio = 10.0\n",
            "squire.toml:2: [policy] max_deleted_ratio: 10 is not a share",
        ),
        (
            "[policy]\nmax_versions = -1\n",
            "squire.toml:2: [policy] max_versions: invalid value: integer `-1`",
        ),
        (
            "[policy]\n[policy.cleanup]\nenabled = \"yes\"\n",
            "squire.toml:3: [policy.cleanup] enabled: invalid type",
        ),
        (
            "[policy]\ndrift = \"ignore\"\n",
            "squire.toml:2: [policy] drift: unknown variant `ignore`, expected `report` or `adopt`",
        ),
        (
            "[[watch]]\nuri = \"a\"\n\n[[watch]]\nkind = \"store\"\n",
            "squire.toml:4: [[watch]]: missing key `uri`",
        ),
        (
            "[[watch]]\nuri = \"a\"\n[[watch]]\nuri = \"a/\"\n",
            "squire.toml:4: [[watch]] uri: \"a/\" is watched already",
        ),
        ("[daemon]\ndrain = \n", "squire.toml:2: "),
    ];
    for (text, expected) in cases {
        let message = refusal(text);
        assert!(
            message.starts_with(expected),
            "{message}\n  does not start with\n{expected}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn unsafe_combinations_are_refused() {
    let cases = [
        (
            "[policy]\nretention = \"30m\"\n",
            "squire.toml:2: [policy] retention: 30m is under 1h",
        ),
        (
            "[policy]\nmin_versions = 0\n",
            "squire.toml:2: [policy] min_versions: 0 is under 1",
        ),
        (
            "[policy]\nretention = \"1h\"\n[daemon]\nwatchdog_progress = \"2h\"\n",
            "squire.toml:2: [policy] retention: 1h is under [daemon] watchdog_progress = 2h",
        ),
        (
            "[daemon]\n\ndrain = \"8d\"\n",
            "squire.toml:3: [policy] retention: 7d is under [daemon] drain = 8d",
        ),
        (
            "[[table]]\nname = \"t\"\nretention = \"10m\"\n",
            "squire.toml:3: [[table]] retention: 10m is under 1h",
        ),
        (
            "[policy]\ncooldown = \"7h\"\n",
            "squire.toml:1: [policy] cooldown_max: 6h is under cooldown = 7h",
        ),
        (
            "[daemon]\nfull_scan_interval = \"1s\"\n",
            "squire.toml:2: [daemon] full_scan_interval: is under scan_interval = 1m",
        ),
        (
            "[[table]]\nname = \"t\"\n[[table]]\nname = \"t\"\n",
            "squire.toml:4: [[table]] name: \"t\" has a section already",
        ),
        (
            "[[table]]\nname = \"t\"\n[[table]]\nname = \"t.lance\"\n",
            "squire.toml:4: [[table]] name: \"t.lance\" has a section already",
        ),
        (
            "[[table]]\nname = \"t*\"\n[[table]]\nname = \"t*.lance\"\n",
            "squire.toml:4: [[table]] name: \"t*.lance\" has a section already",
        ),
        (
            "[[table]]\nname = \"[t\"\n",
            "squire.toml:2: [[table]] name: \"[t\" is no pattern",
        ),
    ];
    for (text, expected) in cases {
        let message = refusal(text);
        assert!(
            message.starts_with(expected),
            "{message}\n  does not start with\n{expected}"
        );
    }
}

/// A watch of `uri` on S3 with one storage option.
fn watch_with(option: &str, value: &str) -> String {
    format!(
        "[[watch]]\nuri = \"s3://b/p\"\n[watch.storage_options]\nregion = \"r\"\n{option} = \"{value}\"\n"
    )
}

fn assert_refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let message = refusal(text);
        assert!(
            message.starts_with(expected),
            "{message}\n  does not start with\n{expected}"
        );
    }
}

#[test]
fn a_location_that_no_command_takes_is_refused() {
    for (uri, why) in [
        ("s3:/b", "did you mean s3://b?"),
        ("gs://b", "scheme \"gs\" is not supported"),
        ("db#x", "ends the path of a URL"),
        (" ", "white space"),
        ("", "the location is empty"),
        ("file://tmp/x", "did you mean file:///tmp/x?"),
        ("s3:///x", "names no bucket"),
        ("s3//b", "did you mean s3://b?"),
        ("~/x", "the shell did not expand ~"),
        ("$HOME/x", "the shell did not expand $HOME"),
        ("memory://x", "the memory of one process"),
        ("a\\u0000b", "control characters"),
        ("db/_squire/manifest.lance", "in the files of a store"),
    ] {
        let message = refusal(&format!("[[watch]]\nuri = \"{uri}\"\n"));
        assert!(
            message.starts_with("squire.toml:2: [[watch]] uri: "),
            "{message}"
        );
        assert!(message.contains(why), "{message}");
    }
    assert_refused(&[(
        "[[watch]]\nuri = \"db\"\n[[watch]]\nuri = \"./db\"\n",
        "squire.toml:4: [[watch]] uri: \"./db\" is watched already, as \"db\"",
    )]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    std::os::unix::fs::symlink("db", dir.path().join("link")).unwrap();
    let root = dir.path().display();
    for other in ["x/../db", "/db", "./db", "link", "link/../db"] {
        let text = format!("[[watch]]\nuri = \"{root}/db\"\n[[watch]]\nuri = \"{root}/{other}\"\n");
        let message = refusal(&text);
        let told = format!("squire.toml:4: [[watch]] uri: \"{root}/{other}\" is watched already");
        assert!(message.starts_with(&told), "{message}");
    }
}

#[test]
fn storage_that_cannot_be_reached_is_refused() {
    let all = "squire.toml:3: [[watch]] storage_options: ";
    for (option, value, expected) in [
        ("endpoint", "minio:9000", format!("{all}endpoint = \"minio:9000\" has no scheme")),
        ("endpoint", "http://minio", format!("{all}endpoint = \"http://minio\" is plain http")),
        ("s3_express", "true", format!("{all}storage option s3_express")),
        (
            "endpont",
            "https://minio",
            "squire.toml:5: [[watch]] storage_options.endpont: unknown storage option; did you mean `endpoint`?".to_owned(),
        ),
    ] {
        let text = watch_with(option, value);
        assert_refused(&[(text.as_str(), expected.as_str())]);
    }
    let plain = watch_with("endpoint", "http://minio");
    let allowed = |name: &str| (name == "AWS_ALLOW_HTTP").then(|| "true".to_owned());
    assert!(Config::parse_with(&plain, "squire.toml", &allowed).is_ok());
}

#[test]
fn flight_is_not_open_to_others_without_token_and_certificate() {
    assert_refused(&[
        (
            "[agent]\nflight = \"0.0.0.0:9466\"\n",
            "squire.toml:2: [agent] flight: other machines reach this address",
        ),
        (
            "[agent]\nflight = \"[::]:9466\"\nflight_token_file = \"/etc/passwd\"\n",
            "squire.toml:2: [agent] flight: other machines reach this address",
        ),
        (
            "[agent]\nflight_tls_cert = \"/etc/passwd\"\n",
            "squire.toml:2: [agent] flight_tls_cert: a certificate needs its key",
        ),
        (
            "[agent]\nflight_token_file = \"/nowhere/token\"\n",
            "squire.toml:2: [agent] flight_token_file: /nowhere/token does not exist",
        ),
        (
            "[agent]\nflight_streams = 0\n",
            "squire.toml:2: [agent] flight_streams: 0 takes no rows at all",
        ),
        (
            "[agent]\nflight_idle = \"0s\"\n",
            "squire.toml:2: [agent] flight_idle: 0s ends every stream",
        ),
    ]);
    let safe = "[agent]\nflight = \"0.0.0.0:9466\"\nflight_token_file = \"/etc/passwd\"\n\
                flight_tls_cert = \"/etc/passwd\"\nflight_tls_key = \"/etc/passwd\"\n";
    assert!(Config::parse_with(safe, "squire.toml", &|_| None).is_ok());
}

#[test]
fn values_that_leave_nothing_to_do_are_refused() {
    assert_refused(&[
        (
            "[agent]\nmax_rows = 0\n",
            "squire.toml:2: [agent] max_rows: 0 rejects every input",
        ),
        (
            "[agent]\nmax_columns = 0\n",
            "squire.toml:2: [agent] max_columns: 0 rejects every input",
        ),
        (
            "[agent]\nmax_input_bytes = \"0B\"\n",
            "squire.toml:2: [agent] max_input_bytes: 0 rejects every input",
        ),
        (
            "[agent]\nmax_decoded_bytes = \"0B\"\n",
            "squire.toml:2: [agent] max_decoded_bytes: 0 rejects every input",
        ),
        (
            "[agent]\npoll_interval = \"1ns\"\n",
            "squire.toml:2: [agent] poll_interval: 1ns is under 10ms",
        ),
        (
            "[agent]\nsettle = \"2h\"\n",
            "squire.toml:2: [agent] settle: is longer than an hour",
        ),
        (
            "[agent]\ncoerce = [\"dates-dmy\", \"dates-mdy\"]\n",
            "squire.toml:2: [agent] coerce: dates-dmy and dates-mdy exclude each other",
        ),
        (
            "[agent]\nattempt_timeout = \"1ms\"\n",
            "squire.toml:2: [agent] attempt_timeout: 1ms is under 1s",
        ),
        (
            "[daemon]\nscan_interval = \"1ns\"\n",
            "squire.toml:2: [daemon] scan_interval: 1ns is under 100ms",
        ),
        (
            "[daemon]\nwatchdog_progress = \"1ms\"\n",
            "squire.toml:2: [daemon] watchdog_progress: 1ms is under 1s",
        ),
        (
            "[daemon]\ntoken_file = \"/nowhere/token\"\n",
            "squire.toml:2: [daemon] token_file: /nowhere/token does not exist",
        ),
    ]);
}

#[test]
fn wrong_brackets_are_told_in_words() {
    assert_refused(&[
        (
            "[watch]\nuri = \"a\"\n",
            "squire.toml:1: watch: there can be several of these; write [[watch]]",
        ),
        (
            "watch = [\"a\"]\n",
            "squire.toml:1: watch: there can be several of these; write [[watch]]",
        ),
        (
            "[table]\nname = \"t\"\n",
            "squire.toml:1: table: there can be several of these; write [[table]]",
        ),
        (
            "[[policy]]\n",
            "squire.toml:1: policy: there is one of these; write [policy]",
        ),
        (
            "daemon = 1\n",
            "squire.toml:1: daemon: there is one of these; write [daemon]",
        ),
        (
            "[policy]\ncleanup = true\n",
            "squire.toml:2: [policy] cleanup: is a section of its own; write [policy.cleanup] enabled = true",
        ),
        (
            "[[table]]\nname = \"t\"\ncleanup = true\n",
            "squire.toml:3: [[table]] cleanup: is a section of its own; write [table.cleanup] enabled = true",
        ),
        (
            "[[watch]]\nuri = \"a\"\nstorage_options = \"x\"\n",
            "squire.toml:3: [[watch]] storage_options: is a section of its own; write [watch.storage_options]",
        ),
        (
            "[policy]\nmin_versions = \"ten\"\n",
            "squire.toml:2: [policy] min_versions: invalid type: string \"ten\", expected a whole number",
        ),
    ]);
}

#[test]
fn overrides_apply_to_their_table_only() {
    let text = "[policy]\nretention = \"2d\"\n[[table]]\nname = \"t\"\nmin_versions = 3\ndrift = \"adopt\"\ncleanup.enabled = false\n";
    let config = Config::parse(text, "squire.toml").unwrap();
    let (t, other) = (config.policy_for("t"), config.policy_for("u"));
    assert_eq!(
        (t.retention, t.min_versions, t.drift),
        (Duration::from_secs(2 * 86_400), 3, DriftPolicy::Adopt)
    );
    assert_eq!(other, config.policy);
    assert!(!t.may_delete(true) && other.may_delete(true) && !other.may_delete(false));
    assert_eq!(
        Config::parse(&toml::to_string(&config).unwrap(), "shown").unwrap(),
        config
    );
}

#[test]
fn a_table_goes_by_its_name_and_by_that_of_its_folder() {
    for name in ["org/t", "org/t.lance"] {
        let set = "retention = \"9d\"\ncleanup.enabled = false\n";
        let text = format!("[[table]]\nname = \"{name}\"\n{set}");
        let config = Config::parse(&text, "squire.toml").unwrap();
        for asked in ["org/t", "org/t.lance"] {
            assert!(!config.policy_for(asked).may_delete(true), "{name} {asked}");
            assert_eq!(config.unknown_tables(&[asked.to_owned()]), [""; 0]);
        }
        assert_eq!(config.unknown_tables(&["t".to_owned()]), ["org/t"]);
        let shown = render(&config.settings(&text, "squire.toml").unwrap()).join("\n");
        assert!(shown.contains("squire.toml:3"), "{shown}");
    }
}

#[test]
fn storage_options_come_from_the_environment_and_stay_secret() {
    let text = "[[watch]]\nuri = \"s3://b/p\"\nkind = \"store\"\n[watch.storage_options]\nregion = \"eu-1\"\nkey = \"env:SQUIRE_KEY\"\n";
    let config = Config::parse_with(text, "squire.toml", &|name| {
        (name == "SQUIRE_KEY").then(|| "s3cret".to_owned())
    })
    .unwrap();
    let watch = &config.watches[0];
    assert_eq!(watch.kind, WatchKind::Store);
    assert_eq!(watch.storage_options["key"], "s3cret");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!toml::to_string(&config).unwrap().contains("s3cret"));
    let message = refusal(text);
    assert!(message.starts_with("squire.toml:6: [[watch]] storage_options.key: the environment variable SQUIRE_KEY is not set"), "{message}");
}

#[test]
fn credentials_come_from_where_systemd_puts_them() {
    let text = "[daemon]\ntoken_file = \"credential:token\"\n[[watch]]\nuri = \"s3://b/p\"\n[watch.storage_options]\nregion = \"r\"\nsecret_access_key = \"credential:s3\"\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s3"), "s3cret\n").unwrap();
    std::fs::write(folder.path().join("token"), "a-token\n").unwrap();
    let given = folder.path().to_string_lossy().into_owned();
    let environment = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| given.clone());
    let config = Config::parse_with(text, "squire.toml", &environment).unwrap();
    let token = folder.path().join("token");
    assert_eq!(config.daemon.token_file.as_deref(), Some(token.as_path()));
    assert_eq!(
        config.watches[0].storage_options["secret_access_key"],
        "s3cret"
    );
    let outside = refusal(text);
    assert!(
        outside.starts_with("squire.toml:2:") && outside.contains("LoadCredential=token:FILE"),
        "{outside}"
    );
    let refused = |text: &str| {
        Config::parse_with(text, "squire.toml", &environment)
            .unwrap_err()
            .to_string()
    };
    let other = refused(&text.replace("credential:s3", "credential:gone"));
    assert!(
        other.contains("squire.toml:7") && other.contains("the credential gone cannot be read"),
        "{other}"
    );
    for name in ["../s3", "", ".", "/etc/shadow"] {
        let other = refused(&text.replace("credential:token", &format!("credential:{name}")));
        assert!(other.contains("no name of a credential"), "{other}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let message = Config::load(Path::new("/nowhere/squire.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("/nowhere/squire.toml: cannot read the configuration"),
        "{message}"
    );
}

#[test]
fn a_token_may_be_for_one_location_or_one_table() {
    use crate::http::Scope;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{name}\n")).unwrap();
        path.display().to_string()
    };
    let (whole, of_b, of_t) = (file("whole"), file("of-b"), file("of-t"));
    let text = format!(
        "[daemon]\ntoken_file = {whole:?}\nreading = \"token\"\n[[token]]\nfile = {of_b:?}\nlocation = \"s3://b/p/\"\n[[token]]\nfile = {of_t:?}\nlocation = \"/lake\"\ntable = \"t\"\n[[watch]]\nuri = \"s3://b/p\"\n[[watch]]\nuri = \"/lake\"\n"
    );
    let config = Config::parse(&text, "squire.toml").unwrap();
    let access = config.access().unwrap();
    assert!(!access.reads_freely());
    let b = Scope::Location("s3://b/p".into());
    let t = Scope::Table {
        location: "/lake".into(),
        table: "t".into(),
    };
    for (token, scope) in [
        ("whole", Some(Scope::All)),
        ("of-b", Some(b)),
        ("of-t", Some(t)),
        ("other", None),
    ] {
        assert_eq!(access.scope_of(token), scope, "{token}");
    }
    // An agent of a location tells all of it, and nobody else.
    let of_agent = config.access_to_agent("s3://b/p").unwrap();
    let known = ["whole", "of-b", "of-t"].map(|token| of_agent.scope_of(token).is_some());
    assert_eq!(known, [true, true, false]);
    let shown = toml::to_string(&config).unwrap();
    assert_eq!(Config::parse(&shown, "shown").unwrap(), config);
    let settings = render(&config.settings(&text, "squire.toml").unwrap()).join("\n");
    assert!(
        settings.contains("squire.toml:8") && settings.contains("squire.toml:9"),
        "{settings}"
    );

    // A file that two share would be for the one or the other.
    std::fs::write(dir.path().join("of-t"), "of-b").unwrap();
    let twice = config.access().unwrap_err().to_string();
    assert!(
        twice.contains("another token is the same") && !twice.contains("of-b"),
        "{twice}"
    );
    let said = |text: &str| Config::parse(text, "squire.toml").unwrap_err().to_string();
    for (text, why) in [
        (
            text.replace("/lake\"\ntable", "/other\"\ntable"),
            "squire.toml:9:1: [[token]] location: no [[watch]] names it",
        ),
        (
            text.replace(&of_b, "/nowhere/b"),
            "squire.toml:5:1: [[token]] file: /nowhere/b does not exist",
        ),
        (text.replace("\"t\"", "\"\""), "[[token]] table: is empty"),
        (
            "[daemon]\nreading = \"token\"\n".to_owned(),
            "squire.toml:2:1: [daemon] reading: \"token\" lets nobody read",
        ),
        (
            "[daemon]\nlog = \"\"\n".to_owned(),
            "squire.toml:2:1: [daemon] log: is empty; use off",
        ),
        (
            "[[watch]]\nuri = \"s3://AK:hunter2@b/p\"\n".to_owned(),
            "squire.toml:2:1: [[watch]] uri: \"s3://***@b/p\" has a user",
        ),
    ] {
        let told = said(&text);
        assert!(told.contains(why) && !told.contains("hunter2"), "{told}");
    }
}
