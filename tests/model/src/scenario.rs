//! Scenarios: which processes run, on what. Data only.

/// What an operation writes into each of its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Commutes with everything.
    Append,
    /// Changes rows that others may rewrite.
    Update,
    /// Makes the table.
    Create,
    /// Preserves content.
    Maintain,
}

/// One operation. Its index in the scenario is its id.
#[derive(Debug, Clone, Copy)]
pub struct OpConfig {
    /// The tables that it writes, in order.
    pub writes: &'static [u8],
    /// The tables that must not change until it commits.
    pub reads: &'static [u8],
    pub write: Write,
    pub batch: Option<u8>,
}

/// How far a maintenance run has come when the search begins. One that is under way has no sidecar: it was stopped so long
/// ago that recovery removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    Now,
    /// It rewrote version 1.
    Staged,
    /// And Lance saw nothing newer, and the guard its sidecar: what is left is the put.
    Licensed,
}

/// One process.
#[derive(Debug, Clone, Copy)]
pub enum Process {
    /// Tries these operations in turn until one is committed: attempts of one request.
    Writer(&'static [u8]),
    /// A writer that was stopped right before its first put; its operation was decided to abort since.
    Stopped(u8),
    /// Commits this operation, logical or maintenance, in one step: a process that nothing interrupts.
    Quick(u8),
    /// Resolves anything, any number of times, without grace; may die and start again at any point.
    Resolver,
    /// One run of maintenance, with that many commits.
    Maintainer { op: u8, commits: u8, begins: Begins },
    /// Another client that commits this operation to a plain table, where HEAD is what is visible.
    Client(u8),
    /// Another client that removes old versions of a plain table, whatever stands on them.
    Sweeper,
    /// Cleans up once, keeping any window of snapshots.
    Cleaner { forgets: bool },
    /// Drops this table once it is shown. One step: nothing but the swap of the manifest decides.
    Dropper(u8),
    /// Takes over this operation when its writer has died, as from a claim.
    Heir(u8),
    /// Publishes what others committed to this table, or takes it back.
    Adopter { name: u8, discard: bool },
}

/// When a scenario is searched without a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    Always,
    /// Too large for CI.
    Deep,
    /// Never: it shows what the protocol does not hold against.
    Beyond,
}

/// A small store and its processes.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub ops: &'static [OpConfig],
    pub procs: &'static [Process],
    /// How many tables exist at the beginning.
    pub tables: u8,
    /// Commits of others to table 0.
    pub foreign: u8,
    /// Publishes of others that change nothing here.
    pub publishes: u8,
    /// Puts that fail in each possible way: landed or not, or still on their way.
    pub faults: u8,
    /// Whether the manifest holds one batch id only, as if it were full.
    pub evicts: bool,
    /// Whether the tables are plain: what is HEAD is visible.
    pub plain: bool,
    pub search: Search,
}

impl Scenario {
    /// The index of a resolver among the processes.
    pub fn resolver(&self) -> u8 {
        let found = (0u8..)
            .zip(self.procs)
            .find(|(_, p)| matches!(p, Process::Resolver));
        found.map_or(0, |(index, _)| index)
    }

    /// Whether older manifest versions are asked for anything.
    pub fn keeps_history(&self) -> bool {
        let asks = |p: &Process| matches!(p, Process::Dropper(_) | Process::Heir(_));
        self.cleans() || self.procs.iter().any(asks)
    }

    pub fn cleans(&self) -> bool {
        self.procs
            .iter()
            .any(|p| matches!(p, Process::Cleaner { .. }))
    }
}

const fn append(writes: &'static [u8]) -> OpConfig {
    OpConfig {
        writes,
        reads: &[],
        write: Write::Append,
        batch: None,
    }
}

const fn update(writes: &'static [u8], reads: &'static [u8]) -> OpConfig {
    OpConfig {
        writes,
        reads,
        write: Write::Update,
        batch: None,
    }
}

const fn batch(writes: &'static [u8], id: u8) -> OpConfig {
    OpConfig {
        batch: Some(id),
        ..append(writes)
    }
}

const fn create(name: &'static [u8]) -> OpConfig {
    OpConfig {
        write: Write::Create,
        ..append(name)
    }
}

const fn maintain(table: &'static [u8]) -> OpConfig {
    OpConfig {
        write: Write::Maintain,
        ..append(table)
    }
}

const BASE: Scenario = Scenario {
    name: "",
    about: "",
    ops: &[],
    procs: &[],
    tables: 2,
    foreign: 0,
    publishes: 0,
    faults: 0,
    evicts: false,
    plain: false,
    search: Search::Always,
};

const CLEANER: Process = Process::Cleaner { forgets: false };

/// A run of one commit.
const fn maintainer(op: u8, begins: Begins) -> Process {
    Process::Maintainer {
        op,
        commits: 1,
        begins,
    }
}

/// The second operation's run, of two commits.
const TWO_COMMITS: Process = Process::Maintainer {
    op: 1,
    commits: 2,
    begins: Begins::Now,
};

/// Two commits that two runs miss.
const TWO_RUNS: &[OpConfig] = &[
    update(&[0], &[]),
    append(&[0]),
    maintain(&[0]),
    maintain(&[0]),
];

/// All scenarios; their names are arguments of the command line.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "writers",
        about: "two writers of both tables, a resolver that dies",
        ops: &[append(&[0, 1]), append(&[0, 1])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Resolver,
        ],
        ..BASE
    },
    Scenario {
        name: "resolvers",
        about: "a writer of both tables, two resolvers",
        ops: &[append(&[0, 1])],
        procs: &[Process::Writer(&[0]), Process::Resolver, Process::Resolver],
        ..BASE
    },
    Scenario {
        name: "maintenance",
        about: "a writer of both tables, a maintenance run of two commits, a resolver",
        ops: &[append(&[0, 1]), maintain(&[0])],
        procs: &[Process::Writer(&[0]), TWO_COMMITS, Process::Resolver],
        ..BASE
    },
    Scenario {
        name: "carry",
        about: "a writer that updates both tables, a maintenance run of two commits, a resolver",
        ops: &[update(&[0, 1], &[]), maintain(&[0])],
        procs: &[Process::Writer(&[0]), TWO_COMMITS, Process::Resolver],
        ..BASE
    },
    Scenario {
        name: "carry-two",
        about: "two updates under one maintenance run, a resolver",
        ops: &[update(&[0], &[]), update(&[0], &[]), maintain(&[0])],
        procs: &[
            Process::Quick(0),
            Process::Quick(1),
            maintainer(2, Begins::Now),
            Process::Resolver,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "plain",
        about: "a plain table: two clients that update, one that removes old versions, a maintenance run",
        ops: &[
            update(&[0], &[]),
            update(&[0], &[]),
            append(&[0]),
            maintain(&[0]),
        ],
        procs: &[
            Process::Client(0),
            Process::Client(1),
            Process::Client(2),
            Process::Sweeper,
            maintainer(3, Begins::Now),
        ],
        tables: 1,
        plain: true,
        ..BASE
    },
    Scenario {
        name: "skew",
        about: "two writers that each read what the other writes, a resolver",
        ops: &[append_reading(&[0], &[1]), append_reading(&[1], &[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Resolver,
        ],
        ..BASE
    },
    Scenario {
        name: "history",
        about: "a writer, a resolver that helps it, cleanup of tables and manifest: false success",
        ops: &[append(&[0])],
        procs: &[Process::Writer(&[0]), Process::Resolver, CLEANER],
        publishes: 1,
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "log",
        about: "a writer, another that nothing interrupts, a resolver, cleanup: an outcome that only the commit log still knows",
        ops: &[append(&[0]), append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Quick(1),
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "floor",
        about: "maintenance that was staged long ago, two commits, cleanup: rebase over what is gone",
        ops: &[update(&[0], &[]), append(&[0]), maintain(&[0])],
        procs: &[
            Process::Quick(0),
            Process::Quick(1),
            maintainer(2, Begins::Staged),
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "adopt",
        about: "foreign commits that are adopted, a writer, a resolver",
        ops: &[append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Adopter {
                name: 0,
                discard: false,
            },
            Process::Resolver,
        ],
        foreign: 2,
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "discard",
        about: "foreign commits that are taken back, a writer, a resolver",
        ops: &[append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Adopter {
                name: 0,
                discard: true,
            },
            Process::Resolver,
        ],
        foreign: 2,
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "faults",
        about: "a writer of both tables and a resolver; one put fails in every way, or arrives late",
        ops: &[append(&[0, 1]), append(&[0])],
        procs: &[Process::Writer(&[0, 1]), Process::Resolver],
        faults: 2,
        ..BASE
    },
    Scenario {
        name: "batch",
        about: "one batch id twice, into different tables; the manifest drops it once the log has it",
        ops: &[batch(&[0], 0), batch(&[1], 0)],
        procs: &[Process::Writer(&[0]), Process::Quick(1), Process::Resolver],
        publishes: 1,
        evicts: true,
        ..BASE
    },
    Scenario {
        name: "zombie",
        about: "a writer of two tables and an uninterrupted one, cleanup, a resolver: late puts",
        ops: &[append(&[0, 1]), append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Quick(1),
            Process::Resolver,
            CLEANER,
        ],
        ..BASE
    },
    Scenario {
        name: "stale",
        about: "a writer whose read is old, an update, maintenance that is put late, cleanup",
        ops: &[
            append_reading(&[1], &[0]),
            update(&[0], &[]),
            maintain(&[0]),
            maintain(&[0]),
        ],
        procs: &[
            Process::Writer(&[0]),
            Process::Quick(1),
            Process::Quick(2),
            maintainer(3, Begins::Licensed),
            CLEANER,
        ],
        ..BASE
    },
    Scenario {
        name: "stale-write",
        about: "an update that was staged long ago, another, maintenance that is put late, cleanup",
        ops: &[
            update(&[0], &[]),
            update(&[0], &[]),
            maintain(&[0]),
            maintain(&[0]),
        ],
        procs: &[
            Process::Writer(&[0]),
            Process::Quick(1),
            Process::Quick(2),
            maintainer(3, Begins::Licensed),
            CLEANER,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "fooled",
        about: "two maintenance runs that were staged long ago, two commits, cleanup",
        ops: TWO_RUNS,
        procs: &[
            Process::Quick(0),
            Process::Quick(1),
            maintainer(2, Begins::Licensed),
            maintainer(3, Begins::Staged),
            CLEANER,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "asleep",
        about: "two maintenance runs, a resolver that takes them for dead, two commits, cleanup",
        ops: TWO_RUNS,
        procs: &[
            Process::Quick(0),
            Process::Quick(1),
            maintainer(2, Begins::Now),
            maintainer(3, Begins::Now),
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "late",
        about: "a writer, two uninterrupted ones, cleanup, a resolver: a put on a freed number",
        ops: &[append(&[0]), append(&[0]), append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Quick(1),
            Process::Quick(2),
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "forget",
        about: "a writer of both tables, a resolver, cleanup that forgets decisions too early",
        ops: &[append(&[0, 1])],
        procs: &[
            Process::Writer(&[0]),
            Process::Resolver,
            Process::Cleaner { forgets: true },
        ],
        search: Search::Beyond,
        ..BASE
    },
    Scenario {
        name: "forgotten",
        about: "an aborted writer stopped before its put, a resolver, cleanup that forgets decisions",
        ops: &[append(&[0])],
        procs: &[
            Process::Stopped(0),
            Process::Resolver,
            Process::Cleaner { forgets: true },
        ],
        tables: 1,
        search: Search::Beyond,
        ..BASE
    },
    Scenario {
        name: "heir",
        about: "a writer that dies, one that takes its claim over, a resolver; a put fails or arrives late",
        ops: &[append(&[0])],
        procs: &[Process::Writer(&[0]), Process::Heir(0), Process::Resolver],
        faults: 1,
        tables: 1,
        ..BASE
    },
    Scenario {
        name: "late-resolvers",
        about: "an aborted writer stopped before its put, two resolvers, two commits, cleanup",
        ops: &[append(&[0]), append(&[0]), append(&[0])],
        procs: &[
            Process::Stopped(0),
            Process::Quick(1),
            Process::Quick(2),
            Process::Resolver,
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "repairs",
        about: "foreign commits that one repair adopts and another takes back",
        ops: &[append(&[0])],
        procs: &[
            Process::Quick(0),
            Process::Adopter {
                name: 0,
                discard: false,
            },
            Process::Adopter {
                name: 0,
                discard: true,
            },
            Process::Resolver,
        ],
        foreign: 1,
        tables: 1,
        search: Search::Beyond,
        ..BASE
    },
    Scenario {
        name: "create",
        about: "two processes create one table, a resolver",
        ops: &[create(&[0]), create(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Resolver,
        ],
        tables: 0,
        ..BASE
    },
    Scenario {
        name: "drop",
        about: "a writer of one table, a writer of two, a resolver, and one that drops the table",
        ops: &[append(&[0]), append(&[0, 1])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Dropper(0),
            Process::Resolver,
        ],
        ..BASE
    },
    Scenario {
        name: "drop-create",
        about: "two processes create one table, one drops it, a resolver",
        ops: &[create(&[0]), create(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Dropper(0),
            Process::Resolver,
        ],
        tables: 0,
        ..BASE
    },
    Scenario {
        name: "log-2",
        about: "as log, with the other writer interrupted",
        ops: &[append(&[0]), append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Resolver,
            CLEANER,
        ],
        tables: 1,
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "skew-2",
        about: "as skew, with maintenance",
        ops: &[
            append_reading(&[0], &[1]),
            append_reading(&[1], &[0]),
            maintain(&[0]),
        ],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            maintainer(2, Begins::Now),
            Process::Resolver,
        ],
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "faults-2",
        about: "as writers, where one put fails or arrives late",
        ops: &[append(&[0, 1]), append(&[0, 1])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Resolver,
        ],
        faults: 1,
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "three",
        about: "three writers of one table, a resolver",
        ops: &[append(&[0]), append(&[0]), append(&[0])],
        procs: &[
            Process::Writer(&[0]),
            Process::Writer(&[1]),
            Process::Writer(&[2]),
            Process::Resolver,
        ],
        tables: 1,
        search: Search::Deep,
        ..BASE
    },
    Scenario {
        name: "rewrites-2",
        about: "a writer of both tables, two maintenance runs, a resolver",
        ops: &[append(&[0, 1]), maintain(&[0]), maintain(&[0])],
        procs: &[
            Process::Writer(&[0]),
            maintainer(1, Begins::Now),
            maintainer(2, Begins::Now),
            Process::Resolver,
        ],
        search: Search::Deep,
        ..BASE
    },
];

const fn append_reading(writes: &'static [u8], reads: &'static [u8]) -> OpConfig {
    OpConfig {
        reads,
        ..append(writes)
    }
}
