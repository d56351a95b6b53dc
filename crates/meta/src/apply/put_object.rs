//! PutObject: commits a new version of a key.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;
use granary_types::{ObjectType, StorageClass, limits};

use super::body::place_payload;
use super::versions::{check_forbid_overwrite, for_reply, insert, stamp_version};
use super::{Apply, ApplyContext, Refusal, Tx, directories};
use crate::paths::{directory_at, shown};

impl Apply for pb::PutObject {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        if let Some(made) = put_directory(tx, at, &self)? {
            return Ok(Reply::Version(pb::VersionReply {
                version: Some(made),
            }));
        }
        let payload = self.payload.unwrap_or_default();
        if payload.size > limits::OBJECT_BYTES_MAX {
            return Err(Reason::ObjectTooLarge.into());
        }
        check_forbid_overwrite(tx, at, self.forbid_overwrite)?;
        let mut version = self.version.unwrap_or_default();
        stamp_version(tx, at, &mut version);
        let owner = state::Owner {
            state: State::Committed.into(),
            stamp: version.stamp,
            ..Default::default()
        };
        let placed = place_payload(tx, at, &payload, owner)?;
        version.object_id = placed.object.to_bytes();
        version.body = Some(placed.body);
        version.size = payload.size;
        version.delete_marker = false;
        if version.object_type == 0 {
            version.object_type = ObjectType::Normal.number();
        }
        if version.storage_class == 0 {
            version.storage_class = StorageClass::Standard.number();
        }
        insert(tx, at, version.clone())?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(version)),
        }))
    }
}

/// Where keys are paths, an empty object under a name with a slash at its end is how clients make a
/// directory that know no other way.
fn put_directory(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    command: &pb::PutObject,
) -> Result<Option<state::Version>, Refusal> {
    let path = command.at.as_ref().map(|at| &at.key);
    let Some(path) = path.filter(|path| at.view.hierarchical && path.ends_with(b"/")) else {
        return Ok(None);
    };
    let payload = command.payload.as_ref();
    if payload.is_some_and(|bytes| bytes.size > 0 || !bytes.write_id.is_empty()) {
        return Err(directories::impossible("a directory holds no bytes"));
    }
    let owner = command.version.as_ref().map_or(0, |version| version.owner);
    if command.forbid_overwrite && directory_at(tx, &at.place)?.is_some() {
        return Err(directories::taken("the directory is there already"));
    }
    let directory = directories::create(tx, &at.place, path, owner, at.time_ms)?;
    Ok(Some(shown(&directory)))
}
