//! The table against the list of all operations: none is forgotten, none reaches another.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::head::tests::head;
use crate::route::route;

const LIST: &str = include_str!("../../../../../tests/operations.tsv");

/// Rows of the list that name no single request, and how they stand in the table.
const NOT_REQUESTS: [(&str, &str, &str); 2] = [
    (
        "Callback",
        "Callback",
        "headers, parameters or fields of uploads, done there",
    ),
    ("Udf*", "Udf", "thirteen retired operations in one row"),
];

/// Headers that select an operation besides its path and query, from the list's notes.
const HEADERS: [(&str, &str, &str); 3] = [
    ("CopyObject", "x-oss-copy-source", "/bucket/key"),
    ("UploadPartCopy", "x-oss-copy-source", "/bucket/key"),
    ("GetAccessPoint", "x-oss-access-point-name", "name"),
];

struct Listed<'a> {
    group: &'a str,
    name: &'a str,
    methods: &'a str,
    resource: &'a str,
    target: &'a str,
}

fn listed() -> Vec<Listed<'static>> {
    LIST.lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split('\t');
            let mut next = || fields.next().unwrap();
            Listed {
                group: next(),
                name: next(),
                methods: next(),
                resource: next(),
                target: next(),
            }
        })
        .collect()
}

fn table_name(listed: &str) -> &str {
    let exception = NOT_REQUESTS
        .iter()
        .find(|(prefix, ..)| listed.starts_with(prefix));
    exception.map_or(listed, |(_, name, _)| name)
}

/// `/?x&y={z} [optional] or /?w` → `/?x&y=z`: the first form, required parts only, with something
/// in every placeholder.
fn sample(target: &str) -> String {
    let first = target.split(" or ").next().unwrap();
    let required = first
        .split(" [")
        .next()
        .unwrap()
        .split(" +")
        .next()
        .unwrap();
    let mut sample = String::new();
    let mut depth = 0;
    for c in required.trim().chars() {
        match c {
            '{' => {
                depth += 1;
                sample.push('7');
            }
            '}' => depth -= 1,
            c if depth == 0 => sample.push(c),
            _ => {}
        }
    }
    // Lists of alternatives: the first one.
    match sample.split_once('?') {
        Some((path, query)) => {
            let query: Vec<String> = query
                .split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((key, value)) if key == "x-oss-process" => {
                        format!("{key}={}", value.split(" or ").next().unwrap())
                    }
                    Some((key, value)) => format!("{key}={}", value.split('/').next().unwrap()),
                    None => pair.to_owned(),
                })
                .collect();
            format!("{path}?{}", query.join("&"))
        }
        None => sample,
    }
}

/// Host and path of the sample on the right plane.
fn request(row: &Listed<'_>) -> (&'static str, String) {
    let sample = sample(row.target);
    let below_bucket = |sample: &str| format!("/bucket{sample}");
    match row.resource {
        // The parameters of an RPC have values.
        "sts" => (
            "127.0.0.1",
            sample.split('&').next().unwrap().to_owned() + "&RoleArn=7",
        ),
        "service" | "service or bucket" => ("127.0.0.1", sample),
        "bucket" | "object" => ("127.0.0.1", below_bucket(&sample)),
        "service (vectors)" => ("cn.oss-vectors.example.org", sample),
        "vector-bucket" => ("cn.oss-vectors.example.org", below_bucket(&sample)),
        _ => ("cn.oss-tables.example.org", sample),
    }
}

#[test]
fn every_operation_has_its_row_and_no_row_is_invented() {
    let listed: Vec<(&str, &str)> = listed()
        .iter()
        .map(|row| (row.group, table_name(row.name)))
        .collect();
    let rows: Vec<(&str, &str)> = ROWS.iter().map(|row| (row.group, row.name)).collect();
    let (listed_set, row_set): (HashSet<_>, HashSet<_>) = (
        listed.iter().copied().collect(),
        rows.iter().copied().collect(),
    );
    assert_eq!(
        listed_set.difference(&row_set).collect::<Vec<_>>(),
        Vec::<&(&str, &str)>::new()
    );
    assert_eq!(
        row_set.difference(&listed_set).collect::<Vec<_>>(),
        Vec::<&(&str, &str)>::new()
    );
    assert_eq!(rows.len(), listed.len());
    assert_eq!(
        rows.iter()
            .map(|(_, name)| name)
            .collect::<HashSet<_>>()
            .len(),
        rows.len()
    );
}

#[test]
fn every_operation_is_reached_by_its_own_request() {
    let headers: HashMap<&str, (&str, &str)> = HEADERS
        .iter()
        .map(|(operation, name, value)| (*operation, (*name, *value)))
        .collect();
    let mut wrong = Vec::new();
    for row in listed() {
        if NOT_REQUESTS
            .iter()
            .any(|(prefix, ..)| row.name.starts_with(prefix))
        {
            continue;
        }
        let (host, target) = request(&row);
        let header: Vec<_> = headers.get(row.name).copied().into_iter().collect();
        for method in row.methods.split('/') {
            let reached = route(&head(method, host, &target, &header));
            match reached {
                Ok(reached) if reached.name == row.name => {}
                Ok(reached) => {
                    wrong.push(format!("{} {method} {target}: {}", row.name, reached.name))
                }
                Err(error) => wrong.push(format!("{} {method} {target}: {error}", row.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_two_rows_claim_the_same_request() {
    for (index, a) in ROWS.iter().enumerate() {
        for b in ROWS.iter().skip(index + 1) {
            let shares_method = a.methods.split('/').any(|method| b.allows(method));
            let same = format!("{:?}", a.when) == format!("{:?}", b.when);
            assert!(
                !(same && shares_method && (a.scope.covers(b.scope) || b.scope.covers(a.scope))),
                "{} and {}",
                a.name,
                b.name
            );
        }
    }
}

#[test]
fn what_nobody_claims_is_not_implemented() {
    use granary_oss::ErrorCode::{MethodNotAllowed, NotImplemented};
    for (method, target, code) in [
        // A sub-resource of the API with a method it does not have.
        ("POST", "/bucket/?acl", NotImplemented),
        ("GET", "/bucket/key?append", NotImplemented),
        ("DELETE", "/bucket/key?acl", NotImplemented),
        // Two sub-resources at once.
        ("GET", "/bucket/?acl&cors", NotImplemented),
        // What the list does not know.
        ("GET", "/bucket/?somethingNew", NotImplemented),
        ("PUT", "/bucket/key?somethingNew", NotImplemented),
        ("DELETE", "/bucket/key?somethingNew", NotImplemented),
        ("GET", "/?somethingNew", NotImplemented),
        // Processing is another answer than the object.
        (
            "GET",
            "/bucket/key?x-oss-process=image/info",
            NotImplemented,
        ),
        ("PATCH", "/bucket/key", MethodNotAllowed),
        ("OPTIONS", "/", MethodNotAllowed),
        ("PUT", "/", NotImplemented),
    ] {
        let error = route(&head(method, "127.0.0.1", target, &[]))
            .map(|row| row.name)
            .unwrap_err();
        assert_eq!(error.code(), code, "{method} {target}");
    }
}

#[test]
fn parameters_that_select_nothing_do_not_matter() {
    for (method, target, name) in [
        (
            "GET",
            "/bucket/?prefix=&marker=&delimiter=&max-keys=",
            "ListObjects",
        ),
        ("GET", "/bucket/?x-oss-foo", "ListObjects"),
        ("GET", "/bucket/key?1700000000", "GetObject"),
        ("GET", "/bucket/key?v=2", "GetObject"),
        ("HEAD", "/bucket/key?versionId=null", "HeadObject"),
        (
            "GET",
            "/bucket/key?Expires=1&OSSAccessKeyId=a&Signature=",
            "GetObject",
        ),
        (
            "POST",
            "/bucket/key?uploads&sequential",
            "InitiateMultipartUpload",
        ),
        ("PUT", "/bucket/key?partNumber=1", "UploadPart"),
        ("PUT", "/bucket/key?uploadId=7", "UploadPart"),
        (
            "POST",
            "/bucket/?delete&encoding-type=url",
            "DeleteMultipleObjects",
        ),
        ("GET", "/?tagging=a", "ListBuckets"),
    ] {
        let row = route(&head(method, "127.0.0.1", target, &[])).unwrap();
        assert_eq!(row.name, name, "{method} {target}");
    }
}

#[test]
fn buckets_may_be_named_like_services() {
    for (host, name) in [
        ("oss-vectors.localhost", "ListObjects"),
        ("oss-tables.localhost:9000", "ListObjects"),
        ("cn-x.oss-vectors.example.org", "ListVectorBuckets"),
    ] {
        assert_eq!(
            route(&head("GET", host, "/", &[])).unwrap().name,
            name,
            "{host}"
        );
    }
}

#[test]
fn the_readme_lists_every_operation_once() {
    let markdown = operations_markdown();
    for row in ROWS {
        assert!(markdown.contains(row.name), "{}", row.name);
    }
    let built = ROWS.iter().filter(|row| row.built).count();
    assert!(markdown.ends_with(&format!("{built} of {} operations work.\n", ROWS.len())));
}
