//! ListUploads: uploads under way by key, then by upload id (which is by age), grouped by a
//! delimiter.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::upload_item::Item;
use prost::Message;

use super::grouping::{Grouping, PageBudget, behind_group};
use super::list_objects::for_listing;
use super::tree::{Node, Step, TreeWalk};
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
        let view = shard.view(span.bucket)?;
        if self.limit > 0 && view.is_some_and(|view| view.hierarchical) {
            let (mut from, end) = grouping.paths(&self.key_marker);
            let mut behind = Vec::new();
            if !self.upload_id_marker.is_empty()
                && from.strip_suffix(&[0]) == Some(&self.key_marker)
            {
                from.pop();
                behind = [&[0, 1], &self.upload_id_marker[..], &[0]].concat();
            }
            let mut tree = TreeWalk::new(shard, slab, span.bucket, end);
            tree.seek(&from, &behind)?;
            page = list_tree(tree, &grouping, PageBudget::new(self.limit))?;
        } else if self.limit > 0 {
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
            let (row, upload) = row?;
            if budget.is_full() {
                page.more = true;
                return Ok(page);
            }
            let group = grouping.group_of(&row.key).map(Bytes::copy_from_slice);
            add(&mut page, &mut budget, group.as_ref(), row.key, upload);
            if let Some(group) = group {
                bounds = bounds.from(grouping.after_group(&group));
                continue 'seek;
            }
        }
        return Ok(page);
    }
}

/// Adds an upload, or the group that stands for it and others.
fn add(
    page: &mut pb::UploadsPage,
    budget: &mut PageBudget,
    group: Option<&Bytes>,
    key: Bytes,
    mut upload: state::Upload,
) {
    let item = match group {
        Some(group) => {
            page.next_key = group.clone();
            page.next_upload_id = Bytes::new();
            Item::CommonPrefix(group.clone())
        }
        None => {
            page.next_key = key.clone();
            page.next_upload_id = upload.upload_id.clone();
            upload.template = upload.template.map(for_listing);
            let upload = Some(upload);
            Item::Upload(pb::UploadEntry { key, upload })
        }
    };
    let item = pb::UploadItem { item: Some(item) };
    budget.add(item.encoded_len());
    page.items.push(item);
}

/// Where keys are paths. Directories are passed through; after many of them the page ends early and
/// says where to go on.
fn list_tree(
    mut tree: TreeWalk<'_, UploadKey>,
    grouping: &Grouping<'_>,
    mut budget: PageBudget,
) -> Result<pb::UploadsPage, QueryError> {
    let mut page = pb::UploadsPage::default();
    let mut last: Vec<u8> = Vec::new();
    while let Some(Step { path, node }) = tree.next()? {
        let group = grouping.group_of(&path).map(Bytes::copy_from_slice);
        // To go on behind a group's directory would be to go on behind the whole group.
        let in_group = grouping.group_of(&last) == Some(&last) && path.starts_with(&last);
        if !budget.read_row() && !in_group {
            page.more = true;
            if page.next_key < last {
                page.next_key = last.into();
                page.next_upload_id = Bytes::new();
            }
            return Ok(page);
        }
        if let Node::Row(_, upload) = node {
            if budget.is_full() {
                page.more = true;
                return Ok(page);
            }
            add(
                &mut page,
                &mut budget,
                group.as_ref(),
                Bytes::copy_from_slice(&path),
                upload,
            );
            if let Some(group) = group {
                tree.seek(&behind_group(&group), &[])?;
                last = group.to_vec();
                continue;
            }
        }
        last = path;
    }
    Ok(page)
}
