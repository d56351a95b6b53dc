//! AbortUpload: gives up an upload and its parts.
//!
//! The upload is gone at once, and the counters with it. Of many parts a bounded number is given up
//! now; expiry finds the rest by their missing upload and goes on, a step each time.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::parts::{all_parts, close_upload, get_upload, release_parts};
use super::{Apply, ApplyContext, Refusal, Tx, empty, expiry};
use crate::limits::PARTS_PER_STEP;

impl Apply for pb::AbortUpload {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let (row, upload) = get_upload(tx, at, &self.upload_id)?;
        let parts = all_parts(tx, &row)?;
        let (now, later) = parts.split_at(parts.len().min(PARTS_PER_STEP));
        let released: Vec<&state::Part> = now.iter().collect();
        release_parts(tx, at, &released)?;
        close_upload(tx, at, &row, &upload, &parts, now)?;
        if !later.is_empty() {
            expiry::schedule(tx, &at.place, row.upload, at.time_ms)?;
        }
        empty()
    }
}
