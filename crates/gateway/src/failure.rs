//! How failures of the metadata and of the data path look to a client. One place, so that the same
//! cause never has two answers.

use granary_datapath::{ReadError, WriteError};
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{ErrorKind, MetaError, detail, pb};
use granary_oss::{ErrorCode, OssError};
use http::{HeaderName, HeaderValue};

use crate::body;

/// What is said when there is more to do than is done at once.
const OVERLOADED: &str = "Please reduce your request rate.";

/// More is asked for than can be done at once: fewer requests help, which nothing else says.
pub(crate) fn overloaded() -> OssError {
    OssError::new(ErrorCode::ServiceUnavailable).message(OVERLOADED)
}

/// The metadata service gave no answer.
pub(crate) fn of_meta(error: MetaError) -> OssError {
    let code = match (&error, error.kind()) {
        (MetaError::Expired(_), _) | (_, ErrorKind::Retry | ErrorKind::Reroute) => {
            ErrorCode::ServiceUnavailable
        }
        (_, ErrorKind::Permanent) => ErrorCode::InternalError,
    };
    if matches!(error, MetaError::NoSpace(_)) {
        // The metadata has said so once, in the log; without a cause there is no line per request.
        return OssError::new(code);
    }
    OssError::new(code).source(error)
}

/// The metadata service said no. `NO_SUCH_UPLOAD` and the states of a bucket are handled where
/// more is known.
pub(crate) fn of_rejection(rejection: &pb::Rejection) -> OssError {
    let code = match rejection.reason() {
        Reason::NoSuchBucket => ErrorCode::NoSuchBucket,
        Reason::NoSuchKey => ErrorCode::NoSuchKey,
        Reason::NoSuchVersion => ErrorCode::NoSuchVersion,
        Reason::NoSuchUpload => ErrorCode::NoSuchUpload,
        Reason::AlreadyExists => ErrorCode::FileAlreadyExists,
        Reason::PreconditionFailed => ErrorCode::PreconditionFailed,
        Reason::InvalidPart => ErrorCode::InvalidPart,
        Reason::PartTooSmall => ErrorCode::EntityTooSmall,
        Reason::PartNotSequential => ErrorCode::PartNotSequential,
        Reason::BucketExistsOtherOwner | Reason::BucketExistsOtherConfig => {
            ErrorCode::BucketAlreadyExists
        }
        Reason::BucketNotEmpty => ErrorCode::BucketNotEmpty,
        Reason::TooManyBuckets => ErrorCode::TooManyBuckets,
        Reason::ObjectTooLarge => ErrorCode::EntityTooLarge,
        Reason::Immutable => ErrorCode::FileImmutable,
        Reason::PositionNotEqualToLength => return not_at_the_end(rejection.length),
        Reason::ObjectNotAppendable => ErrorCode::ObjectNotAppendable,
        Reason::AppendSealedObject => ErrorCode::AppendSealedObjectNotAllowed,
        Reason::InvalidPath => ErrorCode::InvalidObjectName,
        // The client took longer than a write may; nothing of it is kept.
        Reason::WriteExpired => ErrorCode::RequestTimeout,
        // Views that stayed old although they were refreshed: the whole request may be repeated.
        Reason::Stale | Reason::StaleGeneration | Reason::FoldFirst => {
            ErrorCode::ServiceUnavailable
        }
        // The client's mistake, whichever caller let it through to the shard.
        Reason::Invalid if rejection.detail == detail::PART_ORDER => ErrorCode::InvalidPartOrder,
        Reason::Invalid if detail::is_object_too_long(rejection) => ErrorCode::MetadataTooLarge,
        Reason::None | Reason::Invalid => ErrorCode::InternalError,
    };
    let error = OssError::new(code);
    let error = match rejection.part_number {
        0 => error,
        number => error.extra("PartNumber", number.to_string()),
    };
    if rejection.detail.is_empty() {
        return error;
    }
    error.source(rejection.detail.clone())
}

/// An append to another place than the end of an object with so many bytes.
pub(crate) fn not_at_the_end(length: u64) -> OssError {
    let next = HeaderName::from_static("x-oss-next-append-position");
    OssError::new(ErrorCode::PositionNotEqualToLength).header(next, HeaderValue::from(length))
}

/// Bytes could not be written. `Refused` is handled where the bucket can be looked up again.
pub(crate) fn of_write(error: WriteError) -> OssError {
    match error {
        WriteError::Body(error) => body::failure(&error),
        WriteError::TooLarge { max_bytes } => {
            OssError::new(ErrorCode::EntityTooLarge).extra("MaxSizeAllowed", max_bytes.to_string())
        }
        WriteError::Short { declared, received } => OssError::new(ErrorCode::RequestTimeout)
            .message(format!(
                "The body ended after {received} of {declared} bytes."
            )),
        WriteError::Long { declared } => OssError::new(ErrorCode::InvalidRequest).message(format!(
            "The body is longer than the declared {declared} bytes."
        )),
        WriteError::Meta(error) => of_meta(error),
        WriteError::Refused(rejection) => of_rejection(&rejection),
        WriteError::Source(error) => of_read(error),
        error @ WriteError::Overloaded => overloaded().source(error),
        error @ (WriteError::Unavailable(_) | WriteError::ShuttingDown) => {
            OssError::new(ErrorCode::ServiceUnavailable).source(error)
        }
    }
}

/// Bytes could not be read, before any was sent.
pub(crate) fn of_read(error: ReadError) -> OssError {
    match error {
        ReadError::Meta(error) => of_meta(error),
        error @ (ReadError::Missing(_) | ReadError::Malformed(_)) => {
            OssError::new(ErrorCode::InternalError).source(error)
        }
        error => OssError::new(ErrorCode::ServiceUnavailable).source(error),
    }
}

#[cfg(test)]
mod tests {
    use granary_types::ShardId;

    use super::*;

    #[test]
    fn what_may_pass_is_retryable() {
        for error in [
            MetaError::Unavailable(String::new()),
            MetaError::Expired(String::new()),
            MetaError::UnknownOutcome(String::new()),
            MetaError::NoSpace(String::new()),
        ] {
            assert_eq!(of_meta(error).code(), ErrorCode::ServiceUnavailable);
        }
        assert_eq!(
            of_meta(MetaError::Invalid(String::new())).code(),
            ErrorCode::InternalError
        );
        for error in [WriteError::Overloaded, WriteError::ShuttingDown] {
            assert_eq!(of_write(error).code(), ErrorCode::ServiceUnavailable);
        }
    }

    #[test]
    fn only_overload_asks_for_fewer_requests() {
        let rate = |error: OssError| error.message_text() == OVERLOADED;
        assert!(rate(of_write(WriteError::Overloaded)));
        for error in [
            of_meta(MetaError::Unavailable(String::new())),
            // A shard that has lost its majority says so too, once its queue is full.
            of_meta(MetaError::Busy(ShardId(3))),
            of_meta(MetaError::Expired(String::new())),
            of_meta(MetaError::UnknownOutcome(String::new())),
            of_write(WriteError::ShuttingDown),
        ] {
            assert!(!rate(error));
        }
    }

    #[test]
    fn a_list_of_parts_out_of_order_is_the_clients() {
        let mut rejection = pb::Rejection::of(Reason::Invalid);
        assert_eq!(of_rejection(&rejection).code(), ErrorCode::InternalError);
        rejection.detail = detail::PART_ORDER.to_owned();
        rejection.part_number = 2;
        let error = of_rejection(&rejection);
        assert_eq!(error.code(), ErrorCode::InvalidPartOrder);
        assert_eq!(error.extra_value("PartNumber"), Some("2"));
    }

    #[test]
    fn rejections_keep_their_part() {
        let mut rejection = pb::Rejection::of(Reason::InvalidPart);
        rejection.part_number = 7;
        let error = of_rejection(&rejection);
        assert_eq!(error.code(), ErrorCode::InvalidPart);
        assert_eq!(error.extra_value("PartNumber"), Some("7"));
    }
}
