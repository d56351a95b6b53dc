//! UploadPart: stores one part of an upload, replacing the part of that number.

use granary_datapath::{BodyLimits, WriteTarget};
use granary_meta_api::pb;
use granary_oss::error::ec;
use granary_oss::header::{content_md5, traffic_limit};
use granary_oss::listing::part_number;
use granary_oss::{ErrorCode, OssError};
use granary_types::ETag;
use http::{StatusCode, header};

use super::sequence::Before;
use super::upload::{UploadRef, storage_class};
use crate::body::check_md5;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::object::{
    CALLBACKS, UNBUILT_IN_WRITES, body_limits, content_md5_header, write_failed,
};
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct UploadPart {
    upload: UploadRef,
    number: u32,
    md5: Option<[u8; 16]>,
    limits: BodyLimits,
    traffic_limit: Option<u64>,
}

impl Operation for UploadPart {
    const BODY: BodyKind = BodyKind::Stream;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT_IN_WRITES)?;
        head.refuse(CALLBACKS)?;
        Ok(Self {
            upload: UploadRef::parse(head, ec::NO_SUCH_UPLOAD_PART)?,
            number: part_number(&head.query)?,
            md5: content_md5(&head.headers)?,
            limits: body_limits(head)?,
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.upload.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let Self {
            upload,
            number,
            md5,
            limits,
            traffic_limit,
        } = self;
        let Body::Stream(body) = body else {
            return Err(OssError::new(ErrorCode::InternalError).source("no body to read"));
        };
        body.pace(traffic_limit);
        let upload_id = upload.id()?;
        let record = upload.find(cx).await?;
        let before = Before::find(cx, &upload, &record, number).await?;
        let target = WriteTarget {
            continues: before.as_ref().map(Before::md5),
            ..cx.write_target(&upload.key, storage_class(&record))?
        };
        let datapath = cx.shared.datapath.clone();
        let written = match datapath.write(target, body, limits).await {
            Ok(written) => written,
            Err(error) => return Err(write_failed(cx, error).await),
        };
        check_md5(md5, || written.md5)?;
        let etag = ETag::from_md5(written.md5);
        let continued = before.as_ref().zip(written.continued.as_ref());
        let prefix = continued.map(|(before, md5)| before.prefix(md5));
        // The upload belongs to one bucket: a replaced one does not have it.
        let decision = cx.propose_at(&upload.key, false, |at| pb::PutPart {
            at: Some(at),
            upload_id: upload_id.clone(),
            number,
            etag: etag.as_str().to_owned(),
            crc64: written.crc64,
            payload: Some(written.payload.clone()),
            prefix: prefix.clone(),
        });
        decision
            .await?
            .map_err(|rejection| upload.rejected(&rejection))?;
        Ok(Output::empty(StatusCode::OK)
            .header(header::ETAG, &etag.quoted())
            .oss("content-md5", Some(content_md5_header(written.md5)))
            .oss("x-oss-hash-crc64ecma", Some(written.crc64.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn part_numbers_and_lengths_are_checked() {
        let id = "0".repeat(32);
        for (number, headers, code) in [
            (
                "0",
                &[("content-length", "1")][..],
                ErrorCode::InvalidArgument,
            ),
            (
                "10001",
                &[("content-length", "1")][..],
                ErrorCode::InvalidArgument,
            ),
            (
                "x",
                &[("content-length", "1")][..],
                ErrorCode::InvalidArgument,
            ),
            ("1", &[][..], ErrorCode::MissingContentLength),
            (
                "1",
                &[
                    ("content-length", "1"),
                    ("x-oss-server-side-encryption", "AES256"),
                ][..],
                ErrorCode::NotImplemented,
            ),
        ] {
            let target = format!("/bucket/k?partNumber={number}&uploadId={id}");
            let error = UploadPart::parse(&head("PUT", "localhost", &target, headers)).unwrap_err();
            assert_eq!(error.code(), code, "{number}");
        }
    }
}
