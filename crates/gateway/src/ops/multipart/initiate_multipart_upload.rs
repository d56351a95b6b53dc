//! InitiateMultipartUpload: begins an upload in parts; everything but the bytes is decided here.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::listing::encoding;
use granary_oss::xml::{Encoding, InitiateMultipartUploadResult};
use granary_types::{ObjectKey, ObjectType};

use super::upload::id_text;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::object::{Attributes, forbids_overwrite, refuse_early};
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct InitiateMultipartUpload {
    key: ObjectKey,
    attributes: Attributes,
    sequential: bool,
    encoding: Encoding,
}

impl Operation for InitiateMultipartUpload {
    const BODY: BodyKind = BodyKind::None;
    /// As the tests of the Go SDK v1 have it.
    const IGNORED_CONDITIONS: &'static [&'static str] = &["If-Modified-Since"];

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            attributes: Attributes::parse(head)?,
            sequential: head.query.contains("sequential"),
            encoding: encoding(&head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self {
            key,
            attributes,
            sequential,
            encoding,
        } = self;
        if forbids_overwrite(&cx.head, cx.bucket()?)? {
            refuse_early(cx, &key).await?;
        }
        // An upload id is an object id: allocated by the shard, never used twice.
        let at = cx.bucket()?.position(&key);
        let (upload_id, _) = cx
            .shared
            .meta
            .begin_write(at)
            .await
            .map_err(failure::of_meta)?;
        let upload_id: Bytes = upload_id;
        let template = pb::state::Version {
            object_type: ObjectType::Multipart.number(),
            ..attributes.to_version(cx.bucket()?, cx.object_owner()?)
        };
        let decision = cx.propose_at(&key, true, |at| pb::InitiateUpload {
            at: Some(at),
            upload_id: upload_id.clone(),
            template: Some(template.clone()),
            sequential,
        });
        decision
            .await?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        let result = InitiateMultipartUploadResult {
            bucket: cx.bucket()?.name.as_str().to_owned(),
            key: key.into_string(),
            upload_id: id_text(&upload_id),
            encoding,
        };
        Ok(Output::xml(result.to_xml()))
    }
}
