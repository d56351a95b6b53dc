//! SetObjectAcl: who may read and write one version.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_types::ObjectAcl;

use super::versions::{Which, change, for_reply};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetObjectAcl {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        if ObjectAcl::from_number(self.acl).is_none() {
            return Err(Refusal::invalid("an unknown ACL"));
        }
        let which = Which::named(self.version_stamp, self.null_version)?;
        let changed = change(tx, at, which, |version| version.acl = self.acl)?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(changed)),
        }))
    }
}
