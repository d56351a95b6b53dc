//! Parameters of list requests, and the continuation token.
//!
//! Pure reading of parameters: what a page holds is decided elsewhere. Every page is bounded.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use granary_types::limits::{
    BUCKET_TAGS_MAX, LIST_PAGE_DEFAULT, LIST_PAGE_MAX, OBJECT_KEY_BYTES_MAX, PART_NUMBER_MAX,
};

use crate::error::{OssError, ec};
use crate::query::Query;
use crate::xml::Encoding;

/// Parameters of ListObjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListObjectsParams {
    /// Only keys that start with this.
    pub prefix: String,
    /// Groups keys; empty means no grouping.
    pub delimiter: String,
    /// The list starts after this key or group.
    pub marker: String,
    /// Keys and groups of one page, 1 to 1000.
    pub max_keys: u32,
    /// How names are spelled in the answer.
    pub encoding: Encoding,
}

/// Parameters of ListObjectsV2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListObjectsV2Params {
    /// Only keys that start with this.
    pub prefix: String,
    /// Groups keys; empty means no grouping.
    pub delimiter: String,
    /// The list starts after this key, on the first page.
    pub start_after: Option<String>,
    /// The token of a further page as sent.
    pub continuation_token: Option<String>,
    /// Where the page starts: after this key or group; from the token when there is one.
    pub marker: String,
    /// Keys and groups of one page, 1 to 1000.
    pub max_keys: u32,
    /// Whether the answer names owners.
    pub fetch_owner: bool,
    /// How names are spelled in the answer.
    pub encoding: Encoding,
}

/// Parameters of ListObjectVersions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListVersionsParams {
    /// Only keys that start with this.
    pub prefix: String,
    /// Groups keys; empty means no grouping.
    pub delimiter: String,
    /// The list starts after this key or group.
    pub key_marker: String,
    /// With a key marker: after this version of that key.
    pub version_id_marker: String,
    /// Entries and groups of one page, 1 to 1000.
    pub max_keys: u32,
    /// How names are spelled in the answer.
    pub encoding: Encoding,
}

/// Parameters of ListMultipartUploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListUploadsParams {
    /// Only keys that start with this.
    pub prefix: String,
    /// Groups keys; empty means no grouping.
    pub delimiter: String,
    /// The list starts after this key.
    pub key_marker: String,
    /// With a key marker: after this upload of that key. Ignored without one.
    pub upload_id_marker: String,
    /// Uploads and groups of one page, 1 to 1000.
    pub max_uploads: u32,
    /// How names are spelled in the answer.
    pub encoding: Encoding,
}

/// Parameters of ListParts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPartsParams {
    /// The list starts after this part.
    pub part_number_marker: u32,
    /// Parts of one page, 1 to 1000.
    pub max_parts: u32,
    /// How names are spelled in the answer.
    pub encoding: Encoding,
}

/// Parameters of ListBuckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListBucketsParams {
    /// Only names that start with this.
    pub prefix: String,
    /// The list starts after this name.
    pub marker: String,
    /// Buckets of one page, 1 to 1000.
    pub max_keys: u32,
    /// Only buckets that have every one of these tags; without a value: a tag of that key.
    pub tags: Vec<(String, Option<String>)>,
}

impl ListObjectsParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        Ok(Self {
            prefix: name(query, "prefix")?,
            delimiter: name(query, "delimiter")?,
            marker: name(query, "marker")?,
            max_keys: max_keys(query, ec::LIST_OBJECTS_MAX_KEYS)?,
            encoding: encoding(query)?,
        })
    }
}

impl ListObjectsV2Params {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument, also for a token that we did not make.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        let start_after = query
            .get_non_empty("start-after")
            .map(|_| name(query, "start-after"))
            .transpose()?;
        let continuation_token = query.get_non_empty("continuation-token").map(str::to_owned);
        let marker = match &continuation_token {
            Some(token) => decode_continuation_token(token)?,
            None => start_after.clone().unwrap_or_default(),
        };
        Ok(Self {
            prefix: name(query, "prefix")?,
            delimiter: name(query, "delimiter")?,
            start_after,
            continuation_token,
            marker,
            max_keys: max_keys(query, ec::LIST_OBJECTS_MAX_KEYS)?,
            fetch_owner: boolean(query, "fetch-owner")?,
            encoding: encoding(query)?,
        })
    }
}

impl ListVersionsParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument, also for a version marker without a key marker.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        let key_marker = name(query, "key-marker")?;
        let version_id_marker = name(query, "version-id-marker")?;
        if key_marker.is_empty() && !version_id_marker.is_empty() {
            return Err(OssError::invalid_argument(
                "A version-id marker cannot be specified without a key marker.",
                "version-id-marker",
                version_id_marker,
            ));
        }
        Ok(Self {
            prefix: name(query, "prefix")?,
            delimiter: name(query, "delimiter")?,
            key_marker,
            version_id_marker,
            max_keys: max_keys(query, ec::LIST_VERSIONS_MAX_KEYS)?,
            encoding: encoding(query)?,
        })
    }
}

impl ListUploadsParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        let key_marker = name(query, "key-marker")?;
        let upload_id_marker = match key_marker.as_str() {
            "" => String::new(),
            _ => name(query, "upload-id-marker")?,
        };
        Ok(Self {
            prefix: name(query, "prefix")?,
            delimiter: name(query, "delimiter")?,
            key_marker,
            upload_id_marker,
            max_uploads: count(query, "max-uploads", LIST_PAGE_MAX)?,
            encoding: encoding(query)?,
        })
    }
}

impl ListPartsParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        Ok(Self {
            part_number_marker: integer(query, "part-number-marker", 0, PART_NUMBER_MAX, 0)?,
            max_parts: count(query, "max-parts", LIST_PAGE_MAX)?,
            encoding: encoding(query)?,
        })
    }
}

impl ListBucketsParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(query: &Query) -> Result<Self, OssError> {
        Ok(Self {
            prefix: name(query, "prefix")?,
            marker: name(query, "marker")?,
            max_keys: max_keys(query, ec::LIST_BUCKETS_MAX_KEYS)?,
            tags: bucket_tags(query)?,
        })
    }
}

/// `tag-key` with or without `tag-value`, or `tagging` (`"key":"value"`, separated by commas).
fn bucket_tags(query: &Query) -> Result<Vec<(String, Option<String>)>, OssError> {
    let given = |name: &'static str| query.get_non_empty(name);
    let invalid = |message: &'static str, name: &'static str| {
        OssError::invalid_argument(message, name, given(name).unwrap_or_default())
    };
    match (given("tag-key"), given("tag-value"), given("tagging")) {
        (None, None, None) => Ok(Vec::new()),
        (Some(key), value, None) => Ok(vec![(key.to_owned(), value.map(str::to_owned))]),
        (None, Some(_), None) => Err(invalid(
            "tag-value cannot be specified without tag-key.",
            "tag-value",
        )),
        (None, None, Some(text)) => quoted_pairs(text)
            .filter(|tags| tags.len() <= BUCKET_TAGS_MAX)
            .ok_or_else(|| {
                invalid(
                    "The tags must be written as \"key\":\"value\", separated by commas.",
                    "tagging",
                )
            }),
        (_, _, Some(_)) => Err(invalid(
            "tagging cannot be specified together with tag-key or tag-value.",
            "tagging",
        )),
    }
}

/// `"key":"value","key":"value"`, at most one more than a bucket can have. Tags of buckets have
/// neither quotes nor backslashes.
fn quoted_pairs(text: &str) -> Option<Vec<(String, Option<String>)>> {
    let (mut pairs, mut rest) = (Vec::new(), text);
    while pairs.len() <= BUCKET_TAGS_MAX {
        let (key, after) = quoted(rest)?;
        let (value, after) = quoted(after.strip_prefix(':')?)?;
        if key.is_empty() {
            return None;
        }
        pairs.push((key.to_owned(), Some(value.to_owned())));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => break,
            None => return None,
        }
    }
    Some(pairs)
}

/// What stands in quotes at the start of a text, and what follows it; white space around is skipped.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    Some((inside, rest.trim_start()))
}

/// The `partNumber` parameter of UploadPart and UploadPartCopy.
///
/// # Errors
/// InvalidArgument when it is absent or not an integer between 1 and 10,000.
pub fn part_number(query: &Query) -> Result<u32, OssError> {
    let Some(value) = query.get_non_empty("partNumber") else {
        // The service's own words.
        let message = "Unexpected query string parameter";
        let missing = OssError::invalid_argument(message, "ResourceType", "partNumber");
        return Err(missing.ec(ec::PART_NUMBER_MISSING));
    };
    match value.parse() {
        Ok(number) => crate::xml::checked_part_number(number),
        Err(_) => Err(OssError::invalid_argument(
            "Part number must be an integer between 1 and 10000, inclusive.",
            "PartNumber",
            value,
        )
        .ec(ec::PART_NUMBER)),
    }
}

/// `encoding-type`: `url` or absent.
///
/// # Errors
/// InvalidArgument for anything else.
pub fn encoding(query: &Query) -> Result<Encoding, OssError> {
    match query.get_non_empty("encoding-type") {
        None => Ok(Encoding::Plain),
        Some(value) if value.eq_ignore_ascii_case("url") => Ok(Encoding::Url),
        Some(value) => Err(OssError::invalid_argument(
            "Invalid Encoding Method specified in Request",
            "encoding-type",
            value,
        )),
    }
}

/// First byte of a token, so that tokens of another layout are told apart.
const TOKEN_VERSION: u8 = 1;

/// The token for the page that starts after `marker`, a key or a group. Opaque to clients: URL-safe
/// base64 of a version byte and the marker, so that it needs no escaping anywhere.
pub fn encode_continuation_token(marker: &str) -> String {
    let mut bytes = Vec::with_capacity(1 + marker.len());
    bytes.push(TOKEN_VERSION);
    bytes.extend_from_slice(marker.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`encode_continuation_token`] wrote.
///
/// # Errors
/// InvalidArgument for anything else.
pub fn decode_continuation_token(token: &str) -> Result<String, OssError> {
    let decoded = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .unwrap_or_default();
    decoded
        .strip_prefix(&[TOKEN_VERSION])
        .and_then(|marker| std::str::from_utf8(marker).ok())
        .map(str::to_owned)
        .ok_or_else(|| {
            OssError::invalid_argument(
                "The continuation token provided is incorrect.",
                "continuation-token",
                token,
            )
        })
}

/// A name or part of one; longer than any name can be is refused, as the service does.
fn name(query: &Query, parameter: &'static str) -> Result<String, OssError> {
    let value = query.get(parameter).unwrap_or_default();
    if value.len() > OBJECT_KEY_BYTES_MAX {
        let message = format!("The length of {parameter} must be less than 1024.");
        return Err(OssError::invalid_argument(message, parameter, value));
    }
    Ok(value.to_owned())
}

fn max_keys(query: &Query, ec: &'static str) -> Result<u32, OssError> {
    count(query, "max-keys", LIST_PAGE_DEFAULT).map_err(|error| error.ec(ec))
}

fn count(query: &Query, parameter: &'static str, default: u32) -> Result<u32, OssError> {
    integer(query, parameter, 1, LIST_PAGE_MAX, default)
}

fn integer(
    query: &Query,
    parameter: &'static str,
    least: u32,
    most: u32,
    default: u32,
) -> Result<u32, OssError> {
    let Some(value) = query.get_non_empty(parameter) else {
        return Ok(default);
    };
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    value
        .parse()
        .ok()
        .filter(|number| digits && (least..=most).contains(number))
        .ok_or_else(|| {
            OssError::invalid_argument(
                format!("Argument {parameter} must be an integer between {least} and {most}."),
                parameter,
                value,
            )
        })
}

fn boolean(query: &Query, parameter: &'static str) -> Result<bool, OssError> {
    match query.get_non_empty(parameter) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(OssError::invalid_argument(
            format!("The value of {parameter} must be true or false."),
            parameter,
            value,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;
    use proptest::prelude::*;

    fn query(raw: &str) -> Query {
        Query::parse(Some(raw)).unwrap()
    }

    #[test]
    fn list_parameters_have_the_services_defaults() {
        let params = ListObjectsParams::parse(&query("")).unwrap();
        assert_eq!(
            params,
            ListObjectsParams {
                max_keys: 100,
                ..Default::default()
            }
        );
        let params = ListObjectsParams::parse(&query(
            "prefix=a%2F&delimiter=%2F&marker=a+b&max-keys=1000&encoding-type=url",
        ));
        let expected = ListObjectsParams {
            prefix: "a/".to_owned(),
            delimiter: "/".to_owned(),
            marker: "a b".to_owned(),
            max_keys: 1000,
            encoding: Encoding::Url,
        };
        assert_eq!(params.unwrap(), expected);
        assert_eq!(
            ListUploadsParams::parse(&query("uploads"))
                .unwrap()
                .max_uploads,
            1000
        );
        assert_eq!(
            ListPartsParams::parse(&query("uploadId=1"))
                .unwrap()
                .max_parts,
            1000
        );
        let uploads = ListUploadsParams::parse(&query("upload-id-marker=x")).unwrap();
        assert_eq!(uploads.upload_id_marker, "", "ignored without a key marker");
    }

    #[test]
    fn the_token_beats_start_after() {
        let token = encode_continuation_token("k/中");
        let params = ListObjectsV2Params::parse(&query(&format!(
            "start-after=b&continuation-token={token}"
        )))
        .unwrap();
        assert_eq!(params.marker, "k/中");
        assert_eq!(params.start_after.as_deref(), Some("b"));
        let params = ListObjectsV2Params::parse(&query("start-after=b&fetch-owner=true")).unwrap();
        assert_eq!((params.marker.as_str(), params.fetch_owner), ("b", true));
    }

    #[test]
    fn bad_parameters_are_named() {
        for (raw, argument) in [
            ("max-keys=1001", "max-keys"),
            ("max-keys=-1", "max-keys"),
            ("max-keys=%2B1", "max-keys"),
            ("max-keys=x", "max-keys"),
            ("encoding-type=utf", "encoding-type"),
            ("continuation-token=*", "continuation-token"),
            ("continuation-token=AAAA", "continuation-token"),
            ("fetch-owner=maybe", "fetch-owner"),
            (&format!("prefix={}", "p".repeat(1024)), "prefix"),
        ] {
            let error = ListObjectsV2Params::parse(&query(raw)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{raw}");
            assert_eq!(error.extra_value("ArgumentName"), Some(argument), "{raw}");
        }
        for outside in ["max-keys=0", "max-keys=1001"] {
            let query = query(outside);
            for (error, ec) in [
                (ListObjectsParams::parse(&query).err(), "0015-00000402"),
                (ListObjectsV2Params::parse(&query).err(), "0015-00000402"),
                (ListVersionsParams::parse(&query).err(), "0012-00000102"),
                (ListBucketsParams::parse(&query).err(), "0017-00000289"),
            ] {
                let error = error.unwrap();
                assert_eq!(error.code(), ErrorCode::InvalidArgument);
                assert_eq!(error.ec_text(), ec);
                assert!(error.message_text().contains("between 1 and 1000"));
            }
        }
        assert!(ListUploadsParams::parse(&query("max-uploads=0")).is_err());
        assert!(ListPartsParams::parse(&query("part-number-marker=10001")).is_err());
    }

    #[test]
    fn a_part_has_a_number() {
        let error = |raw: &str| part_number(&query(raw)).unwrap_err();
        for raw in ["uploadId=7", "partNumber=&uploadId=7", "partNumber"] {
            let missing = error(raw);
            assert_eq!(missing.code(), ErrorCode::InvalidArgument);
            assert_eq!(missing.ec_text(), "0017-00000219", "{raw}");
            assert_eq!(missing.message_text(), "Unexpected query string parameter");
            assert_eq!(missing.extra_value("ArgumentName"), Some("ResourceType"));
            assert_eq!(missing.extra_value("ArgumentValue"), Some("partNumber"));
        }
        for value in ["0", "10001", "x", "-1", "1.5"] {
            let wrong = error(&format!("partNumber={value}"));
            assert_eq!(wrong.ec_text(), "0017-00000220", "{value}");
            assert_eq!(wrong.extra_value("ArgumentValue"), Some(value));
        }
        assert_eq!(part_number(&query("partNumber=10000")).unwrap(), 10_000);
    }

    #[test]
    fn buckets_are_filtered_by_tags() {
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        for (raw, tags) in [
            ("prefix=p", Some(vec![])),
            ("tag-key=", Some(vec![])),
            ("tag-key=k", Some(vec![pair("k", None)])),
            ("tag-key=k&tag-value=v", Some(vec![pair("k", Some("v"))])),
            ("tagging=%22k%22:%22v%22", Some(vec![pair("k", Some("v"))])),
            (
                "tagging=%22k:%22%20:%20%22%22,%22l%22:%22,%22",
                Some(vec![pair("k:", Some("")), pair("l", Some(","))]),
            ),
            ("tag-value=v", None),
            ("tag-key=k&tagging=%22k%22:%22v%22", None),
            ("tagging=k", None),
            ("tagging=k=v", None),
            ("tagging=%22%22:%22v%22", None),
            ("tagging=%22k%22:%22v%22,", None),
            ("tagging=%22k%22:%22v%22%22", None),
            (
                &format!("tagging={}", ["%22k%22:%22v%22"; 21].join(",")),
                None,
            ),
        ] {
            let params = ListBucketsParams::parse(&query(raw));
            assert_eq!(params.map(|params| params.tags).ok(), tags, "{raw}");
        }
    }

    #[test]
    fn part_numbers() {
        for (raw, number) in [
            ("partNumber=1", Some(1)),
            ("partNumber=10000", Some(10_000)),
            ("partNumber=0", None),
            ("partNumber=10001", None),
            ("partNumber=-1", None),
            ("partNumber=", None),
            ("", None),
        ] {
            assert_eq!(part_number(&query(raw)).ok(), number, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn tokens_survive_and_need_no_escaping(marker: String) {
            let token = encode_continuation_token(&marker);
            prop_assert_eq!(crate::escape::encode(token.as_bytes()), token.clone());
            prop_assert_eq!(decode_continuation_token(&token).unwrap(), marker);
        }

        #[test]
        fn arbitrary_tokens_never_panic(token: String) {
            let _ = decode_continuation_token(&token);
        }
    }
}
