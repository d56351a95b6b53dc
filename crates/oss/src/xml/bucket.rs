//! Response documents of the service and bucket operations, elements in the service's order.

use granary_types::{BucketAcl, Redundancy, StorageClass, Timestamp};

use super::listing::Owner;
use super::ser::Writer;
use crate::header::date::format_iso8601;

/// Answer of ListBuckets. The paging elements appear only when the page is not the whole list.
#[derive(Clone, Debug, Default)]
pub struct ListAllMyBucketsResult {
    /// The prefix asked for.
    pub prefix: String,
    /// The marker asked for.
    pub marker: String,
    /// The page size asked for.
    pub max_keys: u32,
    /// Whether there is more.
    pub is_truncated: bool,
    /// Where the next page starts; present when truncated.
    pub next_marker: Option<String>,
    /// The caller.
    pub owner: Owner,
    /// The buckets by name.
    pub buckets: Vec<BucketSummary>,
}

/// One bucket of ListBuckets.
#[derive(Clone, Debug)]
pub struct BucketSummary {
    /// The bucket's name.
    pub name: String,
    /// When it was created.
    pub creation_date: Timestamp,
    /// The endpoint to advertise.
    pub extranet_endpoint: String,
    /// The endpoint to advertise inside.
    pub intranet_endpoint: String,
    /// The region id without prefix (`cn-hangzhou`).
    pub region: String,
    /// The bucket's storage class.
    pub storage_class: StorageClass,
    /// The bucket's resource group.
    pub resource_group_id: Option<String>,
    /// Whether it has directories.
    pub hierarchical_namespace: bool,
}

impl ListAllMyBucketsResult {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml =
            Writer::with_capacity("ListAllMyBucketsResult", 512 + self.buckets.len() * 512);
        if self.is_truncated || !self.marker.is_empty() {
            xml.elem("Prefix", &self.prefix)
                .elem("Marker", &self.marker)
                .elem("MaxKeys", self.max_keys)
                .elem("IsTruncated", self.is_truncated)
                .elem_if("NextMarker", self.next_marker.as_ref());
        }
        self.owner.write(&mut xml);
        xml.open("Buckets");
        for bucket in &self.buckets {
            xml.open("Bucket")
                .elem("CreationDate", format_iso8601(bucket.creation_date))
                .elem("ExtranetEndpoint", &bucket.extranet_endpoint)
                .elem_if(
                    "HierarchicalNamespace",
                    hierarchical(bucket.hierarchical_namespace),
                )
                .elem("IntranetEndpoint", &bucket.intranet_endpoint)
                .elem("Location", format_args!("oss-{}", bucket.region))
                .elem("Name", &bucket.name)
                .elem("Region", &bucket.region)
                .elem("StorageClass", bucket.storage_class)
                .elem_if("ResourceGroupId", bucket.resource_group_id.as_ref())
                .close();
        }
        xml.finish()
    }
}

/// Answer of GetBucketInfo.
#[derive(Clone, Debug)]
pub struct BucketInfo {
    /// The bucket's name.
    pub name: String,
    /// When it was created.
    pub creation_date: Timestamp,
    /// The endpoint to advertise.
    pub extranet_endpoint: String,
    /// The endpoint to advertise inside.
    pub intranet_endpoint: String,
    /// The region id without prefix (`cn-hangzhou`).
    pub region: String,
    /// The bucket's storage class.
    pub storage_class: StorageClass,
    /// The bucket's redundancy.
    pub redundancy: Redundancy,
    /// The bucket's owner.
    pub owner: Owner,
    /// The bucket's ACL.
    pub acl: BucketAcl,
    /// The bucket's resource group.
    pub resource_group_id: Option<String>,
    /// `Enabled` or `Suspended`; absent while versioning was never configured.
    pub versioning: Option<&'static str>,
    /// Default encryption; `None` is shown as the literal `None`.
    pub encryption: Option<BucketEncryption>,
    /// Whether last accesses are tracked.
    pub access_monitor: bool,
    /// Whether it has directories.
    pub hierarchical_namespace: bool,
    /// Whether transfer acceleration is on.
    pub transfer_acceleration: bool,
    /// Whether cross-region replication is on.
    pub cross_region_replication: bool,
    /// Whether public access is blocked.
    pub block_public_access: bool,
    /// Where access logs go: bucket and prefix.
    pub logging: Option<(String, String)>,
}

/// Shown of buckets that have it.
fn hierarchical(enabled: bool) -> Option<&'static str> {
    enabled.then_some("Enabled")
}

/// Default encryption of a bucket.
#[derive(Clone, Debug)]
pub struct BucketEncryption {
    /// `AES256`, `KMS` or `SM4`.
    pub algorithm: String,
    /// The KMS key.
    pub kms_master_key_id: Option<String>,
    /// The data encryption under KMS.
    pub kms_data_encryption: Option<String>,
}

impl BucketInfo {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let switch = |on: bool| if on { "Enabled" } else { "Disabled" };
        let mut xml = Writer::with_capacity("BucketInfo", 2048);
        xml.open("Bucket")
            .elem("AccessMonitor", switch(self.access_monitor))
            .elem("BlockPublicAccess", self.block_public_access)
            .elem("CreationDate", format_iso8601(self.creation_date))
            .elem(
                "CrossRegionReplication",
                switch(self.cross_region_replication),
            )
            .elem("DataRedundancyType", self.redundancy)
            .elem("ExtranetEndpoint", &self.extranet_endpoint)
            .elem_if(
                "HierarchicalNamespace",
                hierarchical(self.hierarchical_namespace),
            )
            .elem("IntranetEndpoint", &self.intranet_endpoint)
            .elem("Location", format_args!("oss-{}", self.region))
            .elem("Name", &self.name)
            .elem_if("ResourceGroupId", self.resource_group_id.as_ref())
            .elem("StorageClass", self.storage_class)
            .elem("TransferAcceleration", switch(self.transfer_acceleration))
            .elem_if("Versioning", self.versioning);
        self.owner.write(&mut xml);
        xml.nested("AccessControlList", |xml| {
            xml.elem("Grant", self.acl);
        });
        // Nothing sets it any more; clients still look for it.
        xml.elem("Comment", "");
        xml.nested("ServerSideEncryptionRule", |xml| match &self.encryption {
            None => {
                xml.elem("SSEAlgorithm", "None");
            }
            Some(rule) => {
                xml.elem("SSEAlgorithm", &rule.algorithm)
                    .elem_if("KMSMasterKeyID", rule.kms_master_key_id.as_ref())
                    .elem_if("KMSDataEncryption", rule.kms_data_encryption.as_ref());
            }
        });
        let (log_bucket, log_prefix) =
            self.logging.as_ref().map_or(("", ""), |(bucket, prefix)| {
                (bucket.as_str(), prefix.as_str())
            });
        xml.nested("BucketPolicy", |xml| {
            xml.elem("LogBucket", log_bucket)
                .elem("LogPrefix", log_prefix);
        });
        xml.finish()
    }
}

/// Answer of GetBucketLocation.
#[derive(Clone, Debug)]
pub struct LocationConstraint {
    /// The region id without prefix.
    pub region: String,
}

impl LocationConstraint {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        Writer::text_document("LocationConstraint", &format!("oss-{}", self.region))
    }
}

/// What a storage class holds, in bytes and objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassUsage {
    /// Billed bytes (small objects count as the class's minimum).
    pub storage: u64,
    /// Actual bytes. Not shown for Standard, where both are the same.
    pub real_storage: u64,
    /// Objects.
    pub object_count: u64,
}

/// Answer of GetBucketStat: all 21 counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStat {
    /// Bytes of all objects and parts.
    pub storage: u64,
    /// Objects, versions included.
    pub object_count: u64,
    /// Uploads begun and neither completed nor aborted.
    pub multipart_upload_count: u64,
    /// Live channels.
    pub live_channel_count: u64,
    /// When the counters were taken, in seconds since the epoch.
    pub last_modified_time: u64,
    /// Standard.
    pub standard: ClassUsage,
    /// Infrequent access.
    pub infrequent_access: ClassUsage,
    /// Archive.
    pub archive: ClassUsage,
    /// Cold archive.
    pub cold_archive: ClassUsage,
    /// Deep cold archive.
    pub deep_cold_archive: ClassUsage,
    /// Parts of unfinished uploads.
    pub multipart_part_count: u64,
    /// Delete markers.
    pub delete_marker_count: u64,
}

impl BucketStat {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::with_capacity("BucketStat", 1536);
        xml.elem("Storage", self.storage)
            .elem("ObjectCount", self.object_count)
            .elem("MultipartUploadCount", self.multipart_upload_count)
            .elem("LiveChannelCount", self.live_channel_count)
            .elem("LastModifiedTime", self.last_modified_time)
            .elem("StandardStorage", self.standard.storage)
            .elem("StandardObjectCount", self.standard.object_count);
        for (class, usage) in [
            ("InfrequentAccess", &self.infrequent_access),
            ("Archive", &self.archive),
            ("ColdArchive", &self.cold_archive),
            ("DeepColdArchive", &self.deep_cold_archive),
        ] {
            xml.elem(&format!("{class}Storage"), usage.storage)
                .elem(&format!("{class}RealStorage"), usage.real_storage)
                .elem(&format!("{class}ObjectCount"), usage.object_count);
        }
        xml.elem("MultipartPartCount", self.multipart_part_count)
            .elem("DeleteMarkerCount", self.delete_marker_count);
        xml.finish()
    }
}
