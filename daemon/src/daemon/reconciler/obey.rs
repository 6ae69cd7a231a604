//! What people ask for.

use super::Reconciler;
use crate::daemon::attempts::Stop;
use crate::decide::planning::OperationKind;
use crate::decide::work::{Scope, WorkKey};
use crate::http::{ControlVerb, What};
use squire_engine::maintenance::Target;

impl Reconciler {
    /// What HTTP asked for.
    pub(in crate::daemon) fn obey(&mut self) {
        let now = self.clock.monotonic();
        self.gated = None;
        for ask in self.status.take_requests() {
            let about = |uri: &String| ask.what.is_about(uri);
            let locations = self.locations.iter_mut().filter(|(uri, _)| about(uri));
            let kind = match ask.verb {
                ControlVerb::Optimize => OperationKind::Compact,
                ControlVerb::Reindex => OperationKind::Reindex,
                ControlVerb::Cleanup => OperationKind::Cleanup,
                ControlVerb::Recover => {
                    locations.for_each(|(_, watched)| watched.location.ask_recovery());
                    continue;
                }
                ControlVerb::Cancel => {
                    self.attempts.cancel(Stop::Asked, |number, item| {
                        is_named(&ask.what, number, &item.key)
                    });
                    continue;
                }
                ControlVerb::Drain => {
                    self.drain();
                    continue;
                }
                // The status keeps what is paused.
                ControlVerb::Pause | ControlVerb::Resume => continue,
            };
            for (_, watched) in locations {
                let named = |target: &Target| is_table(&ask.what, target);
                let cleanups = watched.location.ask(kind, named, &self.config);
                cleanups
                    .into_iter()
                    .for_each(|item| self.board.add(item, now));
            }
        }
    }
}

fn is_table(what: &What, target: &Target) -> bool {
    let named = what.table.as_deref();
    named.is_none_or(|name| target.is_within(name))
}

/// Whether `what` names what `key` is about; a table is not its store.
fn is_named(what: &What, number: u64, key: &WorkKey) -> bool {
    let of_table = match &key.scope {
        Scope::Store => what.table.is_none(),
        Scope::Table(target) => is_table(what, target),
    };
    let kind = what.kind.as_deref().and_then(OperationKind::named);
    what.is_about(&key.location)
        && of_table
        && kind.is_none_or(|kind| kind == key.kind)
        && what.attempt.is_none_or(|attempt| attempt == number)
}
