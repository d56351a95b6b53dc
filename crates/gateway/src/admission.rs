//! Admission: how much may be in hand at once. Over the limit the answer is an early 503, which
//! every SDK retries; nothing queues here.
//!
//! Memory of streamed bodies is limited where it is used, in the data path.

use std::sync::Arc;

use granary_oss::{ErrorCode, OssError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Metrics, Tracked};

/// Bytes of one unit of the memory semaphore.
const UNIT_BYTES: usize = 1024;

/// The limits.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

/// A place among the requests in flight, and memory for a buffered body.
#[derive(Debug)]
pub(crate) struct Permit {
    _request: OwnedSemaphorePermit,
    _memory: Option<OwnedSemaphorePermit>,
    _in_flight: Tracked,
}

impl Admission {
    pub(crate) fn new(requests_max: usize, buffered_bytes_max: usize) -> Self {
        let units = (buffered_bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS))),
            memory: Arc::new(Semaphore::new(units)),
        }
    }

    /// Takes a place, and memory for `buffered_bytes`.
    ///
    /// # Errors
    /// ServiceUnavailable when there is none.
    pub(crate) fn enter(
        &self,
        metrics: &Metrics,
        buffered_bytes: usize,
    ) -> Result<Permit, OssError> {
        let refused = |_| {
            metrics.requests_refused.inc();
            OssError::new(ErrorCode::ServiceUnavailable)
        };
        let request = Arc::clone(&self.requests)
            .try_acquire_owned()
            .map_err(refused)?;
        let memory = match u32::try_from(buffered_bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX) {
            0 => None,
            units => Some(
                Arc::clone(&self.memory)
                    .try_acquire_many_owned(units)
                    .map_err(refused)?,
            ),
        };
        Ok(Permit {
            _request: request,
            _memory: memory,
            _in_flight: metrics.in_flight.track(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_over_either_limit_and_recovers() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let admission = Admission::new(2, 8 * 1024);
        let large = admission.enter(&metrics, 8 * 1024).unwrap();
        let error = admission.enter(&metrics, 1).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ServiceUnavailable);
        let small = admission.enter(&metrics, 0).unwrap();
        assert!(admission.enter(&metrics, 0).is_err());
        drop((large, small));
        assert!(admission.enter(&metrics, 4096).is_ok());
        assert_eq!(metrics.requests_refused.get(), 2);
    }
}
