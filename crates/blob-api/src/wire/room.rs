//! Memory for chunks on their way into and out of a node, shared by all who are connected.
//!
//! Every caller bounds what it sends; only the node sees the sum, and a slow disk collects it. So the
//! bytes of a chunk count while they come in, and until its disk has answered; those that are read
//! count until they are sent. Whoever finds no room is told at once that the node is busy. No disk
//! takes up more than half of the room, so that one that is slow leaves some to the others.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use granary_types::DiskId;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;

use super::fault;
use crate::BlobError;

/// What is held of a room.
#[derive(Debug, Default)]
struct Held {
    all_bytes: u64,
    /// Of disks that hold anything.
    disks: BTreeMap<DiskId, u64>,
}

/// A bound on bytes.
#[derive(Debug)]
pub(super) struct Room {
    max_bytes: u64,
    held: Mutex<Held>,
}

impl Room {
    pub(super) fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max_bytes,
            held: Mutex::default(),
        })
    }
}

/// What one call holds of a room; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    mine: Mutex<(u64, Option<DiskId>)>,
}

impl Share {
    pub(super) fn of(room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::clone(room),
            mine: Mutex::default(),
        })
    }

    /// Takes more bytes, before it is known which disk they are for; false when there is no room.
    pub(super) fn grow(&self, bytes: u64) -> bool {
        let mut mine = self.mine.lock();
        let mut held = self.room.held.lock();
        let fits = held.all_bytes + bytes <= self.room.max_bytes;
        if fits {
            held.all_bytes += bytes;
            mine.0 += bytes;
        }
        fits
    }

    /// From now on it is a disk's; `Busy` when that has its half of the room. Once per share.
    pub(super) fn assign(&self, disk: DiskId) -> Result<(), BlobError> {
        let mut mine = self.mine.lock();
        let mut held = self.room.held.lock();
        let bytes = held.disks.get(&disk).copied().unwrap_or(0) + mine.0;
        if bytes > self.room.max_bytes / 2 {
            return Err(BlobError::Busy(disk));
        }
        held.disks.insert(disk, bytes);
        mine.1 = Some(disk);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let (bytes, disk) = *self.mine.get_mut();
        let mut held = self.room.held.lock();
        held.all_bytes -= bytes;
        if let Some(disk) = disk
            && let Some(of_disk) = held.disks.get_mut(&disk)
        {
            *of_disk -= bytes;
            if *of_disk == 0 {
                held.disks.remove(&disk);
            }
        }
    }
}

/// A body that holds a share for as long as it is there.
pub(super) struct SharedBody {
    body: Body,
    share: Arc<Share>,
    /// It comes in, and the share grows by its bytes.
    counts: bool,
}

impl SharedBody {
    /// The body of a request.
    pub(super) fn coming_in(body: Body, share: &Arc<Share>) -> Body {
        Body::new(Self {
            body,
            share: Arc::clone(share),
            counts: true,
        })
    }

    /// The body of an answer whose bytes are counted already.
    pub(super) fn going_out(body: Body, share: Arc<Share>) -> Body {
        Body::new(Self {
            body,
            share,
            counts: false,
        })
    }
}

impl http_body::Body for SharedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.counts
            && let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && !self.share.grow(bytes.len() as u64)
        {
            // Which disk it is for stands somewhere in these bytes; the caller knows.
            let busy = fault::to_status(&BlobError::Busy(DiskId(0)));
            return Poll::Ready(Some(Err(busy)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_in_all_and_for_each_disk() {
        let room = Room::new(100);
        let (first, second, third) = (Share::of(&room), Share::of(&room), Share::of(&room));
        assert!(first.grow(20) && first.grow(20));
        assert!(second.grow(30));
        assert!(!third.grow(31) && third.grow(30));
        first.assign(DiskId(1)).unwrap();
        // Half of it is the most for one disk, however much is left.
        assert_eq!(second.assign(DiskId(1)), Err(BlobError::Busy(DiskId(1))));
        third.assign(DiskId(2)).unwrap();
        drop((first, second));
        let again = Share::of(&room);
        assert!(!again.grow(71) && again.grow(50));
        again.assign(DiskId(1)).unwrap();
        drop((third, again));
        let held = room.held.lock();
        assert_eq!((held.all_bytes, held.disks.len()), (0, 0));
    }
}
