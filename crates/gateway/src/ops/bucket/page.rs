//! One page of a bucket's objects and common prefixes.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::list_item::Item;
use granary_oss::OssError;
use granary_oss::xml::ListedObject;
use granary_types::{AccountId, ETag, ObjectType, StorageClass, Timestamp};

use crate::ctx::Ctx;
use crate::failure;

/// What to list.
pub(super) struct Wanted<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: &'a str,
    /// The page starts after this key or common prefix.
    pub(super) marker: &'a str,
    pub(super) limit: u32,
    pub(super) with_owner: bool,
}

/// What was listed.
#[derive(Default)]
pub(super) struct Page {
    pub(super) objects: Vec<ListedObject>,
    pub(super) common_prefixes: Vec<String>,
    /// Where the next page starts; `None` when this is the last.
    pub(super) next: Option<String>,
}

/// Reads a page.
///
/// # Errors
/// NoSuchBucket, ServiceUnavailable.
pub(super) async fn read(cx: &mut Ctx, wanted: Wanted<'_>) -> Result<Page, OssError> {
    let mut page = pb::ObjectsPage::default();
    for _ in 0..2 {
        let bucket = cx.bucket()?.clone();
        let query = pb::ListObjects {
            bucket_id: bucket.id.0,
            prefix: Bytes::copy_from_slice(wanted.prefix.as_bytes()),
            delimiter: Bytes::copy_from_slice(wanted.delimiter.as_bytes()),
            after: Bytes::copy_from_slice(wanted.marker.as_bytes()),
            limit: wanted.limit,
            ..pb::ListObjects::default()
        };
        page = cx
            .shared
            .meta
            .list_objects(query)
            .await
            .map_err(failure::of_meta)?;
        // Listings carry no generation: an empty one may be that of a bucket that is gone.
        if !page.items.is_empty() || !cx.bucket_has_changed(&bucket).await? {
            break;
        }
    }
    let mut read = Page::default();
    let mut last = None;
    for item in page.items {
        match item.item {
            Some(Item::CommonPrefix(prefix)) => {
                let prefix = text(&prefix);
                last = Some(prefix.clone());
                read.common_prefixes.push(prefix);
            }
            Some(Item::Object(entry)) => {
                let key = text(&entry.key);
                last = Some(key.clone());
                let version = entry.version.unwrap_or_default();
                read.objects
                    .push(listed(cx, key, &version, wanted.with_owner));
            }
            None => {}
        }
    }
    if page.more {
        read.next = last.or_else(|| Some(text(&page.resume_after)));
    }
    Ok(read)
}

pub(super) fn listed(
    cx: &Ctx,
    key: String,
    version: &pb::state::Version,
    with_owner: bool,
) -> ListedObject {
    let object_type = ObjectType::from_number(version.object_type).unwrap_or(ObjectType::Normal);
    let class = StorageClass::from_number(version.storage_class);
    ListedObject {
        key,
        last_modified: Timestamp(version.modified_ms),
        etag: ETag::parse(&version.etag),
        object_type,
        size: version.size,
        storage_class: class.unwrap_or(StorageClass::Standard),
        owner: with_owner.then(|| cx.owner(AccountId(version.owner))),
        restore_info: version
            .restore
            .as_ref()
            .map(crate::ops::object::restore_text),
        transition_time: (version.transition_ms > 0).then_some(Timestamp(version.transition_ms)),
    }
}

/// Keys are UTF-8: they were checked when they came.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
