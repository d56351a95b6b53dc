//! Heads of strangers: whatever parameters and headers come together, a request is routed to an operation
//! that it asks for or refused, and every refusal can be told.

use granary_oss::address::Domains;
use granary_oss::error::render_error_header;
use granary_oss::{ErrorCode, OssError, render_error, xml};
use http::HeaderValue;
use proptest::prelude::*;
use proptest::sample::select;

use crate::head::Head;
use crate::ops::table::{ROWS, When};
use crate::route::route;

const METHODS: [&str; 7] = ["GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH"];
const HOSTS: [&str; 6] = [
    "bucket.localhost",
    "localhost:9000",
    "bucket.oss.example.com",
    "127.0.0.1",
    "x.oss-vectors.example.com",
    "[::1]",
];
const PATHS: [&str; 9] = [
    "/",
    "/bucket",
    "/bucket/k",
    "/bucket/dir%2F",
    "/k%E4%B8%AD",
    "//",
    "/%00",
    "/%5Ck",
    "/b_/%zz",
];
/// Parameters besides those of the table.
const PARAMETERS: [&str; 24] = [
    "callback",
    "callback-var",
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "key-marker",
    "marker",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "prefix",
    "regions",
    "response-content-type",
    "start-after",
    "tag-key",
    "tag-value",
    "upload-id-marker",
    "version-id-marker",
    "versionId",
    "x-oss-process",
    "x-oss-traffic-limit",
    "newFeature",
];
const HEADERS: [&str; 38] = [
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "cache-control",
    "content-disposition",
    "content-length",
    "content-md5",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "origin",
    "range",
    "transfer-encoding",
    "x-oss-acl",
    "x-oss-callback",
    "x-oss-callback-var",
    "x-oss-complete-all",
    "x-oss-copy-source",
    "x-oss-copy-source-if-match",
    "x-oss-copy-source-range",
    "x-oss-delete-recursive",
    "x-oss-delete-token",
    "x-oss-forbid-overwrite",
    "x-oss-hns-status",
    "x-oss-meta-a",
    "x-oss-metadata-directive",
    "x-oss-object-acl",
    "x-oss-persistent-headers",
    "x-oss-range-behavior",
    "x-oss-rename-source",
    "x-oss-resource-group-id",
    "x-oss-storage-class",
    "x-oss-symlink-target",
    "x-oss-tagging",
    "x-oss-tagging-directive",
    "x-oss-traffic-limit",
];
const VALUES: [&str; 26] = [
    "",
    "0",
    "1",
    "5",
    "10000",
    "245760",
    "18446744073709551615",
    "-1",
    "true",
    "url",
    "null",
    "2",
    "private",
    "default",
    "IA",
    "enabled",
    "COPY",
    "Replace",
    "bytes=0-9",
    "/src-bucket/k",
    "/src-bucket/k?versionId=null",
    "a=1&b=2",
    "x-a:djE=",
    "0123456789abcdef0123456789ABCDEF",
    "7.9.d.YQ",
    "1B2M2Y8AsgTpgAmY7PhCfg==",
];

fn parameters() -> Vec<&'static str> {
    let names = |when: &'static When| match when {
        When::Has(name) | When::Is(name, _) | When::May(name) => vec![*name],
        When::AnyOf(names) => names.to_vec(),
        When::Header(_) | When::Path(_) => Vec::new(),
    };
    let of_rows = ROWS.iter().filter(|row| row.built);
    let of_rows = of_rows.flat_map(|row| row.when.iter().flat_map(names));
    of_rows.chain(PARAMETERS).collect()
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(&VALUES[..]).prop_map(str::to_owned),
        1 => "[0-9a-fA-F.+%=&;:/*\" -]{0,70}",
        1 => ".{0,12}",
    ]
}

/// Method, host, target and headers.
fn heads() -> impl Strategy<
    Value = (
        &'static str,
        &'static str,
        String,
        Vec<(&'static str, String)>,
    ),
> {
    let query = prop::collection::vec((select(parameters()), value()), 0..4);
    let headers = prop::collection::vec((select(&HEADERS[..]), value()), 0..5);
    let (methods, hosts) = (select(&METHODS[..]), select(&HOSTS[..]));
    (methods, hosts, select(&PATHS[..]), query, headers).prop_map(
        |(method, host, path, query, headers)| {
            let pairs = query.iter().map(|(name, value)| {
                let value = granary_oss::escape::encode(value.as_bytes());
                format!("{name}={value}")
            });
            let pairs: Vec<String> = pairs.collect();
            (method, host, format!("{path}?{}", pairs.join("&")), headers)
        },
    )
}

/// The head, if an HTTP library lets it through.
fn read(
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, String)],
) -> Option<Result<Head, OssError>> {
    let mut request = http::Request::builder().method(method).uri(target);
    request = request.header("host", host);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    let (parts, ()) = request.body(()).ok()?.into_parts();
    Some(Head::read(&Domains::new(["oss.example.com"]), parts))
}

/// The document says what the error says, and its header form fits through proxies.
fn check_told(error: &OssError) -> Result<(), TestCaseError> {
    let document = render_error(error, "R1", "h");
    // XML has no way to write it.
    if !document.windows(4).any(|part| part == b"&#0;") {
        let root = xml::parse(&document, "Error").expect("it is a document");
        let code = root.required("Code").expect("it has a code");
        prop_assert_eq!(code.text(), error.code().as_str());
    }
    prop_assert!(render_error_header(error, "R1", "h").len() <= 8 * 1024);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn every_head_is_routed_or_refused((method, host, target, headers) in heads()) {
        let head = match read(method, host, &target, &headers) {
            None => return Ok(()),
            Some(Err(error)) => return check_told(&error),
            Some(Ok(head)) => head,
        };
        match route(&head) {
            Err(error) => {
                check_told(&error)?;
                let refused = [ErrorCode::NotImplemented, ErrorCode::MethodNotAllowed];
                prop_assert!(refused.contains(&error.code()));
            }
            Ok(row) => {
                prop_assert!(row.allows(method), "{}", row.name);
                for when in row.when.iter().filter(|_| method != "OPTIONS") {
                    let holds = match when {
                        When::Has(name) => head.query.contains(name),
                        When::AnyOf(names) => names.iter().any(|name| head.query.contains(name)),
                        When::Is(name, values) => {
                            head.query.get(name).is_some_and(|value| values.contains(&value))
                        }
                        When::Header(name) => head.headers.contains_key(*name),
                        When::May(_) | When::Path(_) => true,
                    };
                    prop_assert!(holds, "{}: {:?}", row.name, when);
                }
            }
        }
        // What one operation reads, others must not stumble over either.
        for row in ROWS {
            if let Some(error) = (row.refusal)(&head) {
                check_told(&error)?;
            }
        }
    }
}
