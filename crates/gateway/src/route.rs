//! Which operation a request asks for: the one row of the table that explains everything that
//! selects an operation in it. Pure.
//!
//! Invariant: a request never reaches another operation than the one it names. A parameter that
//! selects an operation which the matched row does not account for is NotImplemented; so is an
//! unknown parameter without a value (`?newFeature`), which is how OSS spells sub-resources, except
//! on reads of objects, where sites use such parameters against caches.

use granary_oss::{ErrorCode, OssError};
use http::Method;

use crate::head::Head;
use crate::ops::table::{self, Plane, Row, Scope, When};

/// Parameters that select nothing and may come without a value.
const PLAIN_PARAMETERS: [&str; 36] = [
    "prefix",
    "marker",
    "max-keys",
    "delimiter",
    "encoding-type",
    "start-after",
    "continuation-token",
    "fetch-owner",
    "key-marker",
    "upload-id-marker",
    "max-uploads",
    "part-number-marker",
    "max-parts",
    "version-id-marker",
    "versionId",
    "sequential",
    "tag-key",
    "tag-value",
    "tagging",
    "bid",
    "regionList",
    "security-token",
    "OSSAccessKeyId",
    "Expires",
    "Signature",
    "callback",
    "callback-var",
    "response-content-type",
    "response-content-language",
    "response-expires",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "mode",
    "category",
    "verbose",
];

/// Finds the operation.
///
/// # Errors
/// NotImplemented; MethodNotAllowed for a method that no operation of the resource has.
pub(crate) fn route(head: &Head) -> Result<&'static Row, OssError> {
    let plane = plane_of(&head.host);
    let scope = match (plane, &head.address.bucket, &head.address.key) {
        (Plane::Oss, None, _) => Scope::Service,
        (Plane::Oss, Some(_), None) => Scope::Bucket,
        (Plane::Oss, Some(_), Some(_)) => Scope::Object,
        (Plane::Vectors, None, _) => Scope::VectorService,
        (Plane::Vectors, Some(_), _) => Scope::VectorBucket,
        (Plane::Tables, ..) => Scope::Tables,
    };
    if head.method == Method::OPTIONS && matches!(scope, Scope::Bucket | Scope::Object) {
        // A browser asks about the request that follows, with that one's path and query.
        let row = table::ROWS.iter().find(|row| row.allows("OPTIONS"));
        return row.ok_or_else(|| OssError::new(ErrorCode::MethodNotAllowed));
    }
    let rows = table::rows(scope, head.method.as_str());
    let best = rows
        .iter()
        .filter(|row| row.when.iter().all(|when| holds(when, head)))
        .filter(|row| accounts_for_everything(row, scope, head))
        .max_by_key(|row| row.specificity());
    match best {
        Some(row) => Ok(row),
        None if !rows.is_empty() => Err(OssError::new(ErrorCode::NotImplemented)
            .extra("Resource", head.raw_path.as_str())
            .extra("Query", head.query.to_raw())),
        None => Err(OssError::new(ErrorCode::MethodNotAllowed)
            .extra("Method", head.method.as_str())
            .extra("ResourceType", scope.as_str())),
    }
}

fn holds(when: &When, head: &Head) -> bool {
    match when {
        When::Has(name) => head.query.contains(name),
        When::AnyOf(names) => names.iter().any(|name| head.query.contains(name)),
        When::Is(name, values) => head
            .query
            .get(name)
            .is_some_and(|value| values.contains(&value)),
        When::Header(name) => head.headers.contains_key(*name),
        When::May(_) => true,
        When::Path(pattern) => path_fits(pattern, &head.raw_path),
    }
}

/// `*` stands for one segment that is not empty.
fn path_fits(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let fits = pattern.split('/').all(|expected| {
        let segment = segments.next();
        segment.is_some_and(|s| {
            if expected == "*" {
                !s.is_empty()
            } else {
                s == expected
            }
        })
    });
    fits && segments.next().is_none()
}

fn accounts_for_everything(row: &Row, scope: Scope, head: &Head) -> bool {
    let reads_object = scope == Scope::Object && [Method::GET, Method::HEAD].contains(&head.method);
    head.query.iter().all(|parameter| {
        let name = parameter.name();
        if row.when.iter().any(|when| when.names(name)) {
            return true;
        }
        if table::selects(scope, name) {
            return false;
        }
        let is_bare = parameter.value().is_empty() && !name.is_empty();
        let is_known = PLAIN_PARAMETERS.contains(&name) || name.starts_with("x-");
        reads_object || !is_bare || is_known
    })
}

/// Vectors and tables have hosts of their own (`{region}.oss-vectors.…`), which this gateway
/// recognises in order to say that it does not serve them. A first label is a bucket's name.
fn plane_of(host: &str) -> Plane {
    let name = host.split(':').next().unwrap_or_default();
    let has = |label: &str| {
        name.split('.')
            .skip(1)
            .any(|part| part.eq_ignore_ascii_case(label))
    };
    if has("oss-vectors") {
        Plane::Vectors
    } else if has("oss-tables") {
        Plane::Tables
    } else {
        Plane::Oss
    }
}
