//! SetObjectMeta: other headers, metadata, tags and ACL for an object that keeps its bytes; what a copy onto
//! itself is in a bucket that keeps no versions. It is a write: the object's time goes on.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_types::{ObjectAcl, ObjectType, limits};

use super::versions::{
    change, check_forbid_overwrite, check_not_retained, current, for_reply, writes_null,
};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetObjectMeta {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        if ObjectAcl::from_number(self.acl).is_none() {
            return Err(Refusal::invalid("an unknown ACL"));
        }
        if self.tags.len() > limits::OBJECT_TAGS_MAX {
            return Err(Refusal::invalid("too many tags"));
        }
        check_forbid_overwrite(tx, at, self.forbid_overwrite)?;
        let seen = current(tx, at)?.filter(|current| {
            current.stamp == self.version_stamp
                && current.modified_ms == self.modified_ms
                && current.etag == self.etag
                && !current.delete_marker
        });
        let seen = seen.ok_or(Reason::Stale)?;
        if !writes_null(at) || !seen.is_null {
            return Err(Reason::Stale.into());
        }
        if seen.object_type == ObjectType::Symlink.number() {
            return Err(Refusal::invalid("a link is not changed in place"));
        }
        check_not_retained(at, &seen)?;
        let changed = change(tx, at, None, |version| {
            version.headers = self.headers;
            version.user_meta = self.user_meta;
            if self.set_tags {
                version.tags = self.tags;
            }
            version.acl = self.acl;
            // What was read before is always told from what is there now.
            version.modified_ms = at.time_ms.max(version.modified_ms + 1);
        })?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(changed)),
        }))
    }
}
