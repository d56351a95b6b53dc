//! ListObjectVersions: every version and delete marker, by key and newest first.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::version_item::Item;
use granary_oss::OssError;
use granary_oss::listing::ListVersionsParams;
use granary_oss::xml::{ListVersionsResult, ListedDeleteMarker, ListedVersion, VersionEntry};
use granary_types::{AccountId, ObjectKey, Timestamp};

use super::page::{listed, text};
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// The input.
#[derive(Debug)]
pub(crate) struct ListObjectVersions {
    params: ListVersionsParams,
    after: VersionRef,
}

impl Operation for ListObjectVersions {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let params = ListVersionsParams::parse(&head.query)?;
        let marker = params.version_id_marker.as_str();
        let after = VersionRef::parse(Some(marker).filter(|marker| !marker.is_empty()));
        let after = after.map_err(|_| {
            let message = "Invalid version id specified.";
            OssError::invalid_argument(message, "version-id-marker", marker)
        })?;
        Ok(Self { params, after })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self { params, after } = self;
        let stamp_marker = match after {
            VersionRef::Null => null_stamp(cx, &params.key_marker).await?,
            VersionRef::Current | VersionRef::Stamp(_) => after.stamp(),
        };
        let mut page = pb::VersionsPage::default();
        for _ in 0..2 {
            let bucket = cx.bucket()?.clone();
            let query = pb::ListVersions {
                bucket_id: bucket.id.0,
                prefix: Bytes::copy_from_slice(params.prefix.as_bytes()),
                delimiter: Bytes::copy_from_slice(params.delimiter.as_bytes()),
                key_marker: Bytes::copy_from_slice(params.key_marker.as_bytes()),
                stamp_marker,
                limit: params.max_keys,
                ..pb::ListVersions::default()
            };
            page = cx
                .shared
                .meta
                .list_versions(query)
                .await
                .map_err(failure::of_meta)?;
            if !page.items.is_empty() || !cx.bucket_has_changed(&bucket).await? {
                break;
            }
        }
        Ok(Output::xml(result(cx, params, page)?.to_xml()))
    }
}

/// The stamp of a key's null version, which its id does not tell; 0, behind the whole key, when it
/// is gone.
async fn null_stamp(cx: &mut Ctx, key: &str) -> Result<u64, OssError> {
    let Ok(key) = ObjectKey::try_from(key) else {
        return Ok(0);
    };
    let found = cx.find_version(&key, VersionRef::Null, false).await?;
    Ok(found
        .and_then(|found| found.version)
        .map_or(0, |version| version.stamp))
}

fn result(
    cx: &Ctx,
    params: ListVersionsParams,
    page: pb::VersionsPage,
) -> Result<ListVersionsResult, OssError> {
    let next = page.more.then(|| {
        // By stamp, because the id of a null version does not say where it stands.
        let stamp = page.next_stamp;
        let id = (stamp > 0).then(|| version_id::of_stamp(stamp));
        (text(&page.next_key), id.unwrap_or_default())
    });
    let mut result = ListVersionsResult {
        name: cx.bucket()?.name.as_str().to_owned(),
        prefix: params.prefix,
        key_marker: params.key_marker,
        version_id_marker: params.version_id_marker,
        max_keys: params.max_keys,
        delimiter: params.delimiter,
        encoding: params.encoding,
        next,
        ..ListVersionsResult::default()
    };
    for pb::VersionItem { item, is_latest } in page.items {
        match item {
            Some(Item::CommonPrefix(prefix)) => result.common_prefixes.push(text(&prefix)),
            Some(Item::Version(entry)) => {
                let version = entry.version.unwrap_or_default();
                let (key, version_id) = (text(&entry.key), version_id::of(&version));
                result.entries.push(if version.delete_marker {
                    VersionEntry::DeleteMarker(ListedDeleteMarker {
                        key,
                        version_id,
                        is_latest,
                        last_modified: Timestamp(version.modified_ms),
                        owner: cx.owner(AccountId(match version.owner {
                            0 => cx.bucket()?.owner.0,
                            owner => owner,
                        })),
                    })
                } else {
                    VersionEntry::Version(ListedVersion {
                        object: listed(cx, key, &version, true),
                        version_id,
                        is_latest,
                    })
                });
            }
            None => {}
        }
    }
    Ok(result)
}
