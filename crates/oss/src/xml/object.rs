//! Response documents of copies, of DeleteMultipleObjects and of DeleteDirectory.

use granary_types::{ETag, Timestamp};

use super::listing::Encoding;
use super::ser::Writer;
use crate::header::date::format_iso8601;

/// Answer of CopyObject.
#[derive(Clone, Debug)]
pub struct CopyObjectResult {
    /// The new object's tag.
    pub etag: ETag,
    /// When it was written.
    pub last_modified: Timestamp,
}

impl CopyObjectResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("CopyObjectResult");
        xml.elem("ETag", self.etag.quoted())
            .elem("LastModified", format_iso8601(self.last_modified));
        xml.finish()
    }
}

/// Answer of UploadPartCopy.
#[derive(Clone, Debug)]
pub struct CopyPartResult {
    /// The part's tag.
    pub etag: ETag,
    /// When it was written.
    pub last_modified: Timestamp,
}

impl CopyPartResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("CopyPartResult");
        xml.elem("LastModified", format_iso8601(self.last_modified))
            .elem("ETag", self.etag.quoted());
        xml.finish()
    }
}

/// Answer of DeleteDirectory.
#[derive(Clone, Debug)]
pub struct DeleteDirectoryResult {
    /// The directory's path as it was named.
    pub directory_name: String,
    /// Objects and directories that this request has deleted.
    pub delete_number: u32,
    /// To go on with; `None` when the directory is gone.
    pub next_delete_token: Option<String>,
}

impl DeleteDirectoryResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("DeleteDirectoryResult");
        xml.elem("DirectoryName", &self.directory_name)
            .elem("DeleteNumber", self.delete_number)
            .elem_if("NextDeleteToken", self.next_delete_token.as_ref());
        xml.finish()
    }
}

/// Answer of DeleteMultipleObjects. With `Quiet` the body is empty, not this document.
#[derive(Clone, Debug, Default)]
pub struct DeleteResult {
    /// The spelling asked for.
    pub encoding: Encoding,
    /// What is gone, missing keys included.
    pub deleted: Vec<DeletedObject>,
}

/// One key of [`DeleteResult`].
#[derive(Clone, Debug, Default)]
pub struct DeletedObject {
    /// The key.
    pub key: String,
    /// The version that the request named.
    pub version_id: Option<String>,
    /// Whether a delete marker was made, or was what was deleted.
    pub delete_marker: bool,
    /// That marker's version.
    pub delete_marker_version_id: Option<String>,
}

impl DeleteResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::with_capacity("DeleteResult", 128 + self.deleted.len() * 128);
        self.encoding.write(&mut xml);
        for object in &self.deleted {
            xml.open("Deleted")
                .elem("Key", self.encoding.apply(&object.key))
                .elem_if("VersionId", object.version_id.as_ref())
                .elem_if("DeleteMarker", object.delete_marker.then_some(true))
                .elem_if(
                    "DeleteMarkerVersionId",
                    object.delete_marker_version_id.as_ref(),
                )
                .close();
        }
        xml.finish()
    }
}
