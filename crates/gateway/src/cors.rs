//! What answers say to browsers that come from another site: the headers of a bucket's CORS rules.
//!
//! Rules never decide whether a request is carried out: they tell the browser whether the site's
//! script may see the answer.

use granary_oss::header::text;
use granary_oss::xml::CorsGrant;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use crate::buckets::Bucket;
use crate::head::Head;
use crate::render::insert;

/// The headers for a request to a bucket; none unless it has rules.
pub(crate) fn headers(bucket: &Bucket, head: &Head) -> HeaderMap {
    let Some(rules) = &bucket.cors else {
        return HeaderMap::new();
    };
    let origin = text(&head.headers, ORIGIN.as_str());
    let grant = origin.and_then(|origin| rules.grant(&origin, head.method.as_str(), ""));
    let mut headers = grant.as_ref().map(granted).unwrap_or_default();
    if rules.response_vary {
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    headers
}

/// Adds them to an answer. One to OPTIONS has its own grant; what else an answer varies by stays.
pub(crate) fn add(answer: &mut HeaderMap, headers: &HeaderMap) {
    for (name, value) in headers {
        if name == VARY {
            answer.append(VARY, value.clone());
        } else {
            answer.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// The headers that tell a browser what it may do.
pub(crate) fn granted(grant: &CorsGrant) -> HeaderMap {
    let mut headers = HeaderMap::new();
    insert(&mut headers, ACCESS_CONTROL_ALLOW_ORIGIN, &grant.origin);
    insert(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, &grant.methods);
    let age = grant.max_age_seconds.map(|seconds| seconds.to_string());
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_HEADERS, &grant.headers),
        (ACCESS_CONTROL_EXPOSE_HEADERS, &grant.expose),
        (ACCESS_CONTROL_MAX_AGE, &age),
    ] {
        if let Some(value) = value {
            insert(&mut headers, name, value);
        }
    }
    headers
}
