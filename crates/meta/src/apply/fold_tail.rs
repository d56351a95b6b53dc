//! FoldTail: the same bytes of an appendable object in fewer, larger pieces.
//!
//! Nothing that a client sees changes. Appends that came after the bytes were read stay in the tail;
//! what was replaced otherwise meanwhile refuses the fold. Where the fold reaches to the object's end
//! its checksum must be what the appends have said.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::crc64::combine;
use granary_types::limits;

use super::appended::{Appended, current};
use super::deletions::tail_key;
use super::versions::{change, for_reply};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::tail::TailKey;
use crate::rows::Rows;

impl Apply for pb::FoldTail {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let payload = self.payload.unwrap_or_default();
        let Some((version, mut body)) = current(tx, at)? else {
            return Err(Reason::Stale.into());
        };
        if version.object_id != self.object_id {
            return Err(Reason::Stale.into());
        }
        if payload.size == 0 {
            return Err(Refusal::invalid("a fold of nothing"));
        }
        let folded = Folded {
            from: self.from,
            to: self.from.saturating_add(payload.size),
            crc64: self.crc64,
        };
        folded.apply(tx, at, &version, &mut body)?;
        body.push_part(tx, at, &payload, self.crc64)?;
        let changed = change(tx, at, None, |version| version.body = Some(body.to_body()))?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(changed)),
        }))
    }
}

/// The bytes that a fold replaces.
struct Folded {
    from: u64,
    to: u64,
    crc64: u64,
}

impl Folded {
    /// Removes what holds them.
    fn apply(
        &self,
        tx: &mut Tx<'_>,
        at: &ApplyContext,
        version: &state::Version,
        body: &mut Appended,
    ) -> Result<(), Refusal> {
        let tail_from = body.body.part_bytes;
        let run_from = tail_from.saturating_sub(body.body.run_bytes);
        let with_run = body.body.run_parts > 0 && self.from == run_from;
        if (!with_run && self.from != tail_from) || self.to < tail_from || self.to > version.size {
            return Err(Reason::Stale.into());
        }
        if !with_run && body.body.run_parts >= limits::SMALL_PARTS_MAX {
            return Err(Reason::FoldFirst.into());
        }
        let before = match with_run {
            true => body.body.run_from_crc64,
            false => body.body.part_crc64,
        };
        let whole = combine(before, self.crc64, self.to - self.from);
        if self.to == version.size && whole != version.crc64 {
            return Err(Refusal::invalid("other bytes than were appended"));
        }
        let rows = self.tail_rows(tx, at, version, body)?;
        if rows > 0 {
            tx.delete_range(&tail_key(&at.place, body.object, tail_from).up_to(self.to));
        }
        body.body.tail_rows = body.body.tail_rows.saturating_sub(rows);
        if with_run {
            body.drop_run(tx, at)?;
        }
        Ok(())
    }

    /// How many rows of the tail they are; stale when one of them would be torn apart.
    fn tail_rows(
        &self,
        tx: &Tx<'_>,
        at: &ApplyContext,
        version: &state::Version,
        body: &Appended,
    ) -> Result<u32, Refusal> {
        if self.to == version.size {
            return Ok(body.body.tail_rows);
        }
        let last = tail_key(&at.place, body.object, self.to);
        if !tx.exists(&last)? {
            return Err(Reason::Stale.into());
        }
        let behind = tx.rows::<TailKey>(&last.up_to(u64::MAX));
        let mut kept = 0;
        for row in behind {
            row?;
            kept += 1;
        }
        Ok(body.body.tail_rows.saturating_sub(kept))
    }
}
