//! The source of a copy: another object, perhaps of another bucket, that the caller may read.

use std::sync::Arc;

use granary_datapath::{
    BodyLimits, Copied, CopyDigests, ReadError, ReadSource, WriteError, WriteTarget,
};
use granary_meta_api::pb::state;
use granary_oss::error::ec;
use granary_oss::header::{CopySource, Preconditions, traffic_limit};
use granary_oss::{ErrorCode, OssError};
use granary_policy::{Access, Action};
use granary_types::ByteRange;

use super::version::{check_conditions, check_readable, existing, refuse_directory};
use crate::authz::find_authorised;
use crate::buckets::{Bucket, Versioning};
use crate::ctx::{Ctx, no_such_bucket};
use crate::failure;
use crate::head::Head;
use crate::pacer::{PacedRead, Pacer};
use crate::version_id::{self, VersionRef};

const READ: Action = Action::new("GetObject", Access::ReadObject);

/// What a copy says about its source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) named: CopySource,
    version: VersionRef,
    conditions: Preconditions,
    traffic_limit: Option<u64>,
}

/// A source that was found and may be read.
pub(crate) struct Found {
    read: ReadSource,
    traffic_limit: Option<u64>,
    bucket: Arc<Bucket>,
    /// Its shard can change an object's attributes where it stands.
    pub(crate) changes_in_place: bool,
}

impl Source {
    /// Reads the headers of a copy.
    ///
    /// # Errors
    /// InvalidArgument, InvalidBucketName, InvalidObjectName.
    pub(crate) fn parse(head: &Head) -> Result<Self, OssError> {
        let named = CopySource::from_headers(&head.headers)?.ok_or_else(|| {
            OssError::invalid_argument(
                "Copy Source must mention the source bucket and key: /sourcebucket/sourcekey.",
                "x-oss-copy-source",
                "",
            )
        })?;
        Ok(Self {
            version: VersionRef::parse(named.version_id.as_deref())?,
            named,
            conditions: Preconditions::of_copy_source(&head.headers),
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
        })
    }

    /// Finds the source, asks for permission to read it and judges the conditions.
    ///
    /// # Errors
    /// NoSuchBucket, AccessDenied, NoSuchKey, NoSuchVersion, InvalidObjectState, NotModified,
    /// PreconditionFailed.
    pub(crate) async fn find(&self, cx: &Ctx) -> Result<Found, OssError> {
        let CopySource {
            bucket: name, key, ..
        } = &self.named;
        let shared = &cx.shared;
        let mut bucket = shared
            .find_bucket(name)
            .await?
            .ok_or_else(|| no_such_bucket(name))?;
        let caller = cx.caller;
        let mut answer =
            find_authorised(shared, caller, READ, &bucket, (key, self.version), true).await?;
        if answer.is_none() {
            // The view was old: once more with a new one.
            let found = shared
                .buckets
                .find_now(name)
                .await
                .map_err(failure::of_meta)?;
            bucket = found.ok_or_else(|| no_such_bucket(name))?;
            answer =
                find_authorised(shared, caller, READ, &bucket, (key, self.version), true).await?;
            if answer.is_none() {
                return Err(OssError::new(ErrorCode::ServiceUnavailable));
            }
        }
        let answer = answer.filter(|answer| answer.found);
        let changes_in_place = answer.as_ref().is_some_and(|a| a.takes_object_meta);
        let (version, inline) =
            existing(answer, key, self.version).map_err(|error| match error.code() {
                ErrorCode::MethodNotAllowed => {
                    OssError::new(ErrorCode::NoSuchKey).ec(ec::COPY_DELETE_MARKER)
                }
                _ => error,
            })?;
        refuse_directory(&version, key)?;
        check_conditions(&self.conditions, &version)?;
        check_readable(&version, shared.runtime.now())?;
        let read = ReadSource {
            at: bucket.position(key),
            version,
            inline,
        };
        Ok(Found {
            read,
            traffic_limit: self.traffic_limit,
            bucket,
            changes_in_place,
        })
    }
}

impl Found {
    /// The source's bucket.
    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The source's record.
    pub(crate) fn version(&self) -> &state::Version {
        &self.read.version
    }

    /// Copies a range of it: from disk to disk where the data path can, through this gateway when
    /// the client asked for a pace.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub(crate) async fn copy(
        &self,
        cx: &Ctx,
        range: ByteRange,
        target: WriteTarget,
        digests: CopyDigests,
    ) -> Result<Copied, WriteError> {
        let datapath = &cx.shared.datapath;
        let Some(limit) = self.traffic_limit else {
            return datapath
                .copy(self.read.clone(), range, target, digests)
                .await;
        };
        let limits = BodyLimits {
            declared_length: Some(range.length()),
            max_bytes: range.length(),
        };
        let pacer = Pacer::new(cx.shared.runtime.clone(), limit);
        let bytes = PacedRead::new(datapath.read(self.read.clone(), range), pacer);
        let written = datapath.write(target, bytes, limits).await;
        let written = written.map_err(|error| match error {
            WriteError::Body(error) => match error.downcast_ref::<ReadError>() {
                Some(source) => WriteError::Source(source.clone()),
                None => WriteError::Body(error),
            },
            error => error,
        })?;
        Ok(Copied {
            payload: written.payload,
            size: written.size,
            digests: (digests == CopyDigests::Compute).then_some((written.md5, written.crc64)),
            continued: written.continued,
        })
    }

    /// The value of `x-oss-copy-source-version-id`.
    pub(crate) fn version_id(&self) -> Option<String> {
        let versioned = self.bucket.versioning != Versioning::Unset;
        versioned.then(|| version_id::of(&self.read.version))
    }
}
