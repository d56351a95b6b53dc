//! SetObjectTags: replaces the tags of one version. Its time stays as it is.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_types::limits;

use super::versions::{Which, change, for_reply};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetObjectTags {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        if self.tags.len() > limits::OBJECT_TAGS_MAX {
            return Err(Refusal::invalid("too many tags"));
        }
        let which = Which::named(self.version_stamp, self.null_version)?;
        let changed = change(tx, at, which, |version| version.tags = self.tags)?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(changed)),
        }))
    }
}
