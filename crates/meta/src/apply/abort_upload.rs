//! AbortUpload: gives up an upload and its parts.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::parts::{all_parts, close_upload, get_upload, release_parts};
use super::{Apply, ApplyContext, Refusal, Tx, empty};

impl Apply for pb::AbortUpload {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let (row, upload) = get_upload(tx, at, &self.upload_id)?;
        let parts = all_parts(tx, &row)?;
        let released: Vec<&state::Part> = parts.iter().collect();
        release_parts(tx, at, &released)?;
        close_upload(tx, at, &row, &upload, &parts)?;
        empty()
    }
}
