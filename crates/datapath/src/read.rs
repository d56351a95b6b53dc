//! A range of an object as a stream with a bounded read-ahead.
//!
//! Driven by the consumer: fetching goes no further ahead than the pace allows, and every byte
//! counts against the read buffer until its last reference is gone.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use granary_types::ByteRange;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Share;
use crate::chunk_reader::read_piece;
use crate::error::ReadError;
use crate::extents::{ExtentCursor, Piece};
use crate::pace::Pace;
use crate::pin::ReadPin;
use crate::{ReadSource, Shared};

/// Bytes of an object, in order. Ends after the last byte or after one error.
pub struct ReadStream {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send>>,
    /// Fetched, and not yet taken.
    first: Option<Bytes>,
}

impl Stream for ReadStream {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.pieces.as_mut().poll_next(cx),
        }
    }
}

impl ReadStream {
    pub(crate) fn new(shared: Arc<Shared>, source: ReadSource, range: ByteRange) -> Self {
        let start = Start {
            shared,
            source,
            range,
        };
        let begin = State::Start(Box::new(start));
        let pieces = stream::unfold(begin, |state| async move {
            match advance(state).await {
                Ok(Some((bytes, reading))) => Some((Ok(bytes), State::Reading(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), State::Ended)),
            }
        });
        Self {
            // Asked again after its end, when there was nothing to begin with.
            pieces: Box::pin(pieces.fuse()),
            first: None,
        }
    }

    /// Fetches the first bytes: whoever promises an object knows then that it can be read.
    ///
    /// # Errors
    /// No copy of the first bytes can be read.
    pub async fn begin(&mut self) -> Result<(), ReadError> {
        if self.first.is_none() {
            self.first = self.pieces.next().await.transpose()?;
        }
        Ok(())
    }
}

struct Start {
    shared: Arc<Shared>,
    source: ReadSource,
    range: ByteRange,
}

enum State {
    Start(Box<Start>),
    Reading(Box<Reading>),
    Ended,
}

async fn advance(state: State) -> Result<Option<(Bytes, Box<Reading>)>, ReadError> {
    let mut reading = match state {
        State::Start(start) => Box::new(Reading::new(*start)?),
        State::Reading(reading) => reading,
        State::Ended => return Ok(None),
    };
    Ok(reading.next().await?.map(|bytes| (bytes, reading)))
}

/// A piece on its way.
enum Slot {
    Inline(Bytes),
    Fetching(AbortOnDropHandle<Result<Vec<Bytes>, ReadError>>),
}

struct Reading {
    shared: Arc<Shared>,
    source: ReadSource,
    cursor: ExtentCursor,
    pace: Pace,
    slots: VecDeque<Slot>,
    /// Blocks of the piece that is being sent.
    ready: VecDeque<Bytes>,
    /// Monotonic time at which that piece arrived.
    ready_since: Duration,
    started: Duration,
    pin: Option<ReadPin>,
}

impl Reading {
    fn new(start: Start) -> Result<Self, ReadError> {
        let Start {
            shared,
            source,
            range,
        } = start;
        let now = shared.runtime.monotonic();
        let cursor = ExtentCursor::new(Arc::clone(&shared), source.clone(), range)?;
        Ok(Self {
            shared,
            source,
            cursor,
            pace: Pace::new(),
            slots: VecDeque::new(),
            ready: VecDeque::new(),
            ready_since: now,
            started: now,
            pin: None,
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            self.check_age()?;
            self.fetch_ahead().await?;
            let Some(slot) = self.slots.pop_front() else {
                return Ok(None);
            };
            match slot {
                Slot::Inline(bytes) => self.ready.push_back(bytes),
                Slot::Fetching(fetch) => {
                    let fetched = fetch.await.map_err(|_| ReadError::ShuttingDown)?;
                    self.ready.extend(fetched?);
                }
            }
            let now = self.shared.runtime.monotonic();
            self.ready_since = now;
            // The piece just taken frees a place: fetch the next while this one is sent.
            self.fetch_more().await?;
            self.pin_while_unfetched();
        }
    }

    fn check_age(&mut self) -> Result<(), ReadError> {
        let now = self.shared.runtime.monotonic();
        if now.saturating_sub(self.started).as_millis()
            > u128::from(self.shared.config.read_age_max_ms)
        {
            return Err(ReadError::TooOld);
        }
        if self.ready_since > self.started {
            self.pace = self.pace.after(now.saturating_sub(self.ready_since));
        }
        Ok(())
    }

    /// Makes sure that the next piece is on its way, waiting for memory if need be.
    async fn fetch_ahead(&mut self) -> Result<(), ReadError> {
        if self.slots.is_empty() && self.cursor.remaining() > 0 {
            let pace = self.pace.under(self.shared.read_budget.free_percent());
            let wait = Duration::from_millis(self.shared.config.buffer_wait_ms);
            let Some(share) = self.shared.read_budget.take(self.wanted(pace), wait).await else {
                self.shared.metrics.overloaded.inc();
                return Err(ReadError::Overloaded);
            };
            self.fetch(pace, share).await?;
        }
        self.fetch_more().await
    }

    /// Fetches further pieces as far as pace and memory allow without waiting.
    async fn fetch_more(&mut self) -> Result<(), ReadError> {
        loop {
            let pace = self.pace.under(self.shared.read_budget.free_percent());
            if self.slots.len() >= pace.ahead || self.cursor.remaining() == 0 {
                return Ok(());
            }
            let Some(share) = self.shared.read_budget.try_take(self.wanted(pace)) else {
                return Ok(());
            };
            self.fetch(pace, share).await?;
        }
    }

    /// Bytes of memory for the next piece: it arrives in whole blocks.
    fn wanted(&self, pace: Pace) -> usize {
        let remaining = usize::try_from(self.cursor.remaining()).unwrap_or(usize::MAX);
        (pace.piece_bytes as usize).min(remaining)
    }

    async fn fetch(&mut self, pace: Pace, mut share: Share) -> Result<(), ReadError> {
        let slot = match self.cursor.next(pace.piece_bytes).await? {
            None => return Ok(()),
            Some(Piece::Inline(bytes)) => Slot::Inline(share.attach(bytes)),
            Some(Piece::Chunk(piece)) => {
                let shared = Arc::clone(&self.shared);
                let task = self.shared.runtime.spawn(async move {
                    let blocks = read_piece(&shared, piece).await?;
                    let held = blocks.into_iter().map(|block| share.attach(block));
                    Ok(held.collect())
                });
                Slot::Fetching(AbortOnDropHandle::new(task))
            }
        };
        self.slots.push_back(slot);
        Ok(())
    }

    /// Pins the version from the moment on at which the client has part of it and the rest is
    /// still on disk; what is fetched needs no pin.
    fn pin_while_unfetched(&mut self) {
        if self.cursor.remaining() == 0 {
            self.pin = None;
        } else if self.pin.is_none() {
            self.pin = Some(ReadPin::start(&self.shared, &self.source));
        }
    }
}
