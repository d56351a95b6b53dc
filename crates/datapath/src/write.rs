//! A body to disks: assemble chunks, hash, store, hold references, renew the lease.
//!
//! Invariants: a failed body never yields a payload; memory is taken from the budget before bytes
//! are kept, and a request that holds memory never waits for more of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use granary_meta_api::pb;
use granary_types::Redundancy;
use granary_types::limits::BLOCK_BYTES;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Share;
use crate::chunk_writer::store_chunk;
use crate::config::{
    BUFFER_STEP_BYTES, CHUNK_BYTES, CHUNKS_IN_FLIGHT, HASH_IN_PLACE_MAX, IDLE_FLUSH_AFTER,
    QUICK_STEP,
};
use crate::digest::{BodyDigests, CutChunk, Digested};
use crate::error::{BodyError, WriteError};
use crate::session::{WriteOwner, WriteSession};
use crate::{BodyLimits, Shared, WriteTarget, Written};

/// Memory counts as short below this part of the budget, in percent.
const SCARCE_PERCENT: u64 = 25;

/// Streams a body to disks; see [`crate::DataPath::write`].
pub(crate) async fn write<S>(
    shared: &Arc<Shared>,
    target: WriteTarget,
    mut body: S,
    limits: BodyLimits,
) -> Result<Written, WriteError>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Send + Unpin,
{
    let mut intake = Intake::new(limits)?;
    let mut pipeline = Pipeline::new(Arc::clone(shared), target, limits.declared_length);
    loop {
        let asked = shared.runtime.monotonic();
        let event = tokio::select! {
            // The body first: no timer is set while it comes. Chunks in flight are few, so that it cannot
            // keep them waiting for long.
            biased;
            frame = body.next() => Event::Frame(frame),
            stored = next_stored(&mut pipeline.in_flight), if !pipeline.in_flight.is_empty() => {
                Event::Stored(stored?)
            }
            () = shared.runtime.sleep(IDLE_FLUSH_AFTER), if !pipeline.filling.is_empty() => {
                Event::Idle
            }
        };
        pipeline
            .pace
            .waited(shared.runtime.monotonic().saturating_sub(asked));
        match event {
            Event::Frame(Some(frame)) => {
                let frame = frame?;
                intake.admit(frame.len() as u64)?;
                pipeline.feed(frame).await?;
            }
            Event::Frame(None) => break,
            Event::Stored(extent) => pipeline.keep(extent).await?,
            Event::Idle => pipeline.make_room().await?,
        }
    }
    intake.finish()?;
    let size = intake.received;
    let written = pipeline.finish(size).await?;
    shared.metrics.bytes_written.inc_by(size);
    Ok(written)
}

enum Event {
    Frame(Option<Result<Bytes, BodyError>>),
    Stored(pb::state::Extent),
    Idle,
}

/// Counts a body against its limits.
struct Intake {
    limits: BodyLimits,
    received: u64,
}

impl Intake {
    fn new(limits: BodyLimits) -> Result<Self, WriteError> {
        match limits.declared_length {
            Some(declared) if declared > limits.max_bytes => Err(WriteError::TooLarge {
                max_bytes: limits.max_bytes,
            }),
            _ => Ok(Self {
                limits,
                received: 0,
            }),
        }
    }

    fn admit(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.received += bytes;
        if self.received > self.limits.max_bytes {
            return Err(WriteError::TooLarge {
                max_bytes: self.limits.max_bytes,
            });
        }
        match self.limits.declared_length {
            Some(declared) if self.received > declared => Err(WriteError::Long { declared }),
            _ => Ok(()),
        }
    }

    fn finish(&self) -> Result<(), WriteError> {
        match self.limits.declared_length {
            Some(declared) if self.received < declared => Err(WriteError::Short {
                declared,
                received: self.received,
            }),
            _ => Ok(()),
        }
    }
}

/// A chunk that is being filled: segments that are multiples of a block, so that blocks can be
/// cut from them without copying, and the memory they stand in.
#[derive(Default)]
struct Filling {
    segments: Vec<BytesMut>,
    shares: Vec<Share>,
    length: usize,
    /// Bytes the last segment still takes.
    room: usize,
}

impl Filling {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn grow(&mut self, bytes: usize, share: Share) {
        self.segments.push(BytesMut::with_capacity(bytes));
        self.shares.push(share);
        self.room = bytes;
    }

    /// Takes as much of `bytes` as there is room for. The one copy of the way to the disk.
    fn append(&mut self, bytes: &mut Bytes) {
        let taken = bytes.split_to(bytes.len().min(self.room));
        if let Some(segment) = self.segments.last_mut() {
            segment.extend_from_slice(&taken);
            self.length += taken.len();
            self.room -= taken.len();
        }
    }

    fn take(&mut self) -> (Vec<Bytes>, Vec<Share>, usize) {
        let filled = std::mem::take(self);
        let pieces = filled.segments.into_iter().map(BytesMut::freeze).collect();
        (pieces, filled.shares, filled.length)
    }
}

/// The running digests: here, or with the chunk that is being hashed.
enum Digests {
    Here(Box<BodyDigests>),
    With(oneshot::Receiver<Box<BodyDigests>>),
}

impl Digests {
    async fn get(self) -> Result<Box<BodyDigests>, WriteError> {
        match self {
            Self::Here(digests) => Ok(digests),
            Self::With(coming) => coming.await.map_err(|_| WriteError::ShuttingDown),
        }
    }
}

/// How fast a client sends, by how long its body was waited for: not by the clock, since what waits in the socket
/// while memory or disks are waited for comes at once.
#[derive(Default)]
struct Pace {
    /// Its last bytes came fast enough to take memory for the next in advance.
    is_quick: bool,
    waited: Duration,
    bytes: usize,
}

impl Pace {
    fn waited(&mut self, time: Duration) {
        self.waited += time;
        self.is_quick &= self.waited <= QUICK_STEP;
    }

    fn received(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= BUFFER_STEP_BYTES {
            *self = Self {
                is_quick: self.waited <= QUICK_STEP,
                ..Self::default()
            };
        }
    }
}

type StoringChunk = AbortOnDropHandle<Result<pb::state::Extent, WriteError>>;

/// Waits for the oldest chunk in flight; chunks are kept in the order of their bytes.
async fn next_stored(
    in_flight: &mut VecDeque<StoringChunk>,
) -> Result<pb::state::Extent, WriteError> {
    let Some(front) = in_flight.front_mut() else {
        return std::future::pending().await;
    };
    let stored = front.await.map_err(|_| WriteError::ShuttingDown)?;
    in_flight.pop_front();
    stored
}

struct Pipeline {
    shared: Arc<Shared>,
    target: WriteTarget,
    declared: Option<u64>,
    fed: u64,
    filling: Filling,
    pace: Pace,
    digests: Digests,
    in_flight: VecDeque<StoringChunk>,
    session: Option<WriteSession>,
}

impl Pipeline {
    fn new(shared: Arc<Shared>, mut target: WriteTarget, declared: Option<u64>) -> Self {
        let digests = BodyDigests::new(target.continues.take());
        Self {
            shared,
            target,
            declared,
            fed: 0,
            filling: Filling::default(),
            pace: Pace::default(),
            digests: Digests::Here(Box::new(digests)),
            in_flight: VecDeque::new(),
            session: None,
        }
    }

    /// Takes a frame of the body.
    async fn feed(&mut self, mut frame: Bytes) -> Result<(), WriteError> {
        if let Some(session) = &mut self.session {
            session.renew_if_due().await?;
        }
        while !frame.is_empty() {
            if self.filling.length == CHUNK_BYTES {
                self.flush().await?;
            } else if self.filling.room == 0 {
                self.find_room(frame.len()).await?;
            } else {
                let before = self.filling.length;
                self.filling.append(&mut frame);
                let taken = self.filling.length - before;
                self.fed += taken as u64;
                self.pace.received(taken);
            }
        }
        Ok(())
    }

    /// Memory for more bytes. With bytes in hand it waits only for its own chunks on their way to
    /// disks, which give theirs back; when there are none it sends off what it has.
    async fn find_room(&mut self, coming: usize) -> Result<(), WriteError> {
        let step = self.step_bytes(coming);
        if let Some(share) = self.shared.write_budget.try_take(step) {
            self.filling.grow(step, share);
            return Ok(());
        }
        if !self.in_flight.is_empty() {
            let extent = next_stored(&mut self.in_flight).await?;
            return self.keep(extent).await;
        }
        if !self.filling.is_empty() {
            return self.flush().await;
        }
        let wait = Duration::from_millis(self.shared.config.buffer_wait_ms);
        match self.shared.write_budget.take(step, wait).await {
            Some(share) => {
                self.filling.grow(step, share);
                Ok(())
            }
            None => {
                self.shared.metrics.overloaded.inc();
                Err(WriteError::Overloaded)
            }
        }
    }

    /// The next segment: as long as all before it, so that a slow client holds no more than twice what
    /// it has sent, or a block; in whole steps while it is quick.
    fn step_bytes(&self, coming: usize) -> usize {
        let so_far = self
            .filling
            .length
            .max(coming.next_multiple_of(BLOCK_BYTES));
        let step = if self.pace.is_quick {
            BUFFER_STEP_BYTES
        } else {
            so_far.min(BUFFER_STEP_BYTES)
        };
        let left = self.declared.map(|declared| declared - self.fed);
        let left = left.and_then(|left| usize::try_from(left).ok());
        step.min(left.unwrap_or(usize::MAX))
            .min(self.shared.write_budget.total_bytes())
            .min(CHUNK_BYTES - self.filling.length)
    }

    /// Sends a waiting buffer off when memory is short: its client has gone quiet.
    async fn make_room(&mut self) -> Result<(), WriteError> {
        let scarce = self.shared.write_budget.free_percent() < SCARCE_PERCENT;
        let inline = self.declared.is_some_and(|length| self.is_inline(length));
        if scarce && !inline {
            self.flush().await?;
        }
        Ok(())
    }

    fn is_inline(&self, length: u64) -> bool {
        length <= self.shared.config.inline_max_bytes as u64
    }

    /// Sends what is filled to disks as one chunk.
    async fn flush(&mut self) -> Result<(), WriteError> {
        if self.filling.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= CHUNKS_IN_FLIGHT {
            let extent = next_stored(&mut self.in_flight).await?;
            self.keep(extent).await?;
        }
        let owner = self.owner().await?;
        let (pieces, shares, length) = self.filling.take();
        let (hashed, coming) = oneshot::channel();
        let digests = std::mem::replace(&mut self.digests, Digests::With(coming));
        let task = StoreTask {
            shared: Arc::clone(&self.shared),
            redundancy: self.target.redundancy,
            owner,
            pieces,
            length,
            digests,
            hashed,
        };
        let task = self.shared.runtime.spawn(async move {
            let stored = task.run().await;
            drop(shares);
            stored
        });
        self.in_flight.push_back(AbortOnDropHandle::new(task));
        Ok(())
    }

    /// The write id's owner; takes a write id for the first chunk.
    async fn owner(&mut self) -> Result<WriteOwner, WriteError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => WriteSession::begin(&self.shared, &self.target.at).await?,
        };
        Ok(self.session.insert(session).owner())
    }

    /// Holds the reference to a stored chunk.
    async fn keep(&mut self, extent: pb::state::Extent) -> Result<(), WriteError> {
        match &mut self.session {
            Some(session) => session.push(extent).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self, size: u64) -> Result<Written, WriteError> {
        if self.session.is_none() && self.is_inline(size) {
            return self.finish_inline(size).await;
        }
        self.flush().await?;
        while !self.in_flight.is_empty() {
            let extent = next_stored(&mut self.in_flight).await?;
            self.keep(extent).await?;
        }
        let digested = self.digests.get().await?.finish();
        let payload = match self.session {
            Some(mut session) => {
                session.renew_if_due().await?;
                session.into_payload(size)
            }
            None => pb::Payload::default(),
        };
        Ok(written(payload, size, digested))
    }

    async fn finish_inline(mut self, size: u64) -> Result<Written, WriteError> {
        let (mut pieces, _shares, length) = self.filling.take();
        let inline = match pieces.len() {
            0 => Bytes::new(),
            1 => pieces.swap_remove(0),
            _ => pieces.concat().into(),
        };
        debug_assert_eq!(length as u64, size);
        let mut digests = self.digests.get().await?;
        digests.update(&inline);
        let digested = digests.finish();
        let payload = pb::Payload {
            inline,
            size,
            ..Default::default()
        };
        Ok(written(payload, size, digested))
    }
}

fn written(payload: pb::Payload, size: u64, digested: Digested) -> Written {
    Written {
        payload,
        size,
        md5: digested.md5,
        crc64: digested.crc64,
        continued: digested.continued,
    }
}

/// Hashes one chunk and puts it on disks, at the same time as far as possible.
struct StoreTask {
    shared: Arc<Shared>,
    redundancy: Redundancy,
    owner: WriteOwner,
    pieces: Vec<Bytes>,
    length: usize,
    digests: Digests,
    hashed: oneshot::Sender<Box<BodyDigests>>,
}

impl StoreTask {
    async fn run(self) -> Result<pb::state::Extent, WriteError> {
        // Chunks are hashed in order: this waits for the one before, not for its disks.
        let mut digests = self.digests.get().await?;
        let (pieces, hashed) = (self.pieces, self.hashed);
        let hash = move |cut_done: oneshot::Sender<CutChunk>| {
            // Block checksums first: the disks wait for them, nobody waits for the MD5.
            let _ = cut_done.send(CutChunk::from_pieces(pieces.clone()));
            for piece in &pieces {
                digests.update(piece);
            }
            // A request that has gone away does not care about its digests.
            let _ = hashed.send(digests);
        };
        let (cut_done, cut) = oneshot::channel();
        let hashing = async {
            if self.length <= HASH_IN_PLACE_MAX {
                hash(cut_done);
                return Ok(());
            }
            let hashed = self.shared.runtime.blocking(move || hash(cut_done)).await;
            hashed.map_err(|_| WriteError::ShuttingDown)
        };
        let storing = async {
            let chunk = cut.await.map_err(|_| WriteError::ShuttingDown)?;
            let stored = store_chunk(&self.shared, self.redundancy, &self.owner, &chunk).await?;
            self.shared.metrics.chunks_written.inc();
            Ok(stored)
        };
        let ((), stored) = futures_util::try_join!(hashing, storing)?;
        Ok(stored)
    }
}
