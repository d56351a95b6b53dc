//! ListUploads: uploads under way by key, then by upload id (which is by age), grouped by a
//! delimiter.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::upload_item::Item;
use prost::Message;

use super::grouping::{Grouping, PageBudget};
use super::list_objects::for_listing;
use super::{Answer, QueryError, ShardView};
use crate::keyspace::Kind;
use crate::keyspace::upload::UploadKey;
use crate::ownership::KeySpan;
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListUploads {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let span = KeySpan::new(self.bucket_id, &self.start_key, self.bounded, &self.end_key);
        let slab = shard.slab(&span)?;
        let grouping = Grouping::new(slab, Kind::Upload, span, &self.prefix, &self.delimiter);
        let mut bounds = grouping.bounds();
        if !self.key_marker.is_empty() {
            bounds = bounds.from(match self.upload_id_marker.len() {
                0 => grouping.after(&self.key_marker),
                _ => after_upload(&grouping, &self.key_marker, &self.upload_id_marker),
            });
        }
        let mut page = pb::UploadsPage::default();
        if self.limit > 0 {
            page = list(shard, &grouping, bounds, PageBudget::new(self.limit))?;
        }
        Ok(Reply::Uploads(page))
    }
}

fn after_upload(grouping: &Grouping<'_>, key: &[u8], upload: &[u8]) -> Vec<u8> {
    let mut after = grouping.at_key(key);
    after.extend_from_slice(upload);
    after.push(0);
    after
}

fn list(
    shard: &ShardView<'_>,
    grouping: &Grouping<'_>,
    mut bounds: Bounds,
    mut budget: PageBudget,
) -> Result<pb::UploadsPage, QueryError> {
    let mut page = pb::UploadsPage::default();
    'seek: loop {
        for row in shard.rows.rows::<UploadKey>(&bounds) {
            let (row, mut upload) = row?;
            if budget.is_full() {
                page.more = true;
                return Ok(page);
            }
            let group = grouping.group_of(&row.key).map(Bytes::copy_from_slice);
            let item = match &group {
                Some(group) => {
                    page.next_key = group.clone();
                    page.next_upload_id = Bytes::new();
                    Item::CommonPrefix(group.clone())
                }
                None => {
                    page.next_key = row.key.clone();
                    page.next_upload_id = row.upload.to_bytes();
                    upload.template = upload.template.map(for_listing);
                    let (key, upload) = (row.key, Some(upload));
                    Item::Upload(pb::UploadEntry { key, upload })
                }
            };
            let item = pb::UploadItem { item: Some(item) };
            budget.add(item.encoded_len());
            page.items.push(item);
            if let Some(group) = group {
                bounds = bounds.from(grouping.after_group(&group));
                continue 'seek;
            }
        }
        return Ok(page);
    }
}
