//! ListVersions: every version and delete marker of the keys in order, newest first within a key,
//! grouped by a delimiter.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::version_item::Item;
use prost::Message;

use super::grouping::{Grouping, PageBudget, behind_group};
use super::list_objects::for_listing;
use super::tree::{Node, Step, TreeWalk};
use super::{Answer, QueryError, ShardView};
use crate::keyspace::Kind;
use crate::keyspace::head::HeadKey;
use crate::keyspace::version::VersionKey;
use crate::ownership::{KeySpan, Place, key_bounds};
use crate::paths::shown;
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListVersions {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let span = KeySpan::new(self.bucket_id, &self.start_key, self.bounded, &self.end_key);
        let slab = shard.slab(&span)?;
        let grouping = Grouping::new(slab, Kind::Head, span, &self.prefix, &self.delimiter);
        let mut bounds = grouping.bounds();
        if !self.key_marker.is_empty() {
            bounds = bounds.from(match self.stamp_marker {
                0 => grouping.after(&self.key_marker),
                _ => grouping.at_key(&self.key_marker),
            });
        }
        let mut lister = Lister {
            budget: PageBudget::new(self.limit),
            marker: (self.key_marker.clone(), self.stamp_marker),
            page: pb::VersionsPage::default(),
        };
        let view = shard.view(span.bucket)?;
        if self.limit > 0 && view.is_some_and(|view| view.hierarchical) {
            let (from, end) = grouping.paths(&self.key_marker);
            let mut tree = TreeWalk::new(shard, slab, span.bucket, end);
            tree.seek(&from, &[])?;
            lister.run_tree(tree, &grouping)?;
        } else if self.limit > 0 {
            lister.run(shard, &grouping, bounds)?;
        }
        Ok(Reply::Versions(lister.page))
    }
}

struct Lister {
    budget: PageBudget,
    marker: (Bytes, u64),
    page: pb::VersionsPage,
}

impl Lister {
    fn run(
        &mut self,
        shard: &ShardView<'_>,
        grouping: &Grouping<'_>,
        mut bounds: Bounds,
    ) -> Result<(), QueryError> {
        'seek: loop {
            for row in shard.rows.rows::<HeadKey>(&bounds) {
                let (row, head) = row?;
                if let Some(group) = grouping.group_of(&row.key) {
                    let item = Item::CommonPrefix(Bytes::copy_from_slice(group));
                    if !self.add(item, group, 0, false) {
                        return Ok(());
                    }
                    bounds = bounds.from(grouping.after_group(group));
                    continue 'seek;
                }
                if !self.key(shard, row, head)? {
                    return Ok(());
                }
            }
            return Ok(());
        }
    }

    /// Where keys are paths: every one has one version.
    fn run_tree(
        &mut self,
        mut tree: TreeWalk<'_, HeadKey>,
        grouping: &Grouping<'_>,
    ) -> Result<(), QueryError> {
        while let Some(Step { path, node }) = tree.next()? {
            if let Some(group) = grouping.group_of(&path) {
                let item = Item::CommonPrefix(Bytes::copy_from_slice(group));
                if !self.add(item, group, 0, false) {
                    return Ok(());
                }
                tree.seek(&behind_group(group), &[])?;
                continue;
            }
            let version = match node {
                Node::Directory(directory) => shown(&directory),
                Node::Row(_, head) => head.current.unwrap_or_default(),
            };
            if !self.version(&path.into(), version, true) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds the versions of a key; false when the page ended.
    fn key(
        &mut self,
        shard: &ShardView<'_>,
        row: HeadKey,
        head: state::Head,
    ) -> Result<bool, QueryError> {
        let before = match &self.marker {
            (key, stamp) if *stamp != 0 && *key == row.key => *stamp,
            _ => u64::MAX,
        };
        let current = head.current.unwrap_or_default();
        if current.stamp < before && !self.version(&row.key, current, true) {
            return Ok(false);
        }
        let place = Place {
            slab: row.slab,
            bucket: row.bucket,
            key: row.key,
        };
        let bounds = key_bounds(&place, Kind::Version);
        let mut from = bounds.start.clone();
        // Stamps stand inverted: the first row of an older version than `before`.
        from.extend_from_slice(&(!before.saturating_sub(1)).to_be_bytes());
        for row in shard.rows.rows::<VersionKey>(&bounds.from(from)) {
            let (_, version) = row?;
            if !self.version(&place.key, version, false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn version(&mut self, key: &Bytes, version: state::Version, is_latest: bool) -> bool {
        let stamp = version.stamp;
        let entry = pb::ObjectEntry {
            key: key.clone(),
            version: Some(for_listing(version)),
        };
        self.add(Item::Version(entry), key, stamp, is_latest)
    }

    fn add(&mut self, item: Item, name: &[u8], stamp: u64, is_latest: bool) -> bool {
        if self.budget.is_full() {
            self.page.more = true;
            return false;
        }
        let item = pb::VersionItem {
            item: Some(item),
            is_latest,
        };
        self.budget.add(item.encoded_len());
        self.page.items.push(item);
        self.page.next_key = Bytes::copy_from_slice(name);
        self.page.next_stamp = stamp;
        true
    }
}
