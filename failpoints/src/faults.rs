//! What `SQUIRE_FAULTS` asks a binary with seams to do to its storage requests.
//!
//! Items are separated by `;`. Only the syntax lives here; the wrapper that does it is the engine's.
//!
//! | item | what it does |
//! |---|---|
//! | `seed=N` | seeds the choice of requests; 0 by default |
//! | `latency=A..Bms` | every request waits between A and B milliseconds first |
//! | `before=P` | with probability P a request fails and has no effect |
//! | `throttle=P` | the same, with the message of an overloaded server |
//! | `after=P` | with probability P a request has its effect and fails: the response was lost |
//! | `outage=P:Nms` | with probability P a request begins an outage: every request of this process fails for N ms |
//! | `only=A,B` | the items above touch only paths that contain A or B |
//! | `deny=A,B` | puts and deletes whose paths contain A or B are refused, as by a disk that is full or read-only |
//! | `hold=TEXT:FILE` | a put whose path contains TEXT waits until FILE exists; may stand several times |
//! | `hold=TEXT@N:FILE` | the same from the Nth such put on |
//! | `log=FILE` | one line for each fault is appended to FILE: kind, request, path |
//!
//! ```text
//! SQUIRE_FAULTS='seed=7;latency=0..15ms;before=0.01;after=0.01;throttle=0.005;only=_versions,recovery' squire daemon STORE
//! ```

use std::path::PathBuf;
use std::time::Duration;

/// The variable.
const VARIABLE: &str = "SQUIRE_FAULTS";

/// Puts that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// A part of their path.
    pub part: String,
    /// The first of them that waits, counted from 1.
    pub from: usize,
    /// The file that lets them go.
    pub release: PathBuf,
}

/// What to do to storage requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultSpec {
    /// Seeds the choice.
    pub seed: u64,
    /// The shortest and the longest wait before a request.
    pub latency: Option<(Duration, Duration)>,
    /// Probability of an error without effect.
    pub before: f64,
    /// Probability of a lost response.
    pub after: f64,
    /// Probability of a refusal by an overloaded server.
    pub throttle: f64,
    /// Probability that an outage begins, and how long it lasts.
    pub outage: Option<(f64, Duration)>,
    /// Parts of paths that the faults are limited to; empty means all.
    pub only: Vec<String>,
    /// Parts of paths that may not be written or deleted.
    pub deny: Vec<String>,
    /// Puts that wait.
    pub hold: Vec<Hold>,
    /// Where each fault leaves a line.
    pub log: Option<PathBuf>,
}

impl FaultSpec {
    /// What the environment asks for.
    ///
    /// # Errors
    /// When it cannot be read, or seams are not compiled in: a test that injects nothing would pass for the wrong reason.
    pub fn from_env() -> Result<Option<Self>, String> {
        let Ok(spec) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        if !crate::ENABLED {
            return Err(format!(
                "{VARIABLE}={spec} is set, but this binary was built without the failpoints feature"
            ));
        }
        Self::parse(&spec).map(Some)
    }

    /// Reads the syntax of the module's table.
    ///
    /// # Errors
    /// With the item and what is wrong with it.
    pub fn parse(spec: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for item in spec.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| format!("{VARIABLE}: {item:?} is not name=value"))?;
            read.take(name, value)
                .map_err(|why| format!("{VARIABLE}: {item:?}: {why}"))?;
        }
        Ok(read)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "seed" => self.seed = value.parse().map_err(|_| "not a whole number")?,
            "latency" => {
                let (least, most) = value
                    .split_once("..")
                    .ok_or("not a range such as 0..15ms")?;
                let (least, most) = (millis(least)?, millis(most)?);
                if least > most {
                    return Err("the range is empty".to_owned());
                }
                self.latency = Some((least, most));
            }
            "before" => self.before = probability(value)?,
            "after" => self.after = probability(value)?,
            "throttle" => self.throttle = probability(value)?,
            "outage" => {
                let (p, length) = value
                    .split_once(':')
                    .ok_or("not a probability and a length such as 0.001:400ms")?;
                self.outage = Some((probability(p)?, millis(length)?));
            }
            "only" => self.only = value.split(',').map(str::to_owned).collect(),
            "deny" => self.deny = value.split(',').map(str::to_owned).collect(),
            "hold" => {
                let (part, file) = value
                    .split_once(':')
                    .ok_or("not a part of a path and a file such as _versions:/tmp/go")?;
                let numbered = part.rsplit_once('@');
                let numbered = numbered.and_then(|(part, n)| Some((part, n.parse().ok()?)));
                let (part, from) = numbered.unwrap_or((part, 1));
                self.hold.push(Hold {
                    part: part.to_owned(),
                    from,
                    release: PathBuf::from(file),
                });
            }
            "log" => self.log = Some(PathBuf::from(value)),
            _ => return Err(format!("no fault is named {name:?}")),
        }
        Ok(())
    }

    /// Whether a put or a delete at `path` is refused.
    pub fn denies(&self, path: &str) -> bool {
        self.deny.iter().any(|part| path.contains(part.as_str()))
    }

    /// Whether the faults may touch `path`.
    pub fn touches(&self, path: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| path.contains(part.as_str()))
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").unwrap_or(text);
    let millis = number
        .parse()
        .map_err(|_| format!("{text:?} is not a number of milliseconds"))?;
    Ok(Duration::from_millis(millis))
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err(format!("{text:?} is not a probability from 0 to 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::{FaultSpec, Hold};
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn every_item_is_read() {
        let spec = FaultSpec::parse(
            "seed=7; latency=1..15ms;before=0.01;after=0.02;throttle=0.5;outage=0.1:400ms;\
             only=_versions,recovery;deny=data;hold=a/b:/tmp/go;hold=c@3:/tmp/c;log=/tmp/log",
        )
        .expect("it is well formed");
        let ms = Duration::from_millis;
        let hold = |part: &str, from, release: &str| Hold {
            part: part.into(),
            from,
            release: release.into(),
        };
        let expected = FaultSpec {
            seed: 7,
            latency: Some((ms(1), ms(15))),
            before: 0.01,
            after: 0.02,
            throttle: 0.5,
            outage: Some((0.1, ms(400))),
            only: vec!["_versions".into(), "recovery".into()],
            deny: vec!["data".into()],
            hold: vec![hold("a/b", 1, "/tmp/go"), hold("c", 3, "/tmp/c")],
            log: Some(PathBuf::from("/tmp/log")),
        };
        assert_eq!(spec, expected);
        assert!(spec.touches("t.lance/_versions/1.manifest"));
        assert!(!spec.touches("t.lance/data/1.lance"));
        assert!(spec.denies("t.lance/data/1.lance"));
        assert!(!spec.denies("t.lance/_versions/1.manifest"));
        assert!(FaultSpec::default().touches("t.lance/data/1.lance"));
    }

    #[test]
    fn a_mistake_is_named() {
        for (spec, why) in [
            ("before", "is not name=value"),
            ("before=2", "not a probability"),
            ("befor=0.1", "no fault is named"),
            ("latency=5ms", "not a range"),
            ("latency=9..5ms", "the range is empty"),
            ("outage=0.1", "a probability and a length"),
            ("hold=x", "a part of a path and a file"),
            ("seed=x", "not a whole number"),
        ] {
            let message = FaultSpec::parse(spec).expect_err(spec);
            assert!(
                message.contains(why) && message.contains("SQUIRE_FAULTS"),
                "{message}"
            );
        }
    }
}
