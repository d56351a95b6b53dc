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
/// One part in so many of the places, and as much memory again, is for forms.
const FORM_PART: usize = 2;

/// The limits.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    /// Forms of which nobody knows who sends them: until their fields are read, or they are answered.
    forms: Arc<Semaphore>,
    /// Memory for the fields of forms, apart from that of callers who are known.
    form_memory: Arc<Semaphore>,
}

/// A place among the requests in flight, and memory for a buffered body.
#[derive(Debug)]
pub(crate) struct Permit {
    _request: OwnedSemaphorePermit,
    form: Option<OwnedSemaphorePermit>,
    memory: Option<OwnedSemaphorePermit>,
    form_memory: Option<OwnedSemaphorePermit>,
    _in_flight: Tracked,
}

impl Admission {
    pub(crate) fn new(requests_max: usize, buffered_bytes_max: usize) -> Self {
        let units = (buffered_bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS))),
            memory: Arc::new(Semaphore::new(units)),
            forms: Arc::new(Semaphore::new(
                (requests_max / FORM_PART).clamp(1, Semaphore::MAX_PERMITS),
            )),
            form_memory: Arc::new(Semaphore::new((units / FORM_PART).max(1))),
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
            form: None,
            memory: None,
            form_memory: None,
            _in_flight: metrics.in_flight.track(),
        })
    }

    /// As [`Self::enter`], for a form: first a place among the forms, so that those which are refused,
    /// or wait to hear that they took too long, never hold the places of callers who are known.
    ///
    /// # Errors
    /// ServiceUnavailable when there is none.
    pub(crate) fn enter_form(&self, metrics: &Metrics) -> Result<Permit, OssError> {
        let place = Arc::clone(&self.forms).try_acquire_owned();
        let form = place.map_err(|_| refused(metrics))?;
        let mut permit = self.enter(metrics)?;
        permit.form = Some(form);
        Ok(permit)
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
        take(&self.memory, metrics, &mut permit.memory, bytes)
    }

    /// Takes memory for the fields of a form, or more of it.
    ///
    /// # Errors
    /// ServiceUnavailable when there is none.
    pub(crate) fn reserve_fields(
        &self,
        metrics: &Metrics,
        permit: &mut Permit,
        bytes: usize,
    ) -> Result<(), OssError> {
        take(&self.form_memory, metrics, &mut permit.form_memory, bytes)
    }
}

impl Permit {
    /// Who sends the form is known: its place among the forms is another's.
    pub(crate) fn is_known(&mut self) {
        self.form = None;
    }
}

fn take(
    memory: &Arc<Semaphore>,
    metrics: &Metrics,
    held: &mut Option<OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<(), OssError> {
    let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
    let more = Arc::clone(memory).try_acquire_many_owned(units);
    let more = more.map_err(|_| refused(metrics))?;
    match held {
        Some(held) => held.merge(more),
        none => *none = Some(more),
    }
    Ok(())
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

    #[test]
    fn forms_of_strangers_leave_room_for_known_callers() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let admission = Admission::new(4, 8 * 1024);
        let mut first = admission.enter_form(&metrics).unwrap();
        let second = admission.enter_form(&metrics).unwrap();
        let refused: Vec<_> = (0..9).map(|_| admission.enter_form(&metrics)).collect();
        assert!(refused.iter().all(Result::is_err));
        let mut known = admission.enter(&metrics).unwrap();
        let other = admission.enter(&metrics).unwrap();
        assert!(admission.enter(&metrics).is_err());
        admission
            .reserve_fields(&metrics, &mut first, 4 * 1024)
            .unwrap();
        assert!(admission.reserve_fields(&metrics, &mut first, 1).is_err());
        admission.reserve(&metrics, &mut known, 8 * 1024).unwrap();
        drop((second, other));
        // Who sends the first form is known by now: two others may come, if there are places.
        first.is_known();
        let third = admission.enter_form(&metrics).unwrap();
        let fourth = admission.enter_form(&metrics).unwrap();
        assert!(admission.enter_form(&metrics).is_err());
        drop((first, third, fourth));
        let mut form = admission.enter_form(&metrics).unwrap();
        admission.reserve_fields(&metrics, &mut form, 4096).unwrap();
    }
}
