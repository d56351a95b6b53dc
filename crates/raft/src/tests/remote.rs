//! The protocol over gRPC, on pipes instead of sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Kv, MemoryKv};
use granary_runtime::Runtime;
use granary_types::{NodeId, ShardId};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::service_fn;

use super::cluster::Cluster;
use crate::grpc::{Dial, GrpcTransport, Lane, RemovedSender, Service, routes};
use crate::testsuite::MapMachine;
use crate::wire::proto::raft_server::Raft;
use crate::wire::proto::{self, request};
use crate::{Group, RaftConfig, RaftHost, RaftTransport, TransportError};

const SHARD: ShardId = ShardId(1);

/// Where each node listens: a queue of pipes to accept.
#[derive(Default)]
struct Pipes {
    listeners: Mutex<BTreeMap<NodeId, mpsc::Sender<DuplexStream>>>,
    dialled: Mutex<BTreeMap<(NodeId, &'static str), u32>>,
}

impl Dial for Arc<Pipes> {
    fn dial(&self, to: NodeId, lane: Lane) -> Option<Channel> {
        let listener = self.listeners.lock().get(&to).cloned()?;
        let name = match lane {
            Lane::Control => "control",
            Lane::Log => "log",
            Lane::Snapshot => "snapshot",
        };
        *self.dialled.lock().entry((to, name)).or_default() += 1;
        let connector = service_fn(move |_: Uri| {
            let listener = listener.clone();
            async move {
                let (near, far) = tokio::io::duplex(1 << 16);
                listener.send(far).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        Some(Endpoint::from_static("http://peer").connect_with_connector_lazy(connector))
    }
}

async fn node(pipes: &Arc<Pipes>, runtime: &Runtime, id: NodeId) -> (Arc<RaftHost>, Group) {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let transport = Arc::new(GrpcTransport::new(Arc::new(Arc::clone(pipes))));
    let config = RaftConfig {
        heartbeat_ms: 100,
        election_min_ms: 500,
        election_max_ms: 1000,
        snapshot_every_entries: 20,
        keep_entries: 5,
        lag_entries: 10,
        ..RaftConfig::default()
    };
    let host = RaftHost::start(runtime.clone(), id, config, kv.clone(), transport);
    let group = host
        .open(SHARD, Arc::new(MapMachine::new(SHARD, kv)))
        .await
        .unwrap();
    let (listener, accepted) = mpsc::channel(16);
    pipes.listeners.lock().insert(id, listener);
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
    let serving = Server::builder().add_routes(routes(Arc::clone(&host)));
    runtime.spawn(serving.serve_with_incoming(incoming));
    (host, group)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_replicate_and_catch_up_over_grpc() {
    let (pipes, runtime) = (Arc::new(Pipes::default()), Runtime::system());
    let ids = [NodeId(1), NodeId(2)];
    let mut nodes = Vec::new();
    for id in ids {
        nodes.push(node(&pipes, &runtime, id).await);
    }
    for (host, _) in &nodes {
        host.bootstrap(SHARD, &ids).await.unwrap();
    }
    let patience = Duration::from_secs(30);
    let leader = loop {
        if let Some((_, group)) = nodes.iter().find(|(_, group)| group.is_leader()) {
            break group.clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Large enough that several entries do not fit one message.
    let value = "v".repeat(900 << 10);
    for number in 0..8 {
        let command = Bytes::from(format!("large{number}={value}"));
        leader.propose(command, patience).await.unwrap();
    }
    for number in 0..60 {
        let command = Bytes::from(format!("key{number}=v"));
        leader.propose(command, patience).await.unwrap();
    }
    let (_host, learner) = node(&pipes, &runtime, NodeId(3)).await;
    leader.add_learner(NodeId(3), patience).await.unwrap();
    assert!(
        learner
            .wait_applied(leader.last_applied().unwrap(), patience)
            .await
    );
    let lanes = pipes.dialled.lock().clone();
    for lane in ["control", "log", "snapshot"] {
        assert!(
            lanes.keys().any(|(_, name)| *name == lane),
            "no connection for {lane}: {lanes:?}"
        );
    }
}

#[tokio::test]
async fn who_is_not_there_or_not_meant_is_told_apart() {
    let (pipes, runtime) = (Arc::new(Pipes::default()), Runtime::system());
    let (_host, _group) = node(&pipes, &runtime, NodeId(1)).await;
    let transport = GrpcTransport::new(Arc::new(Arc::clone(&pipes)));
    let vote = || {
        crate::RaftRequest(crate::wire::proto::request::Body::Vote(
            crate::wire::proto::VoteCall {
                vote: None,
                last: None,
                leadership_transfer: false,
                pre_vote: true,
            },
        ))
    };
    let unknown = transport.send(NodeId(5), SHARD, vote()).await;
    assert!(
        matches!(unknown, Err(TransportError::Unreachable { .. })),
        "{unknown:?}"
    );
    let not_open = transport.send(NodeId(1), ShardId(99), vote()).await;
    assert!(
        matches!(not_open, Err(TransportError::Refused { .. })),
        "{not_open:?}"
    );
    let malformed = transport.send(NodeId(1), SHARD, vote()).await;
    assert!(
        matches!(malformed, Err(TransportError::Refused { .. })),
        "{malformed:?}"
    );
    // The address of node 2 leads to node 1.
    let one = pipes.listeners.lock()[&NodeId(1)].clone();
    pipes.listeners.lock().insert(NodeId(2), one);
    let other = transport.send(NodeId(2), SHARD, vote()).await;
    assert!(
        matches!(other, Err(TransportError::Refused { .. })),
        "{other:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_removed_node_is_heard_about_shards_of_which_it_is_a_member() {
    let cluster = Cluster::formed(3, 1, RaftConfig::default()).await;
    cluster.leader().await;
    let node = &cluster.nodes[&NodeId(1)];
    let alone = ShardId(9);
    let kv: Arc<dyn Kv> = Arc::new(node.kv.clone());
    let machine = Arc::new(MapMachine::new(alone, kv));
    node.host.open(alone, machine).await.unwrap();
    node.host.bootstrap(alone, &[NodeId(1)]).await.unwrap();
    let host = Arc::clone(&node.host);
    let service = Service { host };
    for (shard, removed, expected) in [
        (super::cluster::SHARD, None, true),
        (super::cluster::SHARD, Some(2), true),
        (super::cluster::SHARD, Some(7), false),
        (alone, Some(2), false),
    ] {
        // Heard means here: found to lack a part.
        let vote = request::Body::Vote(proto::VoteCall::default());
        let mut request = tonic::Request::new(proto::Envelope {
            shard: shard.0,
            to: 1,
            request: Some(proto::Request { body: Some(vote) }),
        });
        if let Some(removed) = removed {
            request
                .extensions_mut()
                .insert(RemovedSender(NodeId(removed)));
        }
        let refused = service.send(request).await.unwrap_err();
        let heard = refused.code() != tonic::Code::PermissionDenied;
        assert_eq!(heard, expected, "{shard}, {removed:?}: {refused}");
    }
    // As a leader it is heard when it would hand over.
    for hands_over in [false, true] {
        let append = request::Body::Append(proto::Append {
            hands_over,
            ..proto::Append::default()
        });
        let mut request = tonic::Request::new(proto::Envelope {
            shard: super::cluster::SHARD.0,
            to: 1,
            request: Some(proto::Request { body: Some(append) }),
        });
        request.extensions_mut().insert(RemovedSender(NodeId(2)));
        let refused = service.send(request).await.unwrap_err();
        let heard = refused.code() != tonic::Code::PermissionDenied;
        assert_eq!(heard, hands_over, "{refused}");
    }
}
