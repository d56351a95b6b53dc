//! `granary admin`: what an operator asks of a cluster, from any machine that has its admin
//! certificate. Tables for people, JSON for programs, exit codes for scripts.

mod account;
mod ca;
mod repair;
mod text;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use granary_cluster::{
    CertificateFacts, Credentials, GiveUp, NodeKey, Peer, Security, StateDir, Trust,
    certificates_from_pem, connect_to_address, plain,
};
use granary_runtime::Runtime;
use granary_types::NodeId;
use granary_workers::{FsckProgress, FsckReport, ScrubProgress, ScrubReport};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use tonic::transport::Channel;

use crate::cluster::pb::admin_client::AdminClient;
use crate::cluster::pb::{
    CreateTokenRequest, FsckRequest, ReadmitDiskRequest, RemoveDiskRequest, RemoveNodeRequest,
    ScrubRequest, StatusRequest,
};
use crate::cluster::rebuild::{self, Wanted};
use crate::cluster::status::ClusterStatus;
use crate::cluster::{init, join};
use crate::config;
use crate::files;
use crate::start_config::StartConfig;
use account::AccountCommand;
use text::{fsck_text, rebuilt_text, scrub_text, status_text};

/// The cluster is not as it should be.
const DEGRADED: u8 = 3;
/// Damage was found.
const DAMAGE: u8 = 4;
/// Longest message: the status of a large cluster.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How a cluster is reached.
#[derive(Args, Debug, Default)]
pub(crate) struct Reach {
    /// Configuration of a node: its own, for init and join; one of the cluster for the rest.
    #[arg(long, value_name = "FILE", env = "GRANARY_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Cluster address (HOST:PORT) of a node of the cluster to ask; several are tried in turn.
    /// [default: that of --config, then its `join`; for join, its `join`]
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = host_and_port,
        global = true
    )]
    address: Vec<String>,
    /// The `admin` directory that `granary admin init` wrote. [default: `admin` in the state
    /// directory of --config]
    #[arg(long, value_name = "DIR", global = true)]
    admin_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

impl Reach {
    /// The configuration that --config names.
    fn node(&self) -> anyhow::Result<StartConfig> {
        let config = self.config.clone();
        let config = config.context("--config FILE with the settings of the node is needed")?;
        StartConfig::of_file(&config)
    }

    /// The operator's directory: the one that is named, or that of the node.
    fn admin_dir(&self, node: Option<&StartConfig>) -> anyhow::Result<PathBuf> {
        let named = self.admin_dir.clone();
        let named = named.or_else(|| Some(node?.state_dir.join("admin")));
        named.context("--admin-dir is needed with --address")
    }
}

/// Takes --address out of the help of a command that asks no cluster at an address.
#[derive(Args, Debug)]
pub(crate) struct NoAddress {
    #[arg(long, hide = true, value_delimiter = ',', value_parser = host_and_port)]
    address: Vec<String>,
}

impl NoAddress {
    /// One that is named all the same is meant for something else.
    fn check(&self, instead: &str) -> anyhow::Result<()> {
        if !self.address.is_empty() {
            bail!("--address has no meaning here: {instead}");
        }
        Ok(())
    }
}

/// What an operator can ask.
#[derive(Subcommand, Debug)]
pub(crate) enum AdminCommand {
    /// Makes a new cluster of one node, or one out of a `granary server`, which must not run.
    Init {
        /// Region id that clients sign with. [default: cn-granary-1]
        #[arg(long, value_name = "ID", env = "GRANARY_REGION")]
        region: Option<String>,
        /// Access key id of the root account. [default: made now]
        #[arg(long, value_name = "ID", env = "GRANARY_ROOT_ACCESS_KEY_ID")]
        root_access_key_id: Option<String>,
        /// Access key secret of the root account; prefer the variable.
        #[arg(
            long,
            value_name = "SECRET",
            env = "GRANARY_ROOT_ACCESS_KEY_SECRET",
            hide_env_values = true
        )]
        root_access_key_secret: Option<String>,
        #[command(flatten)]
        address: NoAddress,
    },
    /// Makes this machine a node of a cluster.
    Join {
        /// From `granary admin token`.
        #[arg(
            long,
            value_name = "TOKEN",
            env = "GRANARY_JOIN_TOKEN",
            hide_env_values = true
        )]
        token: String,
        /// A lost node that this one takes the place of: given up for good, as by `replace node`.
        #[arg(long, value_name = "NODE")]
        replaces: Option<u64>,
        /// Replace it even if it serves, or if a shard has no majority without it.
        #[arg(long, requires = "replaces")]
        force: bool,
        /// Also when it answers and others are still to be filled from it.
        #[arg(long, requires = "replaces")]
        accept_loss: bool,
    },
    /// Makes the first meta node of a cluster that has lost all of them, from the backup in the
    /// storage pool. The state directory of --config must be empty. Exit code 1 when it is refused.
    Rebuild {
        /// A node that runs; several, or repeat it. The nodes they know of are asked too.
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = host_and_port)]
        from: Vec<String>,
        /// Go on although nodes, disks or parts of the backup could not be read: what is only there is
        /// lost for good.
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        address: NoAddress,
    },
    /// Makes accounts, shows them, and says which of their access keys count.
    Account {
        /// Of a granary server, which must run: its metadata directory, or its first data directory.
        #[arg(long, value_name = "DIR", global = true)]
        server: Option<PathBuf>,
        #[command(subcommand)]
        what: AccountCommand,
    },
    /// Makes a token that lets nodes join.
    Token {
        /// How long it counts, such as 30m, 24h or 7d.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = life)]
        ttl: Duration,
    },
    /// Shows how the cluster does. Exit code 3 when it is not as it should be.
    Status,
    /// Gives something up, so that others take its place: a node for good, a disk until it is taken
    /// back (readmit). Others get a disk's chunks a minute later (`replace_after_secs`).
    Replace {
        #[command(subcommand)]
        what: Replaced,
    },
    /// Takes something back that was given up.
    Readmit {
        #[command(subcommand)]
        what: Readmitted,
    },
    /// Lets repair look for work at once and shows it until nothing is left to repair. Exit code 3 when
    /// what is left cannot be repaired, because zones lack the disks for more copies.
    Repair,
    /// Reads every copy of every chunk now and has what is damaged rewritten from a good one. Exit
    /// code 4 when something is left that is not as it was stored; 1 when nothing is, but not every copy
    /// could be read.
    Scrub,
    /// Changes the CA that signs the nodes' certificates, while everything runs. Cut off, it goes on
    /// where it was; every run that ends is one change.
    RotateCa,
    /// Signs this node's certificate anew with the CA's key in --admin-dir, while the node does not
    /// run: for one that was off until its certificate had expired. The operator's certificate in
    /// --admin-dir is made anew too, once two thirds of its five years are over.
    Certify {
        #[command(flatten)]
        address: NoAddress,
    },
    /// Compares the metadata with the disks, both ways. Exit code 4 when there is damage, and 1 when
    /// there is none, but not everything could be looked at. What broken off writes leave is no damage
    /// as long as the sweep has time for it.
    Fsck {
        /// Also read the bytes of every copy.
        #[arg(long)]
        deep: bool,
    },
}

/// What can be given up.
#[derive(Subcommand, Debug)]
pub(crate) enum Replaced {
    /// A node that is lost: its replicas and disks get replaced, and it may not come back. Its data
    /// directories may, in a new node.
    Node {
        /// Its number in `granary admin status`.
        id: u64,
        /// Give it up even if it serves, or if a shard has no majority without it.
        #[arg(long)]
        force: bool,
        /// Also when it answers and others are still to be filled from it.
        #[arg(long)]
        accept_loss: bool,
    },
    /// A disk that is lost or is to go: other disks get its chunks. `readmit disk` takes it back.
    Disk {
        /// Its number in `granary admin status`.
        id: u64,
    },
}

/// What can be taken back. A node that was given up joins as a new one, with the disks it had.
#[derive(Subcommand, Debug)]
pub(crate) enum Readmitted {
    /// A disk that `replace disk` gave up and that is there again: it gets chunks as any other. What
    /// it has of chunks that are on no other disk is copied from it also without that.
    Disk {
        /// Its number in `granary admin status`.
        id: u64,
    },
}

/// Runs a command; the exit code says how it went.
pub(crate) fn run(command: AdminCommand, reach: &Reach) -> anyhow::Result<ExitCode> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = threads.block_on(Box::pin(execute(command, reach)));
    threads.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn execute(command: AdminCommand, reach: &Reach) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::system();
    match command {
        AdminCommand::Init {
            region,
            root_access_key_id,
            root_access_key_secret,
            address,
        } => {
            address.check(
                "init makes a cluster of this node, whose own address is cluster_address in --config",
            )?;
            let config = reach.node()?;
            let root = config::credentials(root_access_key_id, root_access_key_secret)?;
            let made = init::init(&runtime, &config, region.as_deref(), root.as_ref()).await?;
            runtime.stop().await;
            show(reach, &made, || init_text(&made))
        }
        AdminCommand::Join {
            token,
            replaces,
            force,
            accept_loss,
        } => {
            let config = reach.node()?;
            let wanted = join::Wanted {
                seeds: &reach.address,
                replaces: replaces.map(NodeId),
                give_up: GiveUp { force, accept_loss },
            };
            let tell = |said: &str| {
                crate::complain(&format!(
                    "granary: not joined yet: {said}; trying on, Ctrl-C is safe"
                ));
            };
            let joined = join::join(&runtime, &config, &token, &wanted, &tell).await?;
            let identity = joined.identity;
            let new_zone = match joined.fresh {
                true => join::new_zone(&config, &identity)?,
                false => None,
            };
            let value = json!({
                "cluster_id": identity.cluster_id,
                "node_id": identity.node.0,
                "created": joined.fresh,
                "zone_is_new": new_zone.is_some(),
            });
            show(reach, &value, || {
                let how = if joined.fresh { "is now" } else { "is already" };
                let zone = new_zone.map_or_else(String::new, |said| format!("{said}\n"));
                format!(
                    "{} {how} node {} of cluster {}: run granary start\n{zone}",
                    config.state_dir.display(),
                    identity.node,
                    identity.cluster_id
                )
            })
        }
        AdminCommand::Certify { address } => {
            address.check("certify asks no node, and uses the CA's key in --admin-dir")?;
            let config = reach.node()?;
            let admin_dir = reach.admin_dir(Some(&config))?;
            let (node, renewed) = ca::certify(&runtime, &config, &admin_dir)?;
            let value =
                json!({ "node_id": node.0, "certified": true, "operator_certified": renewed });
            show(reach, &value, || {
                let own = match renewed {
                    true => format!(", and so has {}", admin_dir.display()),
                    false => String::new(),
                };
                format!("Node {node} has a new certificate{own}: run granary start")
            })
        }
        AdminCommand::RotateCa => ca::rotate(&runtime, reach).await,
        AdminCommand::Account { server, what } => {
            account::run(what, server.as_deref(), reach, &runtime).await
        }
        AdminCommand::Rebuild {
            from,
            accept_loss,
            address,
        } => {
            address.check("--from names the nodes that rebuild asks")?;
            let config = reach.node()?;
            let admin_dir = reach.admin_dir(Some(&config))?;
            let bar = match reach.json {
                true => ProgressBar::hidden(),
                false => ProgressBar::new_spinner(),
            };
            let wanted = Wanted {
                admin_dir: &admin_dir,
                from: &from,
                accept_loss,
                tell: &|message| bar.set_message(message),
            };
            let rebuilt = rebuild::rebuild(&runtime, &config, &wanted).await;
            bar.finish_and_clear();
            let rebuilt = rebuilt?;
            runtime.stop().await;
            show(reach, &rebuilt, || rebuilt_text(&rebuilt))?;
            Ok(match rebuilt.refused {
                Some(_) => ExitCode::FAILURE,
                None => ExitCode::SUCCESS,
            })
        }
        remote => {
            let mut cluster = Cluster::connect(&runtime, reach)?;
            cluster.execute(remote, reach, &runtime).await
        }
    }
}

fn init_text(made: &init::Made) -> String {
    let mut text = String::new();
    let what = if made.created {
        "made"
    } else {
        "there already"
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Cluster {} is {what}; this is node {}.\n",
        made.cluster_id, made.node_id
    );
    if let Some(region) = &made.region {
        let _ = writeln!(text, "  region             {region}");
    }
    if let Some(id) = &made.access_key_id {
        let _ = writeln!(text, "  access key id      {id}");
    }
    if let Some(secret) = &made.access_key_secret {
        let _ = writeln!(text, "  access key secret  {secret}");
    }
    if let Some(file) = &made.root_credentials {
        let _ = writeln!(text, "  root access key    kept in {}", file.display());
    }
    let _ = writeln!(
        text,
        "  admin directory    {} (keep a copy elsewhere: it holds the CA's key and the master key)",
        made.admin_dir.display()
    );
    if let Some(token) = &made.join_token {
        let _ = writeln!(
            text,
            "\nStart this node with granary start. Others join for a day with\n"
        );
        let _ = writeln!(
            text,
            "  granary admin join --config node.toml --token {token}"
        );
    }
    text
}

/// Prints one value: as JSON, or as people read it.
fn show(
    reach: &Reach,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<ExitCode> {
    match reach.json {
        true => print_json(value)?,
        false => crate::print(text().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(value)?;
    ids_as_text(&mut value);
    crate::print(&value.to_string());
    Ok(())
}

/// Numbers of disks and buckets have 64 bits; most programs that read JSON keep 53 of them. As text they
/// stay what they are.
fn ids_as_text(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Array(values) => values.iter_mut().for_each(ids_as_text),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &mut *field) {
                    ("disk" | "bucket", Value::Number(number)) => {
                        *field = Value::String(number.to_string());
                    }
                    ("disks", Value::Array(disks)) => {
                        for id in disks.iter_mut().filter_map(|disk| disk.get_mut("id")) {
                            if let Value::Number(number) = id {
                                *id = Value::String(number.to_string());
                            }
                        }
                    }
                    _ => ids_as_text(field),
                }
            }
        }
        _ => {}
    }
}

/// Where to ask when no address is named: the node itself, which may be down, then those that it asks.
fn addresses_of(own: &str, others: &[String]) -> Vec<String> {
    let others = others.iter().map(String::as_str);
    let fit = others.filter(|other| *other != own && host_and_port(other).is_ok());
    std::iter::once(own).chain(fit).map(str::to_owned).collect()
}

/// A connection to each of the addresses that are named.
fn channels(runtime: &Runtime, reach: &Reach) -> anyhow::Result<Vec<(String, Channel)>> {
    let node = match &reach.config {
        Some(_) => Some(reach.node()?),
        None => None,
    };
    let addresses = match &node {
        Some(node) if reach.address.is_empty() => addresses_of(&node.cluster_address, &node.join),
        _ => reach.address.clone(),
    };
    if addresses.is_empty() {
        bail!(
            "which cluster? Give --config FILE of a node, or --address HOST:PORT and --admin-dir DIR"
        );
    }
    let admin_dir = reach.admin_dir(node.as_ref())?;
    let plaintext = node.as_ref().is_some_and(|node| node.plaintext);
    let security = security(runtime, &admin_dir, node.as_ref(), plaintext)?;
    let channels = addresses.into_iter().map(|address| {
        let channel = connect_to_address(&security, &address)?;
        Ok((address, channel))
    });
    channels.collect()
}

/// Asks one after the other until one can be reached; for what may be done twice.
async fn ask_in_turn<C, T>(
    clients: &mut [(String, C)],
    call: impl AsyncFn(&mut C) -> Result<T, tonic::Status>,
) -> anyhow::Result<T> {
    let unreached = |status: &tonic::Status| status.code() == tonic::Code::Unavailable;
    ask_while(clients, unreached, call).await
}

/// Asks one after the other until one may have begun; for what must not be done twice.
async fn ask_once<C, T>(
    clients: &mut [(String, C)],
    call: impl AsyncFn(&mut C) -> Result<T, tonic::Status>,
) -> anyhow::Result<T> {
    ask_while(clients, has_done_nothing, call).await
}

/// Whether the call did nothing: the node says so itself, or there was no connection to it. One that
/// broke tells nothing.
fn has_done_nothing(status: &tonic::Status) -> bool {
    let transport = std::error::Error::source(status);
    let mut causes = std::iter::successors(transport, |cause| cause.source());
    status.code() == tonic::Code::Unavailable
        && (transport.is_none() || causes.any(|cause| cause.is::<tonic::ConnectError>()))
}

async fn ask_while<C, T>(
    clients: &mut [(String, C)],
    goes_on: impl Fn(&tonic::Status) -> bool,
    call: impl AsyncFn(&mut C) -> Result<T, tonic::Status>,
) -> anyhow::Result<T> {
    let mut said = Vec::new();
    for (address, client) in clients {
        match call(client).await {
            Ok(answer) => return Ok(answer),
            Err(status) if goes_on(&status) => {
                said.push(format!("{address}: {}", plain(&status)));
            }
            Err(status) => bail!("{address}: {}", plain(&status)),
        }
    }
    if said.is_empty() {
        bail!("no address was given");
    }
    bail!("{}", said.join("; "))
}

/// A cluster that answers at one of some addresses.
struct Cluster {
    clients: Vec<(String, AdminClient<Channel>)>,
}

impl Cluster {
    fn connect(runtime: &Runtime, reach: &Reach) -> anyhow::Result<Self> {
        let clients = channels(runtime, reach)?
            .into_iter()
            .map(|(address, channel)| {
                let client = AdminClient::new(channel);
                (address, client.max_decoding_message_size(MESSAGE_BYTES_MAX))
            });
        Ok(Self {
            clients: clients.collect(),
        })
    }

    /// Asks the addresses in turn until one can be reached.
    async fn ask<T>(
        &mut self,
        call: impl AsyncFn(&mut AdminClient<Channel>) -> Result<T, tonic::Status>,
    ) -> anyhow::Result<T> {
        ask_in_turn(&mut self.clients, call).await
    }

    async fn execute(
        &mut self,
        command: AdminCommand,
        reach: &Reach,
        runtime: &Runtime,
    ) -> anyhow::Result<ExitCode> {
        match command {
            AdminCommand::Init { .. }
            | AdminCommand::Join { .. }
            | AdminCommand::Rebuild { .. }
            | AdminCommand::Certify { .. }
            | AdminCommand::Account { .. }
            | AdminCommand::RotateCa => bail!("done before a cluster is asked"),
            AdminCommand::Token { ttl } => {
                let request = CreateTokenRequest {
                    ttl_secs: ttl.as_secs(),
                };
                let made = self
                    .ask(async |client| Ok(client.create_token(request).await?.into_inner()))
                    .await?;
                let value = json!({
                    "token": made.token,
                    "expires_at": made.expires_ms / 1000,
                });
                show(reach, &value, || made.token.clone())
            }
            AdminCommand::Status => {
                let status = self.status().await?;
                show(reach, &status, || status_text(&status))?;
                Ok(match status.health.as_str() {
                    "ok" => ExitCode::SUCCESS,
                    _ => ExitCode::from(DEGRADED),
                })
            }
            AdminCommand::Replace { what } => self.replace(&what, reach).await,
            AdminCommand::Readmit {
                what: Readmitted::Disk { id },
            } => self.readmit_disk(id, reach).await,
            AdminCommand::Repair => self.repair(reach, runtime).await,
            AdminCommand::Fsck { deep } => self.fsck(deep, reach).await,
            AdminCommand::Scrub => self.scrub(reach).await,
        }
    }

    async fn status(&mut self) -> anyhow::Result<ClusterStatus> {
        let report = self
            .ask(async |client| Ok(client.status(StatusRequest {}).await?.into_inner()))
            .await?;
        serde_json::from_str(&report.json).context("the status makes no sense")
    }

    async fn replace(&mut self, what: &Replaced, reach: &Reach) -> anyhow::Result<ExitCode> {
        let (kind, id, note) = match *what {
            Replaced::Node {
                id,
                force,
                accept_loss,
            } => {
                let request = RemoveNodeRequest {
                    node: id,
                    force,
                    accept_loss,
                };
                let done = self
                    .ask(async |client| Ok(client.remove_node(request).await?.into_inner()))
                    .await?;
                ("node", id, done.note)
            }
            Replaced::Disk { id } => {
                let request = RemoveDiskRequest { disk: id };
                let done = self
                    .ask(async |client| Ok(client.remove_disk(request).await?.into_inner()))
                    .await?;
                ("disk", id, done.note)
            }
        };
        let value = json!({ kind: id, "state": "removed", "note": note });
        show(reach, &value, || match note.as_str() {
            "" => format!("{kind} {id} is given up: others take its place (granary admin status)"),
            note => format!("{kind} {id} is given up. {note}"),
        })
    }

    async fn readmit_disk(&mut self, id: u64, reach: &Reach) -> anyhow::Result<ExitCode> {
        let request = ReadmitDiskRequest { disk: id };
        let done = self
            .ask(async |client| Ok(client.readmit_disk(request).await?.into_inner()))
            .await?;
        let value = json!({ "disk": id, "state": "in", "note": done.note });
        show(reach, &value, || match done.note.as_str() {
            "" => format!("disk {id} is taken back: it gets chunks again (granary admin status)"),
            note => note.to_owned(),
        })
    }

    async fn fsck(&mut self, deep: bool, reach: &Reach) -> anyhow::Result<ExitCode> {
        let request = FsckRequest { deep };
        let mut reports = self
            .ask(async |client| Ok(client.fsck(request).await?.into_inner()))
            .await?;
        let bar = progress_bar(reach);
        let mut last = None;
        while let Some(report) = reports.message().await.map_err(|status| said(&status))? {
            if let Ok(found) = serde_json::from_str::<FsckReport>(&report.json)
                && serde_json::from_str::<FsckProgress>(&report.json).is_err()
            {
                last = Some(found);
            } else if let Ok(progress) = serde_json::from_str::<FsckProgress>(&report.json) {
                bar.set_length(progress.shards.1 + progress.groups.1);
                bar.set_position(progress.shards.0 + progress.groups.0);
                bar.set_message(format!("{} chunks", progress.chunks));
            }
        }
        bar.finish_and_clear();
        let report = last.context("the comparison broke off")?;
        show(reach, &report, || fsck_text(&report))?;
        Ok(match (report.complete, report.clean) {
            (_, true) => ExitCode::SUCCESS,
            (false, false) if found_damage(&report) == 0 => ExitCode::FAILURE,
            _ => ExitCode::from(DAMAGE),
        })
    }
}

impl Cluster {
    async fn scrub(&mut self, reach: &Reach) -> anyhow::Result<ExitCode> {
        let mut reports = self
            .ask(async |client| Ok(client.scrub(ScrubRequest {}).await?.into_inner()))
            .await?;
        let bar = progress_bar(reach);
        let mut last = None;
        while let Some(report) = reports.message().await.map_err(|status| said(&status))? {
            if let Ok(progress) = serde_json::from_str::<ScrubProgress>(&report.json) {
                bar.set_length(progress.groups.1);
                bar.set_position(progress.groups.0);
                bar.set_message(format!("{} copies", progress.copies));
            } else {
                last = serde_json::from_str::<ScrubReport>(&report.json).ok();
            }
        }
        bar.finish_and_clear();
        let report = last.context("the scrub broke off")?;
        show(reach, &report, || scrub_text(&report))?;
        let bad = report.copies_damaged > report.copies_repaired
            || report.chunks_differing > report.chunks_settled;
        Ok(match (report.clean, bad) {
            (true, _) => ExitCode::SUCCESS,
            (false, true) => ExitCode::from(DAMAGE),
            (false, false) => ExitCode::FAILURE,
        })
    }
}

fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", plain(status))
}

fn found_damage(report: &FsckReport) -> u64 {
    report.copies_missing
        + report.copies_corrupt
        + report.chunks_lost
        + report.chunks_outside
        + report.chunks_unreferenced
}

fn progress_bar(reach: &Reach) -> ProgressBar {
    if reach.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What the operator shows to the cluster.
fn security(
    runtime: &Runtime,
    admin_dir: &Path,
    node: Option<&StartConfig>,
    plaintext: bool,
) -> anyhow::Result<Security> {
    let read = |name: &str| {
        let file = admin_dir.join(name);
        let text = files::read_if_present(&file)?;
        text.with_context(|| {
            format!(
                "{} is missing: name the directory that granary admin init wrote on the first node, or a \
                 copy of it, with --admin-dir",
                file.display()
            )
        })
    };
    if plaintext {
        let state = node
            .map(|node| StateDir::open(&node.state_dir))
            .transpose()?;
        let identity = state.map(|state| state.identity()).transpose()?.flatten();
        let identity = identity.context("the node's state directory has no identity")?;
        return Ok(Security::Plain {
            cluster_id: identity.cluster_id,
            local: Peer::Admin,
        });
    }
    let bundle = certificates_from_pem(read("ca.pem")?.as_bytes())?;
    let mut own = certificates_from_pem(read("admin.pem")?.as_bytes())?;
    let certificate = own.swap_remove(0);
    let facts = CertificateFacts::read(&certificate)?;
    if facts.not_after <= runtime.now() {
        bail!(
            "the operator's certificate in {} has expired: granary admin certify makes a new one, on the \
             machine of a node that was stopped for it",
            admin_dir.display()
        );
    }
    let cluster_id = facts
        .names
        .iter()
        .find_map(|name| Peer::of_name(name))
        .map(|(_, cluster)| cluster.to_owned());
    let credentials = Credentials {
        cluster_id: cluster_id.context("admin.pem names no cluster")?,
        local: Peer::Admin,
        key: Arc::new(NodeKey::from_pem(&read("admin.key")?)?),
        certificate,
        bundle,
    };
    Ok(Security::Tls(Arc::new(Trust::new(
        runtime.clone(),
        credentials,
    )?)))
}

fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let fits = |(host, port): (&str, &str)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    if parts.is_some_and(fits) {
        return Ok(text.to_owned());
    }
    let host = match text.contains(':') || text.is_empty() {
        true => "n1.example.org",
        false => text,
    };
    Err(format!("an address is HOST:PORT, as in {host}:9100"))
}

fn life(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("a time such as 30m, 24h or 7d".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a time such as 30m, 24h or 7d".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds).max(1)))
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    /// A failure of the transport, as tonic shows one.
    #[derive(Debug)]
    struct Broken(Status);

    impl std::fmt::Display for Broken {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the connection broke")
        }
    }

    impl std::error::Error for Broken {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_asked_of_another_node() {
        let refused = || Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        let broken = || Status::from_error(Box::new(Broken(Status::unavailable("silent"))));
        let asked = async |first: fn() -> Status| {
            let mut nodes = [("a".to_owned(), 1), ("b".to_owned(), 2)];
            ask_once(&mut nodes, async |node: &mut i32| match *node {
                1 => Err(first()),
                other => Ok(other),
            })
            .await
        };
        let unready = || Status::unavailable("no master key");
        for nothing_done in [refused as fn() -> Status, unready] {
            assert_eq!(asked(nothing_done).await.unwrap(), 2);
        }
        for perhaps_done in [broken as fn() -> Status, || Status::aborted("unknown")] {
            assert!(asked(perhaps_done).await.is_err());
        }
    }

    #[tokio::test]
    async fn who_reaches_nobody_hears_what_every_address_said() {
        let mut nodes = [("a".to_owned(), "gone"), ("b".to_owned(), "late")];
        let asked = ask_in_turn(&mut nodes, async |node: &mut &str| {
            Err::<(), _>(Status::unavailable(*node))
        });
        assert_eq!(asked.await.unwrap_err().to_string(), "a: gone; b: late");
    }

    #[test]
    fn a_node_that_is_down_is_not_the_only_one_to_ask() {
        let join = ["b:1", "a:1", "nonsense", "c:2"].map(str::to_owned);
        assert_eq!(addresses_of("a:1", &join), ["a:1", "b:1", "c:2"]);
        assert_eq!(addresses_of("a:1", &[]), ["a:1"]);
    }

    #[test]
    fn an_address_without_a_port_is_refused_with_an_example() {
        for good in ["127.0.4.1:9100", "n1:1", "[::1]:9100"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for (bad, example) in [
            ("127.0.4.1", "127.0.4.1:9100"),
            ("", "n1.example.org:9100"),
            (":9100", "n1.example.org:9100"),
            ("n1:many", "n1.example.org:9100"),
            ("n1:0", "n1.example.org:9100"),
        ] {
            let said = host_and_port(bad).unwrap_err();
            assert_eq!(said, format!("an address is HOST:PORT, as in {example}"));
        }
    }

    #[test]
    fn no_id_loses_digits_in_json() {
        let id = u64::MAX - 1;
        let mut value = json!({
            "disks": [{ "id": id, "node": 3, "used_bytes": 1 }],
            "damage": [{ "disk": id, "bucket": 1u64 << 62, "group": 7 }, { "disk": null }],
            "disk": id,
            "nodes": [{ "id": 2 }],
        });
        ids_as_text(&mut value);
        assert_eq!(
            value,
            json!({
                "disks": [{ "id": id.to_string(), "node": 3, "used_bytes": 1 }],
                "damage": [
                    { "disk": id.to_string(), "bucket": "4611686018427387904", "group": 7 },
                    { "disk": null },
                ],
                "disk": id.to_string(),
                "nodes": [{ "id": 2 }],
            })
        );
    }
}
