//! Every XML body that a client can send, read by every reader. What is accepted keeps to the limits of
//! the API, and what is written of it is read as the same.

#![no_main]

use granary_oss::xml::{
    CompleteMultipartUpload, CorsConfiguration, CreateBucketConfiguration, Delete, Tagging,
    VersioningConfiguration,
};
use granary_types::limits::{
    BUCKET_TAGS_MAX, DELETE_OBJECTS_MAX, OBJECT_TAGS_MAX, PART_NUMBER_MAX,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = CreateBucketConfiguration::parse(data);
    if let Ok(delete) = Delete::parse(data) {
        assert!((1..=DELETE_OBJECTS_MAX).contains(&delete.objects.len()));
    }
    if let Ok(complete) = CompleteMultipartUpload::parse(data) {
        let numbers = complete.parts.iter().map(|part| part.number);
        assert!(
            numbers
                .clone()
                .all(|number| (1..=PART_NUMBER_MAX).contains(&number))
        );
        assert!(numbers.is_sorted_by(|one, next| one < next));
    }
    if let Ok(versioning) = VersioningConfiguration::parse(data) {
        assert_eq!(
            VersioningConfiguration::parse(&versioning.to_xml()).ok(),
            Some(versioning)
        );
    }
    if let Ok(tagging) = Tagging::parse_object(data) {
        assert!(tagging.tags.len() <= OBJECT_TAGS_MAX);
        assert_eq!(Tagging::parse_object(&tagging.to_xml()).ok(), Some(tagging));
    }
    if let Ok(tagging) = Tagging::parse_bucket(data) {
        assert!(tagging.tags.len() <= BUCKET_TAGS_MAX);
        assert_eq!(Tagging::parse_bucket(&tagging.to_xml()).ok(), Some(tagging));
    }
    if let Ok(cors) = CorsConfiguration::parse(data) {
        let _ = cors.grant("https://example.org", "GET", "x-oss-meta-a, range");
        assert_eq!(CorsConfiguration::parse(&cors.to_xml()).ok(), Some(cors));
    }
});
