//! Documents of a bucket's and an object's settings: ACL, versioning, tags, regions.

use granary_types::{BucketAcl, ObjectAcl, limits};

use super::de::{Element, malformed_xml, parse};
use super::listing::Owner;
use super::ser::Writer;
use crate::error::{OssError, ec};
use crate::header::check_object_tags;

/// Answer of GetBucketAcl and GetObjectAcl.
#[derive(Clone, Debug)]
pub struct AccessControlPolicy {
    /// Who owns the bucket or the object.
    pub owner: Owner,
    /// The one grant: the name of the ACL.
    pub grant: &'static str,
}

impl AccessControlPolicy {
    /// The policy of a bucket.
    pub fn of_bucket(owner: Owner, acl: BucketAcl) -> Self {
        let grant = acl.as_str();
        Self { owner, grant }
    }

    /// The policy of an object.
    pub fn of_object(owner: Owner, acl: ObjectAcl) -> Self {
        let grant = acl.as_str();
        Self { owner, grant }
    }

    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("AccessControlPolicy");
        self.owner.write(&mut xml);
        xml.open("AccessControlList").elem("Grant", self.grant);
        xml.finish()
    }
}

/// Body of PutBucketVersioning, answer of GetBucketVersioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersioningConfiguration {
    /// On or off again; `None` when it was never configured.
    pub enabled: Option<bool>,
}

impl VersioningConfiguration {
    /// Reads the body, which must name a state.
    ///
    /// # Errors
    /// MalformedXML, also for another state than Enabled and Suspended.
    pub fn parse(body: &[u8]) -> Result<Self, OssError> {
        let root = parse(body, "VersioningConfiguration")?;
        let enabled = match root.required("Status")?.text().trim() {
            "Enabled" => true,
            "Suspended" => false,
            _ => {
                return Err(malformed_xml("the status is neither Enabled nor Suspended"));
            }
        };
        Ok(Self {
            enabled: Some(enabled),
        })
    }

    /// The document.
    pub fn to_xml(self) -> Vec<u8> {
        let mut xml = Writer::new("VersioningConfiguration");
        let status = |enabled| if enabled { "Enabled" } else { "Suspended" };
        xml.elem_if("Status", self.enabled.map(status));
        xml.finish()
    }
}

/// Body of PutBucketTags and PutObjectTagging, answer of their counterparts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagging {
    /// Keys and values, in the client's order.
    pub tags: Vec<(String, String)>,
}

impl Tagging {
    /// Reads the tags of an object.
    ///
    /// # Errors
    /// MalformedXML; InvalidArgument, as for `x-oss-tagging`.
    pub fn parse_object(body: &[u8]) -> Result<Self, OssError> {
        let tagging = Self::parse(body)?;
        check_object_tags(&tagging.tags, "TagSet")?;
        Ok(tagging)
    }

    /// Reads the tags of a bucket.
    ///
    /// # Errors
    /// MalformedXML; InvalidArgument for more than 20 tags, an empty, repeated or too long key, or
    /// one that begins as only the service's own may; a too long value.
    pub fn parse_bucket(body: &[u8]) -> Result<Self, OssError> {
        let tagging = Self::parse(body)?;
        let invalid = |message: &'static str, value: &str| {
            Err(OssError::invalid_argument(message, "TagSet", value).ec(ec::TAGS_FORMAT))
        };
        if tagging.tags.len() > limits::BUCKET_TAGS_MAX {
            return invalid("A bucket can have no more than 20 tags.", "");
        }
        for (n, (key, value)) in tagging.tags.iter().enumerate() {
            if key.is_empty() || key.len() > limits::BUCKET_TAG_KEY_BYTES_MAX {
                return invalid("A tag key has 1 to 64 bytes.", key);
            }
            if value.len() > limits::BUCKET_TAG_VALUE_BYTES_MAX {
                return invalid("A tag value has at most 128 bytes.", value);
            }
            // No answer could carry them.
            if key.chars().chain(value.chars()).any(char::is_control) {
                return invalid("A tag can have no control characters.", key);
            }
            let reserved = ["http://", "https://", "Aliyun"];
            if reserved.iter().any(|prefix| key.starts_with(prefix)) {
                return invalid(
                    "A tag key can not begin with http://, https:// or Aliyun.",
                    key,
                );
            }
            if tagging.tags.iter().take(n).any(|(other, _)| other == key) {
                return invalid("A tag key occurs more than once.", key);
            }
        }
        Ok(tagging)
    }

    fn parse(body: &[u8]) -> Result<Self, OssError> {
        let root = parse(body, "Tagging")?;
        let mut tags = Vec::new();
        for tag in root.required("TagSet")?.children_named("Tag") {
            let value = tag.optional("Value")?.map_or("", Element::text);
            tags.push((tag.required("Key")?.text().to_owned(), value.to_owned()));
            if tags.len() > limits::BUCKET_TAGS_MAX + 1 {
                return Err(malformed_xml("there are too many tags"));
            }
        }
        Ok(Self { tags })
    }

    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("Tagging");
        xml.open("TagSet");
        for (key, value) in &self.tags {
            xml.open("Tag")
                .elem("Key", key)
                .elem("Value", value)
                .close();
        }
        xml.finish()
    }
}

/// Answer of DescribeRegions.
#[derive(Clone, Debug)]
pub struct RegionInfoList {
    /// The region's id, without `oss-`.
    pub region: String,
    /// The endpoint clients reach it by.
    pub endpoint: String,
}

impl RegionInfoList {
    /// The document: the one region there is.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("RegionInfoList");
        xml.open("RegionInfo")
            .elem("Region", format_args!("oss-{}", self.region))
            .elem("InternetEndpoint", &self.endpoint)
            .elem("InternalEndpoint", &self.endpoint)
            .elem("AccelerateEndpoint", &self.endpoint);
        xml.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;

    #[test]
    fn versioning_has_two_states_to_ask_for() {
        let body = |status: &str| {
            let status = format!("<Status>{status}</Status>");
            format!("<VersioningConfiguration>{status}</VersioningConfiguration>").into_bytes()
        };
        for (status, enabled) in [("Enabled", true), ("Suspended", false)] {
            let read = VersioningConfiguration::parse(&body(status)).unwrap();
            assert_eq!(read.enabled, Some(enabled));
            let again = VersioningConfiguration::parse(&read.to_xml()).unwrap();
            assert_eq!(again, read);
        }
        for (bad, code) in [
            (body("On"), ErrorCode::MalformedXML),
            (body(""), ErrorCode::MalformedXML),
            (
                b"<VersioningConfiguration/>".to_vec(),
                ErrorCode::MalformedXML,
            ),
            (Vec::new(), ErrorCode::MalformedXML),
        ] {
            assert_eq!(
                VersioningConfiguration::parse(&bad).unwrap_err().code(),
                code
            );
        }
        let never = VersioningConfiguration { enabled: None }.to_xml();
        assert!(!String::from_utf8(never).unwrap().contains("Status"));
    }

    #[test]
    fn tags_are_read_and_limited() {
        let body = |tags: &[(&str, &str)]| {
            let tags = tags
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            Tagging { tags }.to_xml()
        };
        let many: Vec<String> = (0..21).map(|n| format!("k{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|k| (k.as_str(), "v")).collect();
        assert_eq!(
            Tagging::parse_bucket(&body(&many[..20]))
                .unwrap()
                .tags
                .len(),
            20
        );
        assert_eq!(
            Tagging::parse_object(&body(&many[..10]))
                .unwrap()
                .tags
                .len(),
            10
        );
        assert!(Tagging::parse_object(&body(&[])).unwrap().tags.is_empty());
        let long = "k".repeat(65);
        for bad in [
            body(&many),
            body(&[("a", "1"), ("a", "2")]),
            body(&[("", "1")]),
            body(&[(&long, "1")]),
            body(&[("a", &"v".repeat(129))]),
            body(&[("Aliyun-x", "1")]),
            body(&[("https://x", "1")]),
            body(&[("a\u{7f}", "1")]),
            body(&[("a", "\u{1}")]),
        ] {
            assert_eq!(
                Tagging::parse_bucket(&bad).unwrap_err().code(),
                ErrorCode::InvalidArgument
            );
        }
        for bad in [
            body(&many[..11]),
            body(&[("a", "1"), ("a", "2")]),
            body(&[("a", "#")]),
        ] {
            assert_eq!(
                Tagging::parse_object(&bad).unwrap_err().code(),
                ErrorCode::InvalidArgument
            );
        }
        assert_eq!(
            Tagging::parse_object(b"<Tagging/>").unwrap_err().code(),
            ErrorCode::MalformedXML
        );
    }
}
