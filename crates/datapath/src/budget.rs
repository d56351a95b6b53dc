//! Memory for bytes in transit: one budget for all requests, given out in small units.
//!
//! Waiting is fair (first come, first served) and ends at a deadline. Dropping a share returns it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_runtime::within;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The smallest share, in bytes.
pub(crate) const UNIT_BYTES: usize = 16 * 1024;

/// A bounded amount of memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BufferBudget {
    free: Arc<Semaphore>,
    total: u64,
    peak: Arc<AtomicU64>,
}

/// Part of a budget, returned when it is dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl BufferBudget {
    /// A budget of `bytes`, at least one unit.
    pub fn new(bytes: u64) -> Self {
        let units = (bytes / UNIT_BYTES as u64).clamp(1, u64::from(u32::MAX));
        Self {
            free: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(usize::MAX))),
            total: units,
            peak: Arc::new(AtomicU64::new(0)),
        }
    }

    /// A share of at least `bytes`, if it can be had at once.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.units(bytes));
        self.taken(permit.ok()?)
    }

    /// A share of at least `bytes`; `None` when none was free in time.
    pub async fn take(&self, bytes: usize, wait: Duration) -> Option<Share> {
        let permit = Arc::clone(&self.free).acquire_many_owned(self.units(bytes));
        self.taken(within(wait, permit).await.ok()?.ok()?)
    }

    /// All of it, in bytes.
    pub(crate) fn total_bytes(&self) -> usize {
        usize::try_from(self.total * UNIT_BYTES as u64).unwrap_or(usize::MAX)
    }

    /// Part of the budget that is free, in percent.
    pub(crate) fn free_percent(&self) -> u64 {
        self.free.available_permits() as u64 * 100 / self.total
    }

    /// Bytes given out now.
    pub fn used_bytes(&self) -> u64 {
        (self.total - (self.free.available_permits() as u64).min(self.total)) * UNIT_BYTES as u64
    }

    /// The most bytes that were ever given out at once.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    fn units(&self, bytes: usize) -> u32 {
        let units = (bytes.div_ceil(UNIT_BYTES) as u64).clamp(1, self.total);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> Option<Share> {
        self.peak.fetch_max(self.used_bytes(), Ordering::Relaxed);
        Some(Share(permit))
    }
}

impl Share {
    /// Makes one share of two of the same budget.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// The bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * UNIT_BYTES
    }

    /// Ties a part of this share to `bytes`: it is returned when the last reference to them goes.
    pub fn attach(&mut self, bytes: Bytes) -> Bytes {
        let units = bytes.len().div_ceil(UNIT_BYTES).min(self.0.num_permits());
        match self.0.split(units) {
            Some(part) if units > 0 => Bytes::from_owner(Held {
                bytes,
                _share: Share(part),
            }),
            _ => bytes,
        }
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shares_come_back_and_waiting_ends() {
        let budget = BufferBudget::new(4 * UNIT_BYTES as u64);
        let three = budget.try_take(3 * UNIT_BYTES).unwrap();
        assert!(budget.try_take(2 * UNIT_BYTES).is_none());
        assert!(
            budget
                .take(2 * UNIT_BYTES, Duration::from_secs(1))
                .await
                .is_none()
        );
        assert_eq!(budget.free_percent(), 25);
        drop(three);
        // More than there is counts as all there is, or nobody could ever have it.
        let all = budget
            .take(100 * UNIT_BYTES, Duration::from_secs(1))
            .await
            .unwrap();
        assert_eq!(budget.free_percent(), 0);
        drop(all);
        assert_eq!(budget.peak_bytes(), 4 * UNIT_BYTES as u64);
    }

    #[test]
    fn attached_shares_live_as_long_as_the_bytes() {
        let budget = BufferBudget::new(4 * UNIT_BYTES as u64);
        let mut share = budget.try_take(3 * UNIT_BYTES).unwrap();
        let bytes = share.attach(Bytes::from(vec![7; 2 * UNIT_BYTES]));
        drop(share);
        let clone = bytes.slice(5..6);
        drop(bytes);
        assert_eq!(budget.used_bytes(), 2 * UNIT_BYTES as u64);
        drop(clone);
        assert_eq!(budget.used_bytes(), 0);
    }
}
