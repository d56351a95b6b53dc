//! An error as a client sees it: code, message, EC and details, and its forms on the wire.
//!
//! Raised by every layer of the gateway, rendered once. It must not know which operation failed.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::error_code::ErrorCode;
use crate::xml::Writer;

/// More precise ECs than the table's defaults, for places that raise a code in several ways.
///
/// Those marked `own` have no public source; they follow the rule at the top of `error_code.rs`.
pub mod ec {
    /// V1 `Authorization` that is not `OSS AccessKeyId:Signature` (troubleshooting page).
    pub const V1_AUTHORIZATION_FORMAT: &str = "0002-00000062";
    /// The presigned URL has expired (troubleshooting page).
    pub const URL_EXPIRED: &str = "0002-00000069";
    /// `Expires` is not a number of seconds (troubleshooting page).
    pub const URL_EXPIRES_INVALID: &str = "0002-00000070";
    /// `Authorization` of scheme OSS2 with fewer than two fields (troubleshooting page).
    pub const V2_AUTHORIZATION_FORMAT: &str = "0002-00000102";
    /// A field in a V2 `Authorization` that is none (troubleshooting page).
    pub const V2_UNKNOWN_FIELD: &str = "0002-00000104";
    /// No `AccessKeyId` in a V2 `Authorization` (troubleshooting page).
    pub const V2_ACCESS_KEY_ID_MISSING: &str = "0002-00000105";
    /// An empty `AccessKeyId` in a V2 `Authorization` (troubleshooting page).
    pub const V2_ACCESS_KEY_ID_EMPTY: &str = "0002-00000106";
    /// No `Signature` in a V2 `Authorization` (troubleshooting page).
    pub const V2_SIGNATURE_MISSING: &str = "0002-00000108";
    /// No `x-oss-expires` in a V2 URL (troubleshooting page).
    pub const V2_URL_EXPIRES_MISSING: &str = "0002-00000113";
    /// No `x-oss-access-key-id` in a V2 URL (troubleshooting page).
    pub const V2_URL_ACCESS_KEY_ID_MISSING: &str = "0002-00000115";
    /// An empty `x-oss-access-key-id` in a V2 URL (troubleshooting page).
    pub const V2_URL_ACCESS_KEY_ID_EMPTY: &str = "0002-00000116";
    /// An empty `x-oss-signature` in a V2 URL (troubleshooting page).
    pub const V2_URL_SIGNATURE_EMPTY: &str = "0002-00000118";
    /// `Credential` in a V4 `Authorization` is malformed (troubleshooting page).
    pub const V4_CREDENTIAL: &str = "0002-00000213";
    /// The date in a V4 credential is malformed (troubleshooting page).
    pub const V4_CREDENTIAL_DATE: &str = "0002-00000223";
    /// The region in a V4 credential is not ours (asserted by the Python SDK's tests).
    pub const V4_REGION: &str = "0002-00000226";
    /// The presigned V4 URL is not valid yet (troubleshooting page).
    pub const V4_URL_NOT_YET_VALID: &str = "0002-00000235";
    /// No date in a signed request (seen in answers of the service).
    pub const DATE_MISSING: &str = "0002-00000503";
    /// A date that cannot be read (troubleshooting page).
    pub const DATE_INVALID: &str = "0002-00000505";
    /// Own: signatures in both header and URL.
    pub const TWO_SIGNATURES: &str = "0002-00009001";
    /// Own: a presigned URL without all of its parameters.
    pub const URL_INCOMPLETE: &str = "0002-00009002";
    /// Own: an authorization scheme that OSS does not have.
    pub const UNKNOWN_SCHEME: &str = "0002-00009003";
    /// `x-oss-content-sha256` other than UNSIGNED-PAYLOAD (troubleshooting page).
    pub const PAYLOAD_HASH: &str = "0002-00000214";
    /// Own: the product in a V4 credential is not `oss`.
    pub const V4_PRODUCT: &str = "0002-00009005";
    /// `x-oss-expires` outside 1 to 604800 (troubleshooting page).
    pub const V4_EXPIRES: &str = "0002-00000232";
    /// A V4 signature that is another one (troubleshooting page).
    pub const V4_SIGNATURE: &str = "0002-00000201";
    /// MissingArgument: an append or a seal without a position.
    pub const POSITION_MISSING: &str = "0016-00000501";
    /// MissingArgument: a position that is no number of bytes (troubleshooting page).
    pub const POSITION_INVALID: &str = "0016-00000502";
    /// An append that names a version (troubleshooting page).
    pub const APPEND_VERSION_ID: &str = "0016-00000504";
    /// The ACL of a version that is a delete marker (troubleshooting page).
    pub const ACL_OF_DELETE_MARKER: &str = "0017-00000002";
    /// GetObjectAcl by somebody who may not (troubleshooting page).
    pub const GET_OBJECT_ACL_DENIED: &str = "0003-00000007";
    /// PutObjectAcl by somebody who may not (troubleshooting page).
    pub const PUT_OBJECT_ACL_DENIED: &str = "0003-00000008";
    /// A form has parts of a signature, but no policy (troubleshooting page).
    pub const POST_POLICY_MISSING: &str = "0002-00000702";
    /// Own: a form has a policy, but not all of its signature.
    pub const POST_SIGNATURE_INCOMPLETE: &str = "0002-00009007";
    /// A form's policy has no expiration (troubleshooting page).
    pub const POST_POLICY_EXPIRATION: &str = "0006-00000208";
    /// A condition of a form's policy is neither a map nor a list (troubleshooting page).
    pub const POST_POLICY_CONDITION: &str = "0006-00000222";
    /// A condition of a form's policy has a value of the wrong type (troubleshooting page).
    pub const POST_POLICY_TYPE: &str = "0006-00000224";
    /// Own: a form's policy has expired.
    pub const POST_POLICY_EXPIRED: &str = "0006-00009403";
    /// A form does not keep to its policy (troubleshooting page).
    pub const POST_POLICY_FAILED: &str = "0006-00000227";
    /// A V4 form has a field of the signature that its policy does not name (troubleshooting page).
    pub const POST_POLICY_EXTRA_FIELD: &str = "0006-00000228";
    /// A form's policy has no conditions (troubleshooting page).
    pub const POST_POLICY_CONDITIONS: &str = "0006-00000207";
    /// The conditions of a form's policy are no list (troubleshooting page).
    pub const POST_POLICY_NO_LIST: &str = "0006-00000214";
    /// The conditions of a form's policy are an empty list (troubleshooting page).
    pub const POST_POLICY_EMPTY: &str = "0006-00000215";
    /// A condition of a form's policy lacks its mode, or has one that there is none (troubleshooting page).
    pub const POST_POLICY_MODE: &str = "0006-00000216";
    /// A condition of a form's policy has too few or too many elements (troubleshooting page).
    pub const POST_POLICY_ELEMENTS: &str = "0006-00000218";
    /// The least length that a form's policy allows is above the most (troubleshooting page).
    pub const POST_POLICY_RANGE: &str = "0006-00000219";
    /// The least length that a form's policy allows is no number (troubleshooting page).
    pub const POST_POLICY_LEAST: &str = "0006-00000220";
    /// The most that it allows is none (troubleshooting page).
    pub const POST_POLICY_MOST: &str = "0006-00000221";
    /// A form's file has more bytes than its policy allows (troubleshooting page).
    pub const POST_TOO_LARGE: &str = "0006-00000003";
    /// A form's file has fewer bytes than its policy allows (troubleshooting page).
    pub const POST_TOO_SMALL: &str = "0006-00000004";
    /// `callback` is not base64 (troubleshooting page).
    pub const CALLBACK_BASE64: &str = "0007-00000002";
    /// `callbackUrl` is not a URL (troubleshooting page).
    pub const CALLBACK_URL: &str = "0007-00000004";
    /// `callbackUrl` has more than five URLs (troubleshooting page).
    pub const CALLBACK_URLS: &str = "0007-00000005";
    /// `callbackBody` is empty (troubleshooting page).
    pub const CALLBACK_BODY_EMPTY: &str = "0007-00000011";
    /// `callbackBodyType` is not one (troubleshooting page).
    pub const CALLBACK_BODY_TYPE: &str = "0007-00000012";
    /// `max-keys` of ListObjects (troubleshooting page).
    pub const LIST_OBJECTS_MAX_KEYS: &str = "0015-00000402";
    /// `max-keys` of ListObjectVersions (troubleshooting page).
    pub const LIST_VERSIONS_MAX_KEYS: &str = "0012-00000102";
    /// `max-keys` of ListBuckets (troubleshooting page).
    pub const LIST_BUCKETS_MAX_KEYS: &str = "0017-00000289";
    /// `x-oss-acl` is none (troubleshooting page).
    pub const BUCKET_ACL: &str = "0015-00000204";
    /// `x-oss-object-acl` is none (troubleshooting page).
    pub const OBJECT_ACL: &str = "0017-00000104";
    /// No `x-oss-object-acl` in PutObjectAcl (troubleshooting page).
    pub const OBJECT_ACL_MISSING: &str = "0017-00000105";
    /// `partNumber` is absent or empty (troubleshooting page).
    pub const PART_NUMBER_MISSING: &str = "0017-00000219";
    /// `partNumber` outside 1 to 10000 (troubleshooting page).
    pub const PART_NUMBER: &str = "0017-00000220";
    /// `uploadId` is absent or empty (troubleshooting page).
    pub const UPLOAD_ID_MISSING: &str = "0017-00000244";
    /// A condition of a write, such as `If-Match` (troubleshooting page).
    pub const CONDITION_OF_A_WRITE: &str = "0017-00000245";
    /// `x-oss-copy-source` with another parameter than `versionId` (troubleshooting page).
    pub const COPY_SOURCE_PARAMETER: &str = "0016-00000304";
    /// `x-oss-copy-source` with an empty `versionId` (troubleshooting page).
    pub const COPY_SOURCE_VERSION_EMPTY: &str = "0016-00000305";
    /// Tags of an object that break a rule (troubleshooting page).
    pub const OBJECT_TAGS: &str = "0010-00000217";
    /// More tags than an object can have (troubleshooting page).
    pub const OBJECT_TAGS_TOO_MANY: &str = "0010-00000218";
    /// `x-oss-tagging` that is not `key=value` pairs, and tags of a bucket that break a rule
    /// (troubleshooting page).
    pub const TAGS_FORMAT: &str = "0010-00000219";
    /// The object name is empty (troubleshooting page).
    pub const OBJECT_NAME_EMPTY: &str = "0016-00000001";
    /// The object name is too long (troubleshooting page).
    pub const OBJECT_NAME_TOO_LONG: &str = "0016-00000002";
    /// DeleteMultipleObjects without Content-MD5 (troubleshooting page).
    pub const DELETE_WITHOUT_MD5: &str = "0016-00000606";
    /// Copying a version that is a delete marker (troubleshooting page).
    pub const COPY_DELETE_MARKER: &str = "0016-00000307";
    /// NoSuchUpload from AbortMultipartUpload (asserted by the Go SDK's tests).
    pub const NO_SUCH_UPLOAD_ABORT: &str = "0042-00000002";
    /// NoSuchUpload from UploadPart (asserted by the Go SDK's tests).
    pub const NO_SUCH_UPLOAD_PART: &str = "0042-00000104";
    /// Own: NoSuchUpload from CompleteMultipartUpload.
    pub const NO_SUCH_UPLOAD_COMPLETE: &str = "0042-00009405";
    /// MalformedXML from CompleteMultipartUpload (seen in the Go SDK's recorded answers).
    pub const MALFORMED_COMPLETE: &str = "0042-00000205";
    /// A `versionId` that is empty (troubleshooting page).
    pub const VERSION_ID_EMPTY: &str = "0012-00000201";
    /// A `versionId` that is none (troubleshooting page).
    pub const VERSION_ID_INVALID: &str = "0012-00000202";
    /// An empty `VersionId` in the body of DeleteMultipleObjects (troubleshooting page).
    pub const DELETE_EMPTY_VERSION_ID: &str = "0016-00000612";
    /// MalformedXML from DeleteMultipleObjects (seen in the Go SDK's recorded answers).
    pub const MALFORMED_DELETE: &str = "0016-00000608";
    /// NoSuchUpload from UploadPartCopy (asserted by the Go SDK's tests).
    pub const NO_SUCH_UPLOAD_PART_COPY: &str = "0042-00000311";
    /// Own: NoSuchUpload from ListParts.
    pub const NO_SUCH_UPLOAD_LIST_PARTS: &str = "0042-00009404";
    /// `x-oss-complete-all` together with a body (asserted by the Go SDK's tests).
    pub const COMPLETE_ALL_WITH_BODY: &str = "0042-00000216";
    /// `x-oss-copy-source` of UploadPartCopy is malformed (troubleshooting page).
    pub const PART_COPY_SOURCE: &str = "0042-00000301";
    /// Reading a version that is a delete marker (seen in the Go SDK's recorded answers).
    pub const VERSION_IS_DELETE_MARKER: &str = "0003-00000016";
    /// BucketNotEmpty because of unfinished multipart uploads; the same EC as with objects.
    pub const BUCKET_NOT_EMPTY: &str = "0015-00000301";
}

/// An error answer. Built with [`OssError::new`] and the builder methods.
#[derive(Debug)]
pub struct OssError {
    code: ErrorCode,
    status: StatusCode,
    message: Cow<'static, str>,
    ec: &'static str,
    extras: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl OssError {
    /// An error with the table's message and EC.
    pub fn new(code: ErrorCode) -> Self {
        Self {
            code,
            status: code.status(),
            message: Cow::Borrowed(code.default_message()),
            ec: code.default_ec(),
            extras: Vec::new(),
            headers: Vec::new(),
            source: None,
        }
    }

    /// InvalidArgument about one named argument, in the service's form.
    pub fn invalid_argument(
        message: impl Into<Cow<'static, str>>,
        name: &str,
        value: impl Into<String>,
    ) -> Self {
        Self::new(ErrorCode::InvalidArgument)
            .message(message)
            .extra("ArgumentName", name)
            .extra("ArgumentValue", value)
    }

    /// Replaces the message.
    #[must_use]
    pub fn message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// Replaces the EC; see [`ec`].
    #[must_use]
    pub fn ec(mut self, ec: &'static str) -> Self {
        self.ec = ec;
        self
    }

    /// Replaces the status, where the service answers a code with another one than the table's.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds an element such as `BucketName` or `Key` to the answer.
    #[must_use]
    pub fn extra(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extras.push((name, value.into()));
        self
    }

    /// Adds a response header such as `x-oss-delete-marker` or `x-oss-next-append-position`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Keeps what caused the error, for the log; clients never see it.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The message.
    pub fn message_text(&self) -> &str {
        &self.message
    }

    /// The EC, which also travels in the header `x-oss-ec`.
    pub fn ec_text(&self) -> &'static str {
        self.ec
    }

    /// The value of an extra element.
    pub fn extra_value(&self, name: &str) -> Option<&str> {
        self.extras
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Headers that the answer must carry besides the usual ones.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The document, with a shorter message and without those elements that have more bytes.
    fn xml(&self, request_id: &str, host_id: &str, text_bytes_max: usize) -> Vec<u8> {
        let fits = |text: &str| text.len() <= text_bytes_max;
        let message = Some(&*self.message).filter(|message| fits(message));
        let mut xml = Writer::new("Error");
        xml.elem("Code", self.code.as_str())
            .elem("Message", message.unwrap_or(self.code.default_message()))
            .elem("RequestId", request_id)
            .elem_if("HostId", Some(host_id).filter(|host| fits(host)));
        for (name, value) in self.extras.iter().filter(|(_, value)| fits(value)) {
            xml.elem(name, value);
        }
        xml.elem("EC", self.ec);
        xml.finish()
    }
}

/// The XML document of an error answer.
pub fn render_error(error: &OssError, request_id: &str, host_id: &str) -> Vec<u8> {
    error.xml(request_id, host_id, usize::MAX)
}

/// The value of `x-oss-err`, which carries the document where a body is not allowed (HEAD).
///
/// What a client sent can be long, and a string to sign is longer: the longest elements are left out
/// when the header would pass 8 KiB, the limit of common proxies.
pub fn render_error_header(error: &OssError, request_id: &str, host_id: &str) -> HeaderValue {
    const DOCUMENT_BYTES_MAX: usize = 6 * 1024;
    let mut document = error.xml(request_id, host_id, usize::MAX);
    for text_bytes_max in [1024, 256, 0] {
        if document.len() > DOCUMENT_BYTES_MAX {
            document = error.xml(request_id, host_id, text_bytes_max);
        }
    }
    HeaderValue::try_from(STANDARD.encode(document)).expect("base64 is a legal header value")
}

impl fmt::Display for OssError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl Error for OssError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

impl From<ErrorCode> for OssError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_the_services_document() {
        let error = OssError::new(ErrorCode::NoSuchKey).extra("Key", "a&b<\u{1}>");
        let xml = String::from_utf8(render_error(&error, "5C3D9175B6FC201293AD4890", "h")).unwrap();
        assert_eq!(
            xml,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n  <Code>NoSuchKey</Code>\n  \
             <Message>The specified key does not exist.</Message>\n  \
             <RequestId>5C3D9175B6FC201293AD4890</RequestId>\n  <HostId>h</HostId>\n  \
             <Key>a&amp;b&lt;&#1;&gt;</Key>\n  <EC>0026-00000001</EC>\n</Error>\n"
        );
        let header = render_error_header(&error, "5C3D9175B6FC201293AD4890", "h");
        assert_eq!(STANDARD.decode(header.as_bytes()).unwrap(), xml.as_bytes());
    }

    #[test]
    fn the_header_form_is_bounded() {
        let error = OssError::new(ErrorCode::SignatureDoesNotMatch)
            .extra("OSSAccessKeyId", "ak")
            .extra("StringToSign", "x".repeat(64 * 1024));
        let header = render_error_header(&error, "r", "h");
        assert!(header.len() < 8 * 1024);
        let document = STANDARD.decode(header.as_bytes()).unwrap();
        let document = String::from_utf8(document).unwrap();
        assert!(document.contains("<OSSAccessKeyId>ak</OSSAccessKeyId>"));
        let error = OssError::invalid_argument("no id", "versionId", "&".repeat(60 * 1024));
        let header = render_error_header(&error, "r", "h");
        assert!(header.len() < 8 * 1024);
        let document = STANDARD.decode(header.as_bytes()).unwrap();
        let document = String::from_utf8(document).unwrap();
        assert!(document.contains("<Code>InvalidArgument</Code>"));
    }

    #[test]
    fn the_header_form_is_bounded_whatever_a_client_sent() {
        // The first says what is long, the others say less and less.
        let long = |c: char, bytes: usize| c.to_string().repeat(bytes / c.len_utf8());
        for (message, value) in [
            ("short".to_owned(), long('v', 32 * 1024)),
            (long('m', 32 * 1024), "short".to_owned()),
            (long('\u{1}', 500), long('\u{7f}', 500)),
            (long('\u{1}', 32 * 1024), long('\u{7f}', 32 * 1024)),
        ] {
            let error = OssError::invalid_argument(message, "position", value.as_str())
                .extra("One", long('\u{7f}', 500))
                .extra("Another", long('\u{7f}', 500));
            let header = render_error_header(&error, "r", &long('h', 32 * 1024));
            assert!(header.len() < 8 * 1024, "{} bytes", header.len());
            let document = STANDARD.decode(header.as_bytes()).unwrap();
            let document = crate::xml::parse(&document, "Error").unwrap();
            let text = |name| document.required(name).unwrap().text();
            assert_eq!(text("Code"), "InvalidArgument");
            assert_eq!(text("EC"), error.ec_text());
        }
    }

    #[test]
    fn is_small_enough_for_results() {
        assert!(size_of::<OssError>() <= 128);
    }
}
