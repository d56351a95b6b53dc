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

impl Meta {
    /// Objects and common prefixes of a bucket after `query.after`, at most `query.limit`. `more` is
    /// never false while anything is left; it may be true before nothing but delete markers.
    /// The interval fields of `query` are filled here.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list_objects(&self, query: pb::ListObjects) -> Result<pb::ObjectsPage, MetaError> {
        let bucket = BucketId(query.bucket_id);
        let limit = query.limit as usize;
        let mut page = pb::ObjectsPage {
            resume_after: query.after.clone(),
            ..Default::default()
        };
        let mut reroutes = 0;
        if limit == 0 {
            return Ok(page);
        }
        'route: loop {
            for segment in self.segments(bucket).await? {
                if segment
                    .end_key
                    .as_ref()
                    .is_some_and(|end| *end <= page.resume_after)
                {
                    continue;
                }
                // A full page still has to know whether anything follows.
                let room = limit.saturating_sub(page.items.len());
                let part = pb::ListObjects {
                    after: page.resume_after.clone(),
                    limit: u32::try_from(room.max(1)).unwrap_or(u32::MAX),
                    start_key: segment.start_key.clone(),
                    bounded: segment.end_key.is_some(),
                    end_key: segment.end_key.clone().unwrap_or_default(),
                    ..query.clone()
                };
                let answer = match self.ask(&segment, part, &mut reroutes).await? {
                    Some(answer) => answer,
                    None => continue 'route,
                };
                if room == 0 {
                    if answer.more || !answer.items.is_empty() {
                        page.more = true;
                        return Ok(page);
                    }
                    continue;
                }
                page.items.extend(answer.items);
                if answer.more {
                    page.more = true;
                    page.resume_after = answer.resume_after;
                    return Ok(page);
                }
                if let Some(last) = page.items.last() {
                    page.resume_after = item_name(last);
                }
            }
            return Ok(page);
        }
    }

    /// Uploads and common prefixes of a bucket after the markers, at most `query.limit`.
    /// The interval fields of `query` are filled here.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list_uploads(&self, query: pb::ListUploads) -> Result<pb::UploadsPage, MetaError> {
        let bucket = BucketId(query.bucket_id);
        let limit = query.limit as usize;
        let mut page = pb::UploadsPage {
            next_key: query.key_marker.clone(),
            next_upload_id: query.upload_id_marker.clone(),
            ..Default::default()
        };
        let mut reroutes = 0;
        if limit == 0 {
            return Ok(page);
        }
        'route: loop {
            for segment in self.segments(bucket).await? {
                if segment
                    .end_key
                    .as_ref()
                    .is_some_and(|end| *end <= page.next_key)
                {
                    continue;
                }
                let room = limit.saturating_sub(page.items.len());
                let part = pb::ListUploads {
                    key_marker: page.next_key.clone(),
                    upload_id_marker: page.next_upload_id.clone(),
                    limit: u32::try_from(room.max(1)).unwrap_or(u32::MAX),
                    start_key: segment.start_key.clone(),
                    bounded: segment.end_key.is_some(),
                    end_key: segment.end_key.clone().unwrap_or_default(),
                    ..query.clone()
                };
                let answer = match self.ask(&segment, part, &mut reroutes).await? {
                    Some(answer) => answer,
                    None => continue 'route,
                };
                if room == 0 {
                    if answer.more || !answer.items.is_empty() {
                        page.more = true;
                        return Ok(page);
                    }
                    continue;
                }
                page.items.extend(answer.items);
                if !answer.next_key.is_empty() {
                    page.next_key = answer.next_key;
                    page.next_upload_id = answer.next_upload_id;
                }
                if answer.more {
                    page.more = true;
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
