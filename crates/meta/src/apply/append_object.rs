//! AppendObject: bytes at the end of an object. No earlier version is kept of what it was; what it
//! costs does not depend on how long the object is.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;
use granary_types::{StorageClass, limits};

use super::appended::{Appended, check_position, current, describe, lengthen};
use super::counters::{class_of, count, signed};
use super::deletions::owner_key;
use super::versions::{change, check_not_retained, for_reply, insert, stamp_version};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::AppendObject {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let version = match current(tx, at)? {
            Some((version, body)) => append(self, tx, at, version, body)?,
            None => create(self, tx, at)?,
        };
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(version)),
        }))
    }
}

/// The first append of a key.
fn create(
    command: pb::AppendObject,
    tx: &mut Tx<'_>,
    at: &ApplyContext,
) -> Result<state::Version, Refusal> {
    check_position(command.position, 0)?;
    let payload = command.payload.unwrap_or_default();
    check_size(0, &payload)?;
    let object = tx.allocate_id(at.time_ms);
    let mut body = Appended {
        object,
        body: state::AppendedBody::default(),
    };
    let mut version = command.version.unwrap_or_default();
    stamp_version(tx, at, &mut version);
    version.object_id = object.to_bytes();
    version.delete_marker = false;
    version.sealed_ms = 0;
    (version.size, version.crc64) = (0, 0);
    if version.storage_class == 0 {
        version.storage_class = StorageClass::Standard.number();
    }
    // Readers pin the id, and what stands under it is found by it.
    let owner = state::Owner {
        state: State::Committed.into(),
        key: at.place.key.clone(),
        stamp: version.stamp,
        ..Default::default()
    };
    tx.put(&owner_key(&at.place, object), &owner)?;
    body.push(tx, at, 0, &payload, command.crc64)?;
    describe(&mut version);
    lengthen(&mut version, payload.size, command.crc64);
    version.body = Some(body.to_body());
    insert(tx, at, version.clone())?;
    Ok(version)
}

fn append(
    command: pb::AppendObject,
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    mut version: state::Version,
    mut body: Appended,
) -> Result<state::Version, Refusal> {
    // Only the first append could replace anything.
    if command.forbid_overwrite && command.position == 0 {
        return Err(Reason::AlreadyExists.into());
    }
    if version.sealed_ms != 0 {
        return Err(Reason::AppendSealedObject.into());
    }
    check_not_retained(at, &version)?;
    check_position(command.position, version.size)?;
    let payload = command.payload.unwrap_or_default();
    check_size(version.size, &payload)?;
    body.push(tx, at, version.size, &payload, command.crc64)?;
    if payload.size == 0 {
        // Nothing was added: nothing has changed.
        return Ok(version);
    }
    lengthen(&mut version, payload.size, command.crc64);
    version.modified_ms = version.modified_ms.max(at.time_ms);
    version.body = Some(body.to_body());
    let more = state::Counter {
        bytes: signed(payload.size),
        ..Default::default()
    };
    count(tx, at.place.bucket, class_of(&version), at.time_ms, &more)?;
    change(tx, at, None, |current| *current = version.clone())
}

fn check_size(size: u64, payload: &pb::Payload) -> Result<(), Refusal> {
    match size.checked_add(payload.size) {
        Some(size) if size <= limits::APPEND_BYTES_MAX => Ok(()),
        _ => Err(Reason::ObjectTooLarge.into()),
    }
}
