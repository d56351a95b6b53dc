//! How a state directory becomes a node's: by joining a cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use granary_cluster::{
    AddressBook, GiveUp, Identity, JoinError, JoinParameters, JoinToken, Joined, Peer, Security,
    StateDir, Trust, connect_to_address, is_heard, join_cluster,
};
use granary_runtime::{Runtime, within};
use granary_types::NodeId;
use granary_vfs::{DirLock, RealVfs, Vfs as _};

use super::follow::given_up;
use super::{record, zones};
use crate::start_config::StartConfig;

/// Longest time for `granary admin join`.
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// Addresses that are asked whether this node was given up, and how long each may take.
const ASKED_MAX: usize = 64;
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Which node this process is. An empty state directory joins when the configuration has a token,
/// and tries for as long as it takes; without one that is the operator's decision.
pub(crate) async fn identity(runtime: &Runtime, config: &StartConfig) -> anyhow::Result<Identity> {
    let state = StateDir::open(&config.state_dir)?;
    if let Some(identity) = state.identity()? {
        if !config.plaintext && has_expired(runtime, &state)? {
            certify_by_token(runtime, config).await;
        }
        return Ok(identity);
    }
    let Some(token) = &config.join_token()? else {
        bail!(
            "{} is no node's state directory. If this machine is a node already, state_dir names another \
             directory than before, or its disk is not mounted: put that right, and nothing is lost. A new \
             node joins its cluster (granary admin join --token TOKEN, or join_token in the \
             configuration); the first node of a new cluster makes it (granary admin init)",
            config.state_dir.display()
        );
    };
    loop {
        let wanted = Wanted::default();
        let tell = |said: &str| tracing::warn!("not joined yet, trying on: {said}");
        match join(runtime, config, token, &wanted, &tell).await {
            Ok(joined) => return Ok(joined.identity),
            Err(error) if matches!(error.downcast_ref(), Some(JoinError::NoAnswer(_))) => {
                tracing::debug!(%error, "not joined yet");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the certificate in a state directory counts no more.
fn has_expired(runtime: &Runtime, state: &StateDir) -> anyhow::Result<bool> {
    let Some(credentials) = state.credentials()? else {
        return Ok(false);
    };
    Ok(credentials.facts()?.not_after <= runtime.now())
}

/// A node that was off until its certificate had expired gets a new one by its join token, if it still
/// has one that counts. Without one it starts all the same, and says what it needs.
async fn certify_by_token(runtime: &Runtime, config: &StartConfig) {
    let outcome = match config.join_token() {
        Ok(Some(token)) => join(runtime, config, &token, &Wanted::default(), &|_| ()).await,
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) => tracing::info!("the certificate had expired: has a new one, by the join token"),
        Err(error) => tracing::warn!(
            error = format!("{error:#}"),
            "the certificate has expired, and the join token gave no new one"
        ),
    }
}

/// Takes a state directory for this process alone.
pub(crate) async fn lock(runtime: &Runtime, state_dir: &Path) -> anyhow::Result<DirLock> {
    let path = state_dir.to_owned();
    Ok(runtime.blocking(move || RealVfs.lock(&path)).await??)
}

/// How a node is to join.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Addresses of nodes to ask; those of the configuration when there are none.
    pub(crate) seeds: &'a [String],
    /// The node that is lost and whose place it takes.
    pub(crate) replaces: Option<NodeId>,
    pub(crate) give_up: GiveUp,
}

/// Joins the cluster that a token is for, in the place of a node that is lost, if one is named.
/// Repeating it is harmless. `tell` hears now and then why nobody lets it in yet.
///
/// # Errors
/// Refused, or nobody answered within a minute.
pub(crate) async fn join(
    runtime: &Runtime,
    config: &StartConfig,
    token: &str,
    wanted: &Wanted<'_>,
    tell: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Joined> {
    let state = StateDir::open(&config.state_dir)?;
    if let (Some(replaces), Some(identity)) = (wanted.replaces, state.identity()?) {
        refuse_replacing(&state, &identity, replaces)?;
    }
    let seeds = match wanted.seeds {
        [] => &config.join,
        named => named,
    };
    let parameters = JoinParameters {
        token: JoinToken::parse(token).context("the join token")?,
        seeds: seeds.to_vec(),
        node: record(config, NodeId(0)),
        replaces: wanted.replaces,
        give_up: wanted.give_up,
        plaintext: config.plaintext,
    };
    if parameters.seeds.is_empty() {
        bail!(
            "which cluster? Name nodes of it: join = [\"HOST:PORT\", ...] in the configuration, or --address"
        );
    }
    let is_node = state.identity()?.is_some();
    if !is_node {
        zones::check_name(&config.zone)?;
    }
    let settled = is_node && !has_expired(runtime, &state)?;
    // Two that join with one directory would mix their keys; a node that runs stays as it is.
    let _lock = match settled {
        true => None,
        false => Some(lock(runtime, &config.state_dir).await?),
    };
    let joined = join_cluster(runtime, &state, &parameters, JOIN_LIMIT, tell).await?;
    if !joined.fresh && is_given_up(runtime, config, &parameters.seeds, &joined.identity).await? {
        return Err(given_up(joined.identity.node));
    }
    Ok(joined)
}

/// Whether nodes that answer refuse this one because it was given up, and none still hears it: as long
/// as a shard needs it, it has to run.
async fn is_given_up(
    runtime: &Runtime,
    config: &StartConfig,
    seeds: &[String],
    identity: &Identity,
) -> anyhow::Result<bool> {
    let state = StateDir::open(&config.state_dir)?;
    let security = match (config.plaintext, state.credentials()?) {
        (true, _) => Security::Plain {
            cluster_id: identity.cluster_id.clone(),
            local: Peer::Node(identity.node),
        },
        (false, Some(own)) => Security::Tls(Arc::new(Trust::new(runtime.clone(), own)?)),
        (false, None) => return Ok(false),
    };
    let book = AddressBook::open(&state, &identity.cluster_id, Vec::new())?;
    let known = book.nodes().into_iter().filter(|node| !node.removed);
    let mut addresses: BTreeSet<String> = known.map(|node| node.address).collect();
    addresses.extend(seeds.iter().cloned());
    addresses.remove(&config.cluster_address);
    let asked = addresses.iter().take(ASKED_MAX).map(|address| async {
        let channel = connect_to_address(&security, address).ok()?;
        let asked = is_heard(channel, identity.node);
        within(ANSWER_LIMIT, asked).await.ok().flatten()
    });
    let heard = join_all(asked).await;
    Ok(heard.contains(&Some(false)) && !heard.contains(&Some(true)))
}

/// What to say of the zone of a node that has just joined, if no other node is in it.
///
/// # Errors
/// What the cluster told this node of the others cannot be read.
pub(crate) fn new_zone(
    config: &StartConfig,
    identity: &Identity,
) -> anyhow::Result<Option<String>> {
    let state = StateDir::open(&config.state_dir)?;
    let book = AddressBook::open(&state, &identity.cluster_id, Vec::new())?;
    let nodes = book.nodes();
    let others = nodes.iter().filter(|node| !node.removed);
    let others = others.map(|node| (node.id(), node.zone.as_str()));
    Ok(zones::said_of_new(identity.node, &config.zone, others))
}

/// A directory that is a node's already takes nobody's place by joining, unless that is what made it
/// one: then the others of its address book know of it.
fn refuse_replacing(state: &StateDir, identity: &Identity, replaces: NodeId) -> anyhow::Result<()> {
    let book = AddressBook::open(state, &identity.cluster_id, Vec::new())?;
    if !book.is_removed(replaces) {
        bail!(
            "{} is already node {}, which takes nobody's place: granary admin replace node {replaces} \
             gives that one up, or an empty state directory joins in its place",
            state.path().display(),
            identity.node
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use granary_cluster::PeerNode;

    use super::*;

    #[test]
    fn a_node_that_is_there_takes_the_place_of_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let identity = Identity {
            cluster_id: "c1".to_owned(),
            node: NodeId(8),
        };
        let peer = |node, removed| PeerNode {
            node,
            address: "a:1".to_owned(),
            zone: "z".to_owned(),
            roles: Vec::new(),
            gateway: String::new(),
            removed,
        };
        let peers = vec![peer(5, true), peer(7, false)];
        state.put_peers("c1", 3, peers).unwrap();
        // The join that made it a node, once more.
        refuse_replacing(&state, &identity, NodeId(5)).unwrap();
        for other in [7, 9] {
            let said = refuse_replacing(&state, &identity, NodeId(other)).unwrap_err();
            assert!(said.to_string().contains("is already node 8"), "{said}");
        }
    }
}
