//! Listings of a bucket across the shards that hold parts of it, in key order.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use granary_types::BucketId;

use super::{BucketSegment, Meta};
use crate::{ErrorKind, MetaError, Query, pb};

/// Tries after a shard said that a segment is no longer its own.
const REROUTES_MAX: usize = 8;
/// The first pause before such a try; it doubles with every one.
const REROUTE_PAUSE: Duration = Duration::from_millis(5);

/// Shards that are asked at the same time at most; the more have left room in a page, the more.
const SHARDS_AT_ONCE_MAX: usize = 8;

/// The part of a bucket that one shard is asked for.
struct Interval {
    start_key: Bytes,
    bounded: bool,
    end_key: Bytes,
    limit: u32,
}

impl Interval {
    fn of(segment: &BucketSegment, limit: usize) -> Self {
        Self {
            start_key: segment.start_key.clone(),
            bounded: segment.end_key.is_some(),
            end_key: segment.end_key.clone().unwrap_or_default(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }
    }
}

/// The names of a listing.
struct Names {
    prefix: Bytes,
    delimiter: Bytes,
}

impl Names {
    /// Whether a page that has come to its cursor may show keys of the segment.
    fn may_show(&self, segment: &BucketSegment, page: &impl Page) -> bool {
        let start = &segment.start_key;
        let is_behind = start > &self.prefix && !start.starts_with(&self.prefix);
        let is_passed = segment.end_key.as_ref().is_some_and(|end| {
            let passed = page.passed().filter(|name| self.is_group(name));
            end <= page.cursor()
                || end <= &self.prefix
                || passed.is_some_and(|group| end.starts_with(group))
        });
        !is_behind && !is_passed
    }

    /// Whether an answer without items would take the page back into a group that it shows already.
    fn falls_back<P: Page>(&self, page: &P, answer: &P) -> bool {
        let passed = page.passed().filter(|name| self.is_group(name));
        let is_within = |group: &Bytes| answer.cursor().starts_with(group);
        answer.more() && answer.count() == 0 && passed.is_some_and(is_within)
    }

    fn is_group(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(&self.prefix[..]).unwrap_or_default();
        let delimiter = &self.delimiter[..];
        if delimiter.is_empty() {
            return false;
        }
        let first = rest
            .windows(delimiter.len())
            .position(|part| part == delimiter);
        first.is_some_and(|at| at + delimiter.len() == rest.len())
    }
}

/// A page that is put together from the answers of several shards.
trait Page {
    fn count(&self) -> usize;
    /// The key or group that the page has come to.
    fn cursor(&self) -> &Bytes;
    /// The cursor, where nothing of that name is still to come.
    fn passed(&self) -> Option<&Bytes>;
    /// Removes a group from the front: of keys of one group, every shard that was asked at the same time shows its own.
    fn remove_group(&mut self, group: &[u8]);
    /// Takes the items of a shard that go on from the cursor, and moves it.
    fn extend(&mut self, answer: Self);
    fn more(&self) -> bool;
    fn set_more(&mut self);
}

impl Meta {
    /// Objects and common prefixes of a bucket after `query.after`, at most `query.limit`. `more` is
    /// never false while anything is left; it may be true before nothing but delete markers.
    /// The interval fields of `query` are filled here.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list_objects(&self, query: pb::ListObjects) -> Result<pb::ObjectsPage, MetaError> {
        let page = pb::ObjectsPage {
            resume_after: query.after.clone(),
            ..Default::default()
        };
        let bucket = BucketId(query.bucket_id);
        let names = Names {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
        };
        let part = |page: &pb::ObjectsPage, part: Interval| pb::ListObjects {
            after: page.resume_after.clone(),
            limit: part.limit,
            start_key: part.start_key,
            bounded: part.bounded,
            end_key: part.end_key,
            ..query.clone()
        };
        self.list(bucket, &names, query.limit, page, part).await
    }

    /// Versions, delete markers and common prefixes of a bucket after the markers, at most
    /// `query.limit`. The interval fields of `query` are filled here.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list_versions(
        &self,
        query: pb::ListVersions,
    ) -> Result<pb::VersionsPage, MetaError> {
        let page = pb::VersionsPage {
            next_key: query.key_marker.clone(),
            next_stamp: query.stamp_marker,
            ..Default::default()
        };
        let bucket = BucketId(query.bucket_id);
        let names = Names {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
        };
        let part = |page: &pb::VersionsPage, part: Interval| pb::ListVersions {
            key_marker: page.next_key.clone(),
            stamp_marker: page.next_stamp,
            limit: part.limit,
            start_key: part.start_key,
            bounded: part.bounded,
            end_key: part.end_key,
            ..query.clone()
        };
        self.list(bucket, &names, query.limit, page, part).await
    }

    /// Uploads and common prefixes of a bucket after the markers, at most `query.limit`.
    /// The interval fields of `query` are filled here.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list_uploads(&self, query: pb::ListUploads) -> Result<pb::UploadsPage, MetaError> {
        let page = pb::UploadsPage {
            next_key: query.key_marker.clone(),
            next_upload_id: query.upload_id_marker.clone(),
            ..Default::default()
        };
        let bucket = BucketId(query.bucket_id);
        let names = Names {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
        };
        let part = |page: &pb::UploadsPage, part: Interval| pb::ListUploads {
            key_marker: page.next_key.clone(),
            upload_id_marker: page.next_upload_id.clone(),
            limit: part.limit,
            start_key: part.start_key,
            bounded: part.bounded,
            end_key: part.end_key,
            ..query.clone()
        };
        self.list(bucket, &names, query.limit, page, part).await
    }

    /// Asks the shards of a bucket in key order until the page is full, and whether more follows. One at first: it
    /// may fill the page. Then several at the same time, all from where the page has come to.
    async fn list<Q: Query>(
        &self,
        bucket: BucketId,
        names: &Names,
        limit: u32,
        mut page: Q::Reply,
        query: impl Fn(&Q::Reply, Interval) -> Q + Send + Sync,
    ) -> Result<Q::Reply, MetaError>
    where
        Q::Reply: Page + Sync,
    {
        let limit = limit as usize;
        let mut reroutes = 0;
        if limit == 0 {
            return Ok(page);
        }
        'route: loop {
            let mut segments = self.segments(bucket).await?;
            let mut at_once = 1;
            loop {
                segments.retain(|segment| names.may_show(segment, &page));
                if segments.is_empty() {
                    return Ok(page);
                }
                // A full page still has to know whether anything follows.
                let room = limit.saturating_sub(page.count()).max(1);
                let asked = segments.iter().take(at_once).map(|segment| {
                    self.query_at(segment.shard, query(&page, Interval::of(segment, room)))
                });
                // Taken in order: a full page does not wait for the shards behind it.
                let mut answers: FuturesOrdered<_> = asked.collect();
                let (mut come_by, all) = (0, answers.len());
                while let Some(answer) = answers.next().await {
                    let mut answer = match answer {
                        Ok(answer) => answer,
                        Err(error) => {
                            self.reroute(error, &mut reroutes).await?;
                            continue 'route;
                        }
                    };
                    if let Some(name) = page.passed() {
                        answer.remove_group(name);
                    }
                    let room = limit.saturating_sub(page.count());
                    if room == 0 && answer.count() > 0 {
                        page.set_more();
                        return Ok(page);
                    }
                    if answer.count() > room || (come_by > 0 && names.falls_back(&page, &answer)) {
                        // It did not know of what came before, and is asked again.
                        break;
                    }
                    let more = answer.more();
                    if room > 0 {
                        page.extend(answer);
                    }
                    if more {
                        page.set_more();
                        return Ok(page);
                    }
                    come_by += 1;
                }
                drop(answers);
                segments.drain(..come_by);
                at_once = if come_by == all {
                    (at_once * 2).min(SHARDS_AT_ONCE_MAX)
                } else {
                    1
                };
            }
        }
    }

    /// The sum of a bucket's counters over its shards.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn bucket_counters(
        &self,
        bucket: BucketId,
    ) -> Result<Vec<pb::ClassCounter>, MetaError> {
        let mut total: Vec<pb::ClassCounter> = Vec::new();
        let mut reroutes = 0;
        'route: loop {
            total.clear();
            let mut asked = Vec::new();
            for segment in self.segments(bucket).await? {
                if asked.contains(&segment.shard) {
                    continue;
                }
                asked.push(segment.shard);
                let query = pb::GetCounters {
                    bucket_id: bucket.0,
                };
                let answer = match self.query_at(segment.shard, query).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        self.reroute(error, &mut reroutes).await?;
                        continue 'route;
                    }
                };
                for class in answer.classes {
                    add_class(&mut total, class);
                }
            }
            return Ok(total);
        }
    }

    /// Reads the map again when a shard said that a segment is no longer its own.
    async fn reroute(&self, error: MetaError, reroutes: &mut usize) -> Result<(), MetaError> {
        if error.kind() != ErrorKind::Reroute || *reroutes == REROUTES_MAX {
            return Err(error);
        }
        *reroutes += 1;
        // A shard that was split off is known to the root only a moment later.
        self.runtime.sleep(REROUTE_PAUSE * (1 << *reroutes)).await;
        self.refresh_map().await
    }
}

impl Page for pb::ObjectsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.resume_after
    }

    fn passed(&self) -> Option<&Bytes> {
        Some(&self.resume_after)
    }

    fn remove_group(&mut self, group: &[u8]) {
        let first = self.items.first().and_then(|first| first.item.as_ref());
        if matches!(first, Some(pb::list_item::Item::CommonPrefix(name)) if name == group) {
            self.items.remove(0);
        }
    }

    fn extend(&mut self, answer: Self) {
        if answer.more {
            self.resume_after = answer.resume_after;
        } else if let Some(last) = answer.items.last() {
            self.resume_after = item_name(last);
        }
        self.items.extend(answer.items);
    }

    fn more(&self) -> bool {
        self.more
    }

    fn set_more(&mut self) {
        self.more = true;
    }
}

impl Page for pb::VersionsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.next_key
    }

    fn passed(&self) -> Option<&Bytes> {
        (self.next_stamp == 0).then_some(&self.next_key)
    }

    fn remove_group(&mut self, group: &[u8]) {
        let first = self.items.first().and_then(|first| first.item.as_ref());
        if matches!(first, Some(pb::version_item::Item::CommonPrefix(name)) if name == group) {
            self.items.remove(0);
        }
    }

    fn extend(&mut self, answer: Self) {
        if !answer.next_key.is_empty() {
            self.next_key = answer.next_key;
            self.next_stamp = answer.next_stamp;
        }
        self.items.extend(answer.items);
    }

    fn more(&self) -> bool {
        self.more
    }

    fn set_more(&mut self) {
        self.more = true;
    }
}

impl Page for pb::UploadsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.next_key
    }

    fn passed(&self) -> Option<&Bytes> {
        self.next_upload_id.is_empty().then_some(&self.next_key)
    }

    fn remove_group(&mut self, group: &[u8]) {
        let first = self.items.first().and_then(|first| first.item.as_ref());
        if matches!(first, Some(pb::upload_item::Item::CommonPrefix(name)) if name == group) {
            self.items.remove(0);
        }
    }

    fn extend(&mut self, answer: Self) {
        if !answer.next_key.is_empty() {
            self.next_key = answer.next_key;
            self.next_upload_id = answer.next_upload_id;
        }
        self.items.extend(answer.items);
    }

    fn more(&self) -> bool {
        self.more
    }

    fn set_more(&mut self) {
        self.more = true;
    }
}

fn item_name(item: &pb::ListItem) -> Bytes {
    match &item.item {
        Some(pb::list_item::Item::Object(entry)) => entry.key.clone(),
        Some(pb::list_item::Item::CommonPrefix(prefix)) => prefix.clone(),
        None => Bytes::new(),
    }
}

fn add_class(total: &mut Vec<pb::ClassCounter>, class: pb::ClassCounter) {
    let Some(add) = class.counter else { return };
    let known = total
        .iter_mut()
        .find(|known| known.storage_class == class.storage_class);
    let Some(sum) = known.and_then(|known| known.counter.as_mut()) else {
        total.push(pb::ClassCounter {
            storage_class: class.storage_class,
            counter: Some(add),
        });
        return;
    };
    sum.objects += add.objects;
    sum.bytes += add.bytes;
    sum.multipart_parts += add.multipart_parts;
    sum.multipart_bytes += add.multipart_bytes;
    sum.uploads += add.uploads;
    sum.delete_markers += add.delete_markers;
    sum.versions += add.versions;
    sum.modified_ms = sum.modified_ms.max(add.modified_ms);
}
