//! One place for retries: same request, same id, until the deadline.

use std::future::Future;
use std::time::Duration;

use granary_runtime::{Backoff, within};
use granary_types::ShardId;

use super::Meta;
use crate::command::Target;
use crate::{ErrorKind, MetaError};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Meta {
    /// Calls until an answer, a permanent error or the deadline.
    pub(super) async fn retrying<T, F, Fut>(
        &self,
        named: Option<ShardId>,
        target: &Target,
        call: F,
    ) -> Result<T, MetaError>
    where
        F: Fn(ShardId) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, MetaError>> + Send,
    {
        let mut backoff = Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline);
        loop {
            let remaining = backoff.remaining(&self.runtime);
            let attempt = async { call(self.shard_for(named, target).await?).await };
            let error = match within(remaining, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(elapsed) => return Err(MetaError::Expired(elapsed.to_string())),
            };
            match error.kind() {
                ErrorKind::Permanent => return Err(error),
                // A named shard that does not own the range: only the caller knows another.
                ErrorKind::Reroute if named.is_some() => return Err(error),
                ErrorKind::Reroute => {
                    if let Err(error) = self.refresh_map().await {
                        tracing::debug!(%error, "range map not refreshed");
                    }
                }
                ErrorKind::Retry => {}
            }
            if !backoff.wait(&self.runtime).await {
                return Err(error);
            }
        }
    }
}
