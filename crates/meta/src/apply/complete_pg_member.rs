//! CompletePgMember: a member of a placement group holds every chunk it should.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::rows::Rows;

impl Apply for pb::CompletePgMember {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let row = PlacementGroupKey {
            slab: tx.home(),
            pg: self.pg,
        };
        let mut group = tx
            .get(&row)?
            .ok_or_else(|| Refusal::invalid("no such group"))?;
        if group.epoch != self.epoch {
            return Err(Reason::Stale.into());
        }
        let member = group
            .members
            .iter_mut()
            .find(|member| member.disk == self.disk);
        let member = member.ok_or_else(|| Refusal::invalid("the disk is not a member"))?;
        if !member.complete {
            member.complete = true;
            tx.put(&row, &group)?;
            raise_map_epoch(tx)?;
        }
        empty()
    }
}
