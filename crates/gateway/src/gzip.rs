//! Answers compressed on their way: which objects, and the stream that does it.
//!
//! GetObject compresses text for a client that says `Accept-Encoding: gzip` (API reference,
//! GetObject). An answer that cannot be compressed now is sent as it is, which is always allowed.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;
use granary_datapath::ReadStream;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::ResponseBodyError;

/// Smallest object that is compressed, in bytes.
const SIZE_MIN: u64 = 1024;
/// Types that are compressed.
const TYPES: [&str; 13] = [
    "application/javascript",
    "application/json",
    "application/rss+xml",
    "application/x-javascript",
    "application/xml",
    "text/cache-manifest",
    "text/css",
    "text/html",
    "text/javascript",
    "text/json",
    "text/plain",
    "text/rss",
    "text/xml",
];
/// Answers compressed at once: each holds about a quarter of a mebibyte.
const STREAMS_MAX: usize = 128;
/// Bytes compressed before other tasks get their turn.
const STEP_BYTES: usize = 64 * 1024;

/// Hands out the places for compressed answers.
pub(crate) struct Gzip {
    places: Arc<Semaphore>,
}

impl Gzip {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// The stream compressed, if client and object agree to it and there is a place; sets the
    /// headers that say so.
    ///
    /// # Errors
    /// The stream as it was.
    pub(crate) fn compress(
        &self,
        request: &HeaderMap,
        answer: &mut HeaderMap,
        stream: Box<ReadStream>,
        length: u64,
    ) -> Result<Box<GzipStream>, Box<ReadStream>> {
        if length < SIZE_MIN || !is_accepted(request) || !is_compressible(answer) {
            return Err(stream);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(stream);
        };
        // The ETag, the digest and the length are those of other bytes.
        answer.remove(header::ETAG);
        answer.remove("content-md5");
        answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        Ok(Box::new(GzipStream {
            stream,
            rest: length,
            pending: Bytes::new(),
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
            _place: place,
        }))
    }
}

/// The bytes of an object, compressed as they come.
pub(crate) struct GzipStream {
    stream: Box<ReadStream>,
    /// Bytes of the object still to come.
    rest: u64,
    pending: Bytes,
    /// Gone when the end was sent.
    encoder: Option<GzEncoder<Vec<u8>>>,
    _place: OwnedSemaphorePermit,
}

impl GzipStream {
    /// The next compressed bytes.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ResponseBodyError>>> {
        let Some(encoder) = &mut self.encoder else {
            return Poll::Ready(None);
        };
        if self.pending.is_empty() {
            match ready!(self.stream.poll_next_unpin(cx)) {
                Some(Ok(piece)) => {
                    self.rest = self.rest.saturating_sub(piece.len() as u64);
                    self.pending = piece;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if self.rest > 0 => {
                    return Poll::Ready(Some(Err(ResponseBodyError::Short(self.rest))));
                }
                None => return Poll::Ready(self.finish().transpose()),
            }
        }
        let step = self.pending.split_to(self.pending.len().min(STEP_BYTES));
        if let Err(error) = encoder.write_all(&step) {
            return Poll::Ready(Some(Err(error.into())));
        }
        let compressed = std::mem::take(encoder.get_mut());
        if compressed.is_empty() {
            // Nothing to send yet: others first, then on with the next step.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(compressed.into())))
    }

    fn finish(&mut self) -> Result<Option<Bytes>, ResponseBodyError> {
        let last = self.encoder.take().map(GzEncoder::finish).transpose()?;
        Ok(last.map(Bytes::from))
    }
}

impl From<io::Error> for ResponseBodyError {
    fn from(error: io::Error) -> Self {
        Self::Compress(error)
    }
}

/// True when the client names gzip and does not refuse it (RFC 9110, section 12.5.3). A wildcard
/// is not enough: the API asks for an explicit name.
fn is_accepted(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING);
    let codings = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.into_iter().any(|coding| {
        let mut words = coding.split(';').map(str::trim);
        let named = words
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = words.any(|word| {
            let weight = word.strip_prefix("q=").or_else(|| word.strip_prefix("Q="));
            weight.is_some_and(|text| text.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0))
        });
        named && !refused
    })
}

fn is_compressible(answer: &HeaderMap) -> bool {
    let kind = answer
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind))
        && !answer.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_must_be_named() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*", false),
            ("identity", false),
            ("gzipped", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(is_accepted(&headers), accepted, "{value}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[test]
    fn text_is_compressed_once() {
        for (kind, encoding, compressible) in [
            ("text/plain", None, true),
            ("Text/HTML; charset=utf-8", None, true),
            ("text/plain", Some("gzip"), false),
            ("image/png", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some(encoding) = encoding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            assert_eq!(
                is_compressible(&headers),
                compressible,
                "{kind} {encoding:?}"
            );
        }
    }
}
