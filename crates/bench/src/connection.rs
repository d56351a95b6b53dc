//! One connection of a client: signs a request, sends it, gives its answer; dials again when it has to.
//!
//! Must not know which answers are good. One request at a time, nothing is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_oss::query::Query;
use granary_oss::sign::client::Request as Unsigned;
use granary_runtime::{CancellationToken, Runtime, Task};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::content::ObjectBody;
use crate::endpoint::{Dialler, Endpoint};
use crate::failure::{Failure, TOO_LONG};
use crate::pulse::Pulse;
use crate::signing::Signer;

/// What a connection reads ahead.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a listing: a page of a thousand keys has a few hundred KiB.
pub(crate) const LISTING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of every other answer that is read whole, as those to a PUT and refusals are.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const US: HeaderValue =
    HeaderValue::from_static(concat!("granary-bench/", env!("CARGO_PKG_VERSION")));

/// The store, as clients know it.
pub(crate) struct Store {
    pub(crate) endpoint: Endpoint,
    pub(crate) dialler: Dialler,
    pub(crate) signer: Signer,
    /// How long a request may stand still.
    pub(crate) timeout: Duration,
    pub(crate) runtime: Runtime,
    /// The answer to a PUT has named a version, which would outlast the object.
    pub(crate) names_versions: AtomicBool,
    /// What ends then; nothing when objects are kept anyway.
    pub(crate) without_versions: Option<CancellationToken>,
}

/// A request, before it is signed.
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// The key, or nothing for the bucket.
    pub(crate) key: Option<String>,
    pub(crate) query: Query,
    pub(crate) body: ObjectBody,
}

impl Ask {
    /// A request without query and body.
    pub(crate) fn new(method: Method, key: Option<String>) -> Self {
        Self {
            method,
            key,
            query: Query::default(),
            body: ObjectBody::empty(),
        }
    }
}

impl Store {
    fn signed(&self, ask: Ask) -> Request<ObjectBody> {
        let key = ask.key.as_deref();
        let mut unsigned = Unsigned::new(ask.method, Some(&self.endpoint.bucket), key);
        unsigned.query = ask.query;
        if !ask.body.is_end_stream() {
            unsigned.headers.insert(CONTENT_TYPE, OCTETS);
        }
        let path = self.endpoint.path(key);
        let (host, now) = (&self.endpoint.host, self.runtime.now());
        self.signer.sign(&mut unsigned, host, &path, now);
        let target = match unsigned.query.is_empty() {
            true => path,
            false => format!("{path}?{}", unsigned.query.to_raw()),
        };
        let mut request = Request::new(ask.body);
        *request.method_mut() = unsigned.method;
        *request.uri_mut() = target.parse().expect("it is percent-encoded");
        *request.headers_mut() = unsigned.headers;
        let host = HeaderValue::try_from(host).expect("it was part of a URL");
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, US);
        request
    }

    /// The answer to a PUT names a version.
    pub(crate) fn note_version(&self) {
        self.names_versions.store(true, Ordering::Relaxed);
        if let Some(run) = &self.without_versions {
            run.cancel();
        }
    }
}

/// A connection, or where one will be.
pub(crate) struct Connection {
    store: Arc<Store>,
    pulse: Arc<Pulse>,
    open: Option<Open>,
}

/// What is open: closed at once when it is dropped, whatever is under way.
struct Open {
    sender: SendRequest<ObjectBody>,
    driver: Task<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The beginning of an answer. What follows has to be read, or the connection closed.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// When the request was sent.
    pub(crate) sent_at: Duration,
    /// When the beginning was there.
    pub(crate) head_at: Duration,
    body: Incoming,
    pulse: Arc<Pulse>,
}

impl Answer {
    /// The next bytes.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Failure::broken(&error))?;
            self.pulse.beat();
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All bytes, as text.
    ///
    /// # Errors
    /// The connection broke, or there are more than `bytes_max`.
    pub(crate) async fn document(&mut self, bytes_max: usize) -> Result<String, Failure> {
        let mut document = Vec::new();
        while let Some(bytes) = self.next().await? {
            if document.len() + bytes.len() > bytes_max {
                let message = format!("it has more than {bytes_max} bytes");
                return Err(Failure::wrong(self.status, TOO_LONG, message));
            }
            document.extend_from_slice(&bytes);
        }
        let text = String::from_utf8(document);
        Ok(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

impl Connection {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let pulse = Arc::new(Pulse::new(store.runtime.clone()));
        Self {
            store,
            pulse,
            open: None,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Beats while something moves over it.
    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Dials unless there is a connection.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub(crate) async fn dial(&mut self) -> Result<(), Failure> {
        if let Some(open) = &mut self.open
            && open.sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.open = None;
        let dialled = self.store.dialler.dial().await;
        let stream = dialled.map_err(|error| Failure::unreachable(&error))?;
        let handshake = http1::Builder::new()
            .max_buf_size(READ_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, driver) = handshake.map_err(|error| Failure::unreachable(&error))?;
        // Whoever waits for an answer is told what was wrong.
        let driver = self.store.runtime.spawn(async move {
            let _ = driver.await;
        });
        self.open = Some(Open { sender, driver });
        Ok(())
    }

    /// Closes it: an answer was not read to its end.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Sends a request and waits for the beginning of its answer.
    ///
    /// # Errors
    /// The store cannot be reached, or the connection broke.
    pub(crate) async fn send(&mut self, mut ask: Ask) -> Result<Answer, Failure> {
        ask.body.beats(self.pulse());
        let mut request = self.store.signed(ask);
        // A store may close a connection that waits. What never left is sent over the next one.
        for _ in 0..2 {
            self.dial().await?;
            let Some(open) = &mut self.open else {
                break;
            };
            self.pulse.beat();
            let sent_at = self.store.runtime.monotonic();
            match open.sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, sent_at)),
                Err(mut error) => {
                    self.open = None;
                    match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(Failure::broken(error.error())),
                    }
                }
            }
        }
        let closed = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Err(Failure::broken(&closed))
    }

    fn answer(&self, response: Response<Incoming>, sent_at: Duration) -> Answer {
        self.pulse.beat();
        let head_at = self.store.runtime.monotonic();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            sent_at,
            head_at,
            body,
            pulse: self.pulse(),
        }
    }
}
