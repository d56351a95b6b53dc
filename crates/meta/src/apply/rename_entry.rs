//! RenameEntry: an object or a directory gets another path in its bucket. Of a directory two rows
//! change, whatever lies below it.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_types::limits;

use super::{Apply, ApplyContext, Refusal, Tx, directories, empty};

impl Apply for pb::RenameEntry {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        directories::check_hierarchical(at)?;
        if self.source.is_empty() || self.source.len() > limits::OBJECT_KEY_BYTES_MAX {
            return Err(directories::impossible("the source is no path"));
        }
        directories::rename(tx, &at.place, &self.source, &at.place.key)?;
        empty()
    }
}
