//! The cluster's CA as its operator keeps it: changing it, and certificates that it signs while no
//! node runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_cluster::{
    Authority, CertificateFacts, NodeKey, Peer, StateDir, certificate_pem, certificates_from_pem,
};
use granary_runtime::Runtime;
use granary_types::NodeId;
use granary_vfs::{RealVfs, Vfs as _};
use serde_json::json;

use super::{Cluster, Reach, show};
use crate::cluster::pb::rotate_ca_reply::Step;
use crate::cluster::pb::{NodeBehind, RotateCaReply, RotateCaRequest};
use crate::files;
use crate::start_config::StartConfig;

/// Between two steps: nodes look for a new CA about that often.
const STEP_INTERVAL: Duration = Duration::from_secs(2);

/// The operator's directory.
struct AdminDir(PathBuf);

impl AdminDir {
    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        files::read_if_present(&self.0.join(name))
    }

    fn needed(&self, name: &str) -> anyhow::Result<String> {
        self.read(name)?
            .with_context(|| {
                format!(
                    "{} is missing: name the directory that granary admin init wrote on the first node, or \
                     a copy of it, with --admin-dir",
                    self.0.join(name).display()
                )
            })
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        files::write_secret(&self.0.join(name), text)
    }

    fn bundle(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        Ok(certificates_from_pem(self.needed("ca.pem")?.as_bytes())?)
    }

    fn own_certificate(&self) -> anyhow::Result<Vec<u8>> {
        let certificates = certificates_from_pem(self.needed("admin.pem")?.as_bytes())?;
        let first = certificates.into_iter().next();
        first.context("admin.pem has no certificate")
    }

    fn cluster_id(&self) -> anyhow::Result<String> {
        let names = CertificateFacts::read(&self.own_certificate()?)?.names;
        let named = names.iter().find_map(|name| Peer::of_name(name));
        let (_, cluster) = named.context("admin.pem names no cluster")?;
        Ok(cluster.to_owned())
    }

    /// The CA to come: made at the first attempt and kept before anybody trusts it.
    fn next(&self, runtime: &Runtime) -> anyhow::Result<Authority> {
        let kept = self.read("next-ca.pem")?.zip(self.read("next-ca.key")?);
        if let Some((certificate, key)) = kept {
            return Ok(Authority::from_pem(&certificate, &key)?);
        }
        let next = Authority::generate(runtime, &self.cluster_id()?)?;
        self.write("next-ca.key", &next.key_pem())?;
        self.write("next-ca.pem", &next.certificate_pem())?;
        Ok(next)
    }

    /// The operator trusts nodes of both from now on.
    fn trust(&self, next: &Authority) -> anyhow::Result<()> {
        let mut bundle = self.bundle()?;
        if bundle.iter().any(|known| known == next.certificate()) {
            return Ok(());
        }
        bundle.push(next.certificate().to_vec());
        let pem: Vec<String> = bundle.iter().map(|der| certificate_pem(der)).collect();
        self.write("ca.pem", &pem.concat())
    }

    /// Once the new CA signs, the operator shows a certificate of it too.
    fn follow(&self, runtime: &Runtime, next: &Authority) -> anyhow::Result<()> {
        let marker = next.certificate_pem();
        if self.read("admin-ca.pem")?.as_deref() == Some(marker.as_str()) {
            return Ok(());
        }
        let key = NodeKey::from_pem(&self.needed("admin.key")?)?;
        let signed = next.issue_admin(runtime, &self.cluster_id()?, &key)?;
        self.write("admin.pem", &certificate_pem(&signed))?;
        self.write("admin-ca.pem", &marker)
    }

    /// A new certificate for the operator, if it is time for one.
    fn renew_own(&self, runtime: &Runtime, authority: &Authority) -> anyhow::Result<bool> {
        if runtime.now() < CertificateFacts::read(&self.own_certificate()?)?.renew_at() {
            return Ok(false);
        }
        let key = NodeKey::from_pem(&self.needed("admin.key")?)?;
        let signed = authority.issue_admin(runtime, &self.cluster_id()?, &key)?;
        self.write("admin.pem", &certificate_pem(&signed))?;
        Ok(true)
    }

    /// Only the new one is left.
    fn finish(&self, next: &Authority) -> anyhow::Result<()> {
        self.write("ca.key", &next.key_pem())?;
        self.write("ca.pem", &next.certificate_pem())?;
        for name in ["next-ca.key", "next-ca.pem", "admin-ca.pem"] {
            let file = self.0.join(name);
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }
}

/// Changes the cluster's CA, to the end.
///
/// # Errors
/// No node answers, or one refuses. Repeating it goes on where it was.
pub(super) async fn rotate(runtime: &Runtime, reach: &Reach) -> anyhow::Result<ExitCode> {
    let node = match &reach.config {
        Some(_) => Some(reach.node()?),
        None => None,
    };
    let dir = AdminDir(reach.admin_dir(node.as_ref())?);
    let next = dir.next(runtime)?;
    dir.trust(&next)?;
    let mut told = String::new();
    loop {
        // Anew each time: what the operator trusts and shows changes on the way.
        let mut cluster = Cluster::connect(runtime, reach)?;
        let request = RotateCaRequest {
            certificate_pem: next.certificate_pem(),
            key_pem: next.key_pem(),
        };
        let asked = cluster.ask(async |client| {
            let answer = client.rotate_ca(request.clone()).await?;
            Ok(answer.into_inner())
        });
        let reply = asked.await?;
        if reply.signs {
            dir.follow(runtime, &next)?;
        }
        if reply.step() == Step::Finished {
            dir.finish(&next)?;
            let value = json!({ "done": true, "ca_sha256": next.fingerprint().encoded() });
            return show(reach, &value, || {
                format!(
                    "The new CA signs and is the only one that is trusted. Its key is in {}: keep a copy \
                     elsewhere. Tokens made before count no more.",
                    dir.0.display()
                )
            });
        }
        tell(reach, &reply, &mut told)?;
        runtime.sleep(STEP_INTERVAL).await;
    }
}

/// Says what is waited for, when that has changed.
fn tell(reach: &Reach, reply: &RotateCaReply, told: &mut String) -> anyhow::Result<()> {
    let step = match reply.step() {
        Step::Added => "the nodes learn of the new CA",
        Step::Signs => "the new CA signs; the nodes renew their certificates",
        Step::Waiting => "waiting for nodes",
        Step::Finished | Step::Unknown => bail!("the node speaks of a step that is not known here"),
    };
    let text = match reach.json {
        true => json!({ "done": false, "step": step, "behind": behind(&reply.behind) }).to_string(),
        false if reply.behind.is_empty() => step.to_owned(),
        false => format!("{step}: {}", behind(&reply.behind).join("; ")),
    };
    if *told != text {
        crate::print(&text);
        *told = text;
    }
    Ok(())
}

fn behind(nodes: &[NodeBehind]) -> Vec<String> {
    let nodes = nodes.iter();
    nodes
        .map(|node| format!("node {} {}", node.node, node.reason))
        .collect()
}

/// Signs the certificate of a node that does not run, and the operator's own once two thirds of its life
/// are over; whether it did.
///
/// # Errors
/// The node runs, or the directories are no node's and no operator's, or belong to different clusters.
pub(super) fn certify(
    runtime: &Runtime,
    config: &StartConfig,
    admin_dir: &Path,
) -> anyhow::Result<(NodeId, bool)> {
    let dir = AdminDir(admin_dir.to_owned());
    let state = StateDir::open(&config.state_dir)?;
    let _lock = RealVfs.lock(&config.state_dir)?;
    let identity = state.identity()?.with_context(|| {
        format!(
            "{} is no node's state directory: join it (granary admin join)",
            config.state_dir.display()
        )
    })?;
    let cluster_id = dir.cluster_id()?;
    if cluster_id != identity.cluster_id {
        bail!(
            "{} belongs to cluster {cluster_id}, the node to {}",
            admin_dir.display(),
            identity.cluster_id
        );
    }
    let authority = Authority::from_pem(&dir.needed("ca.pem")?, &dir.needed("ca.key")?)?;
    let request = state.key_or_new()?.request()?;
    let certificate = authority.issue_node(runtime, &cluster_id, identity.node, &request)?;
    state.put_bundle(&dir.bundle()?)?;
    state.put_certificate(&certificate)?;
    let renewed = dir.renew_own(runtime, &authority)?;
    Ok((identity.node, renewed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use granary_cluster::Credentials;
    use granary_runtime::{SeededEntropy, SimulatedClock};

    use super::*;

    #[test]
    fn the_operators_certificate_is_renewed_before_it_ends() {
        let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
        let entropy = Arc::new(SeededEntropy::new(20_261_121));
        let runtime = Runtime::simulated(Arc::clone(&clock) as _, entropy);
        let folder = tempfile::tempdir().unwrap();
        let dir = AdminDir(folder.path().to_owned());
        let authority = Authority::generate(&runtime, "c1").unwrap();
        let key = NodeKey::generate().unwrap();
        let first = authority.issue_admin(&runtime, "c1", &key).unwrap();
        dir.write("admin.key", &key.to_pem()).unwrap();
        dir.write("admin.pem", &certificate_pem(&first)).unwrap();
        assert!(!dir.renew_own(&runtime, &authority).unwrap(), "too early");
        let facts = CertificateFacts::read(&first).unwrap();
        let ends = facts.not_after.as_millis() - runtime.now().as_millis();
        clock.advance_wall_clock(ends - 1000);
        assert!(dir.renew_own(&runtime, &authority).unwrap());
        let renewed = CertificateFacts::read(&dir.own_certificate().unwrap()).unwrap();
        assert!(renewed.not_after > facts.not_after);
        let credentials = Credentials {
            cluster_id: "c1".to_owned(),
            local: Peer::Admin,
            key: Arc::new(key),
            certificate: dir.own_certificate().unwrap(),
            bundle: vec![authority.certificate().to_vec()],
        };
        credentials.check().unwrap();
        assert!(
            !dir.renew_own(&runtime, &authority).unwrap(),
            "once is enough"
        );
    }
}
