//! Response documents as text: element names and order are what clients parse.

use granary_types::{BucketAcl, ETag, ObjectType, Redundancy, StorageClass, Timestamp};

use super::*;

const AT: Timestamp = Timestamp(1_672_223_261_789);
const ISO: &str = "2022-12-28T10:27:41.000Z";

/// The document on one line, without declaration and indentation.
fn flat(document: Vec<u8>) -> String {
    let text = String::from_utf8(document).unwrap();
    let body = text
        .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
        .unwrap();
    body.lines().map(str::trim_start).collect()
}

fn owner() -> Owner {
    Owner {
        id: "1".to_owned(),
        display_name: "1".to_owned(),
    }
}

fn object(key: &str, owner: Option<Owner>) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        last_modified: AT,
        etag: ETag::parse("AB"),
        object_type: ObjectType::Normal,
        size: 7,
        storage_class: StorageClass::Standard,
        owner,
        restore_info: None,
        transition_time: None,
    }
}

#[test]
fn bucket_lists() {
    let mut list = ListAllMyBucketsResult {
        owner: owner(),
        buckets: vec![BucketSummary {
            name: "b-1".to_owned(),
            creation_date: AT,
            extranet_endpoint: "http://h:1".to_owned(),
            intranet_endpoint: "http://h:1".to_owned(),
            region: "cn-x".to_owned(),
            storage_class: StorageClass::Ia,
            resource_group_id: None,
            hierarchical_namespace: false,
        }],
        max_keys: 100,
        ..Default::default()
    };
    let rest = format!(
        "<Owner><ID>1</ID><DisplayName>1</DisplayName></Owner><Buckets><Bucket>\
         <CreationDate>{ISO}</CreationDate><ExtranetEndpoint>http://h:1</ExtranetEndpoint>\
         <IntranetEndpoint>http://h:1</IntranetEndpoint><Location>oss-cn-x</Location>\
         <Name>b-1</Name><Region>cn-x</Region><StorageClass>IA</StorageClass></Bucket></Buckets>\
         </ListAllMyBucketsResult>"
    );
    assert_eq!(
        flat(list.to_xml()),
        format!("<ListAllMyBucketsResult>{rest}")
    );
    list.is_truncated = true;
    list.next_marker = Some("b-1".to_owned());
    assert_eq!(
        flat(list.to_xml()),
        format!(
            "<ListAllMyBucketsResult><Prefix></Prefix><Marker></Marker><MaxKeys>100</MaxKeys>\
             <IsTruncated>true</IsTruncated><NextMarker>b-1</NextMarker>{rest}"
        )
    );
}

#[test]
fn bucket_documents() {
    let info = BucketInfo {
        name: "b-1".to_owned(),
        creation_date: AT,
        extranet_endpoint: "e".to_owned(),
        intranet_endpoint: "i".to_owned(),
        region: "cn-x".to_owned(),
        storage_class: StorageClass::Standard,
        redundancy: Redundancy::Lrs,
        owner: owner(),
        acl: BucketAcl::Private,
        resource_group_id: None,
        versioning: None,
        encryption: None,
        access_monitor: false,
        hierarchical_namespace: true,
        transfer_acceleration: false,
        cross_region_replication: false,
        block_public_access: true,
        logging: None,
    };
    assert_eq!(
        flat(info.to_xml()),
        format!(
            "<BucketInfo><Bucket><AccessMonitor>Disabled</AccessMonitor>\
             <BlockPublicAccess>true</BlockPublicAccess><CreationDate>{ISO}</CreationDate>\
             <CrossRegionReplication>Disabled</CrossRegionReplication>\
             <DataRedundancyType>LRS</DataRedundancyType><ExtranetEndpoint>e</ExtranetEndpoint>\
             <HierarchicalNamespace>Enabled</HierarchicalNamespace>\
             <IntranetEndpoint>i</IntranetEndpoint><Location>oss-cn-x</Location><Name>b-1</Name>\
             <StorageClass>Standard</StorageClass>\
             <TransferAcceleration>Disabled</TransferAcceleration>\
             <Owner><ID>1</ID><DisplayName>1</DisplayName></Owner>\
             <AccessControlList><Grant>private</Grant></AccessControlList>\
             <Comment></Comment>\
             <ServerSideEncryptionRule><SSEAlgorithm>None</SSEAlgorithm></ServerSideEncryptionRule>\
             <BucketPolicy><LogBucket></LogBucket><LogPrefix></LogPrefix></BucketPolicy>\
             </Bucket></BucketInfo>"
        )
    );
    let location = LocationConstraint {
        region: "cn-x".to_owned(),
    };
    assert_eq!(
        flat(location.to_xml()),
        "<LocationConstraint>oss-cn-x</LocationConstraint>"
    );
    let stat = flat(
        BucketStat {
            deep_cold_archive: ClassUsage {
                storage: 5,
                ..Default::default()
            },
            ..Default::default()
        }
        .to_xml(),
    );
    assert_eq!(
        stat.matches("</").count(),
        21 + 1,
        "21 counters and the root"
    );
    assert!(stat.contains("<DeepColdArchiveStorage>5</DeepColdArchiveStorage>"));
    assert!(stat.contains("<InfrequentAccessRealStorage>0</InfrequentAccessRealStorage>"));
}

#[test]
fn object_lists() {
    let v1 = ListBucketResult {
        name: "b-1".to_owned(),
        prefix: "a/".to_owned(),
        max_keys: 2,
        delimiter: "/".to_owned(),
        encoding: Encoding::Url,
        is_truncated: true,
        next_marker: Some("a/c d/".to_owned()),
        contents: vec![object("a/\u{1}", Some(owner()))],
        common_prefixes: vec!["a/b/".to_owned(), "a/c d/".to_owned()],
        ..Default::default()
    };
    assert_eq!(
        flat(v1.to_xml()),
        format!(
            "<ListBucketResult><Name>b-1</Name><Prefix>a%2F</Prefix><Marker></Marker>\
             <MaxKeys>2</MaxKeys><Delimiter>%2F</Delimiter><EncodingType>url</EncodingType>\
             <IsTruncated>true</IsTruncated><NextMarker>a%2Fc%20d%2F</NextMarker>\
             <Contents><Key>a%2F%01</Key><LastModified>{ISO}</LastModified><ETag>\"AB\"</ETag>\
             <Type>Normal</Type><Size>7</Size><StorageClass>Standard</StorageClass>\
             <Owner><ID>1</ID><DisplayName>1</DisplayName></Owner></Contents>\
             <CommonPrefixes><Prefix>a%2Fb%2F</Prefix></CommonPrefixes>\
             <CommonPrefixes><Prefix>a%2Fc%20d%2F</Prefix></CommonPrefixes></ListBucketResult>"
        )
    );
    let v2 = ListBucketResultV2 {
        name: "b-1".to_owned(),
        start_after: Some("a".to_owned()),
        max_keys: 100,
        continuation_token: Some("t".to_owned()),
        contents: vec![object("k&k", None)],
        ..Default::default()
    };
    assert_eq!(
        flat(v2.to_xml()),
        format!(
            "<ListBucketResult><Name>b-1</Name><Prefix></Prefix><StartAfter>a</StartAfter>\
             <MaxKeys>100</MaxKeys><Delimiter></Delimiter><IsTruncated>false</IsTruncated>\
             <ContinuationToken>t</ContinuationToken>\
             <Contents><Key>k&amp;k</Key><LastModified>{ISO}</LastModified><ETag>\"AB\"</ETag>\
             <Type>Normal</Type><Size>7</Size><StorageClass>Standard</StorageClass></Contents>\
             <KeyCount>1</KeyCount></ListBucketResult>"
        )
    );
}

#[test]
fn object_results() {
    let etag = ETag::parse("AB");
    assert_eq!(
        flat(
            CopyObjectResult {
                etag: etag.clone(),
                last_modified: AT
            }
            .to_xml()
        ),
        format!(
            "<CopyObjectResult><ETag>\"AB\"</ETag><LastModified>{ISO}</LastModified></CopyObjectResult>"
        )
    );
    assert_eq!(
        flat(
            CopyPartResult {
                etag,
                last_modified: AT
            }
            .to_xml()
        ),
        format!(
            "<CopyPartResult><LastModified>{ISO}</LastModified><ETag>\"AB\"</ETag></CopyPartResult>"
        )
    );
    let deleted = DeleteResult {
        encoding: Encoding::Url,
        deleted: vec![
            DeletedObject {
                key: "a b".to_owned(),
                ..Default::default()
            },
            DeletedObject {
                key: "c".to_owned(),
                version_id: Some("v".to_owned()),
                delete_marker: true,
                delete_marker_version_id: Some("m".to_owned()),
            },
        ],
    };
    assert_eq!(
        flat(deleted.to_xml()),
        "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>a%20b</Key></Deleted>\
         <Deleted><Key>c</Key><VersionId>v</VersionId><DeleteMarker>true</DeleteMarker>\
         <DeleteMarkerVersionId>m</DeleteMarkerVersionId></Deleted></DeleteResult>"
    );
}

#[test]
fn multipart_results() {
    let initiated = InitiateMultipartUploadResult {
        bucket: "b-1".to_owned(),
        key: "k/".to_owned(),
        upload_id: "U".to_owned(),
        encoding: Encoding::Url,
    };
    assert_eq!(
        flat(initiated.to_xml()),
        "<InitiateMultipartUploadResult><EncodingType>url</EncodingType><Bucket>b-1</Bucket>\
         <Key>k%2F</Key><UploadId>U</UploadId></InitiateMultipartUploadResult>"
    );
    let completed = CompleteMultipartUploadResult {
        location: "http://b-1.h/k".to_owned(),
        bucket: "b-1".to_owned(),
        key: "k".to_owned(),
        etag: ETag::from_multipart([0xab; 16], 3),
        encoding: Encoding::Plain,
    };
    assert_eq!(
        flat(completed.to_xml()),
        format!(
            "<CompleteMultipartUploadResult><Location>http://b-1.h/k</Location><Bucket>b-1</Bucket>\
             <Key>k</Key><ETag>\"{}-3\"</ETag></CompleteMultipartUploadResult>",
            "AB".repeat(16)
        )
    );
    let uploads = ListMultipartUploadsResult {
        bucket: "b-1".to_owned(),
        max_uploads: 1000,
        uploads: vec![ListedUpload {
            key: "k".to_owned(),
            upload_id: "U".to_owned(),
            storage_class: StorageClass::Standard,
            initiated: AT,
        }],
        common_prefixes: vec!["p/".to_owned()],
        ..Default::default()
    };
    assert_eq!(
        flat(uploads.to_xml()),
        format!(
            "<ListMultipartUploadsResult><Bucket>b-1</Bucket><KeyMarker></KeyMarker>\
             <UploadIdMarker></UploadIdMarker><NextKeyMarker></NextKeyMarker>\
             <NextUploadIdMarker></NextUploadIdMarker><Delimiter></Delimiter><Prefix></Prefix>\
             <MaxUploads>1000</MaxUploads><IsTruncated>false</IsTruncated>\
             <Upload><Key>k</Key><UploadId>U</UploadId><StorageClass>Standard</StorageClass>\
             <Initiated>{ISO}</Initiated></Upload>\
             <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListMultipartUploadsResult>"
        )
    );
    let parts = ListPartsResult {
        bucket: "b-1".to_owned(),
        key: "k".to_owned(),
        upload_id: "U".to_owned(),
        encoding: Encoding::Plain,
        storage_class: StorageClass::Standard,
        part_number_marker: 0,
        next_part_number_marker: 1,
        max_parts: 1000,
        is_truncated: false,
        parts: vec![ListedPart {
            number: 1,
            last_modified: AT,
            etag: ETag::parse("AB"),
            crc64: u64::MAX,
            size: 9,
        }],
    };
    assert_eq!(
        flat(parts.to_xml()),
        format!(
            "<ListPartsResult><Bucket>b-1</Bucket><Key>k</Key><UploadId>U</UploadId>\
             <StorageClass>Standard</StorageClass><PartNumberMarker>0</PartNumberMarker>\
             <NextPartNumberMarker>1</NextPartNumberMarker><MaxParts>1000</MaxParts>\
             <IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber>\
             <LastModified>{ISO}</LastModified><ETag>\"AB\"</ETag>\
             <HashCrc64ecma>18446744073709551615</HashCrc64ecma><Size>9</Size></Part>\
             </ListPartsResult>"
        )
    );
}
