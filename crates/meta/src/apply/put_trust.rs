//! PutTrust: changes who signs the nodes' certificates, unless somebody else did meanwhile.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;

use super::root_rows::{info, raise_map_epoch};
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::cluster_trust::ClusterTrustKey;
use crate::rows::Rows;

impl Apply for pb::PutTrust {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        info(tx)?;
        let trust = self.trust.filter(|trust| !trust.ca_certificates.is_empty());
        let mut trust = trust.ok_or_else(|| Refusal::invalid("no certificate"))?;
        let row = ClusterTrustKey { slab: tx.home() };
        let known = tx.get(&row)?.unwrap_or_default();
        if known.generation != self.expected_generation {
            return Err(Reason::Stale.into());
        }
        trust.generation = known.generation + 1;
        tx.put(&row, &trust)?;
        raise_map_epoch(tx)?;
        empty()
    }
}
