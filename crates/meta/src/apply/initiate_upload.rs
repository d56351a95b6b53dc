//! InitiateUpload: opens a multipart upload.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::body::open_write;
use super::parts::{count_upload, part_bounds, upload_key};
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::rows::Rows;

impl Apply for pb::InitiateUpload {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let write = open_write(tx, at, &self.upload_id)?;
        let row = upload_key(at, write.id);
        let used = tx.exists(&row)? || tx.any(&part_bounds(&row))?;
        if write.staged.is_some() || used {
            return Err(Refusal::invalid("the upload id was used before"));
        }
        let template = self.template.unwrap_or_default();
        let upload = state::Upload {
            upload_id: write.id.to_bytes(),
            initiated_ms: at.time_ms,
            initiator: template.owner,
            template: Some(template),
            sequential: self.sequential,
        };
        tx.put(&row, &upload)?;
        let opened = state::Counter {
            uploads: 1,
            ..Default::default()
        };
        count_upload(tx, at, &upload, &opened)?;
        empty()
    }
}
