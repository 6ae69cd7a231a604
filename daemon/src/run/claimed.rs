//! An attempt under a claim: daemons that watch the same locations share the work without knowing of each other.

use super::execute::{Surroundings, execute};
use super::report::OperationReport;
use crate::decide::work::{Scope, WorkItem};
use squire_engine::error::Result;
use squire_engine::maintenance::Oversight;
use squire_engine::store::{Claim, Claimed};
use std::convert::Infallible;
use std::time::Duration;

/// As whom, and for how long at once, this daemon claims what it works on.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub(crate) holder: String,
    pub(crate) expiry: Duration,
}

/// Runs one operation to its end, unless another daemon works on the same. What cannot be claimed is done: a claim only spares work.
pub(crate) async fn execute_claimed(
    around: &Surroundings,
    item: &WorkItem,
    attempt: u64,
    oversight: &Oversight,
) -> OperationReport {
    let Some(claims) = &around.claims else {
        return execute(around, item, attempt, oversight).await;
    };
    let mut claim = match claim(around, item, claims).await {
        Ok(Claimed::Mine(claim)) => claim,
        Ok(Claimed::Theirs { holder, left }) => {
            let mut report = OperationReport::new(item, attempt);
            report.elsewhere(&holder, left);
            return report;
        }
        Ok(Claimed::Nowhere) => return execute(around, item, attempt, oversight).await,
        Err(error) => {
            tracing::debug!(%error, "this could not be claimed, and is done all the same");
            return execute(around, item, attempt, oversight).await;
        }
    };
    let report = {
        let work = execute(around, item, attempt, oversight);
        let held = hold(around, &mut claim, claims.expiry);
        tokio::select! {
            biased;
            report = work => report,
            never = held => match never {},
        }
    };
    if let Err(error) = claim.release().await {
        tracing::debug!(%error, "a claim is left to expire");
    }
    report
}

async fn claim(around: &Surroundings, item: &WorkItem, claims: &Claims) -> Result<Claimed> {
    let what = match &item.key.scope {
        Scope::Store => String::from("*"),
        Scope::Table(target) => target.to_string(),
    };
    let place = &around.place;
    let claimed = place
        .store
        .claim(place.managed, &what, &claims.holder, claims.expiry);
    claimed.await
}

/// Renews `claim` for ever, three times before it expires.
async fn hold(around: &Surroundings, claim: &mut Claim, expiry: Duration) -> Infallible {
    loop {
        around.place.store.clock().sleep(expiry / 3).await;
        match claim.renew().await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("another daemon has taken this over; what lands first counts");
                std::future::pending::<()>().await;
            }
            Err(error) => tracing::debug!(%error, "a claim was not renewed"),
        }
    }
}
