//! A gateway on a free port, with metadata that has two accounts and a few buckets.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use granary_blob::{BlobConfig, BlobStore, DiskConfig};
use granary_blob_api::BlobNode;
use granary_datapath::{ClusterView, DataPath, DataPathConfig, NodeDirectory};
use granary_kv::MemoryKv;
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::{Meta, MetaError, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{CancellationToken, Runtime, Task};
use granary_types::{BucketAcl, NodeId, PgId, Redundancy, ShardId, StorageClass};
use granary_vfs::MemoryVfs;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::client::Client;
use crate::{Gateway, GatewayConfig, GatewayParts, KeyVault, SecretString};

/// Secrets are sealed by reversing them.
pub(crate) struct Reversing;

impl KeyVault for Reversing {
    fn open(&self, sealed: &[u8]) -> Option<SecretString> {
        let secret: Vec<u8> = sealed.iter().rev().copied().collect();
        String::from_utf8(secret).ok().map(SecretString::new)
    }
}

struct NoNodes;

impl NodeDirectory for NoNodes {
    fn node(&self, _: NodeId) -> Option<Arc<dyn BlobNode>> {
        None
    }
}

/// Metadata with fixed answers: enough to get as far as an operation.
///
/// | bucket | owner | ACL |
/// |---|---|---|
/// | `mine` | 1 | private |
/// | `open` | 1 | public-read-write |
/// | `theirs` | 2 | private |
struct FixedMeta;

const BUCKETS: [(&str, u64, BucketAcl); 3] = [
    ("mine", 1, BucketAcl::Private),
    ("open", 1, BucketAcl::PublicReadWrite),
    ("theirs", 2, BucketAcl::Private),
];

#[async_trait]
impl MetaService for FixedMeta {
    async fn propose(&self, _: ShardId, _: pb::Command) -> Result<pb::CommandReply, MetaError> {
        Err(MetaError::Invalid("nothing changes here".to_owned()))
    }

    async fn query(&self, _: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        use pb::query::Query as Q;
        use pb::query_reply::Reply as R;
        let reply = match query.query {
            Some(Q::GetBucket(query)) => R::Bucket(bucket(&query.name)),
            Some(Q::GetAccessKey(query)) => R::AccessKey(access_key(&query.id)),
            Some(Q::GetVersion(_)) => R::Version(pb::VersionResult::default()),
            Some(Q::GetClusterMap(_)) => R::ClusterMap(map()),
            Some(Q::ListBuckets(query)) => R::Buckets(pb::BucketsPage {
                buckets: BUCKETS
                    .iter()
                    .filter(|(_, owner, _)| *owner == query.owner)
                    .filter_map(|(name, ..)| bucket(name).bucket)
                    .collect(),
                ..Default::default()
            }),
            _ => return Err(MetaError::Invalid("no answer here".to_owned())),
        };
        Ok(pb::QueryReply { reply: Some(reply) })
    }
}

fn bucket(name: &str) -> pb::BucketResult {
    let known = BUCKETS.iter().position(|(known, ..)| *known == name);
    let bucket = known.map(|index| pb::state::Bucket {
        id: index as u64 + 1,
        name: name.to_owned(),
        owner: BUCKETS[index].1,
        storage_class: StorageClass::Standard.number(),
        redundancy: Redundancy::Lrs.number(),
        acl: BUCKETS[index].2.number(),
        state: pb::state::bucket::State::Active.into(),
        generation: 1,
        ..Default::default()
    });
    pb::BucketResult {
        found: bucket.is_some(),
        bucket,
        configs: Vec::new(),
    }
}

fn access_key(id: &str) -> pb::AccessKeyResult {
    let account = match id {
        "first" => 1,
        "second" => 2,
        _ => return pb::AccessKeyResult::default(),
    };
    let key = pb::state::AccessKey {
        id: id.to_owned(),
        account,
        sealed_secret: bytes::Bytes::from(
            format!("{id}-secret")
                .into_bytes()
                .into_iter()
                .rev()
                .collect::<Vec<_>>(),
        ),
        ..Default::default()
    };
    pb::AccessKeyResult {
        found: true,
        key: Some(key),
        account: None,
    }
}

/// One shard that has everything.
pub(crate) fn map() -> pb::ClusterMap {
    let range = pb::state::Range::default();
    let hint = pb::state::RangeHint {
        shard: 1,
        range: Some(range),
        voters: vec![1],
    };
    pb::ClusterMap {
        epoch: 1,
        ranges: vec![hint],
        ..Default::default()
    }
}

/// A gateway that is being served.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) meta: Meta,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) task: Task<()>,
}

/// The nodes of a store in this process: one, whatever is asked for.
struct OneNode(Arc<dyn BlobNode>);

impl NodeDirectory for OneNode {
    fn node(&self, _: NodeId) -> Option<Arc<dyn BlobNode>> {
        Some(Arc::clone(&self.0))
    }
}

/// Metadata on an in-memory key-value store, with two accounts and a key of each.
async fn real_meta(runtime: &Runtime) -> Meta {
    let kv = Arc::new(MemoryKv::new());
    let config = MetaConfig {
        data_shards: 2,
        ..MetaConfig::default()
    };
    let node = NodeId(1);
    let node = MetaNode::open(runtime.clone(), node, kv, Arc::new(NoPeers), config)
        .await
        .unwrap();
    let cluster = NewCluster {
        cluster_id: "test".to_owned(),
        region: "cn-granary-1".to_owned(),
        root_account: pb::state::Account {
            id: 1,
            name: "root".to_owned(),
        },
        voters: vec![NodeId(1)],
    };
    node.bootstrap(cluster).await.unwrap();
    let meta = Meta::new(runtime.clone(), node as Arc<dyn MetaService>);
    let key = access_key("first").key;
    meta.propose(pb::PutAccessKey { key })
        .await
        .unwrap()
        .unwrap();
    let second = pb::PutAccount {
        account: Some(pb::state::Account {
            id: 2,
            name: "second".to_owned(),
        }),
        key: access_key("second").key,
    };
    meta.propose(second).await.unwrap().unwrap();
    meta
}

/// One disk on in-memory files, with open placement groups.
async fn real_disk(runtime: &Runtime, meta: &Meta) -> Arc<dyn BlobNode> {
    let disk = DiskConfig {
        path: "/disk".into(),
        index: Arc::new(MemoryKv::new()),
        lock: None,
    };
    let config = BlobConfig::for_cluster("test");
    let vfs = Arc::new(MemoryVfs::new());
    let store = BlobStore::open(runtime.clone(), config, vfs, vec![disk])
        .await
        .unwrap();
    let id = store.disks().await.unwrap()[0].id;
    let node = pb::state::Node {
        id: 1,
        zone: "a".to_owned(),
        feature_level: granary_meta::FEATURE_LEVEL,
        ..Default::default()
    };
    meta.propose(pb::RegisterNode { node: Some(node) })
        .await
        .unwrap()
        .unwrap();
    let disk = pb::state::Disk {
        id: id.0,
        node: 1,
        total_bytes: 1 << 40,
        ..Default::default()
    };
    meta.propose(pb::RegisterDisk {
        disk: Some(disk),
        ..Default::default()
    })
    .await
    .unwrap()
    .unwrap();
    let pool = pb::state::Pool {
        name: "LRS@a/1".to_owned(),
        redundancy: Redundancy::Lrs.number(),
        copies: 1,
        zone: "a".to_owned(),
        ..Default::default()
    };
    let pool = meta
        .propose(pb::CreatePool { pool: Some(pool) })
        .await
        .unwrap()
        .unwrap()
        .id;
    let member = pb::state::PgMember {
        disk: id.0,
        complete: true,
    };
    let group = pb::state::PlacementGroup {
        members: vec![member],
        ..Default::default()
    };
    let create = pb::CreatePgs {
        pool: u32::try_from(pool).unwrap(),
        groups: vec![group; 4],
    };
    let first = meta.propose(create).await.unwrap().unwrap().id;
    for pg in first..first + 4 {
        store
            .open_pg(id, PgId(u32::try_from(pg).unwrap()), 1)
            .await
            .unwrap();
    }
    Arc::new(store)
}

impl Served {
    /// Over the real metadata service, data path and disk engine, all in memory.
    pub(crate) async fn real() -> Self {
        Self::real_with(|_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn real_with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let runtime = Runtime::system();
        let meta = real_meta(&runtime).await;
        let disk = real_disk(&runtime, &meta).await;
        let nodes: Arc<dyn NodeDirectory> = Arc::new(OneNode(disk));
        let view = ClusterView::new(runtime.clone(), meta.clone(), nodes);
        view.refresh().await.unwrap();
        let config = DataPathConfig {
            zone: "a".to_owned(),
            ..DataPathConfig::default()
        };
        let datapath = DataPath::new(runtime.clone(), meta.clone(), view, config);
        let mut config = GatewayConfig::default();
        change(&mut config);
        Self::over(runtime, meta, datapath, config).await
    }

    /// Another gateway over the same metadata, for objects small enough to stand there.
    pub(crate) async fn beside(&self) -> Self {
        let (runtime, meta) = (Runtime::system(), self.meta.clone());
        let view = ClusterView::new(runtime.clone(), meta.clone(), Arc::new(NoNodes));
        let config = DataPathConfig::default();
        let datapath = DataPath::new(runtime.clone(), meta.clone(), view, config);
        Self::over(runtime, meta, datapath, GatewayConfig::default()).await
    }

    /// Over metadata with fixed answers.
    pub(crate) async fn fixed(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::answering(Arc::new(FixedMeta), change).await
    }

    /// Over a metadata service of the test's own, and no disk.
    pub(crate) async fn answering(
        service: Arc<dyn MetaService>,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let runtime = Runtime::system();
        let meta = Meta::new(runtime.clone(), service);
        let nodes: Arc<dyn NodeDirectory> = Arc::new(NoNodes);
        let view = ClusterView::new(runtime.clone(), meta.clone(), Arc::clone(&nodes));
        let config = DataPathConfig::default();
        let datapath = DataPath::new(runtime.clone(), meta.clone(), view, config);
        let mut config = GatewayConfig::default();
        change(&mut config);
        Self::over(runtime, meta, datapath, config).await
    }

    /// Over given parts.
    pub(crate) async fn over(
        runtime: Runtime,
        meta: Meta,
        datapath: DataPath,
        config: GatewayConfig,
    ) -> Self {
        let mut registry = Registry::default();
        let parts = GatewayParts {
            runtime: runtime.clone(),
            meta: meta.clone(),
            datapath,
            vault: Arc::new(Reversing),
            registry: &mut registry,
        };
        let gateway = Gateway::new(config, parts).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = runtime.spawn(async move { gateway.serve(listener, until).await });
        Self {
            address,
            meta,
            registry,
            stop,
            task,
        }
    }

    /// The keys of account 1.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, "first", "first-secret")
    }

    /// The keys of account 2.
    pub(crate) fn other(&self) -> Client {
        Client::new(self.address, "second", "second-secret")
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}
