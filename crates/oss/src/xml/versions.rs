//! Answer of ListObjectVersions: versions and delete markers in one interleaved order, which clients
//! rely on.

use granary_types::Timestamp;

use super::listing::{Encoding, ListedObject, Owner, write_common_prefixes};
use super::ser::Writer;
use crate::header::date::format_iso8601;

/// One version of an object.
#[derive(Clone, Debug)]
pub struct ListedVersion {
    /// As in other listings.
    pub object: ListedObject,
    /// Its id, or `null`.
    pub version_id: String,
    /// Whether it is the current one.
    pub is_latest: bool,
}

/// One delete marker.
#[derive(Clone, Debug)]
pub struct ListedDeleteMarker {
    /// The key.
    pub key: String,
    /// Its id, or `null`.
    pub version_id: String,
    /// Whether it is the current one.
    pub is_latest: bool,
    /// When it was made.
    pub last_modified: Timestamp,
    /// The owner.
    pub owner: Owner,
}

/// One entry of the page.
#[derive(Clone, Debug)]
pub enum VersionEntry {
    /// A version.
    Version(ListedVersion),
    /// A delete marker.
    DeleteMarker(ListedDeleteMarker),
}

/// Answer of ListObjectVersions.
#[derive(Clone, Debug, Default)]
pub struct ListVersionsResult {
    /// The bucket.
    pub name: String,
    /// The prefix asked for.
    pub prefix: String,
    /// The key marker asked for.
    pub key_marker: String,
    /// The version marker asked for.
    pub version_id_marker: String,
    /// The page size asked for.
    pub max_keys: u32,
    /// The delimiter asked for.
    pub delimiter: String,
    /// The spelling asked for.
    pub encoding: Encoding,
    /// Where the next page starts: a key or group, and a version of it; `None` on the last page.
    pub next: Option<(String, String)>,
    /// The entries, by key and newest first.
    pub entries: Vec<VersionEntry>,
    /// The groups in order.
    pub common_prefixes: Vec<String>,
}

impl ListVersionsResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let encoding = self.encoding;
        let bytes = 1024 + self.entries.len() * 600 + self.common_prefixes.len() * 128;
        let mut xml = Writer::with_capacity("ListVersionsResult", bytes);
        xml.elem("Name", &self.name)
            .elem("Prefix", encoding.apply(&self.prefix))
            .elem("KeyMarker", encoding.apply(&self.key_marker))
            .elem("VersionIdMarker", &self.version_id_marker)
            .elem("MaxKeys", self.max_keys)
            .elem("Delimiter", encoding.apply(&self.delimiter));
        encoding.write(&mut xml);
        xml.elem("IsTruncated", self.next.is_some());
        if let Some((key, version)) = &self.next {
            xml.elem("NextKeyMarker", encoding.apply(key))
                .elem("NextVersionIdMarker", version);
        }
        for entry in &self.entries {
            match entry {
                VersionEntry::Version(version) => version.write(&mut xml, encoding),
                VersionEntry::DeleteMarker(marker) => marker.write(&mut xml, encoding),
            }
        }
        write_common_prefixes(&mut xml, encoding, &self.common_prefixes);
        xml.finish()
    }
}

impl ListedVersion {
    fn write(&self, xml: &mut Writer, encoding: Encoding) {
        let object = &self.object;
        xml.open("Version")
            .elem("Key", encoding.apply(&object.key))
            .elem("VersionId", &self.version_id)
            .elem("IsLatest", self.is_latest)
            .elem_if("TransitionTime", object.transition_time.map(format_iso8601))
            .elem("LastModified", format_iso8601(object.last_modified))
            .elem("ETag", format_args!("\"{}\"", object.etag))
            .elem("Type", object.object_type)
            .elem("Size", object.size)
            .elem("StorageClass", object.storage_class)
            .elem_if("RestoreInfo", object.restore_info.as_ref());
        if let Some(owner) = &object.owner {
            owner.write(xml);
        }
        xml.close();
    }
}

impl ListedDeleteMarker {
    fn write(&self, xml: &mut Writer, encoding: Encoding) {
        xml.open("DeleteMarker")
            .elem("Key", encoding.apply(&self.key))
            .elem("VersionId", &self.version_id)
            .elem("IsLatest", self.is_latest)
            .elem("LastModified", format_iso8601(self.last_modified));
        self.owner.write(xml);
        xml.close();
    }
}
