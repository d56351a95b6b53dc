//! The error codes of the protocol: one row per code, the only place that knows wire names.
//!
//! A row is: variant (its name is the wire name), HTTP status, default EC, default message. Sources
//! of an EC: the assertions of the official SDKs' integration tests and the vendor's troubleshooting
//! pages. An EC that neither mentions is marked `own`: well-formed, stable, and in the range of the
//! service's own module (0002 authentication, 0005 the service itself, 0006 forms, 0015 buckets, 0016 and 0026
//! objects, 0041 CORS, 0042 multipart), with the ordinal 9xxx that the service has not been seen to use.

use http::StatusCode;

macro_rules! error_codes {
    ($($name:ident $status:ident $ec:literal $message:literal)+) => {
        /// An error code of the OSS API. The variant's name is the code on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "a variant means what its default message says")]
        pub enum ErrorCode { $($name),+ }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),+];

            /// The code as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name)),+ }
            }

            /// The HTTP status that goes with the code.
            pub fn status(self) -> StatusCode {
                match self { $(ErrorCode::$name => StatusCode::$status),+ }
            }

            /// The message unless the place that raises the error has a better one.
            pub fn default_message(self) -> &'static str {
                match self { $(ErrorCode::$name => $message),+ }
            }

            /// The EC (`x-oss-ec`) unless the place that raises the error has a more precise one.
            pub fn default_ec(self) -> &'static str {
                match self { $(ErrorCode::$name => $ec),+ }
            }
        }
    };
}

error_codes! {
    // Not errors in HTTP's eyes, but rendered from the same table.
    CallbackFailed                 NON_AUTHORITATIVE_INFORMATION "0007-00000203" "The callback failed."
    NotModified                    NOT_MODIFIED          "0016-00009304" "Not Modified" // own

    // 400: the request cannot be understood or asks for what does not exist in the API.
    InvalidArgument                BAD_REQUEST           "0016-00009400" "Invalid Argument" // own
    MissingArgument                BAD_REQUEST           "0016-00009405" "Missing Some Required Arguments." // own
    InvalidURI                     BAD_REQUEST           "0002-00009401" "Couldn't parse the specified URI." // own
    InvalidRequest                 BAD_REQUEST           "0016-00009402" "Invalid Request" // own
    InvalidBucketName              BAD_REQUEST           "0015-00000001" "The specified bucket is not valid."
    InvalidObjectName              BAD_REQUEST           "0016-00000005" "The specified object is not valid."
    InvalidDigest                  BAD_REQUEST           "0016-00009403" "The Content-MD5 you specified was invalid." // own
    InvalidLocationConstraint      BAD_REQUEST           "0015-00009204" "The specified location-constraint is not valid." // own
    InvalidPart                    BAD_REQUEST           "0042-00009201" "One or more of the specified parts could not be found or the specified entity tag might not have matched the part's entity tag." // own
    InvalidPartOrder               BAD_REQUEST           "0042-00000209" "The list of parts was not in ascending order. Parts list must specified in order by part number."
    PartNotSequential              BAD_REQUEST           "0042-00009203" "The part is not sequential." // own
    InvalidTargetType              BAD_REQUEST           "0016-00009404" "The type of the symbolic link's target is not valid." // own
    NotSymlink                     BAD_REQUEST           "0026-00009404" "The object is not symlink object." // own
    EntityTooSmall                 BAD_REQUEST           "0042-00000213" "Your proposed upload smaller than the minimum allowed size."
    EntityTooLarge                 BAD_REQUEST           "0016-00009407" "Your proposed upload exceeds the maximum allowed size." // own
    FieldItemTooLong               BAD_REQUEST           "0016-00009408" "Your form field item or header field is too long." // own
    IncorrectNumberOfFilesInPOSTRequest BAD_REQUEST      "0006-00009400" "POST requires exactly one file upload per request." // own
    InvalidPolicyDocument          BAD_REQUEST           "0006-00009401" "The content of the form does not meet the conditions specified in the policy document." // own
    BadRequest                     BAD_REQUEST           "0041-00009400" "Insufficient information." // own
    RequestIsNotMultiPartContent   BAD_REQUEST           "0006-00009402" "Bucket POST must be of the enclosure-type multipart/form-data." // own
    MalformedPOSTRequest           BAD_REQUEST           "0006-00000103" "The body of your POST request is not well-formed multipart/form-data."
    MetadataTooLarge               BAD_REQUEST           "0016-00009409" "Your metadata headers exceed the maximum allowed metadata size." // own
    MalformedXML                   BAD_REQUEST           "0015-00000231" "The XML you provided was not well-formed or did not validate against our published schema."
    AppendSealedObjectNotAllowed   BAD_REQUEST           "0016-00009410" "The object has been sealed and can not be appended." // own
    RequestTimeout                 BAD_REQUEST           "0016-00009411" "Your socket connection to the server was not read from or written to within the timeout period." // own
    TooManyBuckets                 BAD_REQUEST           "0015-00009105" "You have attempted to create more buckets than allowed." // own
    ResourceGroupIdPreCheckError   BAD_REQUEST           "0039-00000003" "The resource group id check failed."

    // 403: we know what is asked and refuse.
    AccessDenied                   FORBIDDEN             "0003-00000001" "AccessDenied"
    AccessForbidden                FORBIDDEN             "0041-00009401" "CORSResponse: CORS is not enabled for this bucket." // own
    InvalidAccessKeyId             FORBIDDEN             "0002-00000902" "The OSS Access Key Id you provided does not exist in our records."
    SignatureDoesNotMatch          FORBIDDEN             "0002-00000040" "The request signature we calculated does not match the signature you provided. Check your key and signing method."
    RequestTimeTooSkewed           FORBIDDEN             "0002-00000504" "The difference between the request time and the current time is too large."
    InvalidSecurityToken           FORBIDDEN             "0002-00009403" "The security token you provided is invalid." // own
    InvalidObjectState             FORBIDDEN             "0016-00009412" "The operation is not valid for the object's state" // own

    // 404: what was named is not there.
    NoSuchBucket                   NOT_FOUND             "0015-00000101" "The specified bucket does not exist."
    NoSuchKey                      NOT_FOUND             "0026-00000001" "The specified key does not exist."
    NoSuchVersion                  NOT_FOUND             "0012-00000203" "The specified version does not exist."
    NoSuchUpload                   NOT_FOUND             "0042-00000002" "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    NoSuchCORSConfiguration        NOT_FOUND             "0015-00009402" "The CORS Configuration does not exist." // own
    NoSuchRegion                   NOT_FOUND             "0015-00009403" "The specified region does not exist." // own
    SymlinkTargetNotExist          NOT_FOUND             "0026-00000012" "The symlink target object does not exist."

    // 405 to 416.
    MethodNotAllowed               METHOD_NOT_ALLOWED    "0003-00000016" "The specified method is not allowed against this resource."
    BucketAlreadyExists            CONFLICT              "0015-00000104" "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."
    BucketNotEmpty                 CONFLICT              "0015-00000301" "The bucket has objects. Please delete them first."
    FileAlreadyExists              CONFLICT              "0026-00000002" "The object you specified already exists and can not be overwritten."
    FileImmutable                  CONFLICT              "0026-00009403" "The object you specified is immutable." // own
    ObjectNotAppendable            CONFLICT              "0026-00000017" "The object is not appendable"
    PositionNotEqualToLength       CONFLICT              "0026-00000016" "Position is not equal to file length"
    MissingContentLength           LENGTH_REQUIRED       "0016-00009414" "You must provide the Content-Length HTTP header." // own
    PreconditionFailed             PRECONDITION_FAILED   "0026-00009412" "At least one of the pre-conditions you specified did not hold." // own
    InvalidRange                   RANGE_NOT_SATISFIABLE "0026-00009416" "The requested range cannot be satisfied." // own

    // 5xx: not the client's doing. SDKs retry all of these.
    InternalError                  INTERNAL_SERVER_ERROR "0005-00009500" "We encountered an internal error. Please try again." // own
    NotImplemented                 NOT_IMPLEMENTED       "0016-00009501" "A header or query you provided implies functionality that is not implemented." // own
    ServiceUnavailable             SERVICE_UNAVAILABLE   "0005-00009503" "The service is temporarily unavailable. Please try again." // own
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_well_formed_and_unique() {
        let mut ecs = HashSet::new();
        for code in ErrorCode::ALL {
            let ec = code.default_ec();
            let (module, ordinal) = ec.split_once('-').unwrap();
            assert!(module.len() == 4 && ordinal.len() == 8, "{ec}");
            assert!(ec.bytes().all(|b| b.is_ascii_digit() || b == b'-'), "{ec}");
            assert!(ecs.insert(ec), "{ec} is used twice");
            assert!(!code.default_message().is_empty());
        }
    }

    #[test]
    fn own_ecs_are_those_that_the_service_does_not_use() {
        let table = include_str!("error_code.rs").lines();
        let is_row = |line: &&str| {
            let indented = line.strip_prefix("    ").unwrap_or_default();
            indented.starts_with(char::is_uppercase) && line.matches('"').count() == 4
        };
        let rows: Vec<&str> = table.filter(is_row).collect();
        assert_eq!(rows.len(), ErrorCode::ALL.len());
        for row in rows {
            let own = row.ends_with("// own");
            assert_eq!(own, row.contains("-00009"), "{row}");
        }
    }

    #[test]
    fn pairs_asserted_by_sdk_tests_hold() {
        for (code, name, status, ec) in [
            (
                ErrorCode::NoSuchBucket,
                "NoSuchBucket",
                404,
                "0015-00000101",
            ),
            (ErrorCode::NoSuchKey, "NoSuchKey", 404, "0026-00000001"),
            (
                ErrorCode::InvalidAccessKeyId,
                "InvalidAccessKeyId",
                403,
                "0002-00000902",
            ),
            (
                ErrorCode::RequestTimeTooSkewed,
                "RequestTimeTooSkewed",
                403,
                "0002-00000504",
            ),
            (
                ErrorCode::SignatureDoesNotMatch,
                "SignatureDoesNotMatch",
                403,
                "0002-00000040",
            ),
            (
                ErrorCode::MalformedXML,
                "MalformedXML",
                400,
                "0015-00000231",
            ),
            (
                ErrorCode::CallbackFailed,
                "CallbackFailed",
                203,
                "0007-00000203",
            ),
            (
                ErrorCode::NotImplemented,
                "NotImplemented",
                501,
                "0016-00009501",
            ),
        ] {
            assert_eq!(
                (code.as_str(), code.status().as_u16(), code.default_ec()),
                (name, status, ec)
            );
        }
    }
}
