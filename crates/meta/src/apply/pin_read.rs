//! PinRead: a reader that outlives the grace keeps the bytes of a replaced object a little longer.
//!
//! Invariant: once a deletion may have been handed to a worker, no pin of its bytes is accepted.
//! Both are decided by the shard's time, which never goes back; the reader starts over.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;

use super::deletions::owner_key;
use super::{Apply, ApplyContext, Refusal, Tx, empty, expiry};
use crate::keyspace::pin::PinKey;
use crate::keyspace::{Id, same_holder};
use crate::limits::PIN_MS_MAX;
use crate::rows::Rows;

impl Apply for pb::PinRead {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let object = Id::from_slice(&self.object_id);
        let object = object.ok_or_else(|| Refusal::invalid("not an object id"))?;
        let row = PinKey {
            slab: at.place.slab,
            bucket: at.place.bucket,
            object,
        };
        let known_ms = tx.get(&row)?.map_or(0, |pin| pin.until_ms);
        let pinned = known_ms > at.time_ms;
        let owner = tx.get(&owner_key(&at.place, object))?;
        let alive = owner.is_some_and(|owner| {
            let readable = match owner.state() {
                State::Committed => true,
                State::Deleting => owner.due_ms > at.time_ms || pinned,
                State::Writing | State::Part | State::Deleted => false,
            };
            readable && same_holder(&owner.key, &at.place.key)
        });
        if !alive {
            return Err(Reason::NoSuchVersion.into());
        }
        let asked_ms = self.until_ms.min(at.time_ms.saturating_add(PIN_MS_MAX));
        // One that has passed already would keep nothing.
        if asked_ms <= at.time_ms {
            return Err(Refusal::invalid("the pin ends before the shard's time"));
        }
        if asked_ms > known_ms {
            if known_ms > 0 {
                expiry::unschedule(tx, &at.place, object, known_ms);
            }
            let pin = state::Pin {
                until_ms: asked_ms,
                key: at.place.key.clone(),
            };
            tx.put(&row, &pin)?;
            expiry::schedule(tx, &at.place, object, asked_ms)?;
        }
        empty()
    }
}
