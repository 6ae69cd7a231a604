//! Jobs: what only looks at a location, or settles what others left there. Each is a task of its own, and sends what came of it.

use super::service::Options;
use crate::config::{Config, Watch};
use crate::decide::room::Room;
use crate::place::location::{Found, Job, Location};
use crate::place::table::Observation;
use crate::place::{Place, observe};
use crate::run::report::OperationReport;
use crate::supervisor::Supervisor;
use squire_engine::error::{Result, caught};
use squire_engine::maintenance::{Target, Unfit};
use squire_engine::recovery::{RecoveryReport, Watch as RecoveryWatch};
use squire_engine::store::discovery::PassedOver;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{Instrument, error_span};

/// What came of a job or an attempt.
#[derive(Debug)]
pub(super) enum Done {
    /// With what rests there as unfit, where it was opened anew.
    Opened(String, Result<(Place, Vec<Unfit>)>),
    Recovered(String, Box<Recovered>),
    Scanned(String, Result<(Found, Vec<PassedOver>)>),
    Looked(String, Target, Box<Result<Observation>>),
    Measured(String, Option<Room>),
    Noted(String),
    Attempted(u64, Box<OperationReport>),
}

/// What came of a recovery.
#[derive(Debug)]
pub(super) struct Recovered {
    /// What it remembers for the next one.
    pub(super) watch: RecoveryWatch,
    pub(super) report: Result<RecoveryReport>,
    pub(super) stranded: Result<u64>,
}

/// A watched location: how it was asked for, what is open of it, what is known of it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) watch: Watch,
    pub(super) place: Option<Place>,
    pub(super) location: Location,
    pub(super) recovery: RecoveryWatch,
}

/// What a job is given.
pub(super) struct Surround<'a> {
    pub(super) options: &'a Options,
    pub(super) config: &'a Arc<Config>,
    pub(super) done: &'a UnboundedSender<Done>,
}

impl Watched {
    /// How old what is remembered of it may be: a single pass remembers nothing.
    fn anew_after(&self, config: &Config) -> Duration {
        match self.location.is_one_pass() {
            true => Duration::ZERO,
            false => config.daemon.full_scan_interval,
        }
    }

    /// Begins a job. All that is logged below it carries what it is about.
    pub(super) fn begin(
        &mut self,
        uri: &str,
        job: Job,
        tasks: &mut Supervisor,
        around: Surround<'_>,
    ) {
        let (uri, done) = (uri.to_owned(), around.done.clone());
        // Nobody listens any more when the daemon ends.
        let tell = move |what: Done| done.send(what).unwrap_or_default();
        let place = self.place.clone();
        match (job, place) {
            (Job::Open, place) => {
                let (watch, options) = (self.watch.clone(), around.options.store.clone());
                let others = around.options.watches(around.config);
                let span = error_span!("open", location = uri);
                let job = async move {
                    let opening = observe::open(&watch, place, &others, options);
                    let opened = caught(&format!("opening {uri}"), opening).await;
                    tell(Done::Opened(uri, opened));
                };
                tasks.start("open", job.instrument(span));
            }
            (Job::Recover { force }, Some(place)) => {
                let watch = std::mem::take(&mut self.recovery);
                let span = error_span!("recover", location = uri);
                let job = async move {
                    let recovered = recover(&place, watch, force).await;
                    tell(Done::Recovered(uri, Box::new(recovered)));
                };
                tasks.start("recover", job.instrument(span));
            }
            (Job::Scan, Some(place)) => {
                let config = around.config.clone();
                let anew_after = self.anew_after(&config);
                let span = error_span!("scan", location = uri);
                let job = async move {
                    let scanning = observe::scan(&place, &config, anew_after);
                    let scanned = caught(&format!("observing {uri}"), scanning).await;
                    tell(Done::Scanned(uri, scanned));
                };
                tasks.start("scan", job.instrument(span));
            }
            (Job::Look(target), Some(place)) => {
                let config = around.config.clone();
                let stopped = self.location.why_stopped(&target).is_some();
                let anew_after = self.anew_after(&config);
                let span = error_span!("look", location = uri, table = %target);
                let job = async move {
                    let seen = observe::look(&place, &target, &config, stopped, anew_after).await;
                    tell(Done::Looked(uri, target, Box::new(seen)));
                };
                tasks.start("look", job.instrument(span));
            }
            (Job::Measure, Some(place)) => {
                let span = error_span!("measure", location = uri);
                let job = async move { tell(Done::Measured(uri, place.measure().await)) };
                tasks.start("measure", job.instrument(span));
            }
            (Job::Note(unfit), Some(place)) => {
                let span = error_span!("note", location = uri);
                let job = async move {
                    place.note_unfit(&unfit).await;
                    tell(Done::Noted(uri));
                };
                tasks.start("note", job.instrument(span));
            }
            // Jobs other than to open it are asked for of an open location only.
            (
                Job::Recover { .. } | Job::Scan | Job::Look(_) | Job::Measure | Job::Note(_),
                None,
            ) => {}
        }
    }
}

async fn recover(place: &Place, mut watch: RecoveryWatch, force: bool) -> Recovered {
    let recovering = format!("recovery of {}", place.uri);
    let report = caught(&recovering, place.recover(&mut watch, force)).await;
    let stranded = caught(&recovering, place.stranded_bytes()).await;
    Recovered {
        watch,
        report,
        stranded,
    }
}
