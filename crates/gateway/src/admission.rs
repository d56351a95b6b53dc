//! Admission: how much may be in hand at once. Over the limit the answer is an early 503, which
//! every SDK retries; nothing queues here.
//!
//! Memory of streamed bodies is limited where it is used, in the data path.

use std::sync::Arc;

use granary_oss::OssError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure;
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
    memory: Option<OwnedSemaphorePermit>,
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

    /// Takes a place: before anything is looked up, so that overload costs nothing.
    ///
    /// # Errors
    /// ServiceUnavailable when there is none.
    pub(crate) fn enter(&self, metrics: &Metrics) -> Result<Permit, OssError> {
        let place = Arc::clone(&self.requests).try_acquire_owned();
        Ok(Permit {
            _request: place.map_err(|_| refused(metrics))?,
            memory: None,
            _in_flight: metrics.in_flight.track(),
        })
    }

    /// Takes memory for a body that is read whole, or more of it: once it is known that it may be.
    ///
    /// # Errors
    /// ServiceUnavailable when there is none.
    pub(crate) fn reserve(
        &self,
        metrics: &Metrics,
        permit: &mut Permit,
        bytes: usize,
    ) -> Result<(), OssError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).try_acquire_many_owned(units);
        let memory = memory.map_err(|_| refused(metrics))?;
        match &mut permit.memory {
            Some(held) => held.merge(memory),
            none => *none = Some(memory),
        }
        Ok(())
    }
}

fn refused(metrics: &Metrics) -> OssError {
    metrics.requests_refused.inc();
    failure::overloaded()
}

#[cfg(test)]
mod tests {
    use granary_oss::ErrorCode;

    use super::*;

    #[test]
    fn refuses_over_either_limit_and_recovers() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let admission = Admission::new(2, 8 * 1024);
        let mut large = admission.enter(&metrics).unwrap();
        admission.reserve(&metrics, &mut large, 8 * 1024).unwrap();
        let mut small = admission.enter(&metrics).unwrap();
        let error = admission.reserve(&metrics, &mut small, 1).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ServiceUnavailable);
        assert!(admission.enter(&metrics).is_err());
        drop(large);
        admission.reserve(&metrics, &mut small, 4096).unwrap();
        assert!(admission.enter(&metrics).is_ok());
        assert_eq!(metrics.requests_refused.get(), 2);
        assert!(small.memory.is_some());
    }
}
