//! `granary server`: every role in one process, with no network between them.
//!
//! Start: addresses, metadata, disks, placement, workers, gateway, then ready. Stop, on SIGTERM or SIGINT:
//! not ready, gateway drains, workers, disks, metadata; then the process exits with 0. It does the
//! same, in a bounded time and with an exit code of its own, when the metadata can't go on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use granary_blob::BlobConfig;
use granary_datapath::{ClusterView, DataPath};
use granary_kv_rocks::RocksBudget;
use granary_meta::MetaNode;
use granary_meta_api::{MetaControl, pb};
use granary_runtime::{CancellationToken, Runtime};
use granary_types::NodeId;
use granary_workers::{MetaNodes, RangeKeeperConfig};
use prometheus_client::registry::Registry;

use crate::accounts::AccountsService;
use crate::admin::Admin;
use crate::config::ServerConfig;
use crate::credentials;
use crate::descriptors;
use crate::greeting::Greeting;
use crate::listeners::Taken;
use crate::metrics::Sources;
use crate::process;
use crate::readiness::Readiness;
use crate::roles::gateway::GatewayRole;
use crate::roles::meta::{FIRST_NODE, FirstStart, MetaRole, found_elsewhere};
use crate::roles::storage::{self, StorageRole};
use crate::roles::worker::{Members, WorkerRole, wait_for_placement};
use crate::telemetry::Telemetry;
use crate::vault::Sealer;

/// How old the gateway's view of disks and placement may be.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);

/// Copies of a chunk at most.
const COPIES_MAX: usize = 3;

/// Runs until a signal says stop.
pub(crate) fn run(mut config: ServerConfig) -> anyhow::Result<()> {
    let settings = process::Settings {
        log: config.log.clone(),
        log_format: config.log_format,
        otlp_endpoint: config.otlp_endpoint.clone(),
        drain: Duration::from_millis(config.gateway.drain_timeout_ms),
        disk_calls: config.data.len() * config.storage.for_cluster("any").calls_max(),
    };
    process::run(
        &settings,
        async |runtime: &Runtime, telemetry: &Telemetry| {
            let wanted = config.gateway.connections_max;
            config.gateway.connections_max = descriptors::reserve(config.data.len(), wanted)?;
            Running::start(runtime, &config, telemetry).await
        },
    )
}

/// Everything that runs, in the order it is stopped.
struct Running {
    readiness: Arc<Readiness>,
    gateway: GatewayRole,
    admin: CancellationToken,
    workers: WorkerRole,
    storage: Arc<StorageRole>,
    meta: Arc<MetaRole>,
}

impl Running {
    async fn start(
        runtime: &Runtime,
        config: &ServerConfig,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Self> {
        let api = Taken::take("listen", config.listen)?;
        let address = api.address();
        let readiness = Arc::new(Readiness::default());
        let admin = Admin::new(Arc::clone(&readiness));
        let admin_until = CancellationToken::new();
        let admin_address = serve_admin(runtime, config, &admin, admin_until.clone())?;
        let budget = config.meta.budget();
        let meta = start_meta(runtime, config, budget.clone()).await?;
        let credentials = credentials::install(
            &meta.client,
            &meta.vault,
            runtime.entropy().as_ref(),
            &config.meta_dir,
            config.root_credentials.as_ref(),
        )
        .await?;
        register_node(&meta, config).await?;
        let blob = config.storage.for_cluster(&meta.cluster_id);
        let storage = start_storage(runtime, config, blob, budget, &meta).await?;
        let view = ClusterView::new(runtime.clone(), meta.client.clone(), storage.nodes());
        let datapath = DataPath::new(
            runtime.clone(),
            meta.client.clone(),
            view.clone(),
            config.datapath.clone(),
        );
        view.start_refreshing(VIEW_INTERVAL);
        let workers = WorkerRole::start(
            runtime,
            FIRST_NODE,
            &datapath,
            meta.client.clone(),
            &config.workers,
            Members {
                nodes: Arc::new(OnlyNode(Arc::clone(&meta.node))),
                config: None,
                ranges: RangeKeeperConfig::above(config.meta.split_bytes),
            },
        );
        wait_for_placement(runtime, &view, &storage).await?;
        let mut registry = Registry::default();
        let sources = Sources::new(
            Some(Arc::clone(&meta)),
            Some(Arc::clone(&storage)),
            telemetry.dropped_lines(),
        );
        let sources = Arc::new(sources);
        crate::metrics::register(&mut registry, Arc::clone(&sources));
        datapath.register_metrics(&mut registry);
        workers.metrics().register(&mut registry);
        let out = out_of_service(&storage).await;
        let gateway = GatewayRole::start(
            runtime,
            config.gateway.clone(),
            meta.client.clone(),
            datapath,
            Arc::clone(&meta.vault) as _,
            &mut registry,
            api,
        )?;
        admin.publish(registry, sources);
        serve_accounts(runtime, config, &meta, admin_until.clone());
        readiness.set(true);
        let copies = (config.data.len() - out.len()).clamp(1, COPIES_MAX);
        let greeting = Greeting {
            config,
            address,
            admin: admin_address,
            copies,
            out: &out,
            credentials: &credentials,
        };
        // The server goes on if nobody reads it.
        let _ = crate::print_if_read(&greeting.to_string());
        if let Err(error) = credentials.note_seen() {
            tracing::warn!(
                error = format!("{error:#}"),
                "the next start prints the secret again"
            );
        }
        tracing::info!(%address, copies, directories_out = out.len(), region = config.gateway.region, "ready");
        Ok(Self {
            readiness,
            gateway,
            admin: admin_until,
            workers,
            storage,
            meta,
        })
    }
}

impl process::Running for Running {
    fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    async fn failed(&self) -> String {
        self.meta.failed().await
    }

    async fn stop(self, runtime: &Runtime, step: &process::Step) {
        self.readiness.set(false);
        step.set("what the gateway has in hand");
        self.gateway.drain().await;
        step.set("background work");
        self.workers.stop().await;
        step.set("closing the disks");
        self.storage.stop().await;
        step.set("closing the metadata");
        self.meta.stop().await;
        step.set("what was left to do");
        self.admin.cancel();
        runtime.stop().await;
        tracing::info!("stopped");
    }
}

/// Listens on the admin address, if there is to be one: alive, and not ready yet.
fn serve_admin(
    runtime: &Runtime,
    config: &ServerConfig,
    admin: &Arc<Admin>,
    until: CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = config.admin_listen else {
        return Ok(None);
    };
    let taken = Taken::take("admin-listen", address)?;
    let address = taken.address();
    admin.serve(runtime, taken.listen()?, until);
    Ok(Some(address))
}

/// Serves who administers accounts. A server whose directory can have no socket does without.
fn serve_accounts(
    runtime: &Runtime,
    config: &ServerConfig,
    meta: &MetaRole,
    until: CancellationToken,
) {
    let service = AccountsService {
        runtime: runtime.clone(),
        meta: meta.client.clone(),
        sealer: Some(Arc::new(Sealer {
            vault: Arc::clone(&meta.vault),
            runtime: runtime.clone(),
        })),
        root_is_configured: true,
    };
    if let Err(error) = service.serve_socket(&config.meta_dir, until) {
        tracing::warn!(
            error = format!("{error:#}"),
            "granary admin account cannot reach this server"
        );
    }
}

async fn start_meta(
    runtime: &Runtime,
    config: &ServerConfig,
    budget: RocksBudget,
) -> anyhow::Result<Arc<MetaRole>> {
    if config.meta_dir.join("identity.json").exists() {
        bail!(
            "{} belongs to a node of a cluster: start it with granary start",
            config.meta_dir.display()
        );
    }
    // Only a new installation asks the data directories, one of which may hang.
    let (cluster, elsewhere) = match config.meta_dir.join("format").exists() {
        true => (None, None),
        false => (
            storage::cluster_of(&config.data)?,
            found_elsewhere(&config.data, &config.meta_dir),
        ),
    };
    let first = FirstStart {
        region: Some(&config.gateway.region),
        section: &config.meta,
        disks_belong_to: cluster.as_deref(),
        found_elsewhere: elsewhere,
    };
    let meta = MetaRole::start(runtime, &config.meta_dir, budget, first).await?;
    let meta = Arc::new(meta);
    meta.watch_space(runtime, config.meta.min_free_bytes);
    Ok(meta)
}

/// Data directories that hold no copies of what is written now.
async fn out_of_service(storage: &StorageRole) -> Vec<PathBuf> {
    let directories = storage.directories().await;
    directories
        .into_iter()
        .filter_map(|(path, serves)| (!serves).then_some(path))
        .collect()
}

async fn start_storage(
    runtime: &Runtime,
    config: &ServerConfig,
    blob: BlobConfig,
    budget: RocksBudget,
    meta: &MetaRole,
) -> anyhow::Result<Arc<StorageRole>> {
    let storage = StorageRole::start(
        runtime,
        FIRST_NODE,
        blob,
        &config.data,
        budget,
        meta.client.clone(),
    )
    .await?;
    storage.watch();
    Ok(storage)
}

/// The metadata of a single server: in this process, and nowhere else.
struct OnlyNode(Arc<MetaNode>);

impl MetaNodes for OnlyNode {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        (node == FIRST_NODE).then(|| Arc::clone(&self.0) as Arc<dyn MetaControl>)
    }
}

async fn register_node(meta: &MetaRole, config: &ServerConfig) -> anyhow::Result<()> {
    let roles = ["gateway", "meta", "storage", "worker"]
        .map(str::to_owned)
        .to_vec();
    let node = pb::state::Node {
        id: FIRST_NODE.0,
        zone: "default".to_owned(),
        address: config.listen.to_string(),
        roles,
        feature_level: granary_meta::FEATURE_LEVEL,
        ..Default::default()
    };
    let decision = meta
        .client
        .propose(pb::RegisterNode { node: Some(node) })
        .await?;
    decision
        .map(|_| ())
        .map_err(|no| anyhow::anyhow!("the node was refused: {no:?}"))
}
