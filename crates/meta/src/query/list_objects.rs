//! ListObjects: current versions of keys in order, delete markers left out, grouped by a delimiter.
//!
//! Work per page is bounded: after many delete markers in a row the page ends early, says "more"
//! and where to go on.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::list_item::Item;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use prost::Message;

use super::grouping::{Grouping, PageBudget, behind_group};
use super::tree::{Node, Step, TreeWalk};
use super::{Answer, QueryError, ShardView};
use crate::keyspace::Kind;
use crate::keyspace::head::HeadKey;
use crate::ownership::KeySpan;
use crate::paths::shown;
use crate::rows::Rows;

impl Answer for pb::ListObjects {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let span = KeySpan::new(self.bucket_id, &self.start_key, self.bounded, &self.end_key);
        let slab = shard.slab(&span)?;
        let grouping = Grouping::new(slab, Kind::Head, span, &self.prefix, &self.delimiter);
        let mut bounds = grouping.bounds();
        if !self.after.is_empty() {
            bounds = bounds.from(grouping.after(&self.after));
        }
        let mut lister = Lister {
            budget: PageBudget::new(self.limit),
            page: pb::ObjectsPage {
                resume_after: self.after.clone(),
                ..Default::default()
            },
        };
        let view = shard.view(span.bucket)?;
        if self.limit > 0 && view.is_some_and(|view| view.hierarchical) {
            let (from, end) = grouping.paths(&self.after);
            let mut tree = TreeWalk::new(shard, slab, span.bucket, end);
            tree.seek(&from, &[])?;
            lister.run_tree(tree, &grouping)?;
        } else if self.limit > 0 {
            lister.run(shard, &grouping, bounds)?;
        }
        Ok(Reply::Objects(lister.page))
    }
}

struct Lister {
    budget: PageBudget,
    page: pb::ObjectsPage,
}

impl Lister {
    fn run(
        &mut self,
        shard: &ShardView<'_>,
        grouping: &Grouping<'_>,
        mut bounds: crate::rows::Bounds,
    ) -> Result<(), QueryError> {
        'seek: loop {
            for row in shard.rows.rows::<HeadKey>(&bounds) {
                let (row, head) = row?;
                if !self.budget.read_row() {
                    self.page.more = true;
                    return Ok(());
                }
                let Some(version) = head.current.filter(|version| !version.delete_marker) else {
                    self.page.resume_after = row.key;
                    continue;
                };
                if self.budget.is_full() {
                    self.page.more = true;
                    return Ok(());
                }
                if let Some(group) = grouping.group_of(&row.key) {
                    self.add(Item::CommonPrefix(Bytes::copy_from_slice(group)), group);
                    bounds = bounds.from(grouping.after_group(group));
                    continue 'seek;
                }
                let key = row.key.clone();
                self.add(
                    Item::Object(pb::ObjectEntry {
                        key: row.key,
                        version: Some(for_listing(version)),
                    }),
                    &key,
                );
            }
            return Ok(());
        }
    }

    /// Where keys are paths: directories are listed like objects.
    fn run_tree(
        &mut self,
        mut tree: TreeWalk<'_, HeadKey>,
        grouping: &Grouping<'_>,
    ) -> Result<(), QueryError> {
        while let Some(Step { path, node }) = tree.next()? {
            if self.budget.is_full() || !self.budget.read_row() {
                self.page.more = true;
                return Ok(());
            }
            if let Some(group) = grouping.group_of(&path) {
                self.add(Item::CommonPrefix(Bytes::copy_from_slice(group)), group);
                tree.seek(&behind_group(group), &[])?;
                continue;
            }
            let version = match node {
                Node::Directory(directory) => Some(shown(&directory)),
                Node::Row(_, head) => head.current,
            };
            let entry = pb::ObjectEntry {
                key: Bytes::copy_from_slice(&path),
                version: version.map(for_listing),
            };
            self.add(Item::Object(entry), &path);
        }
        Ok(())
    }

    fn add(&mut self, item: Item, name: &[u8]) {
        let item = pb::ListItem { item: Some(item) };
        self.budget.add(item.encoded_len());
        self.page.items.push(item);
        self.page.resume_after = Bytes::copy_from_slice(name);
    }
}

/// A version as listings carry it: without what only GET and HEAD show.
pub(super) fn for_listing(mut version: state::Version) -> state::Version {
    version.headers.clear();
    version.user_meta.clear();
    version.tags.clear();
    version.body = None;
    version
}
