//! CreatePool: a pool by name; a repeat answers the one that is there.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::{info, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::pool::PoolKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::limits::NAME_BYTES_MAX;
use crate::rows::{Bounds, Rows};

impl Apply for pb::CreatePool {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let Some(mut pool) = self.pool else {
            return Err(Refusal::invalid("no pool"));
        };
        if pool.name.is_empty() || pool.name.len() > NAME_BYTES_MAX || pool.copies == 0 {
            return Err(Refusal::invalid("a pool has a name and at least one copy"));
        }
        let slab = tx.home();
        // Pools are few: one per redundancy class and zone.
        for known in tx.rows::<PoolKey>(&Bounds::prefix(kind_prefix(slab, Kind::Pool))) {
            let (_, known) = known?;
            if known.name == pool.name {
                return Ok(allocated(known.id, false));
            }
        }
        let mut info = info(tx)?;
        pool.id = info.next_pool;
        info.next_pool += 1;
        info.map_epoch += 1;
        put_info(tx, &info)?;
        tx.put(
            &PoolKey {
                slab,
                pool: pool.id,
            },
            &pool,
        )?;
        Ok(allocated(pool.id, true))
    }
}

fn allocated(id: u32, created: bool) -> Reply {
    Reply::Allocated(pb::Allocated {
        id: u64::from(id),
        slab: 0,
        created,
    })
}
