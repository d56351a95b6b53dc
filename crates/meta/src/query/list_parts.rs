//! ListParts: the parts of an upload by number.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;

use super::get_upload::find_upload;
use super::{Answer, QueryError, ShardView, page_limit};
use crate::apply::parts::part_bounds;
use crate::keyspace::part::PartKey;
use crate::limits::PAGE_ENTRIES_MAX;
use crate::rows::Rows;

impl Answer for pb::ListParts {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let mut page = pb::PartsPage::default();
        let found = find_upload(shard, self.at.as_ref(), &self.upload_id)?;
        let Some((row, upload)) = found else {
            return Ok(Reply::Parts(page));
        };
        page.found = true;
        page.upload = Some(upload);
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let bounds = part_bounds(&row);
        let mut from = bounds.start.clone();
        from.extend_from_slice(&self.after.saturating_add(1).to_be_bytes());
        let mut parts = shard.rows.list::<PartKey>(&bounds.from(from), limit + 1)?;
        page.more = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        page.parts = parts
            .into_iter()
            .map(|(_, part)| state::Part { body: None, ..part })
            .collect();
        Ok(Reply::Parts(page))
    }
}
