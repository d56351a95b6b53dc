//! SealObject: an appendable object that takes no more bytes.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;

use super::appended::{check_position, current};
use super::versions::{change, for_reply};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SealObject {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let (version, _) = current(tx, at)?.ok_or(Reason::NoSuchKey)?;
        check_position(self.position, version.size)?;
        let sealed = change(tx, at, None, |version| {
            // The first time counts.
            if version.sealed_ms == 0 {
                version.sealed_ms = at.time_ms;
            }
        })?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(for_reply(sealed)),
        }))
    }
}
