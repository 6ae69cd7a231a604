//! What people ask for: whether it can be done, and what is answered.

use super::Seen;
use crate::decide::gate::{Pause, Paused};
use crate::decide::planning::OperationKind;
use crate::http::{Ask, ControlVerb, Refusal, What};
use crate::run::CLEANED_AS_A_WHOLE;
use serde_json::{Value, json};

/// Refuses what a verb does not take: it would seem to be narrower than it is.
pub(super) fn check_fields(ask: &Ask) -> Result<(), Refusal> {
    use ControlVerb::{Cancel, Drain, Pause, Resume};
    let Ask { verb, what } = ask;
    let takes = [
        ("store", what.store.is_none() || *verb != Drain),
        ("table", what.table.is_none() || *verb != Drain),
        (
            "kind",
            what.kind.is_none() || matches!(verb, Pause | Resume | Cancel),
        ),
        ("attempt", what.attempt.is_none() || *verb == Cancel),
        ("reason", what.reason.is_none() || *verb == Pause),
    ];
    if let Some((field, _)) = takes.iter().find(|(_, good)| !good) {
        return Err(Refusal::Wrong(format!("{verb} takes no {field}")));
    }
    match &what.kind {
        Some(kind) if OperationKind::named(kind).is_none() => {
            let known = OperationKind::ALL.map(OperationKind::as_str).join(", ");
            let unknown = format!("no kind of work is called {kind:?}; use one of {known}");
            Err(Refusal::Wrong(unknown))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether `table` is the one that is called `wanted`, with or without its ending.
pub(super) fn is(table: &str, wanted: &str) -> bool {
    table == wanted || table.strip_suffix(".lance") == Some(wanted)
}

/// What a pause or its end is about.
fn paused(what: &What) -> Paused {
    Paused {
        store: what.store.clone(),
        table: what.table.clone(),
        kind: what.kind.as_deref().and_then(OperationKind::named),
    }
}

impl Seen {
    pub(super) fn pause(&mut self, ask: Ask, since: u64) -> Result<Value, Refusal> {
        self.check(&ask)?;
        let pause = Pause {
            what: paused(&ask.what),
            reason: ask.what.reason,
            since,
        };
        let said = pause.to_string();
        self.pauses.add(pause).map_err(Refusal::NotNow)?;
        let kept = self.pauses.are_kept();
        tracing::info!(kept, "{said}");
        Ok(json!({ "accepted": "pause", "survives_restart": kept }))
    }

    /// What was paused may be gone by now: nothing is asked of what is known.
    pub(super) fn resume(&mut self, ask: Ask) -> Result<Value, Refusal> {
        let what = paused(&ask.what);
        let lifted = self.pauses.lift(&what).map_err(Refusal::NotNow)?;
        let wider: Vec<Pause> = self
            .pauses
            .list()
            .iter()
            .filter(|p| what.is_within(&p.what))
            .cloned()
            .collect();
        for pause in &lifted {
            tracing::info!("no more {pause}");
        }
        Ok(json!({ "accepted": "resume", "lifted": lifted, "still_paused_by": wider }))
    }

    /// Whether what is asked about is known here.
    pub(super) fn check(&self, Ask { verb, what }: &Ask) -> Result<(), Refusal> {
        if let Some(attempt) = what.attempt
            && !self.doing.iter().any(|doing| {
                doing.attempt == attempt
                    && what.is_about(&doing.location)
                    && what.table.as_deref().is_none_or(|table| {
                        let of_branch = doing.table.rsplit_once('@');
                        is(&doing.table, table) || of_branch.is_some_and(|(of, _)| is(of, table))
                    })
            })
        {
            let unknown = format!("attempt {attempt} is not at work; /status names those that are");
            return Err(Refusal::Unknown(unknown));
        }
        if !self.places.iter().any(|uri| what.is_about(uri)) && what.store.is_some() {
            return Err(Refusal::Unknown(format!(
                "no such store is watched; there are: {}",
                self.places.join(", ")
            )));
        }
        let Some(wanted) = &what.table else {
            return Ok(());
        };
        let named = self.tables.keys();
        let named: Vec<_> = named
            .filter(|(store, table)| what.is_about(store) && is(table, wanted))
            .collect();
        if named.is_empty() {
            let unknown = format!("no table {wanted:?} was seen; /status names all");
            return Err(Refusal::Unknown(unknown));
        }
        let of_store = named.iter().any(|(store, _)| self.stores.contains(store));
        if *verb == ControlVerb::Cleanup && of_store {
            return Err(Refusal::Wrong(CLEANED_AS_A_WHOLE.to_owned()));
        }
        Ok(())
    }
}
