//! How a state directory becomes a node's: by joining a cluster.

use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_cluster::{
    GiveUp, Identity, JoinError, JoinParameters, JoinToken, Joined, StateDir, join_cluster,
};
use granary_runtime::Runtime;
use granary_types::NodeId;

use super::record;
use crate::start_config::StartConfig;

/// Longest time for `granary admin join`.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// Which node this process is. An empty state directory joins when the configuration has a token,
/// and tries for as long as it takes; without one that is the operator's decision.
pub(crate) async fn identity(runtime: &Runtime, config: &StartConfig) -> anyhow::Result<Identity> {
    let state = StateDir::open(&config.state_dir)?;
    if let Some(identity) = state.identity()? {
        return Ok(identity);
    }
    let Some(token) = &config.join_token()? else {
        bail!(
            "{} is no node's state directory yet: make a new cluster (granary admin init), or join one \
             (granary admin join --token TOKEN, or join_token in the configuration)",
            config.state_dir.display()
        );
    };
    loop {
        match join(runtime, config, token, None, GiveUp::default()).await {
            Ok(joined) => return Ok(joined.identity),
            Err(error) if matches!(error.downcast_ref(), Some(JoinError::NoAnswer(_))) => {
                tracing::warn!(%error, "not joined yet");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Joins the cluster that a token is for, in the place of a node that is lost, if one is named.
/// Repeating it is harmless.
///
/// # Errors
/// Refused, or nobody answered within a minute.
pub(crate) async fn join(
    runtime: &Runtime,
    config: &StartConfig,
    token: &str,
    replaces: Option<NodeId>,
    give_up: GiveUp,
) -> anyhow::Result<Joined> {
    let state = StateDir::open(&config.state_dir)?;
    let parameters = JoinParameters {
        token: JoinToken::parse(token).context("the join token")?,
        seeds: config.join.clone(),
        node: record(config, NodeId(0)),
        replaces,
        give_up,
        plaintext: config.plaintext,
    };
    if parameters.seeds.is_empty() {
        bail!("join = [\"HOST:PORT\", ...] names no node of the cluster to ask");
    }
    Ok(join_cluster(runtime, &state, &parameters, JOIN_LIMIT).await?)
}
