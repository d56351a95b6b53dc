//! UploadPartCopy: makes a part of the bytes of an existing object, or of a range of them.

use granary_datapath::{CopyDigests, WriteTarget};
use granary_meta_api::pb;
use granary_oss::error::ec;
use granary_oss::header::copy_source_range;
use granary_oss::listing::part_number;
use granary_oss::xml::CopyPartResult;
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::PUT_BYTES_MAX;
use granary_types::{ETag, Timestamp};
use http::header;

use super::sequence::Before;
use super::upload::{UploadRef, storage_class};
use crate::conditions::CONDITIONS;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::object::{CALLBACKS, Source, UNBUILT_IN_WRITES, write_failed};
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct UploadPartCopy {
    upload: UploadRef,
    number: u32,
    source: Source,
}

impl Operation for UploadPartCopy {
    const BODY: BodyKind = BodyKind::None;
    /// Its conditions are about its source.
    const IGNORED_CONDITIONS: &'static [&'static str] = &CONDITIONS;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT_IN_WRITES)?;
        head.refuse(CALLBACKS)?;
        Ok(Self {
            upload: UploadRef::parse(head, ec::NO_SUCH_UPLOAD_PART_COPY)?,
            number: part_number(&head.query)?,
            source: Source::parse(head).map_err(|error| match error.code() {
                ErrorCode::InvalidArgument => error.ec(ec::PART_COPY_SOURCE),
                _ => error,
            })?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.upload.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self {
            upload,
            number,
            source,
        } = self;
        let upload_id = upload.id()?;
        let record = upload.find(cx).await?;
        let before = Before::find(cx, &upload, &record, number).await?;
        let found = source.find(cx).await?;
        let range = copy_source_range(&cx.head.headers, found.version().size);
        if range.length() > PUT_BYTES_MAX {
            return Err(OssError::new(ErrorCode::EntityTooLarge)
                .extra("MaxSizeAllowed", PUT_BYTES_MAX.to_string()));
        }
        let target = WriteTarget {
            continues: before.as_ref().map(Before::md5),
            ..cx.write_target(&upload.key, storage_class(&record))?
        };
        let copied = match found.copy(cx, range, target, CopyDigests::Compute).await {
            Ok(copied) => copied,
            Err(error) => return Err(write_failed(cx, error).await),
        };
        let (md5, crc64) = copied.digests.ok_or_else(|| {
            OssError::new(ErrorCode::InternalError).source("the copy has no digests")
        })?;
        let etag = ETag::from_md5(md5);
        let continued = before.as_ref().zip(copied.continued.as_ref());
        let prefix = continued.map(|(before, md5)| before.prefix(md5));
        let decision = cx.propose_at(&upload.key, false, |at| pb::PutPart {
            at: Some(at),
            upload_id: upload_id.clone(),
            number,
            etag: etag.as_str().to_owned(),
            crc64,
            payload: Some(copied.payload.clone()),
            prefix: prefix.clone(),
        });
        let reply = decision
            .await?
            .map_err(|rejection| upload.rejected(&rejection))?;
        let modified = reply
            .part
            .map_or(cx.shared.runtime.now(), |p| Timestamp(p.modified_ms));
        let result = CopyPartResult {
            etag,
            last_modified: modified,
        };
        // Some SDKs read the tag of a copy from the header.
        let tag = result.etag.quoted();
        Ok(Output::xml(result.to_xml())
            .header(header::ETAG, &tag)
            .oss("x-oss-hash-crc64ecma", Some(crc64.to_string()))
            .oss("x-oss-copy-source-version-id", found.version_id()))
    }
}
