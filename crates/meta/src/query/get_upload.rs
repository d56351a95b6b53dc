//! GetUpload: an upload under way.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;

use super::{Answer, QueryError, ShardView};
use crate::keyspace::Id;
use crate::keyspace::upload::UploadKey;
use crate::rows::Rows;

impl Answer for pb::GetUpload {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let found = find_upload(shard, self.at.as_ref(), &self.upload_id)?;
        Ok(Reply::Upload(pb::UploadResult {
            found: found.is_some(),
            upload: found.map(|(_, upload)| upload),
        }))
    }
}

/// The upload of an id; an id of another form is no upload's.
pub(super) fn find_upload(
    shard: &ShardView<'_>,
    at: Option<&pb::Position>,
    upload_id: &[u8],
) -> Result<Option<(UploadKey, state::Upload)>, QueryError> {
    let place = shard.place(at)?;
    let Some(upload) = Id::from_slice(upload_id) else {
        return Ok(None);
    };
    let row = UploadKey {
        slab: place.slab,
        bucket: place.bucket,
        key: place.key,
        upload,
    };
    let found = shard.rows.get(&row)?;
    Ok(found.map(|upload| (row, upload)))
}
