//! Listings of a bucket across the shards that hold parts of it, in key order.

use std::time::Duration;

use bytes::Bytes;
use granary_types::BucketId;

use super::{BucketSegment, Meta};
use crate::{ErrorKind, MetaError, Query, pb};

/// Tries after a shard said that a segment is no longer its own.
const REROUTES_MAX: usize = 8;
/// The first pause before such a try; it doubles with every one.
const REROUTE_PAUSE: Duration = Duration::from_millis(5);

/// The part of a bucket that one shard is asked for.
struct Interval {
    start_key: Bytes,
    bounded: bool,
    end_key: Bytes,
    limit: u32,
}

/// A page that is put together from the answers of several shards.
trait Page {
    fn count(&self) -> usize;
    /// The key or group that the page has come to.
    fn cursor(&self) -> &Bytes;
    /// Takes the items of a shard that go on from the cursor, and moves it.
    fn extend(&mut self, answer: Self);
    fn more(&mut self) -> &mut bool;
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
        self.list(bucket, query.limit, page, |page: &pb::ObjectsPage, part| {
            pb::ListObjects {
                after: page.resume_after.clone(),
                limit: part.limit,
                start_key: part.start_key,
                bounded: part.bounded,
                end_key: part.end_key,
                ..query.clone()
            }
        })
        .await
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
        self.list(
            bucket,
            query.limit,
            page,
            |page: &pb::VersionsPage, part| pb::ListVersions {
                key_marker: page.next_key.clone(),
                stamp_marker: page.next_stamp,
                limit: part.limit,
                start_key: part.start_key,
                bounded: part.bounded,
                end_key: part.end_key,
                ..query.clone()
            },
        )
        .await
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
        self.list(bucket, query.limit, page, |page: &pb::UploadsPage, part| {
            pb::ListUploads {
                key_marker: page.next_key.clone(),
                upload_id_marker: page.next_upload_id.clone(),
                limit: part.limit,
                start_key: part.start_key,
                bounded: part.bounded,
                end_key: part.end_key,
                ..query.clone()
            }
        })
        .await
    }

    /// Asks the shards of a bucket in key order until the page is full, and whether more follows.
    async fn list<Q: Query>(
        &self,
        bucket: BucketId,
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
            for segment in self.segments(bucket).await? {
                let end = segment.end_key.as_ref();
                if end.is_some_and(|end| end <= page.cursor()) {
                    continue;
                }
                // A full page still has to know whether anything follows.
                let room = limit.saturating_sub(page.count());
                let part = Interval {
                    start_key: segment.start_key.clone(),
                    bounded: segment.end_key.is_some(),
                    end_key: segment.end_key.clone().unwrap_or_default(),
                    limit: u32::try_from(room.max(1)).unwrap_or(u32::MAX),
                };
                let part = query(&page, part);
                let Some(mut answer) = self.ask(&segment, part, &mut reroutes).await? else {
                    continue 'route;
                };
                let more = *answer.more();
                if room > 0 {
                    page.extend(answer);
                } else if answer.count() > 0 {
                    *page.more() = true;
                    return Ok(page);
                }
                if more {
                    *page.more() = true;
                    return Ok(page);
                }
            }
            return Ok(page);
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
                let Some(answer) = self.ask(&segment, query, &mut reroutes).await? else {
                    continue 'route;
                };
                for class in answer.classes {
                    add_class(&mut total, class);
                }
            }
            return Ok(total);
        }
    }

    /// Asks one segment's shard; `None` when the map had to be refreshed first.
    async fn ask<Q: Query>(
        &self,
        segment: &BucketSegment,
        query: Q,
        reroutes: &mut usize,
    ) -> Result<Option<Q::Reply>, MetaError> {
        match self.query_at(segment.shard, query).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind() == ErrorKind::Reroute && *reroutes < REROUTES_MAX => {
                *reroutes += 1;
                // A shard that was split off is known to the root only a moment later.
                self.runtime.sleep(REROUTE_PAUSE * (1 << *reroutes)).await;
                self.refresh_map().await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Page for pb::ObjectsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.resume_after
    }

    fn extend(&mut self, answer: Self) {
        if answer.more {
            self.resume_after = answer.resume_after;
        } else if let Some(last) = answer.items.last() {
            self.resume_after = item_name(last);
        }
        self.items.extend(answer.items);
    }

    fn more(&mut self) -> &mut bool {
        &mut self.more
    }
}

impl Page for pb::VersionsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.next_key
    }

    fn extend(&mut self, answer: Self) {
        if !answer.next_key.is_empty() {
            self.next_key = answer.next_key;
            self.next_stamp = answer.next_stamp;
        }
        self.items.extend(answer.items);
    }

    fn more(&mut self) -> &mut bool {
        &mut self.more
    }
}

impl Page for pb::UploadsPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn cursor(&self) -> &Bytes {
        &self.next_key
    }

    fn extend(&mut self, answer: Self) {
        if !answer.next_key.is_empty() {
            self.next_key = answer.next_key;
            self.next_upload_id = answer.next_upload_id;
        }
        self.items.extend(answer.items);
    }

    fn more(&mut self) -> &mut bool {
        &mut self.more
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
