//! Configurations that are broken somewhere, each from its seed: one is taken, or refused in a few words that begin with its name.

use super::{Config, SHIPPED, render};
use crate::fuzz_tests::seeds;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Longer than any message should be.
const MESSAGE_CHARS: usize = 1_000;

/// What values are made of, and what is next to them.
const VALUES: [&str; 26] = [
    "0",
    "-1",
    "1",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "nan",
    "inf",
    "true",
    "\"\"",
    "\"off\"",
    "\"0s\"",
    "\"1h\"",
    "\"99999999999999999999d\"",
    "\"16EiB\"",
    "\"-5GiB\"",
    "[]",
    "{}",
    "[[]]",
    "\"\\u0000\"",
    "\"credential:x\"",
    "\"env:NOT_SET_HERE\"",
    "\"[\"",
    "\"**/*\"",
    "1979-05-27",
    "\"Mon-Fri 25:00-99:00 Nowhere/City\"",
];

/// Every setting, its sections and one of each array.
fn whole() -> String {
    let lines = SHIPPED.lines().map(|line| {
        let rest = line.strip_prefix('#').unwrap_or(line);
        let is_setting = rest.starts_with(|c: char| c.is_ascii_lowercase());
        if is_setting { rest } else { line }
    });
    let more = "[[watch]]\nuri = \"/l\"\nkind = \"auto\"\n[watch.storage_options]\nregion = \"r\"\n[[table]]\nname = \"t*\"\nretention = \"2d\"\n";
    format!("{}\n{more}", lines.collect::<Vec<_>>().join("\n"))
}

fn broken(whole: &str, rng: &mut StdRng) -> String {
    let mut lines: Vec<String> = whole
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..lines.len());
        let value = VALUES[rng.random_range(0..VALUES.len())];
        let line = lines[at].clone();
        let key = line.split(" = ").next().unwrap_or_default();
        match rng.random_range(0..7) {
            0..3 => lines[at] = format!("{key} = {value}"),
            3 => drop(lines.remove(at)),
            4 => lines.insert(at, line),
            5 => {
                lines[at] = line
                    .chars()
                    .filter(|_| rng.random_range(0..8) > 0)
                    .collect()
            }
            _ => {
                let other = rng.random_range(0..lines.len());
                lines.swap(at, other);
            }
        }
    }
    lines.join("\n")
}

#[test]
fn a_broken_configuration_is_taken_or_refused_in_a_few_words() {
    let (whole, mut taken, seeds) = (whole(), 0_u64, seeds(1, 400));
    for seed in seeds.clone() {
        let text = broken(&whole, &mut StdRng::seed_from_u64(seed));
        let parsed = Config::parse_with(&text, "squire.toml", &|_| None);
        match parsed {
            Ok(config) => {
                taken += 1;
                // What is taken can be shown, and what is shown is the same.
                let shown = config
                    .settings(&text, "squire.toml")
                    .map(|s| render(&s).join("\n"));
                let shown = shown.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let again = Config::parse(&shown.replace("***", "r"), "shown");
                let again = again.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{shown}"));
                assert!(again.policy == config.policy, "seed {seed}:\n{text}");
            }
            Err(error) => {
                let told = error.to_string();
                assert!(told.starts_with("squire.toml"), "seed {seed}: {told}");
                assert!(told.chars().count() < MESSAGE_CHARS, "seed {seed}: {told}");
            }
        }
    }
    assert!(
        taken > 0,
        "all of {seeds:?} were refused: the whole is none"
    );
}
