//! Operations on the account.

mod describe_regions;
mod list_buckets;

pub(crate) use describe_regions::DescribeRegions;
pub(crate) use list_buckets::ListBuckets;
