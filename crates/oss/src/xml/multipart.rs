//! Response documents of the multipart operations.

use granary_types::{ETag, StorageClass, Timestamp};

use super::listing::{Encoding, write_common_prefixes};
use super::ser::Writer;
use crate::header::date::format_iso8601;

/// Answer of InitiateMultipartUpload.
#[derive(Clone, Debug)]
pub struct InitiateMultipartUploadResult {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The upload.
    pub upload_id: String,
    /// The spelling asked for.
    pub encoding: Encoding,
}

impl InitiateMultipartUploadResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("InitiateMultipartUploadResult");
        self.encoding.write(&mut xml);
        xml.elem("Bucket", &self.bucket)
            .elem("Key", self.encoding.apply(&self.key))
            .elem("UploadId", &self.upload_id);
        xml.finish()
    }
}

/// Answer of CompleteMultipartUpload.
#[derive(Clone, Debug)]
pub struct CompleteMultipartUploadResult {
    /// The object's URL: `scheme://bucket.host/percent-encoded-key`.
    pub location: String,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The object's tag.
    pub etag: ETag,
    /// The spelling asked for.
    pub encoding: Encoding,
}

impl CompleteMultipartUploadResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("CompleteMultipartUploadResult");
        self.encoding.write(&mut xml);
        xml.elem("Location", &self.location)
            .elem("Bucket", &self.bucket)
            .elem("Key", self.encoding.apply(&self.key))
            .elem("ETag", self.etag.quoted());
        xml.finish()
    }
}

/// Answer of PostObject, when the form asks for status 201.
#[derive(Clone, Debug)]
pub struct PostResponse {
    /// The bucket.
    pub bucket: String,
    /// The object's URL.
    pub location: String,
    /// The key.
    pub key: String,
    /// The object's tag.
    pub etag: ETag,
}

impl PostResponse {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("PostResponse");
        xml.elem("Bucket", &self.bucket)
            .elem("Location", &self.location)
            .elem("Key", &self.key)
            .elem("ETag", self.etag.quoted());
        xml.finish()
    }
}

/// Answer of ListMultipartUploads.
#[derive(Clone, Debug, Default)]
pub struct ListMultipartUploadsResult {
    /// The bucket.
    pub bucket: String,
    /// The spelling asked for.
    pub encoding: Encoding,
    /// The marker asked for.
    pub key_marker: String,
    /// The second marker asked for.
    pub upload_id_marker: String,
    /// Where the next page starts; empty when this is the last.
    pub next_key_marker: String,
    /// Where the next page starts within the key; empty when this is the last.
    pub next_upload_id_marker: String,
    /// The delimiter asked for.
    pub delimiter: String,
    /// The prefix asked for.
    pub prefix: String,
    /// The page size asked for.
    pub max_uploads: u32,
    /// Whether there is more.
    pub is_truncated: bool,
    /// The uploads by key, then by the time they began.
    pub uploads: Vec<ListedUpload>,
    /// The groups in order.
    pub common_prefixes: Vec<String>,
}

/// One upload of a listing.
#[derive(Clone, Debug)]
pub struct ListedUpload {
    /// The key.
    pub key: String,
    /// The upload.
    pub upload_id: String,
    /// The class the object will have.
    pub storage_class: StorageClass,
    /// When the upload began.
    pub initiated: Timestamp,
}

impl ListMultipartUploadsResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let encoding = self.encoding;
        let mut xml = Writer::with_capacity(
            "ListMultipartUploadsResult",
            1024 + self.uploads.len() * 320 + self.common_prefixes.len() * 128,
        );
        encoding.write(&mut xml);
        xml.elem("Bucket", &self.bucket)
            .elem("KeyMarker", encoding.apply(&self.key_marker))
            .elem("UploadIdMarker", &self.upload_id_marker)
            .elem("NextKeyMarker", encoding.apply(&self.next_key_marker))
            .elem("NextUploadIdMarker", &self.next_upload_id_marker)
            .elem("Delimiter", encoding.apply(&self.delimiter))
            .elem("Prefix", encoding.apply(&self.prefix))
            .elem("MaxUploads", self.max_uploads)
            .elem("IsTruncated", self.is_truncated);
        for upload in &self.uploads {
            xml.open("Upload")
                .elem("Key", encoding.apply(&upload.key))
                .elem("UploadId", &upload.upload_id)
                .elem("StorageClass", upload.storage_class)
                .elem("Initiated", format_iso8601(upload.initiated))
                .close();
        }
        write_common_prefixes(&mut xml, encoding, &self.common_prefixes);
        xml.finish()
    }
}

/// Answer of ListParts.
#[derive(Clone, Debug)]
pub struct ListPartsResult {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The upload.
    pub upload_id: String,
    /// The spelling asked for.
    pub encoding: Encoding,
    /// The class the object will have.
    pub storage_class: StorageClass,
    /// The marker asked for.
    pub part_number_marker: u32,
    /// The last part of this page; 0 when there is none.
    pub next_part_number_marker: u32,
    /// The page size asked for.
    pub max_parts: u32,
    /// Whether there is more.
    pub is_truncated: bool,
    /// The parts by number.
    pub parts: Vec<ListedPart>,
}

/// One part of a listing.
#[derive(Clone, Debug)]
pub struct ListedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// When the part was written.
    pub last_modified: Timestamp,
    /// The part's tag.
    pub etag: ETag,
    /// CRC-64 of its bytes.
    pub crc64: u64,
    /// Bytes.
    pub size: u64,
}

impl ListPartsResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::with_capacity("ListPartsResult", 1024 + self.parts.len() * 256);
        self.encoding.write(&mut xml);
        xml.elem("Bucket", &self.bucket)
            .elem("Key", self.encoding.apply(&self.key))
            .elem("UploadId", &self.upload_id)
            .elem("StorageClass", self.storage_class)
            .elem("PartNumberMarker", self.part_number_marker)
            .elem("NextPartNumberMarker", self.next_part_number_marker)
            .elem("MaxParts", self.max_parts)
            .elem("IsTruncated", self.is_truncated);
        for part in &self.parts {
            xml.open("Part")
                .elem("PartNumber", part.number)
                .elem("LastModified", format_iso8601(part.last_modified))
                .elem("ETag", part.etag.quoted())
                .elem("HashCrc64ecma", part.crc64)
                .elem("Size", part.size)
                .close();
        }
        xml.finish()
    }
}
