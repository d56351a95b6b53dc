//! What a write says about its object besides the bytes: content headers, user metadata, tags, ACL
//! and storage class. Pure.

use std::collections::HashSet;

use granary_meta_api::pb::state;
use granary_oss::header::{
    ContentHeaders, flag, object_acl, persistent_headers, storage_class, tagging, user_metadata,
};
use granary_oss::{ErrorCode, OssError};
use granary_types::{AccountId, ObjectAcl, StorageClass};
use http::HeaderMap;

use crate::buckets::{Bucket, Versioning};
use crate::head::{Head, not_implemented};

/// Headers and parameters of writes that this version does not act on. Ignoring one would store
/// something else than the client asked for.
pub(crate) const UNBUILT_IN_WRITES: &[&str] = &[
    "x-oss-server-side-encryption",
    "x-oss-server-side-encryption-key-id",
    "x-oss-server-side-data-encryption",
    "x-oss-server-side-encryption-customer-algorithm",
    "x-oss-server-side-encryption-customer-key",
    "x-oss-server-side-encryption-customer-key-md5",
    "x-oss-process",
    "x-oss-async-process",
    "x-oss-object-worm-mode",
    "x-oss-object-worm-retain-until-date",
    "x-oss-object-worm-legal-hold",
    "x-oss-enable-md5",
    "x-oss-enable-sha1",
    "x-oss-enable-sha256",
    "x-oss-hash-ctx",
    "x-oss-md5-ctx",
    "withHashContext",
];

/// What asks for a callback, for writes that OSS makes none of.
pub(crate) const CALLBACKS: &[&str] = &[
    "x-oss-callback",
    "x-oss-callback-var",
    "callback",
    "callback-var",
];

/// Bytes that all attributes of an object may take together: the record is bounded
/// (`limits::RECORD_BYTES_MAX`) and needs room for the rest.
const ATTRIBUTE_BYTES_MAX: usize = 14 * 1024;

/// The attributes of a new object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Headers returned with the object, by lower-case name.
    pub(crate) headers: Vec<(String, String)>,
    /// `x-oss-meta-*` without the prefix.
    pub(crate) user_meta: Vec<(String, String)>,
    /// `x-oss-tagging`.
    pub(crate) tags: Vec<(String, String)>,
    /// `x-oss-object-acl`.
    pub(crate) acl: Option<ObjectAcl>,
    /// `x-oss-storage-class`; the bucket's when absent.
    pub(crate) storage_class: Option<StorageClass>,
}

impl Attributes {
    /// Reads them from the headers of a write.
    ///
    /// # Errors
    /// InvalidArgument, MetadataTooLarge, NotImplemented.
    pub(crate) fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT_IN_WRITES)?;
        Self::from_headers(&head.headers)
    }

    /// Reads them from headers that ask for nothing that is refused.
    ///
    /// # Errors
    /// InvalidArgument, MetadataTooLarge; NotImplemented for an archive class.
    pub(crate) fn from_headers(all: &HeaderMap) -> Result<Self, OssError> {
        let mut headers: Vec<(String, String)> = ContentHeaders::from_headers(all)
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut names: HashSet<String> = headers.iter().map(|(name, _)| name.clone()).collect();
        for (name, value) in persistent_headers(all)? {
            if is_ours(&name) || !names.insert(name.clone()) {
                return Err(OssError::invalid_argument(
                    "A persistent header must not be one that the service sets itself.",
                    "x-oss-persistent-headers",
                    name,
                ));
            }
            headers.push((name, value));
        }
        let attributes = Self {
            headers,
            user_meta: user_metadata(all)?,
            tags: tagging(all)?.unwrap_or_default(),
            acl: object_acl(all)?,
            storage_class: storage_class(all)?.map(checked_class).transpose()?,
        };
        attributes.check_size()?;
        Ok(attributes)
    }

    /// The attributes of an existing object that a copy keeps.
    pub(crate) fn of_version(version: &state::Version) -> Self {
        let pairs = |headers: &[state::Header]| {
            headers
                .iter()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect()
        };
        Self {
            headers: pairs(&version.headers),
            user_meta: pairs(&version.user_meta),
            tags: version
                .tags
                .iter()
                .map(|tag| (tag.key.clone(), tag.value.clone()))
                .collect(),
            acl: None,
            storage_class: None,
        }
    }

    /// The object's `Content-Type`.
    pub(crate) fn content_type(&self) -> Option<&str> {
        let header = self.headers.iter().find(|(name, _)| name == "content-type");
        header.map(|(_, value)| value.as_str())
    }

    /// The class of an object in `bucket`.
    pub(crate) fn class_in(&self, bucket: &Bucket) -> StorageClass {
        self.storage_class.unwrap_or(bucket.storage_class)
    }

    /// A version with these attributes and nothing else.
    pub(crate) fn to_version(&self, bucket: &Bucket, owner: AccountId) -> state::Version {
        let header = |(name, value): &(String, String)| state::Header {
            name: name.clone(),
            value: value.clone(),
        };
        let tag = |(key, value): &(String, String)| state::Tag {
            key: key.clone(),
            value: value.clone(),
        };
        state::Version {
            storage_class: self.class_in(bucket).number(),
            acl: self.acl.unwrap_or(ObjectAcl::Default).number(),
            owner: owner.0,
            headers: self.headers.iter().map(header).collect(),
            user_meta: self.user_meta.iter().map(header).collect(),
            tags: self.tags.iter().map(tag).collect(),
            ..state::Version::default()
        }
    }

    /// Checks the bound of all attributes together.
    ///
    /// # Errors
    /// MetadataTooLarge.
    pub(crate) fn check_size(&self) -> Result<(), OssError> {
        let all = self.headers.iter().chain(&self.user_meta).chain(&self.tags);
        // Each pair takes a few bytes of framing in the record.
        let size: usize = all.map(|(name, value)| name.len() + value.len() + 12).sum();
        if size <= ATTRIBUTE_BYTES_MAX {
            return Ok(());
        }
        Err(OssError::new(ErrorCode::MetadataTooLarge)
            .extra("MaxMetadataSize", ATTRIBUTE_BYTES_MAX.to_string()))
    }
}

/// A storage class that objects can have here. The archive classes promise that an object is
/// restored before it is read; as long as there is no restore, they are refused.
///
/// # Errors
/// NotImplemented.
pub(crate) fn checked_class(class: StorageClass) -> Result<StorageClass, OssError> {
    match class {
        StorageClass::Standard | StorageClass::Ia => Ok(class),
        StorageClass::Archive | StorageClass::ColdArchive | StorageClass::DeepColdArchive => {
            Err(not_implemented("x-oss-storage-class").extra("StorageClass", class.as_str()))
        }
    }
}

/// `x-oss-forbid-overwrite`, which means nothing once versioning was configured.
///
/// # Errors
/// InvalidArgument.
pub(crate) fn forbids_overwrite(head: &Head, bucket: &Bucket) -> Result<bool, OssError> {
    let asked = flag(&head.headers, "x-oss-forbid-overwrite")?;
    Ok(asked && bucket.versioning == Versioning::Unset)
}

fn is_ours(name: &str) -> bool {
    name.starts_with("x-oss-")
        || [
            "accept-ranges",
            "connection",
            "content-length",
            "content-md5",
            "content-range",
            "date",
            "etag",
            "last-modified",
            "server",
            "transfer-encoding",
            "trailer",
            "upgrade",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    fn parse(headers: &[(&str, &str)]) -> Result<Attributes, OssError> {
        Attributes::parse(&head("PUT", "localhost", "/bucket/key", headers))
    }

    #[test]
    fn everything_is_read() {
        let attributes = parse(&[
            ("content-type", "text/plain"),
            ("x-oss-persistent-headers", "k1:djE="),
            ("x-oss-meta-a", "1"),
            ("x-oss-tagging", "t=v"),
            ("x-oss-object-acl", "public-read"),
            ("x-oss-storage-class", "IA"),
        ])
        .unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            attributes.headers,
            [pair("content-type", "text/plain"), pair("k1", "v1")]
        );
        assert_eq!(attributes.user_meta, [pair("a", "1")]);
        assert_eq!(attributes.tags, [pair("t", "v")]);
        assert_eq!(attributes.acl, Some(ObjectAcl::PublicRead));
        assert_eq!(attributes.storage_class, Some(StorageClass::Ia));
    }

    #[test]
    fn nothing_is_silently_ignored() {
        for name in UNBUILT_IN_WRITES {
            let target = format!("/bucket/key?{name}=1");
            let as_parameter = head("PUT", "localhost", &target, &[]);
            for error in [
                parse(&[(name, "1")]).unwrap_err(),
                Attributes::parse(&as_parameter).unwrap_err(),
            ] {
                assert_eq!(error.code(), ErrorCode::NotImplemented, "{name}");
                assert_eq!(error.extra_value("Header"), Some(*name));
            }
        }
        for (name, value, code) in [
            ("x-oss-storage-class", "Archive", ErrorCode::NotImplemented),
            ("x-oss-storage-class", "Hot", ErrorCode::InvalidArgument),
            ("x-oss-object-acl", "open", ErrorCode::InvalidArgument),
            ("x-oss-tagging", "a=1&a=2", ErrorCode::InvalidArgument),
            (
                "x-oss-persistent-headers",
                "etag:djE=",
                ErrorCode::InvalidArgument,
            ),
            (
                "content-disposition",
                &"x".repeat(15_000),
                ErrorCode::MetadataTooLarge,
            ),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap_err().code(), code, "{name}");
        }
    }
}
