//! Who may use which service. Looked at with every request, since a node may be removed while it
//! is connected.
//!
//! A node that was removed is heard no more, but where it is still needed: a shard of which it is a
//! member may have no majority without it, and could then not even let it go.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use granary_types::NodeId;
use http::{Extensions, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::Caller;
use crate::failure::removed_sentence;
use crate::links::AGENT;
use crate::{AddressBook, Peer, Security};

/// Who may use a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nodes of the cluster.
    Nodes,
    /// Nodes that have one of these roles, as far as is known here.
    NodesWith(&'static [&'static str]),
    /// Operators.
    Admin,
    /// Operators, and nodes.
    AdminOrNodes,
    /// Operators, and nodes that have one of these roles, as far as is known here.
    AdminOrNodesWith(&'static [&'static str]),
    /// Anybody; the service looks at the [`Peer`] in the request's extensions.
    Anybody,
}

/// Says whether a node that was removed is heard all the same, and may mark its request so that the
/// service knows.
type StillHeard = dyn Fn(NodeId, &mut Extensions) -> bool + Send + Sync;

/// Who may use which service, by its full name, or which method of one (`SERVICE/Method`), which wins.
/// What is not named is for nodes.
#[derive(Clone)]
pub struct AccessTable {
    rows: BTreeMap<&'static str, Access>,
    still_heard: BTreeMap<&'static str, Arc<StillHeard>>,
}

impl std::fmt::Debug for AccessTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccessTable").field(&self.rows).finish()
    }
}

impl Default for AccessTable {
    fn default() -> Self {
        let join = crate::pb::join_server::SERVICE_NAME;
        Self {
            rows: BTreeMap::from([(join, Access::Anybody)]),
            still_heard: BTreeMap::new(),
        }
    }
}

impl AccessTable {
    /// The table with one more row: a service or a method.
    #[must_use]
    pub fn with(mut self, service: &'static str, access: Access) -> Self {
        self.rows.insert(service, access);
        self
    }

    /// The table with a service that nodes may use which were removed, where `heard` says so.
    #[must_use]
    pub fn with_removed(mut self, service: &'static str, heard: Arc<StillHeard>) -> Self {
        self.still_heard.insert(service, heard);
        self
    }

    fn of(&self, path: &str) -> Access {
        let method = path.strip_prefix('/').unwrap_or_default();
        self.rows
            .get(method)
            .or_else(|| self.rows.get(service(path)))
            .copied()
            .unwrap_or(Access::Nodes)
    }

    /// Whether a node that was removed may still use anything.
    fn still_hears(&self, removed: NodeId) -> bool {
        let mut heard = self.still_heard.values();
        heard.any(|heard| heard(removed, &mut Extensions::new()))
    }

    /// Whether a node that was removed may use what the path names.
    fn hears<B>(&self, removed: NodeId, request: &mut Request<B>) -> bool {
        let heard = self.still_heard.get(service(request.uri().path()));
        heard.is_some_and(|heard| heard(removed, request.extensions_mut()))
    }
}

fn service(path: &str) -> &str {
    let method = path.strip_prefix('/').unwrap_or_default();
    method.split('/').next().unwrap_or_default()
}

pub(super) struct Guard {
    security: Security,
    book: Arc<AddressBook>,
    access: AccessTable,
}

impl Guard {
    pub(super) fn new(security: Security, book: Arc<AddressBook>, access: AccessTable) -> Self {
        Self {
            security,
            book,
            access,
        }
    }

    /// Whether a node was removed and nothing needs it any more: no call of it is let through.
    pub(super) fn is_given_up(&self, node: NodeId) -> bool {
        self.book.is_removed(node) && !self.access.still_hears(node)
    }

    fn admit<B>(&self, request: &mut Request<B>) -> Result<Peer, Status> {
        self.check_meant(request)?;
        let caller = request.extensions().get::<Caller>();
        let peer = match caller.and_then(|caller| caller.peer) {
            Some(peer) => peer,
            None => self.claimed(request)?,
        };
        if let Peer::Node(node) = peer
            && self.book.is_removed(node)
            && !self.access.hears(node, request)
        {
            return Err(Status::permission_denied(removed_sentence(node)));
        }
        let path = request.uri().path();
        let may = match self.access.of(path) {
            Access::Anybody => true,
            Access::AdminOrNodes => peer != Peer::Anonymous,
            Access::Nodes => matches!(peer, Peer::Node(_)),
            Access::NodesWith(roles) => self.has_one_of(peer, roles),
            Access::AdminOrNodesWith(roles) => peer == Peer::Admin || self.has_one_of(peer, roles),
            Access::Admin => peer == Peer::Admin,
        };
        if may {
            Ok(peer)
        } else {
            Err(Status::permission_denied(format!(
                "{peer} may not use {path}"
            )))
        }
    }

    fn has_one_of(&self, peer: Peer, roles: &[&str]) -> bool {
        let Peer::Node(node) = peer else {
            return false;
        };
        self.book.may_have_one_of(node, roles)
    }

    /// A request that names the node it means is for that node only: an address may have gone over
    /// to another one.
    fn check_meant<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let host = request.uri().host().unwrap_or_default();
        let Some((meant, cluster_id)) = Peer::of_name(host) else {
            return Ok(());
        };
        let local = self.security.local();
        if cluster_id == self.security.cluster_id() && meant == local {
            return Ok(());
        }
        let said = format!("this is {local} of another name than {host}");
        Err(Status::failed_precondition(said))
    }

    /// Without TLS: who the client says it is.
    fn claimed<B>(&self, request: &Request<B>) -> Result<Peer, Status> {
        if matches!(self.security, Security::Tls(_)) {
            return Err(Status::internal("a connection of nobody"));
        }
        let agent = request.headers().get(http::header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        let word = agent.and_then(|agent| agent.split_ascii_whitespace().next());
        let name = word.and_then(|word| word.strip_prefix(AGENT)?.strip_prefix('/'));
        let Some((peer, cluster_id)) = name.and_then(Peer::of_name) else {
            return Ok(Peer::Anonymous);
        };
        if cluster_id != self.security.cluster_id() {
            let said = format!("{peer} is of another cluster ({cluster_id})");
            return Err(Status::permission_denied(said));
        }
        Ok(peer)
    }
}

#[derive(Clone)]
pub(super) struct GuardLayer(pub(super) Arc<Guard>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        let guard = Arc::clone(&self.0);
        Guarded { inner, guard }
    }
}

#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.guard.admit(&mut request) {
            Ok(peer) => {
                request.extensions_mut().insert(peer);
                if let Peer::Node(node) = peer {
                    // For services that do not know this crate.
                    request.extensions_mut().insert(node);
                }
                Either::Right(self.inner.call(request))
            }
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use granary_meta_api::pb::state;

    use super::*;

    #[test]
    fn who_is_asked_for_what() {
        let book = Arc::new(AddressBook::in_memory(Vec::new()));
        let node = |id, roles: &[&str]| state::Node {
            id,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Default::default()
        };
        let nodes = [node(1, &["meta"]), node(2, &["storage"]), node(3, &[])];
        book.take(1, &nodes);
        let table = AccessTable::default()
            .with("raft", Access::NodesWith(&["meta"]))
            .with("admin", Access::Admin)
            .with("admin/ListPeers", Access::AdminOrNodes);
        let security = Security::Plain {
            cluster_id: "c".to_owned(),
            local: Peer::Node(NodeId(1)),
        };
        let guard = Guard::new(security, book, table);
        let may = |peer, path: &str| {
            let request = Request::builder().uri(format!("http://somebody/{path}"));
            let caller = Caller { peer: Some(peer) };
            let mut request = request.extension(caller).body(()).unwrap();
            guard.admit(&mut request).is_ok()
        };
        let peer = |id| Peer::Node(NodeId(id));
        for (who, raft, removing, listing, other) in [
            (peer(1), true, false, true, true),
            (peer(2), false, false, true, true),
            (peer(3), true, false, true, true),
            // It has joined so lately that the book does not know it.
            (peer(9), true, false, true, true),
            (Peer::Admin, false, true, true, false),
            (Peer::Anonymous, false, false, false, false),
        ] {
            let found = [
                "raft/Send",
                "admin/RemoveNode",
                "admin/ListPeers",
                "other/Get",
            ];
            let found = found.map(|path| may(who, path));
            assert_eq!(found, [raft, removing, listing, other], "{who}");
        }
    }

    #[test]
    fn a_removed_node_is_heard_where_it_is_still_needed() {
        #[derive(Clone, PartialEq, Debug)]
        struct Mark(NodeId);
        let book = Arc::new(AddressBook::in_memory(Vec::new()));
        let removed = |id| state::Node {
            id,
            roles: vec!["meta".to_owned()],
            removed: true,
            ..Default::default()
        };
        book.take(1, &[removed(2), removed(3)]);
        // Node 2 is still a voter of something, node 3 is not.
        let needed = |node: NodeId, extensions: &mut Extensions| {
            extensions.insert(Mark(node));
            node == NodeId(2)
        };
        let table = AccessTable::default()
            .with("raft", Access::NodesWith(&["meta"]))
            .with_removed("raft", Arc::new(needed));
        let security = Security::Plain {
            cluster_id: "c".to_owned(),
            local: Peer::Node(NodeId(1)),
        };
        let guard = Guard::new(security, book, table);
        for (id, path, expected) in [
            (2, "raft/Send", true),
            (2, "other/Get", false),
            (3, "raft/Send", false),
            (3, "other/Get", false),
        ] {
            let request = Request::builder().uri(format!("http://somebody/{path}"));
            let caller = Caller {
                peer: Some(Peer::Node(NodeId(id))),
            };
            let mut request = request.extension(caller).body(()).unwrap();
            let admitted = guard.admit(&mut request).is_ok();
            assert_eq!(admitted, expected, "node {id}, {path}");
            assert_eq!(guard.is_given_up(NodeId(id)), id == 3, "node {id}");
            if admitted {
                let mark = request.extensions().get::<Mark>();
                assert_eq!(mark, Some(&Mark(NodeId(id))), "the service is not told");
            }
        }
    }
}
