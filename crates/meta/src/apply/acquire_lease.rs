//! AcquireLease: who runs a worker. Tokens only grow, so that whoever was replaced can be told
//! from its successor; the cursor survives its holder.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;

use super::root_rows::{info, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::lease::LeaseKey;
use crate::limits::NAME_BYTES_MAX;
use crate::rows::Rows;

impl Apply for pb::AcquireLease {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let named = [&self.name, &self.holder]
            .iter()
            .all(|text| (1..=NAME_BYTES_MAX).contains(&text.len()));
        if !named {
            return Err(Refusal::invalid("a lease has a name and a holder"));
        }
        let row = LeaseKey {
            slab: tx.home(),
            name: Bytes::copy_from_slice(self.name.as_bytes()),
        };
        let mut lease = tx.get(&row)?.unwrap_or_default();
        if self.token != 0 {
            // A renewal or a release; also of a lease that expired and nobody else took.
            if lease.token != self.token || lease.holder != self.holder {
                return Err(Reason::Stale.into());
            }
        } else {
            if self.release {
                return Err(Refusal::invalid("a release names its token"));
            }
            let free = lease.expires_ms <= at.time_ms || lease.holder == self.holder;
            if !free {
                return Err(Refusal::because(
                    Reason::Stale,
                    format!(
                        "held by {} for {} ms",
                        lease.holder,
                        lease.expires_ms - at.time_ms
                    ),
                ));
            }
            let mut info = info(tx)?;
            lease.token = info.next_lease_token;
            info.next_lease_token += 1;
            put_info(tx, &info)?;
            lease.name = self.name;
            lease.holder = self.holder;
        }
        if !self.cursor.is_empty() {
            lease.cursor = self.cursor;
        }
        lease.expires_ms = match self.release {
            true => 0,
            false => at.time_ms.saturating_add(self.ttl_ms),
        };
        tx.put(&row, &lease)?;
        Ok(Reply::Lease(lease))
    }
}
