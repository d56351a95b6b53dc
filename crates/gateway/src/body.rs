//! Bodies: the request's with its deadlines and limits, and the response's with its accounting.
//!
//! A request body is never polled before its operation asks for it: that poll is what sends
//! `100 Continue`. Nothing here holds a body whole except [`RequestBody::read_whole`], which is
//! limited by its caller.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use granary_datapath::{BodyError, ReadError, ReadStream};
use granary_oss::form::FormError;
use granary_oss::header::{content_length, content_md5};
use granary_oss::{ErrorCode, OssError};
use granary_runtime::{Runtime, within};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use md5::{Digest as _, Md5};

use crate::access_log::Completion;
use crate::config::{RATE_WINDOW, Timeouts};
use crate::gzip::GzipStream;
use crate::head::Head;
use crate::pacer::Pacer;
use crate::server::socket::Alarm;

/// Rest of a refused body that is read so that the connection can be used again, in bytes.
const SETTLE_BYTES_MAX: u64 = 64 * 1024;
/// Time for that.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Why a request body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// No byte for too long, or too few.
    #[error("the client stopped sending its body")]
    Stalled,
    /// The connection or the framing broke.
    #[error("the client's body broke off")]
    Broken(#[source] hyper::Error),
}

/// A request body.
pub(crate) struct RequestBody {
    incoming: Incoming,
    runtime: Runtime,
    timeouts: Timeouts,
    alarm: Alarm,
    pacer: Option<Pacer>,
    /// Since when the client owes bytes.
    waiting_since: Option<Duration>,
    /// Waiting and bytes of the window that judges the rate.
    window_waited: Duration,
    window_bytes: u64,
    received: u64,
    polled: bool,
    failed: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, runtime: Runtime, timeouts: Timeouts) -> Self {
        Self {
            incoming,
            runtime,
            timeouts,
            alarm: Alarm::default(),
            pacer: None,
            waiting_since: None,
            window_waited: Duration::ZERO,
            window_bytes: 0,
            received: 0,
            polled: false,
            failed: false,
        }
    }

    /// Takes the body no faster than that, in bits per second.
    pub(crate) fn pace(&mut self, limit: Option<u64>) {
        self.pacer = limit.map(|limit| Pacer::new(self.runtime.clone(), limit));
    }

    /// Bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Reads a body of at most `max_bytes` whole and checks it against `Content-MD5`.
    ///
    /// # Errors
    /// MalformedXML when it is too long, RequestTimeout, InvalidDigest.
    pub(crate) async fn read_whole(
        &mut self,
        head: &Head,
        max_bytes: usize,
    ) -> Result<Bytes, OssError> {
        let too_long = || {
            OssError::new(ErrorCode::MalformedXML)
                .message(format!("The body must not exceed {max_bytes} bytes."))
        };
        let expected = content_md5(&head.headers)?;
        let declared = content_length(&head.headers)?.unwrap_or(0);
        if declared > max_bytes as u64 {
            return Err(too_long());
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece.map_err(|error| failure(&error))?;
            if whole.len() + piece.len() > max_bytes {
                return Err(too_long());
            }
            whole.extend_from_slice(&piece);
        }
        check_md5(expected, || Md5::digest(&whole).into())?;
        Ok(whole.freeze())
    }

    /// Decides what becomes of a body that was not read to its end. True when the connection can
    /// be used again.
    pub(crate) async fn settle(&mut self, waits_for_continue: bool) -> bool {
        if self.incoming.is_end_stream() {
            return true;
        }
        if self.failed || (waits_for_continue && !self.polled) {
            return false;
        }
        if self
            .incoming
            .size_hint()
            .exact()
            .is_some_and(|rest| rest > SETTLE_BYTES_MAX)
        {
            return false;
        }
        let limit = self.received + SETTLE_BYTES_MAX;
        let rest = async {
            while let Some(piece) = self.next().await {
                if piece.is_err() || self.received > limit {
                    return false;
                }
            }
            true
        };
        within(SETTLE_TIME, rest).await.unwrap_or(false)
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RequestBodyError>>> {
        self.polled = true;
        if let Some(pacer) = &mut self.pacer {
            // Nobody waits for the client meanwhile: its deadlines rest.
            ready!(pacer.poll_turn(cx));
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers carry nothing that OSS knows.
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    self.note(piece.len() as u64);
                    if let Some(pacer) = &mut self.pacer {
                        pacer.moved(piece.len());
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(RequestBodyError::Broken(error))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    return Poll::Ready(Some(Err(RequestBodyError::Stalled)));
                }
            }
        }
    }

    fn note(&mut self, bytes: u64) {
        self.received += bytes;
        self.window_bytes += bytes;
        if let Some(since) = self.waiting_since.take() {
            self.window_waited += self.runtime.monotonic().saturating_sub(since);
        }
        if self.window_waited >= RATE_WINDOW && self.rate_is_enough(self.window_waited) {
            self.window_waited = Duration::ZERO;
            self.window_bytes = 0;
        }
    }

    fn rate_is_enough(&self, waited: Duration) -> bool {
        self.window_bytes >= self.timeouts.body_rate_min.saturating_mul(waited.as_secs())
    }

    /// Ready when the client has stalled or trickles. Time in which nobody asked for bytes does
    /// not count.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.runtime.monotonic();
        let since = *self.waiting_since.get_or_insert(now);
        if self.window_waited >= RATE_WINDOW && !self.rate_is_enough(self.window_waited) {
            return Poll::Ready(());
        }
        let deadline = since + self.timeouts.body_stall;
        self.alarm.poll_until(&self.runtime, now, deadline, cx)
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.poll_piece(cx));
        self.failed |= matches!(piece, Some(Err(_)));
        Poll::Ready(piece.map(|piece| piece.map_err(BodyError::new)))
    }
}

/// The answer to a body that failed. A client that went away will not read it.
pub(crate) fn failure(error: &BodyError) -> OssError {
    if let Some(error) = error.downcast_ref::<FormError>() {
        return error.to_oss();
    }
    match error.downcast_ref::<RequestBodyError>() {
        Some(RequestBodyError::Stalled) => OssError::new(ErrorCode::RequestTimeout),
        _ => OssError::new(ErrorCode::RequestTimeout)
            .message("The body of the request broke off before its end."),
    }
    .source(error.clone())
}

/// Compares a body's MD5 with the one the client declared.
///
/// # Errors
/// InvalidDigest.
pub(crate) fn check_md5(
    declared: Option<[u8; 16]>,
    computed: impl FnOnce() -> [u8; 16],
) -> Result<(), OssError> {
    let Some(declared) = declared else {
        return Ok(());
    };
    let computed = computed();
    if declared == computed {
        return Ok(());
    }
    let hex = |digest: [u8; 16]| -> String { digest.iter().map(|b| format!("{b:02X}")).collect() };
    Err(OssError::new(ErrorCode::InvalidDigest)
        .extra("ClientComputedContentMD5", hex(declared))
        .extra("ServerComputedContentMD5", hex(computed)))
}

/// What a response carries.
pub(crate) enum Payload {
    /// Nothing.
    Empty,
    /// A document.
    Whole(Bytes),
    /// Bytes of an object and how many are still to come.
    Object(Box<ReadStream>, u64),
    /// Bytes of an object, compressed: how many they will be is not known.
    Compressed(Box<GzipStream>),
    /// Nothing, behind a head that announces bytes: then the connection ends, so that no client takes
    /// the next answer for them.
    Withheld { head_left: bool },
}

impl Payload {
    /// Bytes it will carry; `None` when only the end tells.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Object(_, length) => Some(*length),
            Self::Compressed(_) | Self::Withheld { .. } => None,
        }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ResponseBodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(bytes)))
            }
            Self::Object(stream, rest) => match ready!(stream.poll_next_unpin(cx)) {
                Some(Ok(piece)) => {
                    *rest = rest.saturating_sub(piece.len() as u64);
                    Poll::Ready(Some(Ok(piece)))
                }
                Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                None if *rest > 0 => Poll::Ready(Some(Err(ResponseBodyError::Short(*rest)))),
                None => Poll::Ready(None),
            },
            Self::Compressed(stream) => stream.poll_next(cx),
            Self::Withheld { head_left: true } => Poll::Ready(None),
            Self::Withheld { head_left } => {
                // Whoever waits for a body sends the head meanwhile; a body that is cut at once takes
                // the head with it.
                *head_left = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// A response body; when it is dropped, the request is over and its completion is written.
pub(crate) struct ResponseBody {
    payload: Payload,
    pacer: Option<Pacer>,
    /// What is left of a piece larger than the pacer lets through at once.
    rest: Bytes,
    completion: Completion,
}

impl ResponseBody {
    /// `limit` is in bits per second.
    pub(crate) fn new(payload: Payload, limit: Option<u64>, completion: Completion) -> Self {
        let runtime = &completion.shared.runtime;
        Self {
            payload,
            pacer: limit.map(|limit| Pacer::new(runtime.clone(), limit)),
            rest: Bytes::new(),
            completion,
        }
    }
}

/// Why an answer was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseBodyError {
    /// The object's bytes could not be read to the end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The object ended before its length.
    #[error("object ended {0} bytes early")]
    Short(u64),
    /// The compressor gave up.
    #[error("answer not compressed")]
    Compress(#[source] std::io::Error),
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let this = &mut *self;
        if let Some(pacer) = &mut this.pacer {
            ready!(pacer.poll_turn(cx));
        }
        if this.rest.is_empty() {
            match ready!(this.payload.poll_piece(cx)) {
                Some(Ok(piece)) => this.rest = piece,
                Some(Err(error)) => {
                    this.completion.cut(&error);
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            }
        }
        let piece = match &mut this.pacer {
            None => std::mem::take(&mut this.rest),
            Some(pacer) => {
                let step = this.rest.len().min(pacer.step_bytes());
                pacer.moved(step);
                this.rest.split_to(step)
            }
        };
        this.completion.sent(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.payload.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        let left = self
            .payload
            .length()
            .map(|length| length + self.rest.len() as u64);
        left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
