//! Response documents of ListObjects and ListObjectsV2, and the one place that applies `encoding-type`.

use std::borrow::Cow;

use granary_types::{ETag, ObjectType, StorageClass, Timestamp};

use super::ser::Writer;
use crate::escape;
use crate::header::date::format_iso8601;

/// How keys, prefixes, delimiters and markers are spelled in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    #[default]
    Plain,
    /// `encoding-type=url`: percent-encoded, `/` and space included. `%20` and never `+`, because
    /// some SDKs decode with `unquote` and some with `unquote_plus`.
    Url,
}

impl Encoding {
    /// Spells one value.
    pub fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Plain => Cow::Borrowed(text),
            Self::Url => Cow::Owned(escape::encode(text.as_bytes())),
        }
    }

    /// Writes `EncodingType` when there is one to announce.
    pub(super) fn write(self, xml: &mut Writer) {
        if self == Self::Url {
            xml.elem("EncodingType", "url");
        }
    }
}

/// An account as answers show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The account's id.
    pub id: String,
    /// Its display name; the service repeats the id.
    pub display_name: String,
}

impl Owner {
    pub(super) fn write(&self, xml: &mut Writer) {
        xml.open("Owner")
            .elem("ID", &self.id)
            .elem("DisplayName", &self.display_name)
            .close();
    }
}

/// One object of a listing.
#[derive(Clone, Debug)]
pub struct ListedObject {
    /// The key.
    pub key: String,
    /// When the object was last written.
    pub last_modified: Timestamp,
    /// The tag.
    pub etag: ETag,
    /// How the object was written.
    pub object_type: ObjectType,
    /// Bytes.
    pub size: u64,
    /// The storage class.
    pub storage_class: StorageClass,
    /// The owner; ListObjectsV2 shows it only when asked.
    pub owner: Option<Owner>,
    /// The state of a restore, as `x-oss-restore` spells it.
    pub restore_info: Option<String>,
    /// When a lifecycle rule moved the object to a cold class.
    pub transition_time: Option<Timestamp>,
}

impl ListedObject {
    fn write(&self, xml: &mut Writer, encoding: Encoding) {
        xml.open("Contents")
            .elem("Key", encoding.apply(&self.key))
            .elem_if("TransitionTime", self.transition_time.map(format_iso8601))
            .elem("LastModified", format_iso8601(self.last_modified))
            .elem("ETag", self.etag.quoted())
            .elem("Type", self.object_type)
            .elem("Size", self.size)
            .elem("StorageClass", self.storage_class)
            .elem_if("RestoreInfo", self.restore_info.as_ref());
        if let Some(owner) = &self.owner {
            owner.write(xml);
        }
        xml.close();
    }
}

/// Answer of ListObjects.
#[derive(Clone, Debug, Default)]
pub struct ListBucketResult {
    /// The bucket.
    pub name: String,
    /// The prefix asked for.
    pub prefix: String,
    /// The marker asked for.
    pub marker: String,
    /// The page size asked for.
    pub max_keys: u32,
    /// The delimiter asked for.
    pub delimiter: String,
    /// The spelling asked for.
    pub encoding: Encoding,
    /// Whether there is more.
    pub is_truncated: bool,
    /// Where the next page starts; present when truncated.
    pub next_marker: Option<String>,
    /// The objects in key order.
    pub contents: Vec<ListedObject>,
    /// The groups in order.
    pub common_prefixes: Vec<String>,
}

impl ListBucketResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let encoding = self.encoding;
        let mut xml = page_writer(self.contents.len(), self.common_prefixes.len());
        xml.elem("Name", &self.name)
            .elem("Prefix", encoding.apply(&self.prefix))
            .elem("Marker", encoding.apply(&self.marker))
            .elem("MaxKeys", self.max_keys)
            .elem("Delimiter", encoding.apply(&self.delimiter));
        encoding.write(&mut xml);
        xml.elem("IsTruncated", self.is_truncated).elem_if(
            "NextMarker",
            self.next_marker.as_ref().map(|m| encoding.apply(m)),
        );
        write_page(&mut xml, encoding, &self.contents, &self.common_prefixes);
        xml.finish()
    }
}

/// Answer of ListObjectsV2.
#[derive(Clone, Debug, Default)]
pub struct ListBucketResultV2 {
    /// The bucket.
    pub name: String,
    /// The prefix asked for.
    pub prefix: String,
    /// Where the list starts, when asked for.
    pub start_after: Option<String>,
    /// The page size asked for.
    pub max_keys: u32,
    /// The delimiter asked for.
    pub delimiter: String,
    /// The spelling asked for.
    pub encoding: Encoding,
    /// Whether there is more.
    pub is_truncated: bool,
    /// The token asked with.
    pub continuation_token: Option<String>,
    /// The token of the next page; present when truncated.
    pub next_continuation_token: Option<String>,
    /// The objects in key order.
    pub contents: Vec<ListedObject>,
    /// The groups in order.
    pub common_prefixes: Vec<String>,
}

impl ListBucketResultV2 {
    /// The document. Tokens are opaque and never encoded.
    pub fn to_xml(&self) -> Vec<u8> {
        let encoding = self.encoding;
        let mut xml = page_writer(self.contents.len(), self.common_prefixes.len());
        xml.elem("Name", &self.name)
            .elem("Prefix", encoding.apply(&self.prefix))
            .elem_if(
                "StartAfter",
                self.start_after.as_ref().map(|s| encoding.apply(s)),
            )
            .elem("MaxKeys", self.max_keys)
            .elem("Delimiter", encoding.apply(&self.delimiter));
        encoding.write(&mut xml);
        xml.elem("IsTruncated", self.is_truncated)
            .elem_if("ContinuationToken", self.continuation_token.as_ref())
            .elem_if(
                "NextContinuationToken",
                self.next_continuation_token.as_ref(),
            );
        write_page(&mut xml, encoding, &self.contents, &self.common_prefixes);
        xml.elem("KeyCount", self.contents.len() + self.common_prefixes.len());
        xml.finish()
    }
}

fn page_writer(objects: usize, prefixes: usize) -> Writer {
    Writer::with_capacity("ListBucketResult", 1024 + objects * 512 + prefixes * 128)
}

fn write_page(xml: &mut Writer, encoding: Encoding, objects: &[ListedObject], prefixes: &[String]) {
    for object in objects {
        object.write(xml, encoding);
    }
    write_common_prefixes(xml, encoding, prefixes);
}

/// One `CommonPrefixes` element per prefix, as the service sends them.
pub(super) fn write_common_prefixes(xml: &mut Writer, encoding: Encoding, prefixes: &[String]) {
    for prefix in prefixes {
        xml.open("CommonPrefixes")
            .elem("Prefix", encoding.apply(prefix))
            .close();
    }
}
