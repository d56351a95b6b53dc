//! CreateDirectory: a directory and its missing parents. One that is there already stays as it is.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::{Apply, ApplyContext, Refusal, Tx, directories};
use crate::paths::shown;

impl Apply for pb::CreateDirectory {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        directories::check_hierarchical(at)?;
        let path = &at.place.key;
        let directory = directories::create(tx, &at.place, path, self.owner, at.time_ms)?;
        Ok(Reply::Version(pb::VersionReply {
            version: Some(shown(&directory)),
        }))
    }
}
