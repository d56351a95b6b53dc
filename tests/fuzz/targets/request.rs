//! The head of a request: address, query, every typed header, the parameters of listings.

#![no_main]

use granary_fuzz::Head;
use granary_oss::escape;
use granary_oss::header::{
    ContentHeaders, CopySource, EtagList, MetadataDirective, Preconditions, RangeOutcome,
    ResponseOverrides, TaggingDirective, bucket_acl, content_length, content_md5,
    copy_source_range, date, flag, format_tagging, object_acl, parse_tagging, persistent_headers,
    redundancy, resolve_range, storage_class, tagging, traffic_limit, user_metadata,
};
use granary_oss::listing::{
    ListBucketsParams, ListObjectsParams, ListObjectsV2Params, ListPartsParams, ListUploadsParams,
    ListVersionsParams, decode_continuation_token, encode_continuation_token, encoding,
    part_number,
};
use granary_oss::query::Query;
use granary_types::limits::{OBJECT_TAGS_MAX, PART_NUMBER_MAX};
use libfuzzer_sys::fuzz_target;

/// Sizes of objects that ranges are resolved for.
const SIZES: [u64; 4] = [0, 1, 1000, u64::MAX];

fuzz_target!(|data: &[u8]| {
    let Some(head) = Head::read(data) else { return };
    if let Some(address) = head.address() {
        let _ = address.bucket_name();
        if let Ok(Some(key)) = address.object_key() {
            // A key that is shown to a client comes back as itself.
            let path = escape::encode_path(key.as_bytes());
            assert_eq!(escape::decode(&path).as_deref(), Some(key.as_bytes()));
            assert!((1..=1023).contains(&key.as_bytes().len()));
        }
    }
    if let Some(query) = head.query() {
        check_query(&query);
    }
    check_headers(&head);
});

fn check_query(query: &Query) {
    let raw = query.to_raw();
    let again = Query::parse(Some(&raw)).expect("what was read is read again");
    // A pair of nothing is written as nothing.
    let pairs = |query: &Query| -> Vec<(String, String)> {
        let pairs = query
            .iter()
            .map(|p| (p.name().to_owned(), p.value().to_owned()));
        pairs
            .filter(|(name, value)| !name.is_empty() || !value.is_empty())
            .collect()
    };
    assert_eq!(pairs(&again), pairs(query));
    let _ = (
        ListObjectsParams::parse(query),
        ListVersionsParams::parse(query),
        ListUploadsParams::parse(query),
    );
    let _ = (
        ListPartsParams::parse(query),
        ListBucketsParams::parse(query),
        encoding(query),
    );
    let _ = ResponseOverrides::from_query(query);
    if let Ok(listing) = ListObjectsV2Params::parse(query) {
        let token = encode_continuation_token(&listing.marker);
        assert_eq!(
            decode_continuation_token(&token).ok().as_deref(),
            Some(listing.marker.as_str())
        );
    }
    if let Ok(number) = part_number(query) {
        assert!((1..=PART_NUMBER_MAX).contains(&number));
    }
}

fn check_headers(head: &Head) {
    let headers = &head.headers;
    let _ = (
        bucket_acl(headers),
        object_acl(headers),
        storage_class(headers),
        redundancy(headers),
    );
    let _ = (
        content_length(headers),
        content_md5(headers),
        flag(headers, "x-oss-forbid-overwrite"),
    );
    let _ = (
        MetadataDirective::from_headers(headers),
        TaggingDirective::from_headers(headers),
    );
    let _ = (
        CopySource::from_headers(headers),
        user_metadata(headers),
        persistent_headers(headers),
    );
    let _ = ContentHeaders::from_headers(headers).size();
    let _ = (
        Preconditions::of_read(headers),
        Preconditions::of_copy_source(headers),
    );
    if let Some(query) = head.query() {
        let _ = traffic_limit(headers, &query);
    }
    if let Ok(Some(tags)) = tagging(headers) {
        assert!(tags.len() <= OBJECT_TAGS_MAX);
        assert_eq!(parse_tagging(&format_tagging(&tags)).ok(), Some(tags));
    }
    for size in SIZES {
        let range = copy_source_range(headers, size);
        assert!(range.start <= range.end && range.end <= size);
    }
    for value in headers.values().filter_map(|value| value.to_str().ok()) {
        let _ = (EtagList::parse(value), date::parse_http_date(value));
        for size in SIZES {
            for standard in [false, true] {
                if let RangeOutcome::Partial(range) = resolve_range(value, size, standard) {
                    assert!(
                        range.start < range.end && range.end <= size,
                        "{range:?} of {size}"
                    );
                }
            }
        }
        if let Ok(marker) = decode_continuation_token(value) {
            let token = encode_continuation_token(&marker);
            assert_eq!(decode_continuation_token(&token).ok(), Some(marker));
        }
    }
}
