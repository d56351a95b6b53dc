//! GetObject: the bytes of an object, whole or in part, with the headers it was stored with.

use granary_datapath::ReadSource;
use granary_oss::header::{
    Preconditions, RangeOutcome, ResponseOverrides, resolve_range, traffic_limit,
    uses_standard_range,
};
use granary_oss::{ErrorCode, OssError};
use granary_policy::Caller;
use granary_types::{ByteRange, ObjectKey};
use http::{StatusCode, header};

use super::link::Read;
use super::version::{check_conditions, check_readable, existing};
use crate::body::Payload;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::{Output, insert};
use crate::version_id::VersionRef;

/// Parameters and headers of reads that this version does not act on; ignoring one would send
/// other bytes than asked.
const UNBUILT: &[&str] = &["x-oss-process", "x-oss-async-process", "img"];

/// The input.
#[derive(Debug)]
pub(crate) struct GetObject {
    key: ObjectKey,
    version: VersionRef,
    conditions: Preconditions,
    overrides: ResponseOverrides,
    range: Option<String>,
    standard_range: bool,
    traffic_limit: Option<u64>,
}

impl Operation for GetObject {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT)?;
        Ok(Self {
            key: head.object_key()?,
            version: head.version()?,
            conditions: Preconditions::of_read(&head.headers),
            overrides: ResponseOverrides::from_query(&head.query)?,
            range: head.text("range"),
            standard_range: uses_standard_range(&head.headers),
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), self.version)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        if cx.caller == Caller::Anonymous && !self.overrides.is_empty() {
            return Err(OssError::new(ErrorCode::InvalidRequest)
                .message("The response-* parameters need a signed request."));
        }
        let found = cx.find_version(&self.key, self.version, true).await?;
        let (version, inline) = existing(found, &self.key, self.version)?;
        let read = Read::follow(cx, self.key.clone(), version, inline).await?;
        check_conditions(&self.conditions, &read.seen())?;
        check_readable(&read.version, cx.shared.runtime.now())?;
        let (status, range) = self.resolve(read.version.size)?;
        let mut headers = read.describe(cx)?;
        if status == StatusCode::PARTIAL_CONTENT {
            let last = range.end.saturating_sub(1);
            let text = format!("bytes {}-{last}/{}", range.start, read.version.size);
            insert(&mut headers, header::CONTENT_RANGE, &text);
            // It is of the whole object.
            headers.remove("content-md5");
        }
        self.overrides.apply(&mut headers);
        let source = ReadSource {
            at: cx.bucket()?.position(&read.key),
            version: read.version,
            inline: read.inline,
        };
        let mut stream = Box::new(cx.shared.datapath.read(source, range));
        // While nothing was sent, a client can still be told.
        stream.begin().await.map_err(failure::of_read)?;
        let payload = match status {
            StatusCode::OK => {
                cx.shared
                    .gzip
                    .compress(&cx.head.headers, &mut headers, stream, range.length())
            }
            // A part of an object is a part of its own bytes.
            _ => Err(stream),
        };
        let payload = match payload {
            Ok(compressed) => Payload::Compressed(compressed),
            Err(plain) => Payload::Object(plain, range.length()),
        };
        Ok(Output {
            status,
            headers,
            payload,
            length: None,
            traffic_limit: self.traffic_limit,
        })
    }
}

impl GetObject {
    fn resolve(&self, size: u64) -> Result<(StatusCode, ByteRange), OssError> {
        let Some(range) = &self.range else {
            return Ok((StatusCode::OK, ByteRange::whole(size)));
        };
        match resolve_range(range, size, self.standard_range) {
            RangeOutcome::Whole => Ok((StatusCode::OK, ByteRange::whole(size))),
            RangeOutcome::Partial(range) => Ok((StatusCode::PARTIAL_CONTENT, range)),
            RangeOutcome::Unsatisfiable => Err(OssError::new(ErrorCode::InvalidRange)
                .extra("ActualObjectSize", size.to_string())
                .extra("RangeRequested", range.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn ranges_have_their_status() {
        for (range, standard, outcome) in [
            (None, false, Ok((200, 0, 10))),
            (Some("bytes=2-4"), false, Ok((206, 2, 5))),
            (Some("bytes=5-99"), false, Ok((200, 0, 10))),
            (Some("bytes=5-99"), true, Ok((206, 5, 10))),
            (Some("bytes=10-"), true, Err(ErrorCode::InvalidRange)),
            (Some("bytes=-0"), false, Err(ErrorCode::InvalidRange)),
        ] {
            let mut headers = Vec::new();
            headers.extend(range.map(|range| ("range", range)));
            headers.extend(standard.then_some(("x-oss-range-behavior", "standard")));
            let get = GetObject::parse(&head("GET", "localhost", "/bucket/k", &headers)).unwrap();
            let resolved = get.resolve(10).map(|(s, r)| (s.as_u16(), r.start, r.end));
            assert_eq!(resolved.map_err(|error| error.code()), outcome, "{range:?}");
        }
    }

    #[test]
    fn what_would_change_the_bytes_is_not_ignored() {
        for target in ["/bucket/k?x-oss-process=image/resize,w_1", "/bucket/k?img"] {
            let error = GetObject::parse(&head("GET", "localhost", target, &[])).unwrap_err();
            assert_eq!(error.code(), ErrorCode::NotImplemented);
        }
    }
}
