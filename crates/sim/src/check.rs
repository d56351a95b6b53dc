//! What must hold, one file per invariant. Each check runs on the healed cluster and reports to
//! the run's findings.

pub mod appends;
pub mod chunks;
pub mod histories;
pub mod listings;
pub mod replicas;

use std::time::Duration;

use crate::Cluster;

/// How often a condition is looked at that is cheap to look at.
pub(crate) const SOON: Duration = Duration::from_millis(500);

/// Waits until `look` finds nothing wrong; what it found last when `limit` has passed.
pub(crate) async fn eventually<F>(
    cluster: &Cluster,
    limit: Duration,
    every: Duration,
    mut look: impl FnMut() -> F,
) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let deadline = cluster.runtime().monotonic() + limit;
    loop {
        let Err(wrong) = look().await else {
            return Ok(());
        };
        if cluster.runtime().monotonic() >= deadline {
            return Err(wrong);
        }
        cluster.runtime().sleep(every).await;
    }
}
