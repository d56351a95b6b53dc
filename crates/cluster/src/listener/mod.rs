//! The node's listener for the other nodes: accepts, shakes hands, knows who is there, lets each
//! use what it may, and stops in bounded time.
//!
//! It must not know what the services do. Invariants: handshakes under way, connections, and
//! connections of strangers are each bounded in number; a handshake ends by its deadline, a
//! stranger's connection after its life; nobody waits for a stranger who does not go on.

mod connection;
mod guard;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::{CancellationToken, Runtime, Task, within};
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
use crate::links::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use crate::wire::Wire;
use crate::{AddressBook, Peer, Security};

/// Connections that have shaken hands and wait to be served.
const QUEUE: usize = 64;
/// A connection is made anew after this time, so that certificates are looked at again.
const CONNECTION_AGE: Duration = Duration::from_secs(12 * 60 * 60);
/// Silence after which a peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// Requests of one connection at once.
const STREAMS_MAX: u32 = 4096;
/// Bytes of the headers of a request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Pause after the system refused to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Longest time for a handshake.
    pub handshake: Duration,
    /// Handshakes under way at once.
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
        let guard = Arc::new(Guard::new(security.clone(), Arc::clone(&book), access));
        let (accepted, queue) = mpsc::channel(QUEUE);
        let front = Arc::new(Front {
            runtime: runtime.clone(),
            security,
            book,
            strangers: Arc::new(Semaphore::new(config.strangers_max)),
            config: config.clone(),
            cut: cut.clone(),
            accepted,
        });
        runtime.spawn(front.accept_all(socket, stopping.clone()));
        let serving = serve(queue, guard, merged(services), stopping.clone());
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

async fn serve(
    queue: mpsc::Receiver<io::Result<Accepted>>,
    guard: Arc<Guard>,
    routes: Routes,
    stopping: CancellationToken,
) {
    let served = Server::builder()
        .layer(GuardLayer(guard))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
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
    book: Arc<AddressBook>,
    strangers: Arc<Semaphore>,
    config: ListenerConfig,
    cut: CancellationToken,
    accepted: mpsc::Sender<io::Result<Accepted>>,
}

/// What a connection holds while it is there.
struct Places {
    connection: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl Front {
    async fn accept_all(self: Arc<Self>, socket: TcpListener, stopping: CancellationToken) {
        let connections = Arc::new(Semaphore::new(self.config.connections_max));
        let handshakes = Arc::new(Semaphore::new(self.config.handshakes_max));
        loop {
            let next = async {
                let connection = Arc::clone(&connections).acquire_owned().await;
                let handshake = Arc::clone(&handshakes).acquire_owned().await;
                let (Ok(connection), Ok(handshake)) = (connection, handshake) else {
                    return Err(io::Error::other("the listener has ended"));
                };
                let places = Places {
                    connection,
                    handshake,
                };
                Ok((socket.accept().await?, places))
            };
            let next = tokio::select! {
                next = next => next,
                () = stopping.cancelled() => return,
            };
            match next {
                Ok(((tcp, remote), places)) => {
                    let front = Arc::clone(&self);
                    self.runtime.spawn(front.welcome(tcp, remote, places));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections of other nodes");
                    self.runtime.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(self: Arc<Self>, tcp: TcpStream, remote: SocketAddr, places: Places) {
        let greeting = async {
            let (wire, peer) = self.shake_hands(tcp).await?;
            let stranger = self.place_of_stranger(peer)?;
            let caller = Caller { peer };
            let life = stranger.is_some().then_some(self.config.stranger_life);
            let held = (places.connection, stranger);
            let accepted = Accepted::new(wire, caller, held, self.cut.clone(), life);
            let sent = self.accepted.send(Ok(accepted)).await;
            sent.map_err(|_| io::Error::other("the listener has stopped"))
        };
        let outcome = tokio::select! {
            outcome = within(self.config.handshake, greeting) => outcome,
            () = self.runtime.shutdown().cancelled() => return,
        };
        drop(places.handshake);
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(elapsed) => io::Error::new(io::ErrorKind::TimedOut, elapsed),
        };
        // Anybody can cause this line; a port scanner must not fill the log.
        tracing::debug!(%remote, %error, "refused a connection");
    }

    /// Who is there; `None` without TLS, where every request says so.
    async fn shake_hands(&self, tcp: TcpStream) -> io::Result<(Wire, Option<Peer>)> {
        tcp.set_nodelay(true)?;
        let Security::Tls(trust) = &self.security else {
            // A client speaks first: one that doesn't is not let in.
            if tcp.peek(&mut [0]).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok((Wire::Plain(tcp), None));
        };
        let config = trust.server_config();
        let config = config.ok_or_else(|| io::Error::other("only a node can be connected to"))?;
        let stream = TlsAcceptor::from(config).accept(tcp).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let peer = trust.peer(shown).map_err(io::Error::other)?;
        if let Peer::Node(node) = peer
            && self.book.is_removed(node)
        {
            return Err(io::Error::other(format!("node {node} was removed")));
        }
        Ok((Wire::Tls(Box::new(TlsStream::Server(stream))), Some(peer)))
    }

    fn place_of_stranger(&self, peer: Option<Peer>) -> io::Result<Option<OwnedSemaphorePermit>> {
        if peer != Some(Peer::Anonymous) {
            return Ok(None);
        }
        match Arc::clone(&self.strangers).try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) => Err(io::Error::other("too many clients without a certificate")),
        }
    }
}

#[cfg(test)]
mod tests;
