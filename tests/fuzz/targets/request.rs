//! The head of a request: address, query, every typed header, the parameters of listings. What is read
//! is what a simple second reader reads, is written so that it reads the same, and is bounded.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_fuzz::escapes::{decoded_path, decoded_query, encoded};
use granary_fuzz::{DOMAIN, Head, checked, domains};
use granary_oss::address::AddressStyle;
use granary_oss::escape;
use granary_oss::header::{
    ContentHeaders, CopySource, EtagList, MetadataDirective, Preconditions, RangeOutcome,
    ResponseOverrides, TRAFFIC_LIMIT_MAX, TRAFFIC_LIMIT_MIN, TaggingDirective, Verdict, bucket_acl,
    check_readable, content_length, content_md5, copy_source_range, date, flag, format_tagging,
    object_acl, parse_tagging, persistent_headers, redundancy, rename_source, resolve_range,
    resource_group, storage_class, tagging, text, traffic_limit, user_metadata, user_metadata_size,
    uses_standard_range,
};
use granary_oss::listing::{
    ListBucketsParams, ListObjectsParams, ListObjectsV2Params, ListPartsParams, ListUploadsParams,
    ListVersionsParams, decode_continuation_token, encode_continuation_token, encoding,
    part_number,
};
use granary_oss::query::Query;
use granary_oss::xml::{Encoding, ListBucketResult, parse};
use granary_types::limits::{
    BUCKET_TAGS_MAX, LIST_PAGE_MAX, OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX, OBJECT_TAGS_MAX,
    PART_NUMBER_MAX, USER_META_BYTES_MAX,
};
use granary_types::{ByteRange, ETag, Timestamp};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// Sizes of objects that ranges are resolved for.
const SIZES: [u64; 5] = [0, 1, 10, 1000, OBJECT_BYTES_MAX];
/// The object that conditions are judged on.
const ETAG: &str = "5EB63BBBE01EEED093CB22BB8F5ACDC3";
const MODIFIED: Timestamp = Timestamp(1_672_223_261_789);

fuzz_target!(|data: &[u8]| {
    let Some(head) = Head::read(data) else { return };
    check_address(&head);
    if let Some(query) = head.query() {
        check_query(&head, &query);
        check_listings(&query);
    }
    check_readable_headers(&head.headers);
    check_headers(&head);
    check_conditions(&head.headers, "");
    check_conditions(&head.headers, "x-oss-copy-source-");
    for value in head.headers.values() {
        if let Ok(value) = std::str::from_utf8(value.as_bytes()) {
            check_value(value);
        }
    }
});

/// A key is the bytes of the path behind the bucket, and is reached by its name in both styles.
fn check_address(head: &Head) {
    let Some(address) = head.address() else {
        return;
    };
    let path = head.uri.path().strip_prefix('/').expect("it was resolved");
    let raw_key = match address.style {
        AddressStyle::VirtualHost => Some(path),
        AddressStyle::Path => path.split_once('/').map(|(_, key)| key),
    };
    let expected = decoded_path(raw_key.unwrap_or_default()).expect("it was resolved");
    assert_eq!(address.key.clone().unwrap_or_default(), expected);
    let (bucket, key) = (
        checked(address.bucket_name()),
        checked(address.object_key()),
    );
    let (Some(Some(bucket)), Some(Some(key))) = (bucket, key) else {
        return;
    };
    assert!((1..=OBJECT_KEY_BYTES_MAX).contains(&key.as_bytes().len()));
    let wire = escape::encode_path(key.as_bytes());
    assert_eq!(wire, encoded(key.as_bytes()).replace("%2F", "/"));
    for (host, path) in [
        (format!("{bucket}.{DOMAIN}:9000"), format!("/{wire}")),
        ("127.0.0.1".to_owned(), format!("/{bucket}/{wire}")),
        (DOMAIN.to_owned(), format!("/{bucket}/{wire}")),
    ] {
        let again = domains().resolve(Some(&host), &path).expect("a legal name");
        assert_eq!(again.bucket_name().ok().flatten().as_ref(), Some(&bucket));
        assert_eq!(again.object_key().ok().flatten().as_ref(), Some(&key));
    }
}

fn check_query(head: &Head, query: &Query) {
    let raw = head.uri.query().unwrap_or_default();
    let expected: Vec<(Vec<u8>, Vec<u8>)> = raw
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded_query(name), decoded_query(value)))
        .collect();
    let pair = |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let read = query.iter().map(|p| pair((p.name(), p.value())));
    assert_eq!(read.collect::<Vec<_>>(), expected);
    for parameter in query.iter() {
        let first = query.iter().find(|p| p.name() == parameter.name());
        assert_eq!(query.get(parameter.name()), first.map(|p| p.value()));
    }
    // A pair of nothing is written as nothing.
    let pairs = |query: &Query| -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = query.iter().map(|p| pair((p.name(), p.value())));
        pairs
            .filter(|(name, value)| !name.is_empty() || !value.is_empty())
            .collect()
    };
    let again = Query::parse(Some(&query.to_raw())).expect("what was read is read again");
    assert_eq!(pairs(&again), pairs(query));

    if let Some(number) = checked(part_number(query)) {
        assert!((1..=PART_NUMBER_MAX).contains(&number));
    }
    if let Some(Some(limit)) = checked(traffic_limit(&head.headers, query)) {
        assert!((TRAFFIC_LIMIT_MIN..=TRAFFIC_LIMIT_MAX).contains(&limit));
    }
    if let Some(overrides) = checked(ResponseOverrides::from_query(query)) {
        let mut answer = HeaderMap::new();
        overrides.apply(&mut answer);
        assert_eq!(answer.is_empty(), overrides.is_empty());
        for (name, value) in &answer {
            let parameter = format!("response-{name}");
            assert_eq!(
                query.get(&parameter).map(str::as_bytes),
                Some(value.as_bytes())
            );
        }
    }
}

/// Pages are bounded, names have the length that names can have, and parameters that are written as they
/// were read are read as the same.
fn check_listings(query: &Query) {
    let _ = checked(encoding(query));
    let spelled = |encoding| match encoding {
        Encoding::Plain => "",
        Encoding::Url => "url",
    };
    let bounded = |names: &[&String]| {
        assert!(names.iter().all(|name| name.len() <= OBJECT_KEY_BYTES_MAX));
    };
    if let Some(read) = checked(ListObjectsParams::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_keys));
        bounded(&[&read.prefix, &read.delimiter, &read.marker]);
        let again = Query::from_pairs([
            ("prefix", read.prefix.as_str()),
            ("delimiter", &read.delimiter),
            ("marker", &read.marker),
            ("max-keys", &read.max_keys.to_string()),
            ("encoding-type", spelled(read.encoding)),
        ]);
        let again = Query::parse(Some(&again.to_raw())).expect("a query");
        assert_eq!(ListObjectsParams::parse(&again).ok().as_ref(), Some(&read));
        check_answer(&read);
    }
    if let Some(read) = checked(ListObjectsV2Params::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_keys));
        bounded(&[&read.prefix, &read.delimiter]);
        let token = encode_continuation_token(&read.marker);
        let again = Query::from_pairs([("continuation-token", token.as_str())]);
        let again = ListObjectsV2Params::parse(&again).expect("a token of ours");
        assert_eq!(again.marker, read.marker);
    }
    if let Some(read) = checked(ListVersionsParams::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_keys));
        assert!(!read.key_marker.is_empty() || read.version_id_marker.is_empty());
        bounded(&[
            &read.prefix,
            &read.delimiter,
            &read.key_marker,
            &read.version_id_marker,
        ]);
    }
    if let Some(read) = checked(ListUploadsParams::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_uploads));
        assert!(!read.key_marker.is_empty() || read.upload_id_marker.is_empty());
        bounded(&[
            &read.prefix,
            &read.delimiter,
            &read.key_marker,
            &read.upload_id_marker,
        ]);
    }
    if let Some(read) = checked(ListPartsParams::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_parts));
        assert!(read.part_number_marker <= PART_NUMBER_MAX);
    }
    if let Some(read) = checked(ListBucketsParams::parse(query)) {
        assert!((1..=LIST_PAGE_MAX).contains(&read.max_keys));
        assert!(read.tags.len() <= BUCKET_TAGS_MAX);
        let quotable = |text: &str| !text.contains('"');
        let pairs: Option<Vec<String>> = read
            .tags
            .iter()
            .map(|(key, value)| {
                let value = value.as_deref().filter(|value| quotable(value))?;
                quotable(key).then(|| format!("\"{key}\":\"{value}\""))
            })
            .collect();
        if let Some(pairs) = pairs.filter(|pairs| !pairs.is_empty()) {
            let again = Query::from_pairs([("tagging", pairs.join(", ").as_str())]);
            let again = ListBucketsParams::parse(&again).expect("tags");
            assert_eq!(again.tags, read.tags);
        }
    }
}

/// What a listing shows of its parameters is what was asked.
fn check_answer(read: &ListObjectsParams) {
    let answer = ListBucketResult {
        prefix: read.prefix.clone(),
        marker: read.marker.clone(),
        delimiter: read.delimiter.clone(),
        encoding: read.encoding,
        common_prefixes: vec![read.prefix.clone()],
        ..ListBucketResult::default()
    };
    let names = [&read.prefix, &read.marker, &read.delimiter];
    // XML has no way to write it.
    if read.encoding == Encoding::Plain && names.iter().any(|name| name.contains('\0')) {
        return;
    }
    let root = parse(&answer.to_xml(), "ListBucketResult").expect("an answer is a document");
    for (element, name) in ["Prefix", "Marker", "Delimiter"].into_iter().zip(names) {
        let shown = root.required(element).expect("it is there").text();
        let shown = match read.encoding {
            Encoding::Plain => shown.as_bytes().to_vec(),
            Encoding::Url => decoded_path(shown).expect("it is encoded"),
        };
        assert_eq!(shown, name.as_bytes(), "{element}");
    }
}

/// Of what passes, every reader may take the first line of one of the service's own headers: it is text,
/// and no other line says something else.
fn check_readable_headers(headers: &HeaderMap) {
    if checked(check_readable(headers)).is_none() {
        return;
    }
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with("x-oss-") && !name.starts_with("x-oss-meta-") {
            let value = std::str::from_utf8(value.as_bytes()).expect("it passed");
            let read = text(headers, name).unwrap_or_default();
            assert_eq!(read, value.trim());
        }
    }
    if let Some(Some(group)) = checked(resource_group(headers)) {
        assert!(group.starts_with("rg-") && group.is_ascii());
        let sent = text(headers, "x-oss-resource-group-id");
        assert_eq!(sent.as_ref(), Some(&group));
    }
}

fn check_headers(head: &Head) {
    let headers = &head.headers;
    let _ = (
        checked(bucket_acl(headers)),
        checked(object_acl(headers)),
        checked(storage_class(headers)),
        checked(redundancy(headers)),
        checked(flag(headers, "x-oss-forbid-overwrite")),
        checked(MetadataDirective::from_headers(headers)),
        checked(TaggingDirective::from_headers(headers)),
        uses_standard_range(headers),
    );
    if let Some(Some(length)) = checked(content_length(headers)) {
        let digits = text(headers, "content-length").expect("it was read");
        assert_eq!(
            digits.trim_start_matches('0'),
            length.to_string().trim_start_matches('0')
        );
    }
    if let Some(Some(md5)) = checked(content_md5(headers)) {
        assert_eq!(text(headers, "content-md5"), Some(STANDARD.encode(md5)));
    }
    if let Some(source) = checked(CopySource::from_headers(headers)) {
        let named = text(headers, "x-oss-copy-source");
        assert_eq!(source.is_some(), named.is_some());
    }
    if let Some(key) = checked(rename_source(headers)) {
        let mut again = HeaderMap::new();
        let value = HeaderValue::try_from(encoded(key.as_bytes())).expect("ASCII");
        again.insert("x-oss-rename-source", value);
        assert_eq!(rename_source(&again).ok(), Some(key));
    }
    if let Some(metadata) = checked(user_metadata(headers)) {
        assert!(user_metadata_size(&metadata) <= USER_META_BYTES_MAX);
        assert!(metadata.is_sorted());
        let names = headers
            .keys()
            .filter(|n| n.as_str().starts_with("x-oss-meta-"));
        assert_eq!(metadata.len(), names.count());
        // It goes back as headers.
        for (name, value) in &metadata {
            let given = text(headers, &format!("x-oss-meta-{name}")).unwrap_or_default();
            assert!(value.starts_with(&given));
            HeaderValue::from_bytes(value.as_bytes()).expect("it was a header");
        }
    }
    if let Some(kept) = checked(persistent_headers(headers)) {
        let pairs = kept
            .iter()
            .map(|(n, v)| format!("{n}:{}", STANDARD.encode(v)));
        let mut again = HeaderMap::new();
        let pairs = pairs.collect::<Vec<_>>().join(",");
        let value = HeaderValue::try_from(pairs).expect("names and base64");
        again.insert("x-oss-persistent-headers", value);
        assert_eq!(persistent_headers(&again).ok(), Some(kept));
    }
    let stored = ContentHeaders::from_headers(headers);
    let sent = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    assert!(stored.size() <= sent.sum());
    for (name, value) in stored.iter() {
        assert_eq!(text(headers, name).as_deref(), Some(value));
    }
    if let Some(Some(tags)) = checked(tagging(headers)) {
        assert!(tags.len() <= OBJECT_TAGS_MAX);
    }
    for size in SIZES {
        let value = text(headers, "x-oss-copy-source-range").unwrap_or_default();
        let expected = match expected_range(&value, size, false) {
            RangeOutcome::Partial(range) => range,
            _ => ByteRange::whole(size),
        };
        assert_eq!(copy_source_range(headers, size), expected);
    }
}

/// Everything that is one value of a header.
fn check_value(value: &str) {
    let _ = EtagList::parse(value);
    if let Some(at) = date::parse_http_date(value) {
        assert_eq!(date::parse_http_date(&date::format_http_date(at)), Some(at));
    }
    for size in SIZES {
        for standard in [false, true] {
            let outcome = resolve_range(value, size, standard);
            assert_eq!(
                outcome,
                expected_range(value, size, standard),
                "{value:?} {size} {standard}"
            );
        }
    }
    if let Some(marker) = checked(decode_continuation_token(value)) {
        assert_eq!(
            encode_continuation_token(&marker),
            value.trim_end_matches('=')
        );
    }
    if let Some(tags) = checked(parse_tagging(value)) {
        let pairs = value.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let expected = pairs.map(|(key, value)| (decoded_query(key), decoded_query(value)));
        let read = tags
            .iter()
            .map(|(k, v)| (k.clone().into_bytes(), v.clone().into_bytes()));
        assert_eq!(read.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(parse_tagging(&format_tagging(&tags)).ok(), Some(tags));
    }
    if let Some(source) = checked(CopySource::parse(value)) {
        let key = encoded(source.key.as_bytes());
        let mut again = format!("/{}/{key}", source.bucket);
        if let Some(id) = &source.version_id {
            again = format!("{again}?versionId={}", encoded(id.as_bytes()));
        }
        assert_eq!(CopySource::parse(&again).ok().as_ref(), Some(&source));
        let path = value.split_once('?').map_or(value, |(path, _)| path);
        let named = format!("/{}/{}", source.bucket, source.key);
        assert_eq!(decoded_query(path), named.as_bytes());
    }
}

/// A range as the set of positions that it names and the set that the object has.
fn expected_range(value: &str, size: u64, standard: bool) -> RangeOutcome {
    let size = u128::from(size);
    let number = |text: &str| -> Option<Option<u128>> {
        let text = text.trim();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        // What no object reaches is as good as another such number.
        let number = || u128::from(text.parse().unwrap_or(u64::MAX));
        digits.then(|| (!text.is_empty()).then(number))
    };
    let named = || {
        let (unit, range) = value.split_once('=')?;
        let (first, last) = range.split_once('-')?;
        let is_bytes = unit.trim().eq_ignore_ascii_case("bytes");
        is_bytes.then_some((number(first)?, number(last)?))
    };
    let (first, past, overhangs) = match named() {
        None | Some((None, None)) => return RangeOutcome::Whole,
        Some((None, Some(0))) => return RangeOutcome::Unsatisfiable,
        Some((None, Some(count))) => (size.saturating_sub(count), size, count > size),
        Some((Some(first), None)) => (first, size.max(first), false),
        Some((Some(first), Some(last))) if last < first => return RangeOutcome::Whole,
        Some((Some(first), Some(last))) => (first, last + 1, last >= size),
    };
    let past = past.min(size);
    match (first < past, overhangs, standard) {
        (true, false, _) | (true, true, true) => {
            let position = |at: u128| u64::try_from(at).expect("it lies in the object");
            RangeOutcome::Partial(ByteRange {
                start: position(first),
                end: position(past),
            })
        }
        (false, _, true) => RangeOutcome::Unsatisfiable,
        _ => RangeOutcome::Whole,
    }
}

/// RFC 9110, section 13.2.2, from the text of the headers, of which each is there once.
fn check_conditions(headers: &HeaderMap, prefix: &str) {
    let twice = |name: &http::HeaderName| headers.get_all(name).iter().count() > 1;
    if headers
        .keys()
        .any(|name| name.as_str().contains("if-") && twice(name))
    {
        return;
    }
    let given = |name: &str| text(headers, &format!("{prefix}{name}"));
    let is_listed = |list: String| {
        let bare = |tag: &str| {
            let tag = tag.trim();
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag.trim().trim_matches('"').to_owned()
        };
        list.trim() == "*"
            || list
                .split(',')
                .any(|tag| bare(tag).eq_ignore_ascii_case(ETAG))
    };
    let changed_after = |date: String| {
        let date = date::parse_http_date(&date)?;
        Some(MODIFIED.as_secs() > date.as_secs())
    };
    let wanted = match given("if-match") {
        Some(list) => is_listed(list),
        None => given("if-unmodified-since").and_then(changed_after) != Some(true),
    };
    let known = match given("if-none-match") {
        Some(list) => is_listed(list),
        None => given("if-modified-since").and_then(changed_after) == Some(false),
    };
    let expected = match (wanted, known) {
        (false, _) => Verdict::Failed,
        (true, true) => Verdict::NotModified,
        (true, false) => Verdict::Proceed,
    };
    let conditions = match prefix {
        "" => Preconditions::of_read(headers),
        _ => Preconditions::of_copy_source(headers),
    };
    assert_eq!(conditions.evaluate(&ETag::parse(ETAG), MODIFIED), expected);
    assert!(!conditions.is_empty() || expected == Verdict::Proceed);
}
