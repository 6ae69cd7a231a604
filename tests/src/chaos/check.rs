//! The whole history at the end: what was told against what is so.

use super::Violations;
use super::history::{Answer, Call};
use super::observe::{Told, outcome};
use super::replay::Replay;
use serde::Serialize;
use squire_engine::store::Store;
use std::collections::BTreeMap;

/// Words that no answer of this run may hold: nothing but squire touches the store, and no request is malformed.
const NEVER_SAID: [&str; 4] = [
    "something else than squire",
    "see `squire repair`",
    "is not a squire store",
    "please report",
];

/// What the history came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Calls that were told that they committed.
    pub acknowledged: u64,
    /// Calls that were told that their batch had committed before.
    pub already: u64,
    /// Calls that were told that they did not and will not commit.
    pub refused: u64,
    /// Calls that were told nothing certain, or were killed.
    pub unknown: u64,
    /// Of these: killed.
    pub killed: u64,
    /// Of the unknown: committed.
    pub unknown_committed: u64,
    /// Of the unknown: decided to abort.
    pub unknown_aborted: u64,
    /// Of the unknown: no trace.
    pub unknown_absent: u64,
    /// Batches that were begun more than once.
    pub repeated: u64,
    /// Answers about operations, while the run went on and after it.
    pub asked: u64,
    /// Pairs of events that follow each other in real time and were compared with the log.
    pub ordered: u64,
}

/// Looks at what the calls that ended lately were told; says at once what can be said before the end.
pub fn answers(replay: &mut Replay, violations: &Violations) {
    replay.history.catch_up();
    let ended = std::mem::take(&mut replay.history.ended);
    for name in ended {
        let call = &replay.history.calls[&name];
        let at_us = call.end.as_ref().map_or(0, |e| e.at_us);
        if at_us >= replay.complete_us && !replay.clock_jumped {
            replay.history.ended.push(name); // Looked at again when the replay has come that far.
            continue;
        }
        let told = call.end.as_ref().and_then(|e| e.op.as_deref());
        // An agent tells that a batch is done, not by which operation.
        let committed = told.map_or_else(
            || replay.tags.contains_key(&call.begin.tag),
            |op| replay.commits.contains_key(op),
        );
        if call.answer() == Some(Answer::Committed) && !committed {
            violations.add(format!(
                "I4: {name} was told that {told:?} committed; the log up to version {} does not have it",
                replay.version()
            ));
        }
        let error = call.end.as_ref().and_then(|e| e.error.as_deref());
        if let Some(word) = NEVER_SAID
            .iter()
            .find(|w| error.is_some_and(|e| e.contains(**w)))
        {
            violations.add(format!("{name} was told {error:?} ({word})"));
        }
    }
}

/// Compares every answer with the log.
pub fn history(replay: &mut Replay, told: &[Told], violations: &Violations) -> Verdict {
    answers(replay, violations);
    let mut verdict = Verdict {
        asked: told.len() as u64,
        ..Verdict::default()
    };
    let mut tags: BTreeMap<&str, u64> = BTreeMap::new();
    for call in replay.history.calls.values() {
        *tags.entry(&call.begin.tag).or_default() += 1;
        check_call(replay, call, &mut verdict, violations);
    }
    verdict.repeated = tags.values().filter(|n| **n > 1).count() as u64;
    for (tag, op) in &replay.tags {
        let could = |call: &Call| call.answer() != Some(Answer::Refused);
        if !replay.history.calls_tagged(tag).any(could) {
            violations.add(format!(
                "I4: batch {tag} is committed by {op}, and every call was told that it is not"
            ));
        }
    }
    for answer in told {
        let committed = replay.commits.contains_key(&answer.op);
        let wrong = match answer.outcome {
            "committed" => !committed,
            "aborted" | "absent" => committed,
            _ => false,
        };
        if wrong {
            violations.add(format!(
                "operation {} was said to be {}; the log says otherwise",
                answer.op, answer.outcome
            ));
        }
    }
    if replay.clock_jumped {
        println!("chaos: the clock jumped, so the order in real time is not checked");
    } else {
        verdict.ordered = real_time(replay, violations);
    }
    verdict
}

fn check_call(replay: &Replay, call: &Call, verdict: &mut Verdict, violations: &Violations) {
    let name = &call.begin.call;
    let committed = call
        .attempts
        .iter()
        .find(|op| replay.commits.contains_key(*op));
    let error = call.end.as_ref().and_then(|e| e.error.as_deref());
    let told = call.end.as_ref().and_then(|e| e.op.as_deref());
    match call.answer() {
        Some(Answer::Committed) => {
            verdict.acknowledged += 1;
            let by_tag = told.is_none() && replay.tags.contains_key(&call.begin.tag);
            if !by_tag && (told.is_none() || committed.map(String::as_str) != told) {
                violations.add(format!(
                    "I4: {name} was told that {told:?} committed; the log has {committed:?} of {:?}",
                    call.attempts
                ));
            }
        }
        Some(Answer::AlreadyCommitted) => {
            verdict.already += 1;
            if replay.tags.get(&call.begin.tag).map(String::as_str) != told {
                violations.add(format!(
                    "I4: {name} was told that {told:?} had committed batch {}; the log has {:?}",
                    call.begin.tag,
                    replay.tags.get(&call.begin.tag)
                ));
            }
        }
        Some(Answer::Refused) => {
            verdict.refused += 1;
            if let Some(op) = committed {
                violations.add(format!(
                    "I4: {name} was told {error:?}; its attempt {op} is committed"
                ));
            }
        }
        Some(Answer::Unknown) | None => {
            verdict.unknown += 1;
            let killed = call.end.is_none() || error == Some("killed");
            verdict.killed += u64::from(killed);
            let by_tag = replay.tags.get(&call.begin.tag);
            let aborted = |op: &String| replay.aborted.contains_key(op);
            if committed.is_some() || (call.attempts.is_empty() && by_tag.is_some()) {
                verdict.unknown_committed += 1;
            } else if call.attempts.iter().any(aborted) {
                verdict.unknown_aborted += 1;
            } else {
                verdict.unknown_absent += 1;
            }
        }
    }
}

/// What ended before something else began stands before it in the log; and no reader sees less than was known when it
/// began. Gives how many events were compared.
fn real_time(replay: &Replay, violations: &Violations) -> u64 {
    // (when it began, what it is, its version, whether it must be above the others and not only at them)
    let mut begun: Vec<(u64, String, u64, bool)> = Vec::new();
    let mut ended: Vec<(u64, String, u64)> = Vec::new();
    let commits = replay.commits.values();
    for (commit, (tag, call)) in commits.flat_map(|c| c.batches.iter().map(move |b| (c, b))) {
        // An operation without a named attempt is one of the calls of its batch: it began no earlier than the first.
        let calls = || replay.history.calls_tagged(tag);
        let own = replay.history.calls.get(call);
        let began = if own.is_some_and(|c| c.attempts.contains(&commit.op)) {
            own.map(|c| c.begin.at_us)
        } else {
            calls().map(|c| c.begin.at_us).min()
        };
        begun.extend(began.map(|at| (at, commit.op.clone(), commit.version, true)));
        let acknowledged = calls().filter(|c| {
            matches!(
                c.answer(),
                Some(Answer::Committed | Answer::AlreadyCommitted)
            )
        });
        let first = acknowledged
            .filter_map(|c| c.end.as_ref())
            .map(|e| e.at_us)
            .min();
        ended.extend(first.map(|at| (at, commit.op.clone(), commit.version)));
    }
    for seen in replay.seen.iter().filter(|s| s.fresh) {
        begun.push((seen.began_us, seen.reader.clone(), seen.version, false));
        ended.push((seen.ended_us, seen.reader.clone(), seen.version));
    }
    begun.sort_unstable();
    ended.sort_unstable();
    let mut known: Option<&(u64, String, u64)> = None;
    let mut rest = ended.iter().peekable();
    for (began, who, version, strict) in &begun {
        while let Some(end) = rest.next_if(|end| end.0 < *began) {
            if known.is_none_or(|k| k.2 < end.2) {
                known = Some(end);
            }
        }
        let Some((_, before, known)) = known else {
            continue;
        };
        if version < known || (*strict && version == known) {
            violations.add(format!(
                "{who} began at {began} and stands at version {version}, but {before} had ended at version {known}"
            ));
        }
    }
    begun.len() as u64
}

/// The operations to ask about: all that nobody was told of, and some others.
pub fn to_ask(replay: &Replay, sample: usize) -> Vec<String> {
    let doubtful = |call: &&Call| matches!(call.answer(), None | Some(Answer::Unknown));
    let calls = &replay.history.calls;
    let mut asked: Vec<String> = calls
        .values()
        .filter(doubtful)
        .flat_map(|call| call.attempts.iter().rev().take(2).cloned())
        .collect();
    let others: Vec<&String> = calls
        .values()
        .filter(|call| !doubtful(call))
        .flat_map(|call| &call.attempts)
        .collect();
    let step = (others.len() / sample).max(1);
    asked.extend(others.into_iter().step_by(step).cloned());
    asked.truncate(5 * sample);
    asked
}

/// Every operation is what the log says it is.
pub async fn outcomes(
    store: &Store,
    replay: &Replay,
    asked: &[String],
    when: &str,
    violations: &Violations,
) {
    for op in asked {
        let expected = if replay.commits.contains_key(op) {
            "committed"
        } else if replay.aborted.contains_key(op) {
            "aborted"
        } else {
            "absent"
        };
        match outcome(store, op).await {
            Ok(said) if said == expected => {}
            Ok(said) => violations.add(format!(
                "operation {op} is said to be {said} {when}; by the log it is {expected}"
            )),
            Err(e) => violations.add(format!("operation {op} cannot be asked {when}: {e}")),
        }
    }
}

/// The log in the archive is the one that was followed.
pub async fn log_unchanged(store: &Store, replay: &Replay, violations: &Violations) {
    let logged = match store.log(usize::MAX).await {
        Ok(logged) => logged,
        Err(e) => return violations.add(format!("the log cannot be read: {e}")),
    };
    let followed = &replay.entries;
    let archived: Vec<_> = logged
        .iter()
        .rev()
        .filter(|e| e.manifest_version <= replay.version())
        .collect();
    if archived.len() != followed.len() {
        violations.add(format!(
            "the log has {} publishes up to version {}, {} were seen",
            archived.len(),
            replay.version(),
            followed.len()
        ));
    }
    if let Some((now, then)) = archived.iter().zip(followed).find(|(a, b)| **a != *b) {
        violations.add(format!("the log changed: it was {then:?} and is {now:?}"));
    }
}
