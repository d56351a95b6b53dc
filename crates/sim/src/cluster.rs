//! Three nodes, their gateways and the network between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use granary_blob::BlobStore;
use granary_datapath::{ClusterView, DataPath, DataPathConfig};
use granary_kv::MemoryKv;
use granary_meta_api::Meta;
use granary_raft::RaftHost;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::{AccountId, NodeId, ShardId};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::Findings;
use crate::appends::Appends;
use crate::content::Contents;
use crate::gateway::{Gateway, Record};
use crate::history::History;
use crate::net::{BlobLinks, Endpoint, Life, MetaLink, SimNet};
use crate::node::{Disks, Node, NodeClock};
use crate::scenario::{Scenario, Stream, stream, stream_seed};
use crate::trace::Trace;
use crate::workload::{BUCKETS, LOGS, OPERATOR};

/// The nodes. Each is a voter of every shard, has disks, and runs workers.
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Who owns every bucket.
pub(crate) const OWNER: AccountId = AccountId(1);
/// When every run begins: 2026-01-01T00:00:00Z.
const START_MS: u64 = 1_767_225_600_000;
/// How often a gateway looks at map and disks.
const REFRESH_INTERVAL: Duration = Duration::from_millis(1000);
/// How often forming is tried again.
const FORM_PAUSE: Duration = Duration::from_millis(200);

/// One run's cluster.
pub struct Cluster {
    scenario: Scenario,
    runtime: Runtime,
    net: SimNet,
    record: Record,
    findings: Findings,
    nodes: Vec<Node>,
    crashes: Mutex<StdRng>,
    lives: Mutex<u64>,
    stopping: AtomicBool,
    /// Set while the cluster heals: what is down stays down until it is started there.
    healing: AtomicBool,
}

impl Cluster {
    /// A cluster that is not started. Call it inside the paused runtime of the run.
    pub fn new(scenario: Scenario, findings: Findings) -> Self {
        let seed = scenario.seed;
        let clock = Arc::new(SimulatedClock::starting_at(START_MS));
        let entropy = Arc::new(SeededEntropy::new(stream_seed(seed, Stream::Life, 0)));
        let runtime = Runtime::simulated(clock, entropy);
        let net = SimNet::new(
            runtime.clone(),
            Arc::new(Trace::new()),
            findings.clone(),
            stream_seed(seed, Stream::Network, 0),
            scenario.quality.healed(),
        );
        let record = Record {
            history: History::default(),
            contents: Arc::new(Contents::default()),
            appends: Appends::default(),
            net: net.clone(),
        };
        let mut crashes = stream(seed, Stream::Crash, 0);
        let nodes = NODES.iter().map(|id| {
            let skew_ms = crashes.random_range(0..=scenario.clock_skew_ms);
            let clock = Arc::new(NodeClock::starting_at(START_MS + skew_ms));
            Node::new(*id, clock, Disks::empty(scenario.disks_per_node))
        });
        let nodes = nodes.collect();
        Self {
            runtime,
            net,
            record,
            findings,
            nodes,
            crashes: Mutex::new(crashes),
            lives: Mutex::new(0),
            stopping: AtomicBool::new(false),
            healing: AtomicBool::new(false),
            scenario,
        }
    }

    /// What the seed made of the cluster.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The run's own runtime: it has no faults.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The network.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// Histories and values.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where broken promises are reported.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// True when clients and nemesis should come to an end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Brings clients and nemesis to an end.
    pub fn stop_workload(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn node(&self, endpoint: Endpoint) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id.0 == endpoint.0)
    }

    /// The Raft groups of a node, while it is up.
    pub fn raft(&self, node: NodeId) -> Option<Arc<RaftHost>> {
        self.node(Endpoint(node.0))?.raft()
    }

    /// The disks of a node, while it is up.
    pub fn blob(&self, node: NodeId) -> Option<Arc<BlobStore>> {
        self.node(Endpoint(node.0))?.blob()
    }

    /// The metadata store of a node as it is now.
    pub fn meta_store(&self, node: NodeId) -> MemoryKv {
        self.node(Endpoint(node.0))
            .map(Node::meta_store)
            .unwrap_or_default()
    }

    /// The nodes that lead a shard of objects, as far as they know.
    pub fn leaders(&self) -> Vec<Endpoint> {
        let leads = |node: &NodeId| {
            let groups = self.raft(*node).map(|raft| raft.groups());
            let mut data = groups.into_iter().flatten();
            data.any(|group| group.shard() != ShardId::ROOT && group.is_leader())
        };
        let leading = NODES.into_iter().filter(leads);
        leading.map(|node| Endpoint(node.0)).collect()
    }

    /// Asks a node to hand over every shard it leads.
    pub fn hand_over(&self, endpoint: Endpoint, to: NodeId) {
        let Some(raft) = self.raft(NodeId(endpoint.0)) else {
            return;
        };
        self.runtime.spawn(async move {
            for group in raft.groups() {
                // Refused where it does not lead.
                let _ = group.transfer_leader(to).await;
            }
        });
    }

    /// Sets a node's wall clock off from the others'.
    pub fn set_clock_offset(&self, endpoint: Endpoint, offset_ms: i64) {
        if let Some(node) = self.node(endpoint) {
            node.clock().set_offset(offset_ms);
        }
    }

    /// Clock, entropy and tasks of a new life.
    fn next_runtime(&self, clock: Arc<dyn granary_runtime::Clock>) -> Runtime {
        let mut lives = self.lives.lock();
        *lives += 1;
        let seed = stream_seed(self.scenario.seed, Stream::Life, *lives);
        Runtime::simulated(clock, Arc::new(SeededEntropy::new(seed)))
    }

    /// One life's way to the metadata service.
    pub(crate) fn meta_link(&self, life: &Life) -> Arc<MetaLink> {
        let nodes: Vec<Endpoint> = NODES.iter().map(|node| Endpoint(node.0)).collect();
        Arc::new(MetaLink::new(
            self.net.clone(),
            life.clone(),
            nodes,
            self.scenario.meta_attempt,
        ))
    }

    /// A client of the metadata service and a directory of the storage nodes for one life.
    pub(crate) fn clients(&self, life: &Life) -> (Meta, Arc<BlobLinks>) {
        let link = self.meta_link(life);
        let meta = Meta::new(life.runtime.clone(), link).with_deadline(self.scenario.meta_deadline);
        let blobs = BlobLinks::new(self.net.clone(), life.clone(), NODES.to_vec());
        (meta, Arc::new(blobs))
    }

    /// Settings of every data path of the run.
    pub(crate) fn datapath_config() -> DataPathConfig {
        DataPathConfig {
            inline_max_bytes: 1000,
            ..DataPathConfig::default()
        }
    }

    /// A data path of one life.
    pub(crate) fn data_path(&self, life: &Life) -> (Meta, DataPath, ClusterView, Arc<BlobLinks>) {
        let (meta, blobs) = self.clients(life);
        let runtime = life.runtime.clone();
        let view = ClusterView::new(runtime.clone(), meta.clone(), blobs.clone());
        view.start_refreshing(REFRESH_INTERVAL);
        let data = DataPath::new(runtime, meta.clone(), view.clone(), Self::datapath_config());
        (meta, data, view, blobs)
    }

    /// A gateway's next life.
    pub async fn start_gateway(&self, endpoint: Endpoint) -> Gateway {
        let runtime = self.next_runtime(Arc::clone(self.runtime.clock()));
        let life = self.net.begin_life(endpoint, runtime);
        let (meta, data, view, _) = self.data_path(&life);
        // Without a map every write is refused; the refreshing goes on anyway.
        let _ = view.refresh().await;
        Gateway::new(life, meta, data, self.record.clone())
    }

    /// Starts a node, on what its last life left on its disks. Nothing while it is up.
    pub async fn start(&self, endpoint: Endpoint) {
        let Some(node) = self.node(endpoint) else {
            return;
        };
        if !node.take_off() {
            return;
        }
        let runtime = self.next_runtime(node.clock().clone());
        let life = self.net.begin_life(endpoint, runtime);
        self.net.trace().record("start", &[endpoint.0, life.number]);
        if let Err(why) = node.start(self, life).await {
            self.findings
                .report(format!("node {} does not start: {why}", node.id));
        }
    }

    /// Crashes a node; false when it is not up. Of what its disks had not made durable, the seed
    /// says what is left.
    pub fn crash(&self, endpoint: Endpoint) -> bool {
        let Some(node) = self.node(endpoint) else {
            return false;
        };
        if self.healing.load(Ordering::SeqCst) {
            return false;
        }
        let crashed = node.crash(&self.net, &mut self.crashes.lock());
        if crashed {
            self.net.trace().record("crash", &[endpoint.0]);
        }
        crashed
    }

    /// Forms the cluster and makes the buckets, on links without faults; then lets the links be
    /// what the seed says.
    ///
    /// # Errors
    /// A sentence.
    pub async fn form(&self) -> Result<(), String> {
        join_all(NODES.map(|node| self.start(Endpoint(node.0)))).await;
        let gateway = self.start_gateway(OPERATOR).await;
        for bucket in BUCKETS.into_iter().chain([LOGS]) {
            while gateway.create_bucket(bucket).await.is_err() {
                self.runtime.sleep(FORM_PAUSE).await;
            }
        }
        while !self.is_placed(&gateway).await {
            self.runtime.sleep(FORM_PAUSE).await;
        }
        self.net.end_life(&gateway.life);
        self.net.heal_all(self.scenario.quality);
        Ok(())
    }

    /// Whether chunks can be written.
    async fn is_placed(&self, gateway: &Gateway) -> bool {
        let map = gateway
            .meta
            .query(granary_meta_api::pb::GetClusterMap { known_epoch: 0 })
            .await;
        map.is_ok_and(|map| !map.groups.is_empty())
    }

    /// Ends every fault and starts what is down.
    pub async fn heal(&self) {
        self.healing.store(true, Ordering::SeqCst);
        self.net.trace().record("heal", &[]);
        self.net.heal_all(self.scenario.quality.healed());
        for node in NODES {
            self.set_clock_offset(Endpoint(node.0), 0);
        }
        join_all(NODES.map(|node| self.start(Endpoint(node.0)))).await;
    }
}
