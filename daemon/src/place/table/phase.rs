//! Where a table stands, and what moves it.

use serde::Serialize;

/// Where a table stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Nothing is due, or nothing can be done.
    #[default]
    Idle,
    /// Work waits for its turn.
    Due,
    /// An attempt is at work. It is observed as ever, and nothing else is begun.
    Running,
    /// Work is due that failed, or changed nothing, and rests.
    Cooling,
    /// An invariant is broken: not maintained until a person has looked and starts the daemon again.
    Stopped,
}

/// What a look says about the work of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Work,
    /// All that is due rests.
    Rest,
}

/// What happens to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Looked(Need),
    Started,
    Ended,
    Broken,
}

impl Phase {
    /// ```text
    ///                      Started
    ///    ┌──────────────────────────────────────────────┐
    ///    │                                              v
    ///   Due <── Looked(Work) ──┐                     Running ── Looked ──┐
    ///    │                     │                        │  ^             │
    ///    ├── Looked(Nothing) ─> Idle <───── Ended ──────┘  └─────────────┘
    ///    │                     │
    ///    └── Looked(Rest) ───> Cooling       each of the three goes to each of the others with a look
    ///
    ///   any ── Broken ──> Stopped            for good
    /// ```
    /// The look that follows the end of an attempt says what comes of it.
    pub(super) fn on(self, event: Event) -> Self {
        match (self, event) {
            (Self::Stopped, _) | (_, Event::Broken) => Self::Stopped,
            (_, Event::Started) => Self::Running,
            (_, Event::Ended) => Self::Idle,
            (Self::Running, Event::Looked(_)) => Self::Running,
            (Self::Idle | Self::Due | Self::Cooling, Event::Looked(need)) => match need {
                Need::Nothing => Self::Idle,
                Need::Work => Self::Due,
                Need::Rest => Self::Cooling,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Need, Phase};

    #[test]
    fn every_transition() {
        use Event::{Broken, Ended, Looked, Started};
        use Phase::{Cooling, Due, Idle, Running, Stopped};
        let events = [
            Looked(Need::Nothing),
            Looked(Need::Work),
            Looked(Need::Rest),
            Started,
            Ended,
            Broken,
        ];
        for (from, to) in [
            (Idle, [Idle, Due, Cooling, Running, Idle, Stopped]),
            (Due, [Idle, Due, Cooling, Running, Idle, Stopped]),
            (Cooling, [Idle, Due, Cooling, Running, Idle, Stopped]),
            (Running, [Running, Running, Running, Running, Idle, Stopped]),
            (Stopped, [Stopped; 6]),
        ] {
            assert_eq!(events.map(|event| from.on(event)), to, "{from:?}");
        }
    }
}
