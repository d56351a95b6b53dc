//! AllocateShard: an unused shard id and home slab. The same nonce gets the same ones.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::root_rows::{info, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::Id;
use crate::keyspace::shard_allocation::ShardAllocationKey;
use crate::keyspace::shard_entry::ShardEntryKey;
use crate::rows::Rows;

impl Apply for pb::AllocateShard {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let nonce = Id::from_slice(&self.nonce);
        let nonce = nonce.ok_or_else(|| Refusal::invalid("a nonce has 16 bytes"))?;
        let slab = tx.home();
        let row = ShardAllocationKey { slab, nonce };
        if let Some(known) = tx.get(&row)? {
            return Ok(allocated(&known, false));
        }
        let mut info = info(tx)?;
        let allocation = state::ShardAllocation {
            shard: info.next_shard,
            home_slab: info.next_slab,
        };
        info.next_shard += 1;
        info.next_slab += 1;
        put_info(tx, &info)?;
        tx.put(&row, &allocation)?;
        let entry = state::ShardEntry {
            home_slab: allocation.home_slab,
        };
        tx.put(
            &ShardEntryKey {
                slab,
                shard: allocation.shard,
            },
            &entry,
        )?;
        Ok(allocated(&allocation, true))
    }
}

fn allocated(allocation: &state::ShardAllocation, created: bool) -> Reply {
    Reply::Allocated(pb::Allocated {
        id: u64::from(allocation.shard),
        slab: allocation.home_slab,
        created,
    })
}
