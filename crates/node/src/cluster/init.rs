//! `granary admin init`: makes a cluster of one node, in that node's directories, while it does not
//! run. On the metadata directory of a `granary server` it adds what a cluster needs and keeps the
//! rest. Every step can be repeated: what is there stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_cluster::{
    Authority, CertificateFacts, Identity, KeySealer as _, NodeKey, StateDir, certificate_pem,
    check_cluster_id, new_token,
};
use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::NodeId;
use serde::Serialize;

use super::{record, zones};
use crate::config::Credentials;
use crate::credentials;
use crate::files;
use crate::roles::meta::{FIRST_NODE, FirstStart, MetaRole};
use crate::roles::storage;
use crate::start_config::{Role, StartConfig};
use crate::vault::Sealer;

/// How long the first token counts.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// The operator's copy of what the cluster can't be managed or rebuilt without.
const ADMIN_DIR: &str = "admin";
/// In it: the cluster's region, which the metadata of a node that runs cannot be asked for.
const REGION: &str = "region";

/// What was made, or was there.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    /// Only when it was made now.
    pub(crate) region: Option<String>,
    /// False when the cluster was there already.
    pub(crate) created: bool,
    pub(crate) access_key_id: Option<String>,
    /// Only until it has been shown once.
    pub(crate) access_key_secret: Option<String>,
    /// The file that keeps both, when Granary made them.
    pub(crate) root_credentials: Option<PathBuf>,
    pub(crate) join_token: Option<String>,
    pub(crate) admin_dir: PathBuf,
}

impl Made {
    /// A cluster that was made before.
    fn before(identity: &Identity, state_dir: &Path, admin_dir: PathBuf) -> Self {
        let kept_in = state_dir.join(credentials::PAIR_FILE);
        Self {
            root_credentials: kept_in.exists().then_some(kept_in),
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node.0,
            region: None,
            created: false,
            access_key_id: None,
            access_key_secret: None,
            join_token: None,
            admin_dir,
        }
    }
}

/// Makes the cluster, or goes on making it.
///
/// # Errors
/// The node runs, its directories belong to somebody else, or cannot be written.
pub(crate) async fn init(
    runtime: &Runtime,
    config: &StartConfig,
    region: Option<&str>,
    root: Option<&Credentials>,
) -> anyhow::Result<Made> {
    if !config.has(Role::Meta) {
        bail!("the first node of a cluster needs the role meta");
    }
    let state = StateDir::open(&config.state_dir)?;
    let before = state.identity()?;
    if let Some(identity) = &before
        && identity.node != FIRST_NODE
    {
        bail!(
            "{} is the state directory of node {} of cluster {}, which exists",
            config.state_dir.display(),
            identity.node,
            identity.cluster_id
        );
    }
    let admin_dir = config.state_dir.join(ADMIN_DIR);
    if let Some(identity) = &before
        && admin_dir.join("admin.pem").exists()
    {
        // Complete, and most likely running.
        refuse_other_region(&admin_dir, region)?;
        return Ok(Made::before(identity, &config.state_dir, admin_dir));
    }
    if before.is_none() {
        zones::check_name(&config.zone)?;
    }
    let cluster = storage::cluster_of(&config.data)?;
    let first = FirstStart {
        region,
        section: &config.meta,
        disks_belong_to: cluster.as_deref(),
        found_elsewhere: None,
    };
    let budget = config.meta.budget();
    let meta = MetaRole::start(runtime, &config.state_dir, budget, first).await?;
    let made = complete(runtime, config, &state, &meta, root).await;
    meta.stop().await;
    made
}

async fn complete(
    runtime: &Runtime,
    config: &StartConfig,
    state: &StateDir,
    meta: &MetaRole,
    root: Option<&Credentials>,
) -> anyhow::Result<Made> {
    check_cluster_id(&meta.cluster_id)?;
    let identity = Identity {
        cluster_id: meta.cluster_id.clone(),
        node: FIRST_NODE,
    };
    let admin_dir = config.state_dir.join(ADMIN_DIR);
    let pair = credentials::install(
        &meta.client,
        &meta.vault,
        runtime.entropy().as_ref(),
        &config.state_dir,
        root,
    )
    .await?;
    register(&meta.client, config).await?;
    let authority = authority(runtime, meta, &admin_dir).await?;
    certify_node(runtime, state, &authority, &identity)?;
    certify_admin(runtime, &admin_dir, &authority, &identity)?;
    files::write_secret(
        &admin_dir.join("master.key"),
        &hex::encode(meta.vault.master_key()),
    )?;
    // Last: from now on it is a node.
    state.put_identity(&identity)?;
    let token = new_token(runtime, &meta.client, TOKEN_LIFE).await?;
    let map = meta.client.query(pb::GetClusterMap::default()).await?;
    let region = map.info.map(|info| info.region);
    if let Some(region) = &region {
        files::write_secret(&admin_dir.join(REGION), region)?;
    }
    pair.note_seen()?;
    Ok(Made {
        cluster_id: identity.cluster_id,
        node_id: FIRST_NODE.0,
        region,
        created: true,
        access_key_id: Some(pair.pair.id.clone()),
        root_credentials: pair.kept_in.clone(),
        access_key_secret: (pair.unseen || root.is_some()).then(|| pair.pair.secret.clone()),
        join_token: Some(token.reveal()),
        admin_dir,
    })
}

/// A cluster stays in its region. One that was made by an older version has not noted it.
fn refuse_other_region(admin_dir: &Path, wanted: Option<&str>) -> anyhow::Result<()> {
    let noted = files::read_if_present(&admin_dir.join(REGION))?;
    match (noted, wanted) {
        (Some(region), Some(wanted)) if region != wanted => bail!(
            "the cluster is there already, with the region {region}, which clients sign with and which \
             stays: leave out --region {wanted}"
        ),
        _ => Ok(()),
    }
}

async fn register(client: &Meta, config: &StartConfig) -> anyhow::Result<()> {
    let node = record(config, FIRST_NODE);
    let decision = client
        .propose(pb::RegisterNode { node: Some(node) })
        .await?;
    decision
        .map(|_| ())
        .map_err(|no| anyhow::anyhow!("the node was refused: {}", no.detail))
}

/// The cluster's authority: the one there is, from the operator's copy or the metadata, or a new one.
/// Its key is on disk before the cluster trusts it.
async fn authority(
    runtime: &Runtime,
    meta: &MetaRole,
    admin_dir: &Path,
) -> anyhow::Result<Authority> {
    make_private(admin_dir)?;
    let (certificate, key) = (admin_dir.join("ca.pem"), admin_dir.join("ca.key"));
    let trust = meta.client.query(pb::GetTrust {}).await?;
    let sealer = Sealer {
        vault: Arc::clone(&meta.vault),
        runtime: runtime.clone(),
    };
    if let Some(signer) = trust.ca_certificates.first() {
        let opened = sealer.unseal(&trust.sealed_ca_key);
        let opened =
            opened.context("the CA's key in the metadata does not open with master.key")?;
        let authority = Authority::from_der(signer, &opened)?;
        keep(&authority, &certificate, &key)?;
        return Ok(authority);
    }
    let kept = files::read_if_present(&certificate)?.zip(files::read_if_present(&key)?);
    let authority = match kept {
        Some((certificate, key)) => Authority::from_pem(&certificate, &key)?,
        None => {
            let authority = Authority::generate(runtime, &meta.cluster_id)?;
            keep(&authority, &certificate, &key)?;
            authority
        }
    };
    let sealed = sealer.seal(&authority.key_der());
    let trust = pb::state::ClusterTrust {
        ca_certificates: vec![authority.certificate().to_vec().into()],
        sealed_ca_key: sealed.context("the CA's key could not be sealed")?.into(),
        generation: 0,
    };
    let command = pb::PutTrust {
        trust: Some(trust),
        expected_generation: 0,
    };
    let decision = meta.client.propose(command).await?;
    decision.map_err(|no| anyhow::anyhow!("the CA was refused: {}", no.detail))?;
    Ok(authority)
}

fn keep(authority: &Authority, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    files::write_secret(key, &authority.key_pem())?;
    files::write_secret(certificate, &authority.certificate_pem())
}

fn make_private(dir: &Path) -> anyhow::Result<()> {
    // The process's umask leaves nothing to others.
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn certify_node(
    runtime: &Runtime,
    state: &StateDir,
    authority: &Authority,
    identity: &Identity,
) -> anyhow::Result<()> {
    let key = state.key_or_new()?;
    let request = key.request()?;
    let certificate = authority.issue_node(
        runtime,
        &identity.cluster_id,
        NodeId(identity.node.0),
        &request,
    )?;
    state.put_bundle(&[authority.certificate().to_vec()])?;
    state.put_certificate(&certificate)?;
    Ok(())
}

/// The certificate that `granary admin` shows; made anew once two thirds of its life are over.
fn certify_admin(
    runtime: &Runtime,
    admin_dir: &Path,
    authority: &Authority,
    identity: &Identity,
) -> anyhow::Result<()> {
    let (certificate, key) = (admin_dir.join("admin.pem"), admin_dir.join("admin.key"));
    if let Some(pem) = files::read_if_present(&certificate)?
        && key.exists()
        && let Some(der) = granary_cluster::certificates_from_pem(pem.as_bytes())?.first()
        && runtime.now() < CertificateFacts::read(der)?.renew_at()
    {
        return Ok(());
    }
    let new = NodeKey::generate()?;
    let signed = authority.issue_admin(runtime, &identity.cluster_id, &new)?;
    files::write_secret(&key, &new.to_pem())?;
    files::write_secret(&certificate, &certificate_pem(&signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_there_gets_no_other_region() {
        let folder = tempfile::tempdir().unwrap();
        let check = |wanted| refuse_other_region(folder.path(), wanted);
        // Made by a version that did not note it.
        check(Some("b")).unwrap();
        files::write_secret(&folder.path().join(REGION), "a").unwrap();
        check(Some("a")).unwrap();
        check(None).unwrap();
        let said = check(Some("b")).unwrap_err().to_string();
        assert!(said.contains("the region a,"), "{said}");
    }
}
