//! Which operation a request asks for: the one row of the table that explains everything that
//! selects an operation in it. Pure.
//!
//! Invariant: a request never reaches another operation than the one it names. A parameter that
//! selects an operation which the matched row does not account for is NotImplemented; so is an
//! unknown parameter without a value (`?newFeature`), which is how OSS spells sub-resources, except
//! on reads of objects, where sites use such parameters against caches.

use granary_oss::query::Parameter;
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
    let (rows, asked) = (
        table::rows(scope, head.method.as_str()),
        Asked::of(scope, head),
    );
    let best = rows
        .iter()
        .filter(|row| row.when.iter().all(|when| asked.holds(when, head)))
        .filter(|row| asked.is_accounted_for(row))
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

/// What the query asks for, as far as it concerns rows: mostly nothing.
struct Asked<'a> {
    /// The parameters that some row of the scope is about.
    parameters: Vec<&'a Parameter>,
    /// Whether there is one without a value that nothing knows.
    unknown: bool,
}

impl<'a> Asked<'a> {
    fn of(scope: Scope, head: &'a Head) -> Self {
        let reads_object =
            scope == Scope::Object && [Method::GET, Method::HEAD].contains(&head.method);
        let names = table::parameters(scope);
        let (parameters, others): (Vec<_>, Vec<_>) = head
            .query
            .iter()
            .partition(|parameter| names.contains(parameter.name()));
        let is_unknown = |parameter: &&Parameter| {
            let name = parameter.name();
            let is_bare = parameter.value().is_empty() && !name.is_empty();
            is_bare && !name.starts_with("x-") && !PLAIN_PARAMETERS.contains(&name)
        };
        Self {
            parameters,
            unknown: !reads_object && others.iter().any(is_unknown),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let found = parameters.find(|parameter| parameter.name() == name);
        found.map(|parameter| parameter.value())
    }

    fn holds(&self, when: &When, head: &Head) -> bool {
        match when {
            When::Has(name) => self.get(name).is_some(),
            When::AnyOf(names) => names.iter().any(|name| self.get(name).is_some()),
            When::Is(name, values) => self.get(name).is_some_and(|value| values.contains(&value)),
            When::Header(name) => head.headers.contains_key(*name),
            When::May(_) => true,
            When::Path(pattern) => path_fits(pattern, &head.raw_path),
        }
    }

    fn is_accounted_for(&self, row: &Row) -> bool {
        let mut parameters = self.parameters.iter();
        let named = |name: &str| row.when.iter().any(|when| when.names(name));
        !self.unknown && parameters.all(|parameter| named(parameter.name()))
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
