//! One request to one application server: resolve, check, dial, send, read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use granary_datapath::{BufferBudget, Share};
use granary_oss::callback::CallbackUrl;
use granary_runtime::{Runtime, read_certificates, tls_client};
use granary_types::limits::CALLBACK_ANSWER_BYTES_MAX;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::TlsConnector;

use super::Failure;
use super::target::Allowed;
use crate::config::ConfigError;

/// Names that are looked up at once. A look-up cannot be cut short: what hangs holds its place.
const LOOKUPS_MAX: usize = 32;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 3;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all answers that are being read, or that clients have not read yet.
const ANSWERS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Speaks HTTP/1.1 to application servers.
pub(super) struct Client {
    runtime: Runtime,
    allowed: Allowed,
    lookups: Arc<Semaphore>,
    answers: BufferBudget,
    /// Certificates of the settings, which are believed besides the system's.
    own_roots: Vec<CertificateDer<'static>>,
    /// With and without the server's name in the clear; made when first needed.
    tls: OnceCell<[Arc<ClientConfig>; 2]>,
}

impl Client {
    /// Reads the certificates of `ca_file`, unless that is empty.
    ///
    /// # Errors
    /// A file that cannot be read or has none.
    pub(super) fn new(
        runtime: Runtime,
        allowed: Allowed,
        ca_file: &str,
    ) -> Result<Self, ConfigError> {
        let own_roots = match ca_file {
            "" => Vec::new(),
            file => read_certificates(file).map_err(|error| ConfigError {
                setting: "callback_ca_file",
                reason: format!("{file}: {error}"),
            })?,
        };
        Ok(Self {
            runtime,
            allowed,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            answers: BufferBudget::new(ANSWERS_BYTES_MAX),
            own_roots,
            tls: OnceCell::new(),
        })
    }

    /// Whether the URL names an address that may not be called. Names are judged once they are
    /// resolved.
    pub(super) fn refuses(&self, url: &CallbackUrl) -> bool {
        let address = url.host.parse::<IpAddr>();
        address.is_ok_and(|ip| {
            !self
                .allowed
                .allows(&url.host, SocketAddr::new(ip, url.port))
        })
    }

    /// Posts a body; the answer's body when it is good.
    pub(super) async fn post(
        &self,
        url: &CallbackUrl,
        sni: bool,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.target().parse().map_err(broken)?;
        *request.headers_mut() = headers;
        let tcp = self.connect(url).await?;
        if !url.tls {
            return self.exchange(tcp, request).await;
        }
        let name = ServerName::try_from(url.host.clone()).map_err(broken)?;
        let config = self.tls_config(sni).await?;
        let stream = TlsConnector::from(config).connect(name, tcp).await;
        self.exchange(stream.map_err(broken)?, request).await
    }

    /// A connection to the first address that may be called and takes it.
    async fn connect(&self, url: &CallbackUrl) -> Result<TcpStream, Failure> {
        let addresses = self.resolve(url).await?;
        let allowed = addresses
            .into_iter()
            .filter(|address| self.allowed.allows(&url.host, *address))
            .take(ADDRESSES_MAX);
        let mut failure = Failure::Forbidden;
        for address in allowed {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = broken(error),
            }
        }
        Err(failure)
    }

    async fn resolve(&self, url: &CallbackUrl) -> Result<Vec<SocketAddr>, Failure> {
        let (host, port) = (url.host.clone(), url.port);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let place = Arc::clone(&self.lookups).try_acquire_owned();
        let place = place.map_err(|_| Failure::Busy)?;
        let shutdown = self.runtime.shutdown().clone();
        let lookup = self.runtime.spawn(async move {
            let found = tokio::select! {
                found = lookup_host((host, port)) => found.map(Iterator::collect),
                () = shutdown.cancelled() => Err(std::io::ErrorKind::Interrupted.into()),
            };
            drop(place);
            found
        });
        lookup.await.map_err(broken)?.map_err(broken)
    }

    /// Sends the request and reads the answer; the connection is driven here and ends here.
    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Bytes, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(async {
            let response = sender.send_request(request).await.map_err(broken)?;
            if response.status() != StatusCode::OK {
                return Err(Failure::Status(response.status().as_u16()));
            }
            let body = read_answer(response.into_body(), &self.answers).await?;
            match serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
                Ok(_) => Ok(body),
                Err(_) => Err(Failure::NotJson),
            }
        });
        let mut is_open = true;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                // What came before the end is still to be read.
                _ = &mut connection, if is_open => is_open = false,
            }
        }
    }

    async fn tls_config(&self, sni: bool) -> Result<Arc<ClientConfig>, Failure> {
        let make = || async {
            let (own, runtime) = (self.own_roots.clone(), self.runtime.clone());
            let making = self.runtime.blocking(move || tls_client(&runtime, own));
            let with = making.await.map_err(broken)?.map_err(broken)?;
            let mut without = with.clone();
            without.enable_sni = false;
            Ok::<_, Failure>([Arc::new(with), Arc::new(without)])
        };
        let [with, without] = self.tls.get_or_try_init(make).await?;
        Ok(Arc::clone(if sni { with } else { without }))
    }
}

/// Reads an answer whole. Its memory is given back when the last reference to it goes.
async fn read_answer<B>(body: B, memory: &BufferBudget) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut body = std::pin::pin!(body);
    let mut held: Option<Share> = None;
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        let length = answer.len() + data.len();
        if length > CALLBACK_ANSWER_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        let have = held.as_ref().map_or(0, Share::bytes);
        if length > have {
            let more = memory.try_take(length - have).ok_or(Failure::Busy)?;
            match &mut held {
                Some(held) => held.merge(more),
                none => *none = Some(more),
            }
            let room = held.as_ref().map_or(length, Share::bytes);
            answer.reserve_exact(room - answer.len());
        }
        answer.extend_from_slice(&data);
    }
    let answer = Bytes::from(answer);
    Ok(match held {
        Some(mut held) => held.attach(answer),
        None => answer,
    })
}

/// No connection, or it broke.
pub(super) fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Unreachable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    const STEP: usize = 16 * 1024;

    /// An answer that comes in frames of so many bytes.
    fn answer(frames: &[usize]) -> impl Body<Data = Bytes, Error = std::io::Error> {
        let frames: Vec<_> = frames
            .iter()
            .map(|length| Ok(Frame::data(Bytes::from(vec![b' '; *length]))))
            .collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn answers_that_nobody_has_read_yet_leave_less_for_others() {
        let memory = BufferBudget::new(4 * STEP as u64);
        let unread = read_answer(answer(&[1, STEP, STEP]), &memory)
            .await
            .unwrap();
        assert_eq!(unread.len(), 2 * STEP + 1);
        assert_eq!(memory.used_bytes(), 3 * STEP as u64);
        let refused = read_answer(answer(&[STEP, 1]), &memory).await;
        assert!(matches!(refused, Err(Failure::Busy)));
        drop(unread);
        assert_eq!(memory.used_bytes(), 0);
        let whole = read_answer(answer(&[STEP, 1]), &memory).await.unwrap();
        assert_eq!(whole.len(), STEP + 1);
    }

    #[tokio::test]
    async fn small_frames_share_their_memory_and_no_answer_exceeds_the_limit() {
        let memory = BufferBudget::new(ANSWERS_BYTES_MAX);
        let small = read_answer(answer(&[1; 1000]), &memory).await.unwrap();
        assert_eq!((small.len(), memory.used_bytes()), (1000, STEP as u64));
        let exact = answer(&[CALLBACK_ANSWER_BYTES_MAX]);
        assert!(read_answer(exact, &memory).await.is_ok());
        let longer = answer(&[CALLBACK_ANSWER_BYTES_MAX, 1]);
        let refused = read_answer(longer, &memory).await;
        assert!(matches!(refused, Err(Failure::TooLong)));
    }
}
