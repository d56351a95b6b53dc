//! Every XML body that a client can send, read by every reader. What a strict reader accepts is read as
//! it reads it; what is accepted keeps to the limits of the API, and what is written of it is read as
//! the same.

#![no_main]

use granary_fuzz::escapes::decoded_path;
use granary_fuzz::{checked, contains};
use granary_oss::xml::{
    CompleteMultipartUpload, CorsConfiguration, CreateBucketConfiguration, Delete, DeleteResult,
    DeletedObject, Element, Encoding, Tagging, VersioningConfiguration, Writer, parse,
};
use granary_types::limits::{
    BUCKET_TAGS_MAX, DELETE_OBJECTS_MAX, OBJECT_TAGS_MAX, PART_NUMBER_MAX,
};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use roxmltree::{Document, Node};

/// Origins that ask for permission.
const ORIGINS: [&str; 3] = ["https://example.org", "http://a.example.org:8080", "null"];

fuzz_target!(|data: &[u8]| {
    compare_with_strict(data);
    if let Some(read) = checked(CreateBucketConfiguration::parse(data)) {
        check_bucket(&read);
    }
    if let Some(delete) = checked(Delete::parse(data)) {
        check_delete(&delete);
    }
    if let Some(complete) = checked(CompleteMultipartUpload::parse(data)) {
        check_complete(&complete);
    }
    if let Some(versioning) = checked(VersioningConfiguration::parse(data)) {
        let again = VersioningConfiguration::parse(&versioning.to_xml());
        assert_eq!(again.ok(), Some(versioning));
    }
    if let Some(tagging) = checked(Tagging::parse_object(data)) {
        assert!(tagging.tags.len() <= OBJECT_TAGS_MAX);
        assert_eq!(Tagging::parse_object(&tagging.to_xml()).ok(), Some(tagging));
    }
    if let Some(tagging) = checked(Tagging::parse_bucket(data)) {
        assert!(tagging.tags.len() <= BUCKET_TAGS_MAX);
        assert_eq!(Tagging::parse_bucket(&tagging.to_xml()).ok(), Some(tagging));
    }
    if let Some(cors) = checked(CorsConfiguration::parse(data)) {
        check_cors(&cors);
        assert_eq!(CorsConfiguration::parse(&cors.to_xml()).ok(), Some(cors));
    }
});

/// A well-formed document without a DTD is read, and as the strict reader does it.
fn compare_with_strict(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Line ends are kept as they are, because keys are made of them; and the strict reader takes
    // `<:a></a>` for well-formed, and anything in quotes for the name of an encoding.
    if text.contains('\r') || text.contains("<:") || text.contains("</:") {
        return;
    }
    let declaration = text.split("?>").next().unwrap_or_default();
    let quotes = declaration.matches(['"', '\'']).count();
    if declaration.starts_with("<?xml") && quotes % 2 == 1 {
        return;
    }
    if names_no_character(text) {
        return;
    }
    let Ok(strict) = Document::parse(text) else {
        return;
    };
    let root = strict.root_element();
    let depth = root
        .descendants()
        .map(|node| node.ancestors().count())
        .max();
    if depth.is_some_and(|depth| depth > 20) {
        return;
    }
    let read = parse(data, root.tag_name().name()).expect("it is well-formed");
    assert_same(&read, root);
}

/// Whether a reference has a number that no character has, which the strict reader lets pass.
fn names_no_character(text: &str) -> bool {
    text.split("&#").skip(1).any(|rest| {
        let number = rest.split(';').next().unwrap_or_default();
        let number = match number.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        number.ok().and_then(char::from_u32).is_none()
    })
}

fn assert_same(read: &Element, strict: Node<'_, '_>) {
    assert_eq!(read.name(), strict.tag_name().name());
    let texts = strict.children().filter(Node::is_text);
    let text: String = texts.filter_map(|node| node.text()).collect();
    assert_eq!(read.text(), text);
    let children: Vec<_> = strict.children().filter(Node::is_element).collect();
    assert_eq!(read.children().len(), children.len());
    for (read, strict) in read.children().iter().zip(children) {
        assert_same(read, strict);
    }
}

/// Whether XML has a way to write it.
fn can_be_written(document: &[u8]) -> bool {
    !contains(document, b"&#0;")
}

fn check_bucket(read: &CreateBucketConfiguration) {
    let mut xml = Writer::new("CreateBucketConfiguration");
    xml.elem_if("LocationConstraint", read.location_constraint.as_ref())
        .elem_if("StorageClass", read.storage_class)
        .elem_if("DataRedundancyType", read.redundancy);
    let document = xml.finish();
    if can_be_written(&document) {
        let again = CreateBucketConfiguration::parse(&document);
        assert_eq!(again.ok().as_ref(), Some(read));
    }
}

/// The answer names the keys that the request named.
fn check_delete(delete: &Delete) {
    assert!((1..=DELETE_OBJECTS_MAX).contains(&delete.objects.len()));
    for encoding in [Encoding::Plain, Encoding::Url] {
        let deleted = delete.objects.iter().map(|target| DeletedObject {
            key: target.key.as_str().to_owned(),
            version_id: target.version_id.clone(),
            ..DeletedObject::default()
        });
        let deleted = deleted.collect();
        let document = DeleteResult { encoding, deleted }.to_xml();
        if !can_be_written(&document) {
            continue;
        }
        let root = parse(&document, "DeleteResult").expect("an answer is a document");
        let shown: Vec<&Element> = root.children_named("Deleted").collect();
        assert_eq!(shown.len(), delete.objects.len());
        for (shown, target) in shown.into_iter().zip(&delete.objects) {
            let key = shown.required("Key").expect("it was written").text();
            let key = match encoding {
                Encoding::Plain => key.as_bytes().to_vec(),
                Encoding::Url => decoded_path(key).expect("it is encoded"),
            };
            assert_eq!(key, target.key.as_bytes());
            let id = shown.optional("VersionId").expect("one at most");
            assert_eq!(id.map(Element::text), target.version_id.as_deref());
        }
    }
}

fn check_complete(complete: &CompleteMultipartUpload) {
    let numbers = complete.parts.iter().map(|part| part.number);
    assert!(
        numbers
            .clone()
            .all(|number| (1..=PART_NUMBER_MAX).contains(&number))
    );
    assert!(numbers.is_sorted_by(|one, next| one < next));
    let mut xml = Writer::new("CompleteMultipartUpload");
    for part in &complete.parts {
        xml.nested("Part", |xml| {
            xml.elem("ETag", &part.etag).elem("PartNumber", part.number);
        });
    }
    let document = xml.finish();
    if can_be_written(&document) {
        let again = CompleteMultipartUpload::parse(&document).expect("it was accepted");
        let numbers = again.parts.iter().map(|part| part.number);
        assert!(numbers.eq(complete.parts.iter().map(|part| part.number)));
        // A tag in several pairs of marks loses one with every reading.
        let bare = |tag: &str| tag.replace(|c: char| c == '"' || c.is_whitespace(), "");
        for (again, part) in again.parts.iter().zip(&complete.parts) {
            assert_eq!(bare(again.etag.as_str()), bare(part.etag.as_str()));
        }
    }
}

/// A grant is one of a rule that has the origin and the method, and can be sent.
fn check_cors(cors: &CorsConfiguration) {
    let fits = |pattern: &str, text: &str| match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let rest = text.strip_prefix(before);
            rest.is_some_and(|rest| rest.ends_with(after))
        }
    };
    for origin in ORIGINS {
        for method in ["GET", "PUT", "DELETE", "POST", "HEAD", "PATCH"] {
            for headers in ["", "x-oss-meta-a, Range"] {
                let asked: Vec<&str> = headers
                    .split(", ")
                    .filter(|name| !name.is_empty())
                    .collect();
                let expected = cors.rules.iter().find(|rule| {
                    rule.allowed_methods.iter().any(|allowed| allowed == method)
                        && rule
                            .allowed_origins
                            .iter()
                            .any(|pattern| fits(pattern, origin))
                        && asked.iter().all(|name| {
                            let name = name.to_ascii_lowercase();
                            rule.allowed_headers
                                .iter()
                                .any(|pattern| fits(pattern, &name))
                        })
                });
                let grant = cors.grant(origin, method, headers);
                assert_eq!(
                    grant.is_some(),
                    expected.is_some(),
                    "{origin} {method} {headers}"
                );
                let (Some(grant), Some(rule)) = (grant, expected) else {
                    continue;
                };
                assert!(grant.origin == "*" || grant.origin == origin);
                assert_eq!(grant.methods, rule.allowed_methods.join(", "));
                assert_eq!(grant.max_age_seconds, rule.max_age_seconds);
                let sent = [
                    Some(grant.origin),
                    Some(grant.methods),
                    grant.headers,
                    grant.expose,
                ];
                for value in sent.into_iter().flatten() {
                    HeaderValue::try_from(value).expect("it can be sent");
                }
            }
        }
    }
}
