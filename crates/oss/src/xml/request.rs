//! The request bodies of the operations so far, as typed values. Limits are checked here, meaning
//! (does the part exist, may the key be deleted) is not.

use granary_types::{ETag, ObjectKey, Redundancy, StorageClass, limits};

use super::de::{Element, malformed_xml, parse};
use crate::address::parse_object_key;
use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;

/// Body of PutBucket. Everything is optional, the body too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateBucketConfiguration {
    /// The legacy way to name a region (`oss-cn-hangzhou`).
    pub location_constraint: Option<String>,
    /// The bucket's storage class.
    pub storage_class: Option<StorageClass>,
    /// The bucket's redundancy.
    pub redundancy: Option<Redundancy>,
}

impl CreateBucketConfiguration {
    /// Reads the body; an empty one asks for all defaults.
    ///
    /// # Errors
    /// MalformedXML, also for a class or redundancy the API does not have.
    pub fn parse(body: &[u8]) -> Result<Self, OssError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let root = parse(body, "CreateBucketConfiguration")?;
        Ok(Self {
            location_constraint: root.optional_text("LocationConstraint")?.map(str::to_owned),
            storage_class: one_of(&root, "StorageClass", StorageClass::parse)?,
            redundancy: one_of(&root, "DataRedundancyType", Redundancy::parse)?,
        })
    }
}

fn one_of<T>(
    root: &Element,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, OssError> {
    let Some(text) = root.optional_text(name)? else {
        return Ok(None);
    };
    let value = parse(text).ok_or_else(|| malformed_xml(format!("{name} can not be {text}")))?;
    Ok(Some(value))
}

/// Body of DeleteMultipleObjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Whether the answer leaves out what was deleted.
    pub quiet: bool,
    /// What to delete, 1 to 1000.
    pub objects: Vec<DeleteTarget>,
}

/// One object, or one version of it, to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteTarget {
    /// The key.
    pub key: ObjectKey,
    /// The version; `None` adds a delete marker, or deletes when the bucket has no versioning.
    pub version_id: Option<String>,
}

impl Delete {
    /// Reads the body.
    ///
    /// # Errors
    /// MalformedXML, also for no or too many objects or a missing key; InvalidObjectName for a key
    /// that no object can have; InvalidArgument for an empty version id.
    pub fn parse(body: &[u8]) -> Result<Self, OssError> {
        Self::read(body).map_err(|error| match error.code() {
            ErrorCode::MalformedXML => error.ec(ec::MALFORMED_DELETE),
            _ => error,
        })
    }

    fn read(body: &[u8]) -> Result<Self, OssError> {
        if body.len() > limits::DELETE_OBJECTS_BODY_BYTES_MAX {
            return Err(malformed_xml("the body is too large"));
        }
        let root = parse(body, "Delete")?;
        let quiet = match root.optional_text("Quiet")? {
            None => false,
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if text.eq_ignore_ascii_case("false") => false,
            Some(other) => return Err(malformed_xml(format!("Quiet can not be {other}"))),
        };
        let mut objects = Vec::new();
        for object in root.children_named("Object") {
            if objects.len() == limits::DELETE_OBJECTS_MAX {
                return Err(malformed_xml("there are more than 1000 objects"));
            }
            let key = object.required("Key")?.text();
            if key.is_empty() {
                return Err(malformed_xml("a key is empty"));
            }
            objects.push(DeleteTarget {
                key: parse_object_key(key.as_bytes())?,
                version_id: version_id(object)?,
            });
        }
        if objects.is_empty() {
            return Err(malformed_xml("there is no object"));
        }
        Ok(Self { quiet, objects })
    }
}

/// The version to delete. An empty id is no absent one: whoever sends it wanted to name a version,
/// and would lose the current one.
fn version_id(object: &Element) -> Result<Option<String>, OssError> {
    match object.optional("VersionId")?.map(|id| id.text().trim()) {
        Some("") => Err(
            OssError::invalid_argument("The version id is empty.", "VersionId", "")
                .ec(ec::DELETE_EMPTY_VERSION_ID),
        ),
        id => Ok(id.map(str::to_owned)),
    }
}

/// Body of CompleteMultipartUpload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompleteMultipartUpload {
    /// The parts in strictly ascending order; none makes an object of no bytes.
    pub parts: Vec<CompletedPart>,
}

/// A part as the client believes it to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// The tag that UploadPart answered.
    pub etag: ETag,
}

impl CompleteMultipartUpload {
    /// Reads the body. An empty body is not a document; whether it is allowed depends on
    /// `x-oss-complete-all`, which the operation knows.
    ///
    /// # Errors
    /// MalformedXML; InvalidArgument for a number outside 1 to 10,000; InvalidPartOrder.
    pub fn parse(body: &[u8]) -> Result<Self, OssError> {
        Self::read(body).map_err(|error| match error.code() {
            ErrorCode::MalformedXML => error.ec(ec::MALFORMED_COMPLETE),
            _ => error,
        })
    }

    fn read(body: &[u8]) -> Result<Self, OssError> {
        if body.len() > limits::COMPLETE_BODY_BYTES_MAX {
            return Err(malformed_xml("the body is too large"));
        }
        let root = parse(body, "CompleteMultipartUpload")?;
        let mut parts: Vec<CompletedPart> = Vec::new();
        for part in root.children_named("Part") {
            let number = part.required("PartNumber")?.text().trim();
            let number = number
                .parse::<i64>()
                .map_err(|_| malformed_xml(format!("{number} is not a part number")))?;
            let number = checked_part_number(number)?;
            if parts.last().is_some_and(|last| last.number >= number) {
                return Err(OssError::new(ErrorCode::InvalidPartOrder));
            }
            let etag = ETag::parse(part.required("ETag")?.text());
            parts.push(CompletedPart { number, etag });
        }
        Ok(Self { parts })
    }
}

/// Checks a part number's range; also used for the query parameter.
pub(crate) fn checked_part_number(number: i64) -> Result<u32, OssError> {
    u32::try_from(number)
        .ok()
        .filter(|number| (1..=limits::PART_NUMBER_MAX).contains(number))
        .ok_or_else(|| {
            OssError::invalid_argument(
                "Part number must be an integer between 1 and 10000, inclusive.",
                "PartNumber",
                number.to_string(),
            )
            .ec(ec::PART_NUMBER)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_configurations() {
        let parse = |xml: &str| CreateBucketConfiguration::parse(xml.as_bytes());
        assert_eq!(parse("").unwrap(), CreateBucketConfiguration::default());
        assert_eq!(parse(" \n").unwrap(), CreateBucketConfiguration::default());
        let full = parse(
            "<CreateBucketConfiguration><LocationConstraint>oss-x</LocationConstraint>\
             <StorageClass> IA </StorageClass><DataRedundancyType>ZRS</DataRedundancyType>\
             </CreateBucketConfiguration>",
        )
        .unwrap();
        assert_eq!(full.location_constraint.as_deref(), Some("oss-x"));
        assert_eq!(full.storage_class, Some(StorageClass::Ia));
        assert_eq!(full.redundancy, Some(Redundancy::Zrs));
        for bad in [
            "<Other/>",
            "<CreateBucketConfiguration><StorageClass>Hot</StorageClass></CreateBucketConfiguration>",
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), ErrorCode::MalformedXML);
        }
    }

    #[test]
    fn deletions() {
        let delete = Delete::parse(
            b"<Delete><Quiet>true</Quiet><Object><Key> a&#x1F;b </Key></Object>\
              <Object><Key>c</Key><VersionId>null</VersionId></Object></Delete>",
        )
        .unwrap();
        assert!(delete.quiet);
        assert_eq!(
            delete.objects[0].key.as_str(),
            " a\u{1f}b ",
            "white space belongs to the key"
        );
        assert_eq!(delete.objects[1].version_id.as_deref(), Some("null"));
        let object = "<Object><Key>k</Key></Object>";
        for (body, code) in [
            ("<Delete></Delete>".to_owned(), ErrorCode::MalformedXML),
            (
                "<Delete><Object></Object></Delete>".to_owned(),
                ErrorCode::MalformedXML,
            ),
            (
                "<Delete><Object><Key></Key></Object></Delete>".to_owned(),
                ErrorCode::MalformedXML,
            ),
            (
                format!("<Delete><Quiet>no</Quiet>{object}</Delete>"),
                ErrorCode::MalformedXML,
            ),
            (
                format!("<Delete>{}</Delete>", object.repeat(1001)),
                ErrorCode::MalformedXML,
            ),
            (
                "<Delete><Object><Key>/k</Key></Object></Delete>".to_owned(),
                ErrorCode::InvalidObjectName,
            ),
        ] {
            assert_eq!(Delete::parse(body.as_bytes()).unwrap_err().code(), code);
        }
        let most = format!("<Delete>{}</Delete>", object.repeat(1000));
        assert_eq!(Delete::parse(most.as_bytes()).unwrap().objects.len(), 1000);
    }

    #[test]
    fn completions() {
        let body = |parts: &[(&str, &str)]| {
            let parts: String = parts
                .iter()
                .map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>"))
                .collect();
            CompleteMultipartUpload::parse(
                format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").as_bytes(),
            )
        };
        assert!(body(&[]).unwrap().parts.is_empty());
        let parts = body(&[("1", "\"AB\""), ("7", "&quot;CD&quot;"), ("10000", "ef")])
            .unwrap()
            .parts;
        let read: Vec<_> = parts.iter().map(|p| (p.number, p.etag.as_str())).collect();
        assert_eq!(read, [(1, "AB"), (7, "CD"), (10000, "ef")]);
        for (parts, code) in [
            (&[("2", "a"), ("1", "b")][..], ErrorCode::InvalidPartOrder),
            (&[("2", "a"), ("2", "b")][..], ErrorCode::InvalidPartOrder),
            (&[("0", "a")][..], ErrorCode::InvalidArgument),
            (&[("10001", "a")][..], ErrorCode::InvalidArgument),
            (&[("x", "a")][..], ErrorCode::MalformedXML),
        ] {
            assert_eq!(body(parts).unwrap_err().code(), code, "{parts:?}");
        }
        let error = CompleteMultipartUpload::parse(b"").unwrap_err();
        assert_eq!(
            (error.code(), error.ec_text()),
            (ErrorCode::MalformedXML, "0042-00000205")
        );
        let all: Vec<String> = (1..=10_000).map(|n| n.to_string()).collect();
        let all: Vec<(&str, &str)> = all
            .iter()
            .map(|n| (n.as_str(), "\"0123456789ABCDEF0123456789ABCDEF\""))
            .collect();
        assert_eq!(body(&all).unwrap().parts.len(), 10_000);
    }
}
