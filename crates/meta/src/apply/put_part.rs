//! PutPart: commits a part of an upload; an earlier part of the same number is replaced.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;
use granary_types::limits;

use super::body::place_payload;
use super::counters::signed;
use super::parts::{MD5_BYTES, count_upload, get_upload, part_bounds, part_key, release_part};
use super::{Apply, ApplyContext, PREFIXES, Refusal, Tx};
use crate::keyspace::part::PartKey;
use crate::keyspace::upload::UploadKey;
use crate::limits::{ETAG_BYTES_MAX, MD5_STATE_BYTES_MAX};
use crate::rows::Rows;

impl Apply for pb::PutPart {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let payload = self.payload.unwrap_or_default();
        if !(1..=limits::PART_NUMBER_MAX).contains(&self.number) {
            return Err(Refusal::invalid("part numbers are 1 to 10000"));
        }
        if self.etag.len() > ETAG_BYTES_MAX {
            return Err(Refusal::invalid("the ETag is too long"));
        }
        if payload.size > limits::PUT_BYTES_MAX {
            return Err(Reason::ObjectTooLarge.into());
        }
        let (row, upload) = get_upload(tx, at, &self.upload_id)?;
        if upload.sequential {
            check_sequence(tx, &row, self.number)?;
        }
        let prefix = self
            .prefix
            .filter(|_| upload.sequential && tx.clock.feature_level >= PREFIXES);
        if prefix.as_ref().is_some_and(|prefix| !is_sound(prefix)) {
            return Err(Refusal::invalid("no digest has these lengths"));
        }
        let owner = state::Owner {
            state: State::Part.into(),
            upload_id: self.upload_id.clone(),
            ..Default::default()
        };
        let placed = place_payload(tx, at, &payload, owner)?;
        let part = state::Part {
            number: self.number,
            object_id: placed.object.to_bytes(),
            size: payload.size,
            etag: self.etag,
            crc64: self.crc64,
            modified_ms: at.time_ms,
            body: Some(placed.body),
            prefix,
        };
        let part_row = part_key(&row, self.number);
        let mut change = state::Counter {
            multipart_parts: 1,
            multipart_bytes: signed(part.size),
            ..Default::default()
        };
        if let Some(old) = tx.get(&part_row)? {
            change.multipart_parts = 0;
            change.multipart_bytes -= signed(old.size);
            release_part(tx, at, &old)?;
        }
        tx.put(&part_row, &part)?;
        count_upload(tx, at, &upload, &change)?;
        Ok(Reply::Part(pb::PartReply {
            part: Some(state::Part {
                body: None,
                prefix: None,
                ..part
            }),
        }))
    }
}

/// Whether it goes on from what stands before the part is seen when the upload is completed: until then
/// that may be replaced.
fn is_sound(prefix: &state::PrefixDigest) -> bool {
    prefix.before.len() == MD5_BYTES
        && prefix.md5.len() == MD5_BYTES
        && prefix.md5_state.len() <= MD5_STATE_BYTES_MAX
}

/// In a sequential upload a part follows the last one, or replaces one.
fn check_sequence(tx: &Tx<'_>, row: &UploadKey, number: u32) -> Result<(), Refusal> {
    if number == 1 {
        return Ok(());
    }
    let before = part_key(row, number - 1);
    if tx.exists::<PartKey>(&before)? {
        return Ok(());
    }
    // Told apart for the log: a first part may be missing, or one in between.
    let any = tx.any(&part_bounds(row))?;
    let detail = if any {
        "a part is missing before it"
    } else {
        "part 1 comes first"
    };
    Err(Refusal::Rejected(pb::Rejection {
        reason: Reason::PartNotSequential.into(),
        detail: detail.to_owned(),
        part_number: number,
        ..Default::default()
    }))
}
