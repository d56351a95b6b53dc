//! PutObject: stores an object in one piece, replacing the one of that name.

use granary_datapath::BodyLimits;
use granary_oss::callback::Callback;
use granary_oss::header::{content_length, content_md5, traffic_limit};
use granary_oss::{ErrorCode, OssError};
use granary_types::ObjectKey;
use granary_types::limits::PUT_BYTES_MAX;
use http::{StatusCode, header};

use super::store::NewObject;
use super::{Attributes, forbids_overwrite};
use crate::body::check_md5;
use crate::callback;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct PutObject {
    key: ObjectKey,
    attributes: Attributes,
    md5: Option<[u8; 16]>,
    limits: BodyLimits,
    traffic_limit: Option<u64>,
    callback: Option<Callback>,
}

impl Operation for PutObject {
    const BODY: BodyKind = BodyKind::Stream;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            attributes: Attributes::parse(head)?,
            md5: content_md5(&head.headers)?,
            limits: body_limits(head)?,
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
            callback: Callback::of_request(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let object = NewObject {
            forbid_overwrite: forbids_overwrite(&cx.head, cx.bucket()?)?,
            key: self.key.clone(),
            attributes: self.attributes,
        };
        cx.shared.callbacks.check(self.callback.as_ref())?;
        object.refuse_early(cx).await?;
        let Body::Stream(body) = body else {
            return Err(OssError::new(ErrorCode::InternalError).source("no body to read"));
        };
        body.pace(self.traffic_limit);
        let written = object.write(cx, body, self.limits).await?;
        check_md5(self.md5, || written.md5)?;
        let stored = object.commit(cx, written).await?;
        let output = stored.describe(Output::empty(StatusCode::OK));
        let upload = stored.upload("PutObject", &self.key);
        callback::finish(cx, self.callback, upload, output).await
    }
}

/// The length a body may and must have.
///
/// # Errors
/// MissingContentLength for a body that is neither counted nor chunked; EntityTooLarge;
/// InvalidArgument.
pub(crate) fn body_limits(head: &Head) -> Result<BodyLimits, OssError> {
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    let declared_length = match (content_length(&head.headers)?, chunked) {
        // Chunks win over a length, as they do in the framing.
        (_, true) => None,
        (Some(length), false) => Some(length),
        (None, false) => return Err(OssError::new(ErrorCode::MissingContentLength)),
    };
    if declared_length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(OssError::new(ErrorCode::EntityTooLarge)
            .extra("MaxSizeAllowed", PUT_BYTES_MAX.to_string()));
    }
    Ok(BodyLimits {
        declared_length,
        max_bytes: PUT_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_head_is_checked_before_the_body() {
        let parse = |headers: &[(&str, &str)]| {
            PutObject::parse(&head("PUT", "localhost", "/bucket/k", headers))
        };
        let put = parse(&[
            ("content-length", "5"),
            ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ]);
        let put = put.unwrap();
        assert_eq!(put.limits.declared_length, Some(5));
        assert!(put.md5.is_some());
        let chunked = parse(&[("transfer-encoding", "chunked")]).unwrap();
        assert_eq!(chunked.limits.declared_length, None);
        for (headers, code) in [
            (&[][..], ErrorCode::MissingContentLength),
            (
                &[("content-length", "5368709121")][..],
                ErrorCode::EntityTooLarge,
            ),
            (
                &[("content-length", "1"), ("content-md5", "x")][..],
                ErrorCode::InvalidDigest,
            ),
        ] {
            assert_eq!(parse(headers).unwrap_err().code(), code);
        }
    }
}
