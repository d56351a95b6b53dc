//! CompleteUpload: makes an object of the named parts. No byte is copied: the object's pages refer
//! to the parts; parts that are not named are queued for deletion.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_meta_api::{detail, pb};
use granary_types::crc64::combine;
use granary_types::{ETag, ObjectType, StorageClass, limits};
use md5::{Digest, Md5};

use super::deletions::owner_key;
use super::parts::{
    MD5_BYTES, all_parts, close_upload, get_upload, release_parts, write_part_pages,
};
use super::versions::{check_forbid_overwrite, for_reply, insert, stamp_version};
use super::{Apply, ApplyContext, OBJECTS, Refusal, Tx};

impl Apply for pb::CompleteUpload {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let (row, upload) = get_upload(tx, at, &self.upload_id)?;
        let stored = all_parts(tx, &row)?;
        let chosen = choose(&self, &stored)?;
        check_sizes(&chosen)?;
        check_forbid_overwrite(tx, at, self.forbid_overwrite)?;
        let mut version = upload.template.clone().unwrap_or_default();
        stamp_version(tx, at, &mut version);
        describe(&mut version, &chosen);
        if upload.sequential && tx.clock.feature_level >= OBJECTS {
            version.content_md5 = whole_md5(&chosen).unwrap_or_default();
        }
        if self.acl != 0 {
            version.acl = self.acl;
        }
        version.object_id = self.upload_id.clone();
        if chosen.is_empty() {
            let empty = BodyPlace::Inline(state::InlineBody { length: 0 });
            version.body = Some(state::Body { place: Some(empty) });
        } else {
            let parts = chosen.iter().copied();
            let body = write_part_pages(tx, &at.place, row.upload, parts)?;
            version.body = Some(body);
            let owner = state::Owner {
                state: State::Committed.into(),
                key: at.place.key.clone(),
                stamp: version.stamp,
                ..Default::default()
            };
            tx.put(&owner_key(&at.place, row.upload), &owner)?;
        }
        let taken: Vec<u32> = chosen.iter().map(|part| part.number).collect();
        let left: Vec<&state::Part> = stored
            .iter()
            .filter(|part| taken.binary_search(&part.number).is_err())
            .collect();
        release_parts(tx, at, &left)?;
        close_upload(tx, at, &row, &upload, &stored, &stored)?;
        insert(tx, at, version.clone())?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(version)),
        }))
    }
}

/// The parts that make the object, ascending.
fn choose<'p>(
    command: &pb::CompleteUpload,
    stored: &'p [state::Part],
) -> Result<Vec<&'p state::Part>, Refusal> {
    if command.all {
        return Ok(stored.iter().collect());
    }
    let by_number: BTreeMap<u32, &state::Part> =
        stored.iter().map(|part| (part.number, part)).collect();
    let mut chosen: Vec<&state::Part> = Vec::with_capacity(command.parts.len());
    for named in &command.parts {
        if chosen
            .last()
            .is_some_and(|last| last.number >= named.number)
        {
            return Err(Refusal::Rejected(pb::Rejection {
                reason: Reason::Invalid.into(),
                detail: detail::PART_ORDER.to_owned(),
                part_number: named.number,
                ..Default::default()
            }));
        }
        let part = by_number
            .get(&named.number)
            .copied()
            .filter(|part| ETag::parse(&part.etag).matches(&ETag::parse(&named.etag)));
        match part {
            Some(part) => chosen.push(part),
            None => return Err(Refusal::part(Reason::InvalidPart, named.number)),
        }
    }
    Ok(chosen)
}

fn check_sizes(chosen: &[&state::Part]) -> Result<(), Refusal> {
    let all_but_last = chosen.split_last().map_or(&[][..], |(_, rest)| rest);
    if let Some(small) = all_but_last
        .iter()
        .find(|part| part.size < limits::PART_BYTES_MIN)
    {
        return Err(Refusal::part(Reason::PartTooSmall, small.number));
    }
    let total: u64 = chosen.iter().map(|part| part.size).sum();
    if total > limits::OBJECT_BYTES_MAX {
        return Err(Reason::ObjectTooLarge.into());
    }
    Ok(())
}

/// The MD5 of the whole, base64, where it is known: one part has it as its tag, of several the last
/// has kept it, unless what stands before one of them is not what it has gone on from.
fn whole_md5(parts: &[&state::Part]) -> Option<String> {
    if let [part] = parts {
        let digest = hex::decode(ETag::parse(&part.etag).as_str()).ok()?;
        return (digest.len() == MD5_BYTES).then(|| STANDARD.encode(digest));
    }
    let mut whole: Bytes = Bytes::copy_from_slice(&Md5::digest([]));
    for part in parts {
        let prefix = part.prefix.as_ref()?;
        if prefix.before != whole {
            return None;
        }
        whole.clone_from(&prefix.md5);
    }
    (!parts.is_empty()).then(|| STANDARD.encode(whole))
}

/// Size, ETag and CRC of the object that the parts make.
fn describe(version: &mut state::Version, parts: &[&state::Part]) {
    let mut tags = Md5::new();
    let (mut size, mut crc64) = (0, 0);
    for part in parts {
        tags.update(ETag::parse(&part.etag).as_str().to_ascii_uppercase());
        crc64 = combine(crc64, part.crc64, part.size);
        size += part.size;
    }
    version.etag = ETag::from_multipart(tags.finalize().into(), parts.len())
        .as_str()
        .to_owned();
    version.size = size;
    version.crc64 = crc64;
    version.has_crc64 = true;
    version.delete_marker = false;
    version.object_type = ObjectType::Multipart.number();
    if version.storage_class == 0 {
        version.storage_class = StorageClass::Standard.number();
    }
}
