//! Connections to the other nodes: one per node and lane, made when used, made anew when lost.
//!
//! It must not know what is sent over them. A connection asks the address book and resolves the
//! name every time it is made, and takes the newest certificates; so whoever keeps a channel for
//! long follows a node that moved.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::{Runtime, within};
use granary_types::NodeId;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::failure::has_shown_certificate;
use crate::pki::Fingerprint;
use crate::trust::{client_pinned_to, server_name};
use crate::wire::{Expecting, Wire, connect};
use crate::{AddressBook, Peer, Security, TrustError};

/// Longest time for a connection to be there: name, TCP and TLS.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of one stream, and of one connection, that may be under way unread.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Longest frame of HTTP/2 that is asked for. A frame costs its sender a small record of TLS and its
/// reader a turn of the connection, so one of 16 KiB, the protocol's own, is expensive for chunks.
/// Small messages do not wait behind it: they have their own lanes.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// The name that stands for any node; it is not looked at.
const ANY_NODE: &str = "any.granary";

/// What a connection is for. Lanes never share one, so that small and urgent messages never wait
/// behind bulk data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, hand-overs.
    Control,
    /// Log entries.
    Log,
    /// Snapshots.
    Snapshot,
    /// Requests to the metadata service, and what else is small.
    Meta,
    /// Chunks.
    Bulk,
}

impl Lane {
    /// Where a node is for this lane. One that was removed is asked about consensus only, where it is:
    /// a shard of which it is a member still may have no majority without it.
    fn address(self, book: &AddressBook, node: NodeId) -> Option<String> {
        match self {
            Self::Control | Self::Log | Self::Snapshot => {
                let removed = || book.node(node).map(|known| known.address);
                book.address(node).or_else(removed)
            }
            Self::Meta | Self::Bulk => book.address(node),
        }
    }

    /// After how much silence the other side is asked, and how long its answer may take.
    fn keep_alive(self) -> (Duration, Duration) {
        let (silence_ms, answer_ms) = match self {
            Self::Control | Self::Meta => (1000, 2000),
            Self::Log => (2000, 4000),
            // A busy connection answers late: the question waits behind data.
            Self::Snapshot | Self::Bulk => (4000, 6000),
        };
        (
            Duration::from_millis(silence_ms),
            Duration::from_millis(answer_ms),
        )
    }
}

/// Connections to the other nodes.
pub struct Links {
    dialer: Arc<Dialer>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Of the book by which the channels were last looked through.
    epoch: u64,
    /// Who had signed what the channels show: peers cut those of an authority that is trusted no more.
    issuer: Option<Fingerprint>,
    /// Bounded by the nodes of the book.
    channels: BTreeMap<(NodeId, Lane), (String, Channel)>,
}

struct Dialer {
    security: Security,
    book: Arc<AddressBook>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    /// Connections to the nodes of `book`.
    pub fn new(security: Security, book: Arc<AddressBook>) -> Self {
        Self {
            dialer: Arc::new(Dialer { security, book }),
            open: Mutex::default(),
        }
    }

    /// The address book.
    pub fn book(&self) -> &Arc<AddressBook> {
        &self.dialer.book
    }

    /// How connections are secured.
    pub fn security(&self) -> &Security {
        &self.dialer.security
    }

    /// A channel to a node that connects when it is used; `None` when the book does not know the
    /// node or says it was removed (but for the lanes of consensus: whoever asks for those knows
    /// whether the node is a member). It stays usable when the connection is lost or the node moves.
    pub fn channel(&self, node: NodeId, lane: Lane) -> Option<Channel> {
        let book = &self.dialer.book;
        let address = lane.address(book, node)?;
        let mut open = self.open.lock();
        let epoch = book.epoch();
        if open.epoch != epoch {
            open.epoch = epoch;
            open.channels
                .retain(|(node, lane), (at, _)| lane.address(book, *node).as_ref() == Some(at));
        }
        let issuer = match &self.dialer.security {
            Security::Tls(trust) => Some(trust.issuer()),
            Security::Plain { .. } => None,
        };
        if open.issuer != issuer {
            // What is under way on them ends as it would have.
            open.issuer = issuer;
            open.channels.clear();
        }
        if let Some((at, channel)) = open.channels.get(&(node, lane))
            && *at == address
        {
            return Some(channel.clone());
        }
        let channel = self.dialer.lazy_channel(node, lane)?;
        let entry = (address, channel.clone());
        open.channels.insert((node, lane), entry);
        Some(channel)
    }
}

impl Dialer {
    fn lazy_channel(self: &Arc<Self>, node: NodeId, lane: Lane) -> Option<Channel> {
        let name = Peer::Node(node).name(&self.security.cluster_id())?;
        let endpoint = endpoint(&name, self.security.local(), &self.security, lane).ok()?;
        let dialer = Arc::clone(self);
        Some(channel(endpoint, move || {
            let dialer = Arc::clone(&dialer);
            async move { dialer.connect(node, lane).await }
        }))
    }

    async fn connect(&self, node: NodeId, lane: Lane) -> io::Result<Wire> {
        let address = lane.address(&self.book, node);
        let address = address.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the node's address is unknown")
        })?;
        let tls = match &self.security {
            Security::Plain { .. } => None,
            Security::Tls(trust) => {
                let name = Peer::Node(node).name(&trust.cluster_id());
                let name = server_name(&name.unwrap_or_default()).map_err(io::Error::other)?;
                Some((trust.client_config(), name))
            }
        };
        connect(&address, tls).await
    }
}

/// A channel to whichever node of the cluster answers at host:port: for operators, who know an
/// address only.
///
/// # Errors
/// The address cannot stand in a request.
pub fn connect_to_address(security: &Security, address: &str) -> Result<Channel, TrustError> {
    let tls = match security {
        Security::Plain { .. } => None,
        Security::Tls(trust) => Some((trust.any_node_client_config(), server_name(ANY_NODE)?)),
    };
    let endpoint = endpoint(address, security.local(), security, Lane::Meta)?;
    Ok(to_address(endpoint, address, tls))
}

/// A channel to whichever node answers at host:port under the CA with a fingerprint (`None`: no
/// TLS), as somebody who is no node yet.
pub(crate) fn connect_as_stranger(
    runtime: &Runtime,
    address: &str,
    fingerprint: Option<Fingerprint>,
) -> Result<Channel, TrustError> {
    let tls = match fingerprint {
        None => None,
        Some(pinned) => Some((client_pinned_to(runtime, pinned)?, server_name(ANY_NODE)?)),
    };
    let nobody = Security::Plain {
        cluster_id: String::new(),
        local: Peer::Anonymous,
    };
    let endpoint = endpoint(address, Peer::Anonymous, &nobody, Lane::Meta)?;
    Ok(to_address(endpoint, address, tls))
}

/// Whether whoever is at host:port answers as a server of TLS, trusted or not.
pub(crate) async fn is_tls_spoken_at(
    runtime: &Runtime,
    address: &str,
    fingerprint: Fingerprint,
) -> bool {
    let (Ok(config), Ok(name)) = (
        client_pinned_to(runtime, fingerprint),
        server_name(ANY_NODE),
    ) else {
        return false;
    };
    match within(CONNECT_LIMIT, connect(address, Some((config, name)))).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => has_shown_certificate(&error),
        Err(_) => false,
    }
}

fn to_address(endpoint: Endpoint, address: &str, tls: Expecting) -> Channel {
    let address = address.to_owned();
    channel(endpoint, move || {
        let (address, tls) = (address.clone(), tls.clone());
        async move { connect(&address, tls).await }
    })
}

/// What requests say of whom they mean (`authority`) and whom they are from (the user agent).
fn endpoint(
    authority: &str,
    from: Peer,
    security: &Security,
    lane: Lane,
) -> Result<Endpoint, TrustError> {
    let bad = |error: tonic::transport::Error| TrustError::Tls(error.to_string());
    let agent = match from.name(&security.cluster_id()) {
        Some(name) => format!("{AGENT}/{name}"),
        None => AGENT.to_owned(),
    };
    let (silence, answer) = lane.keep_alive();
    Ok(Endpoint::from_shared(format!("http://{authority}"))
        .map_err(bad)?
        .user_agent(agent)
        .map_err(bad)?
        .http2_keep_alive_interval(silence)
        .keep_alive_timeout(answer)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX))
}

/// The first word of the user agent of every request between nodes.
pub(crate) const AGENT: &str = "granary";

fn channel<C, F>(endpoint: Endpoint, connector: C) -> Channel
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = io::Result<Wire>> + Send + 'static,
{
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let connecting = connector();
        async move {
            match within(CONNECT_LIMIT, connecting).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
            }
        }
    }))
}

#[cfg(test)]
mod tests;
