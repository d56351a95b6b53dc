//! Keeps the bytes of a long read alive after they were overwritten or deleted.
//!
//! Replaced chunks stay for the reader grace. A read that is still under way after half of it pins
//! the version it reads, again and again, until it ends or reaches its greatest age.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb;
use granary_runtime::CancellationToken;

use crate::{ReadSource, Shared};

/// Stops pinning when it is dropped.
pub(crate) struct ReadPin(CancellationToken);

impl Drop for ReadPin {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl ReadPin {
    /// Starts to pin, `grace / 2` from now.
    pub(crate) fn start(shared: &Arc<Shared>, source: &ReadSource) -> Self {
        let ended = shared.runtime.shutdown().child_token();
        let pinning = keep_pinned(
            Arc::clone(shared),
            source.at.clone(),
            source.version.object_id.clone(),
        );
        let token = ended.clone();
        shared.runtime.spawn(async move {
            // Ends with the read, the process or its own end.
            let _ = token.run_until_cancelled(pinning).await;
        });
        Self(ended)
    }
}

async fn keep_pinned(shared: Arc<Shared>, at: pb::Position, object_id: bytes::Bytes) {
    let grace = shared.view.map().reader_grace();
    if grace.is_zero() {
        // The cluster keeps nothing for readers: there is nothing to prolong.
        return;
    }
    let age_max = Duration::from_millis(shared.config.read_age_max_ms);
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let started = shared.runtime.monotonic();
    shared.runtime.sleep(grace / 2).await;
    while shared.runtime.monotonic().saturating_sub(started) < age_max {
        let until = shared.runtime.now().plus_millis(grace_ms);
        let pin = pb::PinRead {
            at: Some(at.clone()),
            object_id: object_id.clone(),
            until_ms: until.as_millis(),
        };
        match shared.meta.propose(pin).await {
            Ok(Ok(_)) => {}
            Ok(Err(rejection)) => {
                tracing::debug!(reason = %rejection.detail, "read pin refused");
                return;
            }
            Err(error) => tracing::debug!(%error, "read pin not renewed"),
        }
        shared.runtime.sleep(grace / 3).await;
    }
}
