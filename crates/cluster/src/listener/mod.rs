//! The node's listener for the other nodes: accepts, shakes hands, knows who is there, lets each
//! use what it may, and stops in bounded time.
//!
//! It must not know what the services do. Invariants: handshakes under way, connections, and
//! connections of strangers are each bounded in number; a handshake ends by its deadline, or when too
//! many newer ones have begun, a stranger's connection after its life, and any other when whoever
//! signed its certificate is trusted no more; nobody waits for a stranger who does not go on.

mod connection;
mod guard;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::{CancellationToken, Runtime, Task, within};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use self::connection::Accepted;
pub(crate) use self::connection::Caller;
pub use self::guard::{Access, AccessTable};
use self::guard::{Guard, GuardLayer};
use crate::links::{CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::wire::{Wire, below_tls};
use crate::{AddressBook, Peer, Security};

/// Connections that have shaken hands and wait to be served.
const QUEUE: usize = 64;
/// A connection is made anew after this time, so that certificates are looked at again.
const CONNECTION_AGE: Duration = Duration::from_secs(12 * 60 * 60);
/// What nodes may have under way.
const KNOWN: Flow = Flow {
    stream_bytes: STREAM_WINDOW_BYTES,
    connection_bytes: CONNECTION_WINDOW_BYTES,
    frame_bytes: FRAME_BYTES_MAX,
};
/// What a stranger may: it has one small request.
const STRANGE: Flow = Flow {
    stream_bytes: 64 * 1024,
    connection_bytes: 64 * 1024,
    frame_bytes: 16 * 1024,
};
/// Silence after which a peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// Requests of one connection at once.
const STREAMS_MAX: u32 = 4096;
/// Bytes of the headers of a request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Pause after the system refused to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest life of a connection of a node that was removed and that nothing needs: long enough to hear
/// that it was.
const REMOVED_LIFE: Duration = Duration::from_secs(5);
/// Connections of such nodes at once: they come again and again, and must take no place from others.
const REMOVED_MAX: usize = 8;

/// Limits of the listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Longest time for a handshake.
    pub handshake: Duration,
    /// Handshakes under way at once: then the oldest gives way.
    pub handshakes_max: usize,
    /// Connections at once, those still shaking hands among them.
    pub connections_max: usize,
    /// Connections at once of clients without a certificate.
    pub strangers_max: usize,
    /// Longest time a client without a certificate stays connected.
    pub stranger_life: Duration,
    /// Longest time for requests under way to end when the listener stops.
    pub drain: Duration,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(3),
            handshakes_max: 256,
            connections_max: 4096,
            strangers_max: 64,
            stranger_life: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

/// A listener at work.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stopping: CancellationToken,
    serving: Task<()>,
}

impl Listener {
    /// Serves `services` on a bound socket until it is stopped or the runtime stops.
    ///
    /// # Errors
    /// The socket has no address, or the credentials are an operator's.
    pub fn start(
        runtime: &Runtime,
        socket: TcpListener,
        security: Security,
        book: Arc<AddressBook>,
        services: Vec<Routes>,
        access: AccessTable,
        config: ListenerConfig,
    ) -> io::Result<Self> {
        if security.local_node().is_none() {
            return Err(io::Error::other("only a node can be connected to"));
        }
        let address = socket.local_addr()?;
        let stopping = runtime.shutdown().child_token();
        let cut = CancellationToken::new();
        let guard = Arc::new(Guard::new(security.clone(), book, access));
        let (accepted, queue) = mpsc::channel(QUEUE);
        let (strange, strangers) = mpsc::channel(QUEUE);
        let front = Arc::new(Front {
            runtime: runtime.clone(),
            security,
            guard: Arc::clone(&guard),
            strangers: Arc::new(Semaphore::new(config.strangers_max)),
            given_up: Arc::new(Semaphore::new(REMOVED_MAX)),
            handshakes: Arc::new(Handshakes::new(config.handshakes_max)),
            config: config.clone(),
            cut: cut.clone(),
            accepted,
            strange,
        });
        runtime.spawn(front.accept_all(socket, stopping.clone()));
        let routes = merged(services);
        let known = serve(
            queue,
            KNOWN,
            Arc::clone(&guard),
            routes.clone(),
            stopping.clone(),
        );
        let unknown = serve(strangers, STRANGE, guard, routes, stopping.clone());
        let serving = async {
            tokio::join!(known, unknown);
        };
        let serving = runtime.spawn(until_drained(
            runtime.clone(),
            Box::pin(serving),
            stopping.clone(),
            cut,
            config.drain,
        ));
        Ok(Self {
            address,
            stopping,
            serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests under way end, for as long as the limits say, then
    /// cuts what is left.
    pub async fn stop(self) {
        self.stopping.cancel();
        if self.serving.await.is_err() {
            tracing::error!("the listener between nodes did not stop in an orderly way");
        }
    }
}

/// One set of routes out of several.
fn merged(services: Vec<Routes>) -> Routes {
    let mut all = Routes::default();
    for routes in services {
        let router = std::mem::take(all.axum_router_mut());
        // Two answers to "no such service" cannot be merged.
        *all.axum_router_mut() = router.merge(routes.into_axum_router().reset_fallback());
    }
    all
}

/// What a connection lets its other end send before it was read, in bytes.
#[derive(Clone, Copy)]
struct Flow {
    stream_bytes: u32,
    connection_bytes: u32,
    /// Longest frame.
    frame_bytes: u32,
}

async fn serve(
    queue: mpsc::Receiver<io::Result<Accepted>>,
    flow: Flow,
    guard: Arc<Guard>,
    routes: Routes,
    stopping: CancellationToken,
) {
    let served = Server::builder()
        .layer(GuardLayer(guard))
        .initial_stream_window_size(flow.stream_bytes)
        .initial_connection_window_size(flow.connection_bytes)
        .max_frame_size(flow.frame_bytes)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .max_connection_age(CONNECTION_AGE)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(queue), stopping.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the listener between nodes failed");
    }
}

async fn until_drained(
    runtime: Runtime,
    mut serving: std::pin::Pin<Box<impl Future<Output = ()>>>,
    stopping: CancellationToken,
    cut: CancellationToken,
    drain: Duration,
) {
    let too_long = async {
        stopping.cancelled().await;
        runtime.sleep(drain).await;
    };
    tokio::select! {
        () = &mut serving => {}
        () = too_long => {
            cut.cancel();
            serving.await;
        }
    }
}

/// Takes connections until they are known.
struct Front {
    runtime: Runtime,
    security: Security,
    guard: Arc<Guard>,
    strangers: Arc<Semaphore>,
    given_up: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    config: ListenerConfig,
    cut: CancellationToken,
    accepted: mpsc::Sender<io::Result<Accepted>>,
    /// The same for clients without a certificate.
    strange: mpsc::Sender<io::Result<Accepted>>,
}

/// Handshakes under way. Whoever is silent, or slow, gives way to those that come later: so a node
/// gets in however many strangers hold on.
struct Handshakes {
    max: usize,
    under_way: Mutex<(u64, VecDeque<(u64, CancellationToken)>)>,
}

/// One of them; gone when it is dropped.
struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    gives_way: CancellationToken,
}

impl Handshakes {
    fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            under_way: Mutex::default(),
        }
    }

    /// One more; the oldest gives way when there are too many.
    fn begin(self: &Arc<Self>) -> Handshake {
        let mut under_way = self.under_way.lock();
        let (last, queue) = &mut *under_way;
        while queue.len() >= self.max {
            if let Some((_, oldest)) = queue.pop_front() {
                oldest.cancel();
            }
        }
        *last += 1;
        let (number, gives_way) = (*last, CancellationToken::new());
        queue.push_back((number, gives_way.clone()));
        let all = Arc::clone(self);
        Handshake {
            all,
            number,
            gives_way,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = self.all.under_way.lock();
        under_way.1.retain(|(number, _)| *number != self.number);
    }
}

/// A connection that has shaken hands.
struct Greeted {
    wire: Wire,
    /// `None` without TLS, where every request says so.
    peer: Option<Peer>,
    /// Who signed the certificate that was shown.
    issuer: Option<Vec<u8>>,
}

impl Front {
    async fn accept_all(self: Arc<Self>, socket: TcpListener, stopping: CancellationToken) {
        let connections = Arc::new(Semaphore::new(self.config.connections_max));
        loop {
            let next = async {
                let place = Arc::clone(&connections).acquire_owned().await;
                let place = place.map_err(|_| io::Error::other("the listener has ended"))?;
                Ok::<_, io::Error>((socket.accept().await?, place))
            };
            let next = tokio::select! {
                next = next => next,
                () = stopping.cancelled() => return,
            };
            match next {
                Ok(((tcp, remote), place)) => {
                    let front = Arc::clone(&self);
                    self.runtime.spawn(front.welcome(tcp, remote, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections of other nodes");
                    self.runtime.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(
        self: Arc<Self>,
        tcp: TcpStream,
        remote: SocketAddr,
        place: OwnedSemaphorePermit,
    ) {
        let handshake = self.handshakes.begin();
        let greeting = async {
            let greeted = self.shake_hands(tcp).await?;
            let (stranger, life) = self.place_of_stranger(&greeted)?.unzip();
            let queue = match &stranger {
                Some(_) => &self.strange,
                None => &self.accepted,
            };
            let ends = self.end_of(&greeted, life);
            let caller = Caller { peer: greeted.peer };
            let accepted = Accepted::new(greeted.wire, caller, (place, stranger), ends);
            let sent = queue.send(Ok(accepted)).await;
            sent.map_err(|_| io::Error::other("the listener has stopped"))
        };
        let outcome = tokio::select! {
            outcome = within(self.config.handshake, greeting) => outcome,
            () = handshake.gives_way.cancelled() => {
                Ok(Err(io::Error::other("too many newer connections")))
            }
            () = self.runtime.shutdown().cancelled() => return,
        };
        drop(handshake);
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(elapsed) => io::Error::new(io::ErrorKind::TimedOut, elapsed),
        };
        // Anybody can cause this line; a port scanner must not fill the log.
        tracing::debug!(%remote, %error, "refused a connection");
    }

    /// When a connection is cut: after its `life`, at the latest when the listener stops.
    fn end_of(
        &self,
        greeted: &Greeted,
        life: Option<Duration>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let cut = self.cut.clone();
        let (mortal, life) = (life.is_some(), life.unwrap_or_default());
        let signed = match &self.security {
            Security::Tls(trust) => greeted.issuer.clone().map(|by| (Arc::clone(trust), by)),
            Security::Plain { .. } => None,
        };
        async move {
            let over = async {
                match signed {
                    Some((trust, issuer)) => trust.until_distrusted(issuer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cut.cancelled() => {}
                () = over => {}
                _ = within(life, std::future::pending::<()>()), if mortal => {}
            }
        }
    }

    /// Who is there.
    async fn shake_hands(&self, tcp: TcpStream) -> io::Result<Greeted> {
        tcp.set_nodelay(true)?;
        let Security::Tls(trust) = &self.security else {
            // A client speaks first: one that doesn't is not let in.
            if tcp.peek(&mut [0]).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(Greeted {
                wire: Wire::Plain(tcp),
                peer: None,
                issuer: None,
            });
        };
        let config = trust.server_config();
        let config = config.ok_or_else(|| io::Error::other("only a node can be connected to"))?;
        let stream = TlsAcceptor::from(config).accept(below_tls(tcp)).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let (peer, issuer) = trust.peer_and_issuer(shown).map_err(io::Error::other)?;
        Ok(Greeted {
            wire: Wire::Tls(Box::new(TlsStream::Server(stream))),
            peer: Some(peer),
            issuer,
        })
    }

    /// The place of a client that is no member of the cluster, and how long it may stay; `None` for
    /// one that is. A node that was removed and that nothing needs any more is refused every call: it
    /// is let in to hear why.
    fn place_of_stranger(
        &self,
        greeted: &Greeted,
    ) -> io::Result<Option<(OwnedSemaphorePermit, Duration)>> {
        let life = self.config.stranger_life;
        let (places, life) = match greeted.peer {
            Some(Peer::Anonymous) => (&self.strangers, life),
            Some(Peer::Node(node)) if self.guard.is_given_up(node) => {
                (&self.given_up, life.min(REMOVED_LIFE))
            }
            Some(Peer::Node(_) | Peer::Admin) | None => return Ok(None),
        };
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => Ok(Some((place, life))),
            Err(_) => Err(io::Error::other("too many clients that are no members")),
        }
    }
}

#[cfg(test)]
mod tests;
