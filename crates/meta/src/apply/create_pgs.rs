//! CreatePgs: opens placement groups of a pool; their ids follow one another from the first.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::root_rows::{info, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::disk::DiskKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::pool::PoolKey;
use crate::limits::PGS_PER_COMMAND_MAX;
use crate::rows::Rows;

impl Apply for pb::CreatePgs {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let slab = tx.home();
        if !(1..=PGS_PER_COMMAND_MAX).contains(&self.groups.len()) {
            return Err(Refusal::invalid("too many groups, or none"));
        }
        if !tx.exists(&PoolKey {
            slab,
            pool: self.pool,
        })? {
            return Err(Refusal::invalid("no such pool"));
        }
        let mut info = info(tx)?;
        let first = info.next_pg;
        for group in self.groups {
            for member in &group.members {
                if !tx.exists(&DiskKey {
                    slab,
                    disk: member.disk,
                })? {
                    return Err(Refusal::invalid("no such disk"));
                }
            }
            let members = group.members.into_iter().map(|member| state::PgMember {
                complete: true,
                ..member
            });
            let group = state::PlacementGroup {
                id: info.next_pg,
                pool: self.pool,
                epoch: 1,
                members: members.collect(),
                closed: group.closed,
                leaving: 0,
            };
            tx.put(&PlacementGroupKey { slab, pg: group.id }, &group)?;
            info.next_pg += 1;
        }
        info.map_epoch += 1;
        put_info(tx, &info)?;
        Ok(Reply::Allocated(pb::Allocated {
            id: u64::from(first),
            slab: 0,
            created: true,
        }))
    }
}
