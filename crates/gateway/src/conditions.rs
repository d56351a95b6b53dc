//! Conditions of writes (`If-Match` and its like), which the service does not have: one that is passed
//! over lets a client overwrite what it meant to keep. Those of reads are in `ops/object/version.rs`.

use granary_oss::error::ec;
use granary_oss::{ErrorCode, OssError};
use http::{Method, StatusCode};

use crate::head::Head;

/// The headers, as answers spell them.
pub(crate) const CONDITIONS: [&str; 4] = [
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
];

/// Refuses a condition of a request that changes something; `ignored` mean nothing to its operation.
///
/// # Errors
/// NotImplemented, with the status 400.
pub(crate) fn refuse(head: &Head, ignored: &[&str]) -> Result<(), OssError> {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&head.method) {
        return Ok(());
    }
    let asked = |name: &&&str| head.headers.contains_key(**name) && !ignored.contains(name);
    match CONDITIONS.iter().find(asked) {
        Some(name) => Err(refused(name)),
        None => Ok(()),
    }
}

/// A condition that no write has. The service itself has none, so that this is the client's mistake and
/// nothing to try again: a 5xx is what SDKs repeat.
pub(crate) fn refused(name: &str) -> OssError {
    OssError::new(ErrorCode::NotImplemented)
        .message("A header you provided implies functionality that is not implemented.")
        .with_status(StatusCode::BAD_REQUEST)
        .ec(ec::CONDITION_OF_A_WRITE)
        .extra("Header", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn writes_have_none_and_reads_have_theirs() {
        for name in CONDITIONS {
            let of = |method| {
                let headers = [(name.to_ascii_lowercase(), "x")];
                let headers = headers
                    .each_ref()
                    .map(|(name, value)| (name.as_str(), *value));
                head(method, "localhost", "/bucket/key", &headers)
            };
            for method in ["PUT", "POST", "DELETE"] {
                let error = refuse(&of(method), &[]).unwrap_err();
                assert_eq!(
                    (error.code(), error.status().as_u16(), error.ec_text()),
                    (ErrorCode::NotImplemented, 400, "0017-00000245")
                );
                assert_eq!(error.extra_value("Header"), Some(name));
                assert!(refuse(&of(method), &[name]).is_ok());
            }
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert!(refuse(&of(method), &[]).is_ok(), "{method} {name}");
            }
        }
    }
}
