//! `granary start`: the roles of one node, and the network between it and the others.
//!
//! Start: addresses, identity, metadata, the listener for other nodes; then whatever the cluster is
//! needed for waits until it answers: disks, background work, gateway. Stop, on SIGTERM or SIGINT:
//! not ready, gateway drains, workers, the shards it leads are handed over, disks, metadata, listener.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_blob_api::{BlobNode, BlobService, ServerLimits};
use granary_cluster::{
    Access, AccessTable, AddressBook, BlobNodes, Identity, JoinServer, KEY_ROLES, KeySealer, Links,
    Listener, ListenerConfig, MetaRouter, Peer, Renewal, Security, StateDir, Trust,
};
use granary_datapath::{ClusterView, DataPath};
use granary_kv_rocks::RocksBudget;
use granary_meta::FEATURE_LEVEL;
use granary_meta_api::wire::{checked_routes, control_routes};
use granary_meta_api::{ErrorKind, Meta, MetaControl, MetaError, MetaService, pb};
use granary_raft::grpc::{GrpcTransport, RemovedSender, routes as raft_routes};
use granary_runtime::{CancellationToken, Runtime, Task};
use granary_types::NodeId;
use granary_vfs::DirLock;
use granary_workers::{MemberKeeperConfig, RangeKeeperConfig, Scrub};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tonic::service::Routes;
use tracing_appender::non_blocking::ErrorCounter;

use super::admin::AdminService;
use super::follow::Follower;
use super::herald::Herald;
use super::hints::HintCarrier;
use super::seeds::Seeds;
use super::wiring::{LateDisks, MetadataNodes, RaftLinks, StorageNodes};
use super::{join, proposers, rebuild, record, zones};
use crate::accounts::AccountsService;
use crate::admin::Admin;
use crate::descriptors;
use crate::files;
use crate::listeners::Taken;
use crate::metrics::Sources;
use crate::process;
use crate::readiness::{Readiness, RootContact};
use crate::roles::backup;
use crate::roles::gateway::GatewayRole;
use crate::roles::meta::{Member, MetaRole};
use crate::roles::storage::{StorageRole, Wanted};
use crate::roles::worker::{Members, WorkerRole};
use crate::start_config::{Role, StartConfig};
use crate::telemetry::Telemetry;
use crate::vault::{Sealer, Vault};

/// How old the gateway's view of disks and placement may be.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time for the shards to be led by others when this node stops.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);
/// What nodes may ask of each other as operators do.
const USED_BY_NODES: [&str; 4] = [
    "granary.admin.Admin/DescribeNode",
    "granary.admin.Admin/ListPeers",
    "granary.admin.Admin/Trigger",
    "granary.admin.Admin/TakeHints",
];
/// What operators may ask of disks: nothing that changes them.
const READ_BY_OPERATORS: [&str; 4] = [
    "granary.blob.Blob/Disks",
    "granary.blob.Blob/Groups",
    "granary.blob.Blob/List",
    "granary.blob.Blob/Get",
];
/// Pause before this node's record is offered again.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);
/// Pause before disks are opened again when the cluster did not take them.
const DISKS_PAUSE: Duration = Duration::from_secs(1);

/// Runs a node until a signal says stop.
pub(crate) fn run(mut config: StartConfig) -> anyhow::Result<()> {
    let settings = process::Settings {
        log: config.log.clone(),
        log_format: config.log_format,
        otlp_endpoint: config.otlp_endpoint.clone(),
        drain: Duration::from_millis(config.gateway.drain_timeout_ms),
        disk_calls: config.data.len() * config.storage.for_cluster("any").calls_max(),
    };
    process::run(
        &settings,
        async move |runtime: &Runtime, telemetry: &Telemetry| {
            let wanted = config.gateway.connections_max;
            config.gateway.connections_max = descriptors::reserve(config.data.len(), wanted)?;
            Box::pin(Node::start(runtime, config, telemetry)).await
        },
    )
}

/// Everything that runs. What waits for the cluster is there as soon as that has answered.
struct Node {
    config: StartConfig,
    base: Base,
    readiness: Arc<Readiness>,
    page: Arc<Admin>,
    admin: CancellationToken,
    dropped_lines: ErrorCounter,
    meta: Option<Arc<MetaRole>>,
    router: Arc<MetaRouter>,
    client: Meta,
    view: ClusterView,
    disks: Arc<LateDisks>,
    metadata_nodes: Arc<MetadataNodes>,
    joins: Arc<JoinServer>,
    operators: AdminService,
    listener: Listener,
    /// Taken when the gateway starts.
    api: Mutex<Option<Taken>>,
    storage: OnceLock<Arc<StorageRole>>,
    workers: OnceLock<Arc<WorkerRole>>,
    gateway: OnceLock<GatewayRole>,
    /// Of the state directory, unless the metadata holds it.
    _lock: Option<DirLock>,
}

/// What is there before the cluster answers.
struct Base {
    identity: Identity,
    security: Security,
    state: StateDir,
    links: Arc<Links>,
    budget: RocksBudget,
    /// On nodes that have the master key.
    vault: Option<Arc<Vault>>,
}

impl Base {
    fn open(config: &StartConfig, runtime: &Runtime, identity: Identity) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        warn_of_open_secrets(&config.state_dir);
        let security = security_of(config, runtime, &state, &identity)?;
        let seeds = config.join.clone();
        let book = AddressBook::open(&state, &identity.cluster_id, seeds)?;
        let master_key = config.state_dir.join("master.key");
        let vault = match master_key.exists() {
            true => Some(Arc::new(Vault::open(&master_key)?)),
            false => None,
        };
        if vault.is_none() && (config.has(Role::Gateway) || config.has(Role::Meta)) {
            bail!(
                "{} is missing: a node with the role gateway or meta gets it when it joins; if the \
                 roles of this node have changed, join it as a new node",
                master_key.display()
            );
        }
        Ok(Self {
            links: Arc::new(Links::new(security.clone(), Arc::new(book))),
            budget: config.meta.budget(),
            identity,
            security,
            state,
            vault,
        })
    }

    fn sealer(&self, runtime: &Runtime) -> Option<Arc<dyn KeySealer>> {
        let vault = Arc::clone(self.vault.as_ref()?);
        let runtime = runtime.clone();
        Some(Arc::new(Sealer { vault, runtime }))
    }
}

/// Whoever reads one of these is this node, or reads every secret of the cluster.
fn warn_of_open_secrets(state_dir: &Path) {
    for name in ["master.key", "node.key"] {
        let file = state_dir.join(name);
        if files::is_open_to_others(&file) {
            tracing::warn!(
                file = %file.display(),
                "others than its owner may read or change this secret: chmod 600"
            );
        }
    }
}

fn security_of(
    config: &StartConfig,
    runtime: &Runtime,
    state: &StateDir,
    identity: &Identity,
) -> anyhow::Result<Security> {
    if config.plaintext {
        tracing::warn!(
            "nodes talk in plain text (plaintext = true): whoever reaches {} can read and change everything",
            config.cluster_address
        );
        return Ok(Security::Plain {
            cluster_id: identity.cluster_id.clone(),
            local: Peer::Node(identity.node),
        });
    }
    let credentials = state.credentials()?;
    let credentials =
        credentials.context("this node has no certificate: make one (granary admin certify)")?;
    Ok(Security::Tls(Arc::new(Trust::new(
        runtime.clone(),
        credentials,
    )?)))
}

impl Node {
    async fn start(
        runtime: &Runtime,
        settings: StartConfig,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Self> {
        let config = &settings;
        let between = Taken::take("cluster-listen", config.cluster_listen)?;
        let api = match config.has(Role::Gateway) {
            true => Some(Taken::take("listen", config.listen)?),
            false => None,
        };
        let readiness = Arc::new(Readiness::default());
        let page = Admin::new(Arc::clone(&readiness));
        let admin = CancellationToken::new();
        if let Some(address) = config.admin_listen {
            let taken = Taken::take("admin-listen", address)?;
            page.serve(runtime, taken.listen()?, admin.clone());
        }
        let identity = join::identity(runtime, config).await?;
        let lock = match config.has(Role::Meta) {
            true => None,
            false => Some(join::lock(runtime, &config.state_dir).await?),
        };
        let base = Base::open(config, runtime, identity)?;
        let meta = start_meta(runtime, config, &base).await?;
        let (router, client) = match &meta {
            Some((role, router)) => (Arc::clone(router), role.client.clone()),
            None => {
                let router = MetaRouter::new(runtime.clone(), Arc::clone(&base.links), None);
                let router = Arc::new(router);
                let service: Arc<dyn MetaService> = router.clone();
                (router, Meta::new(runtime.clone(), service))
            }
        };
        let client = client.with_patience(config.meta.patience());
        let meta = meta.map(|(role, _)| role);
        let disks = Arc::new(LateDisks::default());
        let local_disks: Option<Arc<dyn BlobNode>> = match config.has(Role::Storage) {
            true => Some(disks.clone()),
            false => None,
        };
        let nodes = BlobNodes::new(Arc::clone(&base.links), local_disks.clone());
        let view = ClusterView::new(
            runtime.clone(),
            client.clone(),
            Arc::new(StorageNodes(nodes)),
        );
        let local_control = meta
            .as_ref()
            .map(|role| role.node.clone() as Arc<dyn MetaControl>);
        let metadata_nodes = Arc::new(MetadataNodes {
            links: Arc::clone(&base.links),
            local: local_control.clone(),
        });
        let operators = AdminService::new(
            runtime.clone(),
            client.clone(),
            view.clone(),
            Arc::clone(&base.links),
            metadata_nodes.clone(),
            base.identity.clone(),
            base.sealer(runtime),
        );
        let joins = JoinServer::new(
            runtime.clone(),
            client.clone(),
            base.sealer(runtime),
            base.security.clone(),
            Arc::new(operators.clone()),
        );
        let accounts = AccountsService {
            runtime: runtime.clone(),
            meta: client.clone(),
            sealer: base.sealer(runtime),
            root_is_configured: false,
        };
        let mut services = vec![joins.routes(), operators.routes(), accounts.routes()];
        if let Some(role) = &meta {
            services.push(raft_routes(Arc::clone(role.node.raft())));
            let book = Arc::clone(base.links.book());
            let check = move |sender: &tonic::Extensions, command: &pb::Command| {
                let peer = sender.get::<Peer>().copied().unwrap_or(Peer::Anonymous);
                proposers::check(&book, peer, command)
            };
            services.push(checked_routes(role.node.clone(), Arc::new(check)));
        }
        services.extend(local_control.map(control_routes));
        services.extend(
            local_disks.map(|disks| Routes::new(BlobService::new(disks, ServerLimits::default()))),
        );
        let access = AccessTable::default()
            .with(super::pb::admin_server::SERVICE_NAME, Access::Admin)
            .with(super::pb::accounts_server::SERVICE_NAME, Access::Admin)
            // Not by the role itself: that may be added to a node later, and a book may be behind.
            .with("granary.raft.v1.Raft", Access::NodesWith(&KEY_ROLES))
            .with("granary.meta.MetaNode", Access::NodesWith(&KEY_ROLES))
            .with(
                "granary.admin.Admin/LearnPeers",
                Access::AdminOrNodesWith(&KEY_ROLES),
            )
            // Any node answers an operator who asks for the status.
            .with("granary.meta.MetaNode/ListReplicas", Access::Nodes);
        // A shard may need a node that was removed until it has let it go.
        let access = match &meta {
            Some(role) => {
                let raft = Arc::clone(role.node.raft());
                let heard = move |node, extensions: &mut http::Extensions| {
                    extensions.insert(RemovedSender(node));
                    raft.has_member(None, node)
                };
                access.with_removed("granary.raft.v1.Raft", Arc::new(heard))
            }
            None => access,
        };
        // Nodes tell each other what they know; an operator who rebuilds the metadata reads its backup.
        let access = USED_BY_NODES
            .into_iter()
            .chain(READ_BY_OPERATORS)
            .fold(access, |access, method| {
                access.with(method, Access::AdminOrNodes)
            });
        let listener = Listener::start(
            runtime,
            between.listen()?,
            base.security.clone(),
            Arc::clone(base.links.book()),
            services,
            access,
            ListenerConfig::default(),
        )?;
        tracing::info!(
            node = base.identity.node.0,
            cluster = base.identity.cluster_id,
            address = config.cluster_address,
            "listening for other nodes"
        );

        Ok(Self {
            base,
            readiness,
            page,
            admin,
            dropped_lines: telemetry.dropped_lines(),
            meta,
            router,
            client,
            view,
            disks,
            metadata_nodes,
            joins,
            operators,
            listener,
            api: Mutex::new(api),
            storage: OnceLock::new(),
            workers: OnceLock::new(),
            gateway: OnceLock::new(),
            _lock: lock,
            config: settings,
        })
    }

    /// What needs the cluster, whenever it answers.
    async fn go_on(&self, runtime: &Runtime) -> anyhow::Result<()> {
        let Self {
            config,
            base,
            client,
            view,
            meta,
            ..
        } = self;
        let follower = Follower {
            runtime: runtime.clone(),
            meta: client.clone(),
            book: Arc::clone(base.links.book()),
            router: Arc::clone(&self.router),
            seeds: Arc::new(Seeds {
                runtime: runtime.clone(),
                links: Arc::clone(&base.links),
            }),
        };
        // They serve whoever rebuilds the metadata, too.
        let opening = prepare_storage(runtime, config, base, client, &self.disks);
        let own = base.identity.node;
        let is_member = || {
            meta.as_ref()
                .is_some_and(|role| role.node.raft().has_member(None, own))
        };
        let first = follower.first_map(own, is_member).await?;
        let info = first.info.clone().unwrap_or_default();
        refuse_too_old(info.feature_level, config)?;
        announce(runtime, client, &first, config, &base.identity).await?;
        let root = RootContact::new(runtime.clone(), config.meta.patience());
        if config.has(Role::Gateway) {
            self.readiness.depends_on(root.clone());
        }
        let map = follower.start(first, root);
        if let Security::Tls(trust) = &base.security {
            let server = base.vault.is_some().then(|| Arc::clone(&self.joins));
            let renewal = Renewal::new(
                runtime.clone(),
                base.state.clone(),
                Arc::clone(trust),
                Arc::clone(&base.links),
                client.clone(),
                server,
            )?;
            renewal.start();
        }
        let storage = match opening {
            Some(opening) => {
                let role = start_storage(runtime, opening).await?;
                Some(Arc::clone(self.storage.get_or_init(|| role)))
            }
            None => None,
        };
        let datapath = DataPath::new(
            runtime.clone(),
            client.clone(),
            view.clone(),
            config.datapath.clone(),
        );
        if let Err(error) = view.refresh().await {
            tracing::debug!(%error, "the disks are not known yet");
        }
        view.start_refreshing(VIEW_INTERVAL);
        let mut registry = Registry::default();
        let sources = Sources::new(meta.clone(), storage.clone(), self.dropped_lines.clone());
        let sources = Arc::new(sources);
        crate::metrics::register(&mut registry, Arc::clone(&sources));
        datapath.register_metrics(&mut registry);
        let workers = config.has(Role::Worker).then(|| {
            let members = Members {
                nodes: self.metadata_nodes.clone(),
                config: Some(MemberKeeperConfig {
                    voters: config.meta.voters,
                }),
                ranges: RangeKeeperConfig::above(config.meta.split_bytes),
            };
            let node = base.identity.node;
            let client = client.clone();
            let role =
                WorkerRole::start(runtime, node, &datapath, client, &config.workers, members);
            role.metrics().register(&mut registry);
            Arc::clone(self.workers.get_or_init(|| Arc::new(role)))
        });
        let scrub = {
            let (runtime, client, datapath) = (runtime.clone(), client.clone(), datapath.clone());
            let metrics = workers.as_ref().map(|role| role.metrics().clone());
            let (metrics, config) = (metrics.unwrap_or_default(), config.workers.scrub());
            move || {
                let (runtime, client, datapath) =
                    (runtime.clone(), client.clone(), datapath.clone());
                Scrub::new(runtime, client, datapath, metrics.clone(), &config)
            }
        };
        if let Some(role) = meta
            && config.meta.backup
        {
            backup::start(&role.node, &base.identity.cluster_id, &datapath);
        }
        let herald = Herald {
            runtime: runtime.clone(),
            links: Arc::clone(&base.links),
            map: map.clone(),
            marker: rebuild::marker(&config.state_dir),
        };
        herald.start();
        let sweep_every = Duration::from_secs(config.workers.sweep_interval_secs);
        let hints = datapath.repair_hints();
        let carrier = HintCarrier {
            runtime: runtime.clone(),
            links: Arc::clone(&base.links),
            map: map.clone(),
            hints: hints.clone(),
            workers: workers.clone(),
        };
        carrier.start();
        self.operators.set_parts(
            workers.clone(),
            map,
            Box::new(scrub),
            sweep_every,
            hints,
            config.meta.voters,
        );
        if let (Some(api), Some(vault)) = (self.api.lock().take(), &base.vault) {
            let mut settings = config.gateway.clone();
            settings.region = info.region.clone();
            let address = api.address();
            let role = GatewayRole::start(
                runtime,
                settings,
                client.clone(),
                datapath,
                Arc::clone(vault) as _,
                &mut registry,
                api,
            )?;
            tracing::info!(%address, region = info.region, "gateway serves the OSS API");
            let _ = self.gateway.set(role);
        }
        self.page.publish(registry, sources);
        self.readiness.set(true);
        tracing::info!(node = base.identity.node.0, zone = config.zone, "ready");
        Ok(())
    }
}

async fn start_meta(
    runtime: &Runtime,
    config: &StartConfig,
    base: &Base,
) -> anyhow::Result<Option<(Arc<MetaRole>, Arc<MetaRouter>)>> {
    if !config.has(Role::Meta) {
        return Ok(None);
    }
    let raft = RaftLinks(Arc::clone(&base.links));
    let member = Member {
        identity: &base.identity,
        section: &config.meta,
        transport: Arc::new(GrpcTransport::new(Arc::new(raft))),
    };
    let links = Arc::clone(&base.links);
    let mut router = None;
    let role = MetaRole::open(
        runtime,
        &config.state_dir,
        base.budget.clone(),
        member,
        |node| {
            let local: Arc<dyn MetaService> = node.clone();
            let way = Arc::new(MetaRouter::new(runtime.clone(), links, Some(local)));
            node.route_root_through(way.clone());
            router = Some(Arc::clone(&way));
            Meta::new(runtime.clone(), way)
        },
    )
    .await?;
    let role = Arc::new(role);
    role.watch_space(runtime, config.meta.min_free_bytes);
    Ok(router.map(|router| (role, router)))
}

/// Opens the disks, and lets them serve at once: the cluster need not answer for that.
fn prepare_storage(
    runtime: &Runtime,
    config: &StartConfig,
    base: &Base,
    client: &Meta,
    late: &Arc<LateDisks>,
) -> Option<Task<anyhow::Result<Arc<StorageRole>>>> {
    if !config.has(Role::Storage) {
        return None;
    }
    let blob = config.storage.for_cluster(&base.identity.cluster_id);
    let (node, budget) = (base.identity.node, base.budget.clone());
    let (data, client, late) = (config.data.clone(), client.clone(), Arc::clone(late));
    let others = StorageNodes(BlobNodes::new(Arc::clone(&base.links), None));
    let opening = runtime.clone();
    Some(runtime.spawn(async move {
        let opened = async {
            let role = StorageRole::new(&opening, node, blob, &data, budget, client).await?;
            role.know(Arc::new(others));
            // Before the first disk is open: each of them serves as soon as it can.
            late.set(Arc::new(role.store.clone()));
            role.open_all(Wanted::Hope).await?;
            Ok(role)
        };
        tokio::select! {
            opened = opened => opened,
            // A stop does not wait for disks that nobody has written to yet.
            () = opening.shutdown().cancelled() => bail!("stopped while the disks were being opened"),
        }
    }))
}

/// Tells the cluster of the disks; while it does not answer, again and again.
async fn start_storage(
    runtime: &Runtime,
    opening: Task<anyhow::Result<Arc<StorageRole>>>,
) -> anyhow::Result<Arc<StorageRole>> {
    let role = opening.await.context("the disks could not be opened")??;
    while let Err(error) = role.enrol().await {
        if !error.is::<granary_meta_api::MetaError>() {
            return Err(error);
        }
        tracing::warn!(%error, "the cluster does not take the disks yet");
        runtime.sleep(DISKS_PAUSE).await;
    }
    role.watch();
    Ok(role)
}

/// A version that cannot apply what the cluster does must not have its metadata.
fn refuse_too_old(active: u64, config: &StartConfig) -> anyhow::Result<()> {
    if config.has(Role::Meta) && active > FEATURE_LEVEL {
        bail!(
            "the cluster is at feature level {active}, and this version of Granary applies levels up \
             to {FEATURE_LEVEL}: start the version that the other nodes run, or a newer one"
        );
    }
    Ok(())
}

/// Tells the root where this node is and what it does, when that has changed. While the root does
/// not answer, again and again.
async fn announce(
    runtime: &Runtime,
    client: &Meta,
    map: &pb::ClusterMap,
    config: &StartConfig,
    identity: &Identity,
) -> anyhow::Result<()> {
    let record = record(config, identity.node);
    if map.nodes.contains(&record) {
        return Ok(());
    }
    let known = map.nodes.iter().find(|known| known.id == record.id);
    if let Some(known) = known.filter(|known| known.zone != record.zone) {
        zones::check_name(&record.zone)?;
        tracing::warn!(
            before = known.zone,
            now = record.zone,
            "this node is in another zone now: copies move to where the zones ask for them"
        );
        let others = map.nodes.iter().filter(|node| !node.removed);
        let others = others.map(|node| (NodeId(node.id), node.zone.as_str()));
        if let Some(said) = zones::said_of_new(identity.node, &record.zone, others) {
            tracing::warn!("{said}");
        }
    }
    loop {
        let node = Some(record.clone());
        match client.propose(pb::RegisterNode { node }).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(no)) => bail!("the cluster refused this node: {}", no.detail),
            Err(error) if is_permanent(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the cluster does not take this node's record yet");
                runtime.sleep(ANNOUNCE_PAUSE).await;
            }
        }
    }
}

/// Repeating it cannot help. A deadline that passed may, as for any other node without a quorum.
fn is_permanent(error: &MetaError) -> bool {
    error.kind() == ErrorKind::Permanent && !matches!(error, MetaError::Expired(_))
}

impl process::Running for Node {
    fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    async fn complete(&self, runtime: &Runtime) -> anyhow::Result<()> {
        Box::pin(self.go_on(runtime)).await
    }

    async fn failed(&self) -> String {
        match &self.meta {
            Some(meta) => meta.failed().await,
            None => std::future::pending().await,
        }
    }

    async fn stop(self, runtime: &Runtime, step: &process::Step) {
        if let Some(gateway) = self.gateway.into_inner() {
            step.set("what the gateway has in hand");
            gateway.drain().await;
        }
        if let Some(workers) = self.workers.get() {
            step.set("background work");
            workers.stop().await;
        }
        if let Some(meta) = &self.meta {
            step.set("handing over shards");
            let kept = meta.node.hand_over(HAND_OVER_LIMIT).await;
            if kept > 0 {
                tracing::warn!(shards = kept, "shards could not be handed over");
            }
        }
        if let Some(storage) = self.storage.get() {
            step.set("closing the disks");
            storage.stop().await;
        }
        if let Some(meta) = &self.meta {
            step.set("closing the metadata");
            meta.stop().await;
        }
        step.set("what other nodes have asked for");
        self.listener.stop().await;
        step.set("what was left to do");
        self.admin.cancel();
        runtime.stop().await;
        tracing::info!("stopped");
    }
}
