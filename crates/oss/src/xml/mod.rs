//! XML of the protocol: request bodies in, response documents out.
//!
//! Bodies are read through one bounded parser that refuses what OSS refuses ([`parse`]); documents are
//! written by one small writer ([`Writer`]). Neither knows where the values come from.

mod bucket;
mod config;
mod cors;
mod de;
mod listing;
mod multipart;
mod object;
mod request;
mod ser;
mod versions;

pub use bucket::{
    BucketEncryption, BucketInfo, BucketStat, BucketSummary, ClassUsage, ListAllMyBucketsResult,
    LocationConstraint,
};
pub use config::{AccessControlPolicy, RegionInfoList, Tagging, VersioningConfiguration};
pub use cors::{CorsConfiguration, CorsGrant, CorsRule};
pub use de::{Element, malformed_xml, parse};
pub use listing::{Encoding, ListBucketResult, ListBucketResultV2, ListedObject, Owner};
pub use multipart::{
    CompleteMultipartUploadResult, InitiateMultipartUploadResult, ListMultipartUploadsResult,
    ListPartsResult, ListedPart, ListedUpload, PostResponse,
};
pub use object::{
    CopyObjectResult, CopyPartResult, DeleteDirectoryResult, DeleteResult, DeletedObject,
};
pub(crate) use request::checked_part_number;
pub use request::{
    CompleteMultipartUpload, CompletedPart, CreateBucketConfiguration, Delete, DeleteTarget,
};
pub use ser::Writer;
pub use versions::{ListVersionsResult, ListedDeleteMarker, ListedVersion, VersionEntry};

#[cfg(test)]
mod tests;
