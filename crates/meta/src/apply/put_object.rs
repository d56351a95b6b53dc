//! PutObject: commits a new version of a key.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;
use granary_types::{ObjectType, StorageClass, limits};

use super::body::place_payload;
use super::versions::{check_forbid_overwrite, for_reply, insert, stamp_version};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::PutObject {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
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
