//! The conformance suite of the metadata seam on the real implementation: in process, over gRPC on
//! a pipe, and behind a network that loses, repeats and delays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use granary_kv::MemoryKv;
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::testsuite::{Faults, FaultyMeta, OWNER, Suite};
use granary_meta_api::wire::{GrpcMeta, routes};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::NodeId;
use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Server, Uri};
use tower::service_fn;

const NODE: NodeId = NodeId(1);
const START_MS: u64 = 1_800_000_000_000;

/// A new cluster of one node in memory, under simulated time.
struct Cluster {
    node: Arc<MetaNode>,
    runtime: Runtime,
    clock: Arc<SimulatedClock>,
}

async fn cluster(seed: u64) -> Cluster {
    let clock = Arc::new(SimulatedClock::starting_at(START_MS));
    let runtime = Runtime::simulated(clock.clone(), Arc::new(SeededEntropy::new(seed)));
    let config = MetaConfig {
        data_shards: 3,
        ..MetaConfig::default()
    };
    let kv = Arc::new(MemoryKv::new());
    let node = MetaNode::open(runtime.clone(), NODE, kv, Arc::new(NoPeers), config);
    let node = node.await.unwrap();
    let cluster = NewCluster {
        cluster_id: "test".to_owned(),
        region: "cn-test-1".to_owned(),
        root_account: pb::state::Account {
            id: OWNER,
            name: "root".to_owned(),
        },
        voters: vec![NODE],
    };
    assert!(node.bootstrap(cluster).await.unwrap().created);
    Cluster {
        node,
        runtime,
        clock,
    }
}

fn suite(cluster: Cluster, service: Arc<dyn MetaService>) -> Suite {
    Suite {
        meta: Meta::new(cluster.runtime.clone(), Arc::clone(&service)),
        service,
        runtime: cluster.runtime,
        clock: cluster.clock,
        keep: Box::new(cluster.node),
    }
}

mod in_process {
    use super::*;

    async fn start() -> Suite {
        let cluster = cluster(1).await;
        let service: Arc<dyn MetaService> = cluster.node.clone();
        suite(cluster, service)
    }

    granary_meta_api::meta_testsuite!(start);
}

mod over_grpc {
    use super::*;

    async fn start() -> Suite {
        let cluster = cluster(2).await;
        let (near, far) = tokio::io::duplex(1 << 20);
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
        let serving = Server::builder().add_routes(routes(cluster.node.clone()));
        cluster.runtime.spawn(serving.serve_with_incoming(incoming));
        let mut near = Some(near);
        let connector = service_fn(move |_: Uri| {
            let pipe = near.take();
            async move {
                let gone = || std::io::Error::other("there is one pipe");
                pipe.map(TokioIo::new).ok_or_else(gone)
            }
        });
        let endpoint = Endpoint::from_static("http://meta");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let service = Arc::new(GrpcMeta::new(channel));
        suite(cluster, service)
    }

    granary_meta_api::meta_testsuite!(start);
}

mod on_a_bad_network {
    use super::*;

    async fn start() -> Suite {
        let cluster = cluster(3).await;
        let faults = Faults {
            drop_request: 30,
            drop_reply: 60,
            duplicate: 60,
            late_duplicate: 60,
            delay_max: Duration::from_millis(3),
        };
        let service = FaultyMeta::new(cluster.runtime.clone(), cluster.node.clone(), faults);
        suite(cluster, service)
    }

    granary_meta_api::meta_testsuite!(start);
}
