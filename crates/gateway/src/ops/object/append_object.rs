//! AppendObject: adds bytes to the end of an object, and makes one where there is none.
//!
//! Small bytes travel inside the commit, as in PutObject. Now and then what stands in the metadata has
//! to be folded into chunks first; which append pays for that nobody sees.

use granary_datapath::{BodyLimits, DataPath, ReadSource};
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_oss::error::ec;
use granary_oss::header::{content_md5, flag, traffic_limit};
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::APPEND_BYTES_MAX;
use granary_types::{ETag, ObjectKey, ObjectType, StorageClass};
use http::{StatusCode, header};

use super::settings::shown_id;
use super::{
    Attributes, CALLBACKS, UNBUILT_IN_WRITES, body_limits, content_md5_header, write_failed,
};
use crate::body::check_md5;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// How often an append makes room before it leaves that to the next attempt of the client: others
/// append and fold at the same time.
const FOLDS_MAX: usize = 8;

/// The input.
#[derive(Debug)]
pub(crate) struct AppendObject {
    key: ObjectKey,
    position: u64,
    attributes: Attributes,
    forbid_overwrite: bool,
    md5: Option<[u8; 16]>,
    limits: BodyLimits,
    traffic_limit: Option<u64>,
}

impl Operation for AppendObject {
    const BODY: BodyKind = BodyKind::Stream;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(CALLBACKS)?;
        let position = position(head)?;
        if let Some(id) = head.query.get("versionId") {
            let message = "Bytes are appended to the current version only.";
            return Err(
                OssError::invalid_argument(message, "versionId", id).ec(ec::APPEND_VERSION_ID)
            );
        }
        // What is there has its attributes: a later append's are not even looked at (asserted by the
        // SDKs' tests), but for what would change the bytes or the answer.
        head.refuse(UNBUILT_IN_WRITES)?;
        let attributes = match position {
            0 => Attributes::parse(head)?,
            _ => Attributes::default(),
        };
        Ok(Self {
            key: head.object_key()?,
            position,
            attributes,
            forbid_overwrite: flag(&head.headers, "x-oss-forbid-overwrite")?,
            md5: content_md5(&head.headers)?,
            limits: BodyLimits {
                max_bytes: APPEND_BYTES_MAX.saturating_sub(position),
                ..body_limits(head)?
            },
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let Body::Stream(body) = body else {
            return Err(OssError::new(ErrorCode::InternalError).source("no body to read"));
        };
        body.pace(self.traffic_limit);
        // A client that cannot append is told so before it sends its bytes. The commit decides.
        let known = find(cx, &self.key).await?;
        self.check(known.as_ref())?;
        // 1. The bytes become durable, but belong to nothing.
        let class = match &known {
            Some(version) => class_of(version),
            None => self.attributes.class_in(cx.bucket()?),
        };
        let target = cx.write_target(&self.key, class)?;
        let datapath = cx.shared.datapath.clone();
        let written = match datapath.write(target, body, self.limits).await {
            Ok(written) => written,
            Err(error) => return Err(write_failed(cx, error).await),
        };
        check_md5(self.md5, || written.md5)?;
        // 2. The commit makes them the object's end.
        let command = pb::AppendObject {
            at: None,
            version: Some(self.attributes.to_version(cx.bucket()?, cx.object_owner()?)),
            payload: Some(written.payload),
            position: self.position,
            crc64: written.crc64,
            forbid_overwrite: self.forbid_overwrite,
        };
        let stored = self.commit(cx, known, command).await?;
        let id = shown_id(cx, &stored);
        Ok(Output::empty(StatusCode::OK)
            .header(header::ETAG, &ETag::parse(&stored.etag).quoted())
            .oss("content-md5", Some(content_md5_header(written.md5)))
            .oss("x-oss-next-append-position", Some(stored.size.to_string()))
            .oss("x-oss-hash-crc64ecma", Some(stored.crc64.to_string()))
            .oss("x-oss-version-id", id))
    }
}

impl AppendObject {
    /// What is already clear before the body has come.
    fn check(&self, known: Option<&state::Version>) -> Result<(), OssError> {
        let Some(version) = known else {
            return match self.position {
                0 => Ok(()),
                _ => Err(failure::not_at_the_end(0)),
            };
        };
        if version.object_type != ObjectType::Appendable.number() {
            return Err(OssError::new(ErrorCode::ObjectNotAppendable));
        }
        if self.forbid_overwrite && self.position == 0 {
            return Err(OssError::new(ErrorCode::FileAlreadyExists).extra("Key", self.key.as_str()));
        }
        if version.sealed_ms > 0 {
            return Err(OssError::new(ErrorCode::AppendSealedObjectNotAllowed));
        }
        if version.size != self.position {
            return Err(failure::not_at_the_end(version.size));
        }
        Ok(())
    }

    /// Has the append decided, after folds if it takes any.
    async fn commit(
        &self,
        cx: &mut Ctx,
        mut known: Option<state::Version>,
        command: pb::AppendObject,
    ) -> Result<state::Version, OssError> {
        let payload = command.payload.clone().unwrap_or_default();
        let movable = payload.extents.is_empty() && payload.staged_extents == 0;
        for _ in 0..FOLDS_MAX {
            if let Some(version) = &known
                && !DataPath::takes(version, &payload)
            {
                fold(cx, &self.key, version).await?;
                known = find(cx, &self.key).await?;
                // Another one may have been faster, or the object is gone.
                self.check(known.as_ref())?;
                continue;
            }
            let decision = cx.propose_at(&self.key, movable, |at| pb::AppendObject {
                at: Some(at),
                ..command.clone()
            });
            match decision.await? {
                Ok(reply) => return Ok(reply.version.unwrap_or_default()),
                Err(no) if no.reason() == Reason::FoldFirst => {
                    known = find(cx, &self.key).await?;
                }
                Err(no) => {
                    return Err(failure::of_rejection(&no).extra("Key", self.key.as_str()));
                }
            }
        }
        Err(OssError::new(ErrorCode::ServiceUnavailable)
            .source("others append and fold faster than this append"))
    }
}

/// The `position` of an append or a seal.
///
/// # Errors
/// MissingArgument, also for one that is no number of bytes, as the service has it.
pub(super) fn position(head: &Head) -> Result<u64, OssError> {
    let Some(text) = head.query.get("position") else {
        return Err(OssError::new(ErrorCode::MissingArgument)
            .ec(ec::POSITION_MISSING)
            .extra("ArgumentName", "position"));
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| {
        OssError::new(ErrorCode::MissingArgument)
            .ec(ec::POSITION_INVALID)
            .extra("ArgumentName", "position")
            .extra("ArgumentValue", text)
    })
}

/// The object as it is now. Above a delete marker an append makes a new one, as the service does,
/// although its API reference says that delete markers cannot be appended to.
async fn find(cx: &mut Ctx, key: &ObjectKey) -> Result<Option<state::Version>, OssError> {
    let found = cx.find_version(key, VersionRef::Current, false).await?;
    let current = found.and_then(|found| found.version);
    Ok(current.filter(|version| !version.delete_marker))
}

/// Makes of what an object has in small pieces one larger piece. When others have changed them
/// meanwhile, nothing happens.
async fn fold(cx: &mut Ctx, key: &ObjectKey, version: &state::Version) -> Result<(), OssError> {
    let source = ReadSource {
        at: cx.bucket()?.position(key),
        version: version.clone(),
        inline: bytes::Bytes::new(),
    };
    let target = cx.write_target(key, class_of(version))?;
    let datapath = cx.shared.datapath.clone();
    let folded = match datapath.fold(source, target).await {
        Ok(Some(folded)) => folded,
        Ok(None) => return Ok(()),
        Err(error) => return Err(write_failed(cx, error).await),
    };
    let decision = cx.propose_at(key, false, |at| pb::FoldTail {
        at: Some(at),
        object_id: version.object_id.clone(),
        from: folded.from,
        payload: Some(folded.payload.clone()),
        crc64: folded.crc64,
    });
    match decision.await? {
        Ok(_) => Ok(()),
        Err(no) if matches!(no.reason(), Reason::Stale | Reason::ObjectNotAppendable) => Ok(()),
        Err(no) => Err(failure::of_rejection(&no)),
    }
}

fn class_of(version: &state::Version) -> StorageClass {
    StorageClass::from_number(version.storage_class).unwrap_or(StorageClass::Standard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_position_is_a_number_and_must_be_there() {
        let parse = |query: &str, length: &str| {
            let target = format!("/bucket/k?append{query}");
            let headers = [("content-length", length)];
            AppendObject::parse(&head("POST", "localhost", &target, &headers))
        };
        let append = parse("&position=7", "1").unwrap();
        assert_eq!(append.position, 7);
        assert_eq!(append.limits.max_bytes, APPEND_BYTES_MAX - 7);
        for (query, ec) in [
            ("", ec::POSITION_MISSING),
            ("&position", ec::POSITION_INVALID),
            ("&position=-1", ec::POSITION_INVALID),
            ("&position=+1", ec::POSITION_INVALID),
            ("&position=x", ec::POSITION_INVALID),
            ("&position=18446744073709551616", ec::POSITION_INVALID),
        ] {
            let error = parse(query, "1").unwrap_err();
            assert_eq!(error.code(), ErrorCode::MissingArgument, "{query}");
            assert_eq!(error.ec_text(), ec, "{query}");
        }
    }

    #[test]
    fn no_version_can_be_named() {
        for id in ["null", ""] {
            let target = format!("/bucket/k?append&position=3&versionId={id}");
            let headers = [("content-length", "1")];
            let error = AppendObject::parse(&head("POST", "localhost", &target, &headers));
            let error = error.unwrap_err();
            assert_eq!(
                (error.code(), error.ec_text()),
                (ErrorCode::InvalidArgument, "0016-00000504")
            );
        }
    }
}
