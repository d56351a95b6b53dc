//! ListMultipartUploads: the uploads of a bucket that are neither completed nor aborted, by key,
//! then by the time they began.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::upload_item::Item;
use granary_oss::OssError;
use granary_oss::listing::ListUploadsParams;
use granary_oss::xml::{ListMultipartUploadsResult, ListedUpload};
use granary_types::{ObjectId, Timestamp};

use super::upload::{id_text, parse_id, storage_class};
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct ListMultipartUploads {
    params: ListUploadsParams,
    upload_id_marker: Option<ObjectId>,
}

impl Operation for ListMultipartUploads {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let params = ListUploadsParams::parse(&head.query)?;
        let upload_id_marker = match params.upload_id_marker.as_str() {
            "" => None,
            text => Some(parse_id(text).ok_or_else(|| {
                OssError::invalid_argument("Invalid upload id marker.", "upload-id-marker", text)
            })?),
        };
        Ok(Self {
            params,
            upload_id_marker,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self {
            params,
            upload_id_marker,
        } = self;
        let mut page = pb::UploadsPage::default();
        for _ in 0..2 {
            let bucket = cx.bucket()?.clone();
            let query = pb::ListUploads {
                bucket_id: bucket.id.0,
                prefix: Bytes::copy_from_slice(params.prefix.as_bytes()),
                delimiter: Bytes::copy_from_slice(params.delimiter.as_bytes()),
                key_marker: Bytes::copy_from_slice(params.key_marker.as_bytes()),
                upload_id_marker: upload_id_marker
                    .map(|id| Bytes::copy_from_slice(&id.to_bytes()))
                    .unwrap_or_default(),
                limit: params.max_uploads,
                ..pb::ListUploads::default()
            };
            page = cx
                .shared
                .meta
                .list_uploads(query)
                .await
                .map_err(failure::of_meta)?;
            if !page.items.is_empty() || !cx.bucket_has_changed(&bucket).await? {
                break;
            }
        }
        let bucket = cx.bucket()?.name.as_str().to_owned();
        Ok(Output::xml(result(bucket, params, page).to_xml()))
    }
}

fn result(
    bucket: String,
    params: ListUploadsParams,
    page: pb::UploadsPage,
) -> ListMultipartUploadsResult {
    let mut result = ListMultipartUploadsResult {
        bucket,
        encoding: params.encoding,
        key_marker: params.key_marker,
        upload_id_marker: params.upload_id_marker,
        delimiter: params.delimiter,
        prefix: params.prefix,
        max_uploads: params.max_uploads,
        is_truncated: page.more,
        ..ListMultipartUploadsResult::default()
    };
    if page.more {
        result.next_key_marker = text(&page.next_key);
        if !page.next_upload_id.is_empty() {
            result.next_upload_id_marker = id_text(&page.next_upload_id);
        }
    }
    for item in page.items {
        match item.item {
            Some(Item::CommonPrefix(prefix)) => result.common_prefixes.push(text(&prefix)),
            Some(Item::Upload(entry)) => {
                let upload = entry.upload.unwrap_or_default();
                result.uploads.push(ListedUpload {
                    key: text(&entry.key),
                    upload_id: id_text(&upload.upload_id),
                    storage_class: storage_class(&upload),
                    initiated: Timestamp(upload.initiated_ms),
                });
            }
            None => {}
        }
    }
    result
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
