//! Operations on buckets, and the page of objects that both versions of ListObjects share.

mod delete_bucket;
mod get_bucket_info;
mod get_bucket_location;
mod get_bucket_stat;
mod head_bucket;
mod list_objects;
mod list_objects_v2;
mod page;
mod put_bucket;

pub(crate) use delete_bucket::DeleteBucket;
pub(crate) use get_bucket_info::GetBucketInfo;
pub(crate) use get_bucket_location::GetBucketLocation;
pub(crate) use get_bucket_stat::GetBucketStat;
pub(crate) use head_bucket::HeadBucket;
pub(crate) use list_objects::ListObjects;
pub(crate) use list_objects_v2::ListObjectsV2;
pub(crate) use put_bucket::PutBucket;
