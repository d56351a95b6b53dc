//! StageExtents: remembers chunks of an unfinished write, and renews the write's lease.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::owner::State;
use granary_types::limits;

use super::body::{append_extents, are_staged, check_not_kept, extent_bytes, open_write};
use super::deletions::{owner_key, queue_abandoned};
use super::{Apply, ApplyContext, Refusal, Tx, expiry};

impl Apply for pb::StageExtents {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let write = open_write(tx, at, &self.write_id)?;
        check_not_kept(&self.abandoned, &self.extents)?;
        queue_abandoned(tx, &at.place, at.time_ms, &self.abandoned)?;
        let mut owner = write.staged.unwrap_or_default();
        let bytes = extent_bytes(&self.extents)?;
        let end = self.first.saturating_add(self.extents.len() as u64);
        if end > owner.staged_extents {
            if self.first != owner.staged_extents {
                return Err(Refusal::invalid(format!(
                    "{} extents are staged, {} do not follow",
                    owner.staged_extents, self.first
                )));
            }
            if owner.staged_bytes + bytes > limits::OBJECT_BYTES_MAX {
                return Err(Reason::ObjectTooLarge.into());
            }
            append_extents(tx, &at.place, write.id, &owner, &self.extents)?;
            owner.staged_extents = end;
            owner.staged_bytes += bytes;
        } else if !are_staged(tx, &at.place, write.id, self.first, &self.extents)? {
            return Err(Refusal::invalid("other extents are staged in that place"));
        }
        if owner.deadline_ms > 0 {
            let held = at.place.held_at(&owner.key);
            expiry::unschedule(tx, &held, write.id, owner.deadline_ms);
        }
        let renewed = at.time_ms.saturating_add(ApplyContext::write_lease_ms(tx));
        owner.deadline_ms = write.deadline_ms.max(renewed);
        owner.set_state(State::Writing);
        owner.key = at.place.key.clone();
        tx.put(&owner_key(&at.place, write.id), &owner)?;
        expiry::schedule(tx, &at.place, write.id, owner.deadline_ms)?;
        Ok(Reply::Stage(pb::StageReply {
            deadline_ms: owner.deadline_ms,
        }))
    }
}
