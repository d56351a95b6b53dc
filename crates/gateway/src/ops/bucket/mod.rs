//! Operations on buckets, the page of objects that both versions of ListObjects share, and what the
//! operations on settings share.

mod delete_bucket;
mod delete_bucket_cors;
mod delete_bucket_tags;
mod get_bucket_acl;
mod get_bucket_cors;
mod get_bucket_info;
mod get_bucket_location;
mod get_bucket_stat;
mod get_bucket_tags;
mod get_bucket_versioning;
mod head_bucket;
mod list_object_versions;
mod list_objects;
mod list_objects_v2;
mod page;
mod put_bucket;
mod put_bucket_acl;
mod put_bucket_cors;
mod put_bucket_tags;
mod put_bucket_versioning;
mod settings;

pub(crate) use delete_bucket::DeleteBucket;
pub(crate) use delete_bucket_cors::DeleteBucketCors;
pub(crate) use delete_bucket_tags::DeleteBucketTags;
pub(crate) use get_bucket_acl::GetBucketAcl;
pub(crate) use get_bucket_cors::GetBucketCors;
pub(crate) use get_bucket_info::GetBucketInfo;
pub(crate) use get_bucket_location::GetBucketLocation;
pub(crate) use get_bucket_stat::GetBucketStat;
pub(crate) use get_bucket_tags::GetBucketTags;
pub(crate) use get_bucket_versioning::GetBucketVersioning;
pub(crate) use head_bucket::HeadBucket;
pub(crate) use list_object_versions::ListObjectVersions;
pub(crate) use list_objects::ListObjects;
pub(crate) use list_objects_v2::ListObjectsV2;
pub(crate) use put_bucket::PutBucket;
pub(crate) use put_bucket_acl::PutBucketAcl;
pub(crate) use put_bucket_cors::PutBucketCors;
pub(crate) use put_bucket_tags::PutBucketTags;
pub(crate) use put_bucket_versioning::PutBucketVersioning;
