//! ListParts: the parts of an upload, by number.

use std::sync::Arc;

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::error::ec;
use granary_oss::listing::ListPartsParams;
use granary_oss::xml::{ListPartsResult, ListedPart};
use granary_types::{ETag, Timestamp};

use super::upload::{UploadRef, id_text, storage_class};
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct ListParts {
    upload: UploadRef,
    params: ListPartsParams,
}

impl Operation for ListParts {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            upload: UploadRef::parse(head, ec::NO_SUCH_UPLOAD_LIST_PARTS)?,
            params: ListPartsParams::parse(&head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.upload.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self { upload, params } = self;
        let (upload_id, mut bucket) = (upload.id()?, Arc::clone(cx.bucket()?));
        let query = |at| pb::ListParts {
            at: Some(at),
            upload_id: upload_id.clone(),
            after: params.part_number_marker,
            limit: params.max_parts,
        };
        let mut answer = cx
            .shared
            .meta
            .query(query(bucket.position(&upload.key)))
            .await;
        if answer.as_ref().is_ok_and(|page| !page.found) && cx.bucket_has_changed(&bucket).await? {
            bucket = Arc::clone(cx.bucket()?);
            answer = cx
                .shared
                .meta
                .query(query(bucket.position(&upload.key)))
                .await;
        }
        let page = answer.map_err(failure::of_meta)?;
        let record = page.upload.as_ref().filter(|_| page.found);
        let record = record.ok_or_else(|| upload.no_such_upload())?;
        let parts: Vec<ListedPart> = page.parts.iter().map(listed).collect();
        let result = ListPartsResult {
            bucket: bucket.name.as_str().to_owned(),
            key: upload.key.as_str().to_owned(),
            upload_id: id_text(&upload_id),
            encoding: params.encoding,
            storage_class: storage_class(record),
            part_number_marker: params.part_number_marker,
            next_part_number_marker: parts.last().map_or(0, |part| part.number),
            max_parts: params.max_parts,
            is_truncated: page.more,
            parts,
        };
        Ok(Output::xml(result.to_xml()))
    }
}

fn listed(part: &pb::state::Part) -> ListedPart {
    ListedPart {
        number: part.number,
        last_modified: Timestamp(part.modified_ms),
        etag: ETag::parse(&part.etag),
        crc64: part.crc64,
        size: part.size,
    }
}
