//! What the tests share: a root in memory, an authority, nodes that listen on 127.0.0.1.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::pb::command::Command as Change;
use granary_meta_api::pb::command_reply::Reply as Answer;
use granary_meta_api::pb::query::Query as Question;
use granary_meta_api::pb::query_reply::Reply as Known;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::{Meta, MetaError, MetaService, pb as meta};
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::Routes;

use crate::{
    AccessTable, AddressBook, Authority, Credentials, GiveUp, GiveUpCheck, JoinServer, KeySealer,
    Links, Listener, ListenerConfig, NodeKey, Peer, Security, Trust,
};

pub(crate) const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const SEED: u64 = 20_261_121;
const START_MS: u64 = 1_800_000_000_000;
pub(crate) const MASTER_KEY: [u8; 32] = [7; 32];

/// Seals by turning bits over: enough to see that it was done.
pub(crate) struct FakeSealer;

impl KeySealer for FakeSealer {
    fn seal(&self, secret: &[u8]) -> Option<Vec<u8>> {
        Some(secret.iter().map(|byte| !byte).collect())
    }

    fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.seal(sealed)
    }

    fn master_key(&self) -> Vec<u8> {
        MASTER_KEY.to_vec()
    }
}

/// Takes some nodes for ones that serve, and some for ones that have what others lack.
#[derive(Default)]
pub(crate) struct FakeCheck {
    pub(crate) serve: Mutex<Vec<NodeId>>,
    pub(crate) last_copies: Mutex<Vec<NodeId>>,
}

#[async_trait]
impl GiveUpCheck for FakeCheck {
    async fn may_go(&self, node: NodeId, meant: GiveUp) -> Result<(), Status> {
        if !meant.force && self.serve.lock().contains(&node) {
            return Err(Status::failed_precondition("it answers"));
        }
        if !meant.accept_loss && self.last_copies.lock().contains(&node) {
            return Err(Status::failed_precondition("it has the last copies"));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Rows {
    epoch: u64,
    nodes: BTreeMap<u64, state::Node>,
    allocated: BTreeMap<Vec<u8>, u64>,
    tokens: BTreeMap<String, state::JoinToken>,
    trust: state::ClusterTrust,
}

/// The part of the root that this crate uses.
pub(crate) struct FakeRoot {
    runtime: Runtime,
    rows: Mutex<Rows>,
}

impl FakeRoot {
    pub(crate) fn map(&self) -> meta::ClusterMap {
        let rows = self.rows.lock();
        meta::ClusterMap {
            epoch: rows.epoch,
            nodes: rows.nodes.values().cloned().collect(),
            ..Default::default()
        }
    }

    pub(crate) fn put_node(&self, node: state::Node) {
        let mut rows = self.rows.lock();
        rows.epoch += 1;
        rows.nodes.insert(node.id, node);
    }

    pub(crate) fn remove_node(&self, node: NodeId) {
        let mut rows = self.rows.lock();
        rows.epoch += 1;
        rows.nodes.get_mut(&node.0).unwrap().removed = true;
    }

    fn change(&self, change: Change) -> Result<Answer, Reason> {
        let mut rows = self.rows.lock();
        let empty = Ok(Answer::Empty(meta::Empty {}));
        match change {
            Change::AllocateNode(command) => {
                let nonce = command.nonce.to_vec();
                let allocated = |id, created| {
                    Ok(Answer::Allocated(meta::Allocated {
                        id,
                        slab: 0,
                        created,
                    }))
                };
                if let Some(id) = rows.allocated.get(&nonce) {
                    return allocated(*id, false);
                }
                let id = rows.nodes.keys().max().unwrap_or(&1) + 1;
                let node = state::Node {
                    id,
                    ..command.node.unwrap()
                };
                rows.epoch += 1;
                rows.nodes.insert(id, node);
                rows.allocated.insert(nonce, id);
                allocated(id, true)
            }
            Change::RemoveNode(command) => {
                rows.epoch += 1;
                rows.nodes
                    .get_mut(&command.node)
                    .ok_or(Reason::Invalid)?
                    .removed = true;
                empty
            }
            Change::PutTrust(command) => {
                if rows.trust.generation != command.expected_generation {
                    return Err(Reason::Stale);
                }
                rows.epoch += 1;
                rows.trust = command.trust.unwrap();
                rows.trust.generation = command.expected_generation + 1;
                empty
            }
            Change::PutJoinToken(command) => {
                let token = command.token.unwrap();
                rows.tokens.insert(token.id.clone(), token);
                empty
            }
            _ => Err(Reason::Invalid),
        }
    }
}

#[async_trait]
impl MetaService for FakeRoot {
    async fn propose(
        &self,
        _: ShardId,
        command: meta::Command,
    ) -> Result<meta::CommandReply, MetaError> {
        let (reply, rejection) = match self.change(command.command.unwrap()) {
            Ok(reply) => (Some(reply), None),
            Err(reason) => (None, Some(meta::Rejection::of(reason))),
        };
        Ok(meta::CommandReply { reply, rejection })
    }

    async fn query(&self, _: ShardId, query: meta::Query) -> Result<meta::QueryReply, MetaError> {
        let reply = match query.query.unwrap() {
            Question::GetClusterMap(_) => Known::ClusterMap(self.map()),
            Question::GetTrust(_) => Known::Trust(self.rows.lock().trust.clone()),
            Question::GetJoinToken(query) => {
                let now_ms = self.runtime.now().0;
                let token = self.rows.lock().tokens.get(&query.id).cloned();
                let token = token.filter(|token| now_ms < token.expires_ms);
                Known::JoinToken(meta::JoinTokenResult {
                    found: token.is_some(),
                    token,
                })
            }
            other => return Err(MetaError::Invalid(format!("{other:?}"))),
        };
        Ok(meta::QueryReply { reply: Some(reply) })
    }
}

/// A cluster whose root is in memory.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) root: Arc<FakeRoot>,
    pub(crate) authority: Authority,
    pub(crate) check: Arc<FakeCheck>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(START_MS));
        let entropy = Arc::new(SeededEntropy::new(SEED));
        let runtime = Runtime::simulated(Arc::clone(&clock) as _, entropy);
        let authority = Authority::generate(&runtime, CLUSTER).unwrap();
        let trust = state::ClusterTrust {
            ca_certificates: vec![authority.certificate().to_vec().into()],
            sealed_ca_key: FakeSealer.seal(&authority.key_der()).unwrap().into(),
            generation: 1,
        };
        let rows = Rows {
            epoch: 1,
            trust,
            ..Rows::default()
        };
        let root = Arc::new(FakeRoot {
            runtime: runtime.clone(),
            rows: Mutex::new(rows),
        });
        Self {
            runtime,
            clock,
            root,
            authority,
            check: Arc::default(),
        }
    }

    /// The same time and randomness, another cluster.
    pub(crate) fn of_another_cluster(&self) -> Authority {
        Authority::generate(&self.runtime, "another").unwrap()
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock
            .advance_wall_clock(u64::try_from(time.as_millis()).unwrap());
    }

    pub(crate) fn meta(&self) -> Meta {
        let service = Arc::clone(&self.root) as Arc<dyn MetaService>;
        Meta::new(self.runtime.clone(), service).with_deadline(Duration::from_secs(5))
    }

    pub(crate) fn credentials(&self, peer: Peer) -> Credentials {
        credentials(&self.runtime, &self.authority, CLUSTER, peer)
    }

    pub(crate) fn tls(&self, peer: Peer) -> Security {
        let trust = Trust::new(self.runtime.clone(), self.credentials(peer)).unwrap();
        Security::Tls(Arc::new(trust))
    }

    /// A node that listens, is in the root's map, and serves joins and the root.
    pub(crate) async fn node(&self, id: u64, roles: &[&str]) -> TestNode {
        let security = self.tls(Peer::Node(NodeId(id)));
        self.node_as(id, roles, security, ListenerConfig::default())
            .await
    }

    pub(crate) async fn node_as(
        &self,
        id: u64,
        roles: &[&str],
        security: Security,
        config: ListenerConfig,
    ) -> TestNode {
        let root = Arc::clone(&self.root) as Arc<dyn MetaService>;
        let services = vec![granary_meta_api::wire::routes(root)];
        self.node_serving(id, roles, security, config, services)
            .await
    }

    pub(crate) async fn node_serving(
        &self,
        id: u64,
        roles: &[&str],
        security: Security,
        config: ListenerConfig,
        mut services: Vec<Routes>,
    ) -> TestNode {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        self.root.put_node(record(id, &address, roles));
        let book = Arc::new(AddressBook::in_memory(Vec::new()));
        let sealer = (roles != ["storage"]).then(|| Arc::new(FakeSealer) as _);
        let server = JoinServer::new(
            self.runtime.clone(),
            self.meta(),
            sealer,
            security.clone(),
            Arc::clone(&self.check) as _,
        );
        services.push(server.routes());
        let listener = Listener::start(
            &self.runtime,
            socket,
            security.clone(),
            Arc::clone(&book),
            services,
            AccessTable::default(),
            config,
        );
        TestNode {
            links: Arc::new(Links::new(security.clone(), Arc::clone(&book))),
            listener: listener.unwrap(),
            address,
            security,
            book,
            server,
        }
    }

    /// Links of somebody who knows the map.
    pub(crate) fn links(&self, security: Security) -> Arc<Links> {
        let book = Arc::new(AddressBook::in_memory(Vec::new()));
        let map = self.root.map();
        book.take(map.epoch, &map.nodes);
        Arc::new(Links::new(security, book))
    }
}

pub(crate) struct TestNode {
    pub(crate) listener: Listener,
    pub(crate) address: String,
    pub(crate) security: Security,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) links: Arc<Links>,
    pub(crate) server: Arc<JoinServer>,
}

impl TestNode {
    pub(crate) fn learn(&self, world: &World) {
        let map = world.root.map();
        self.book.take(map.epoch, &map.nodes);
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        match &self.security {
            Security::Tls(trust) => trust,
            Security::Plain { .. } => panic!("a node without TLS"),
        }
    }
}

pub(crate) fn record(id: u64, address: &str, roles: &[&str]) -> state::Node {
    state::Node {
        id,
        zone: "z1".to_owned(),
        address: address.to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..Default::default()
    }
}

pub(crate) fn credentials(
    runtime: &Runtime,
    authority: &Authority,
    cluster_id: &str,
    peer: Peer,
) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let certificate = match peer {
        Peer::Node(node) => {
            let request = key.request().unwrap();
            authority.issue_node(runtime, cluster_id, node, &request)
        }
        _ => authority.issue_admin(runtime, cluster_id, &key),
    };
    Credentials {
        cluster_id: cluster_id.to_owned(),
        local: peer,
        key: Arc::new(key),
        certificate: certificate.unwrap(),
        bundle: vec![authority.certificate().to_vec()],
    }
}

/// Asks the root's map over a channel, as a caller of the Meta service.
pub(crate) async fn ask_map(channel: tonic::transport::Channel) -> Result<(), MetaError> {
    let query = meta::Query {
        query: Some(Question::GetClusterMap(meta::GetClusterMap {
            known_epoch: 0,
        })),
    };
    let service = granary_meta_api::wire::GrpcMeta::new(channel);
    service.query(ShardId::ROOT, query).await.map(|_| ())
}
