//! CreateDirectory: makes a directory, with the parents that are not there. One that is there stays
//! as it is.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::header::content_length;
use granary_oss::header::date::format_http_date;
use granary_types::{ObjectKey, Timestamp};
use http::{StatusCode, header};

use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct CreateDirectory {
    key: ObjectKey,
}

impl Operation for CreateDirectory {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        if let Some(length @ 1..) = content_length(&head.headers)? {
            return Err(OssError::invalid_argument(
                "A directory holds no bytes.",
                "Content-Length",
                length.to_string(),
            ));
        }
        Ok(Self {
            key: head.object_key()?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let owner = cx.object_owner()?.0;
        let decision = cx
            .propose_at(&self.key, true, |at| pb::CreateDirectory {
                at: Some(at),
                owner,
            })
            .await?;
        let reply =
            decision.map_err(|no| failure::of_rejection(&no).extra("Key", self.key.as_str()))?;
        let made_ms = reply.version.map_or(0, |version| version.modified_ms);
        Ok(Output::empty(StatusCode::OK)
            .header(header::LAST_MODIFIED, &format_http_date(Timestamp(made_ms))))
    }
}

#[cfg(test)]
mod tests {
    use granary_oss::ErrorCode;

    use super::*;
    use crate::head::tests::head;

    #[test]
    fn a_directory_has_no_bytes() {
        let parse = |length| {
            let headers = [("content-length", length)];
            CreateDirectory::parse(&head(
                "POST",
                "localhost",
                "/bucket/dir?x-oss-dir",
                &headers,
            ))
        };
        assert_eq!(parse("0").unwrap().key.as_str(), "dir");
        assert_eq!(parse("1").unwrap_err().code(), ErrorCode::InvalidArgument);
    }
}
