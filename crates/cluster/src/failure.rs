//! Why a call to another node failed, as an operator reads it: one sentence instead of what the
//! layers of a connection say of each other.
//!
//! It must not know what was asked. What the other side said is passed on as it is.

use std::error::Error;
use std::io;

use granary_types::NodeId;
use rustls::CertificateError;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// What asking again at the same address cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// The certificate there is not under a CA that is believed here.
    NotTrusted,
    /// Whoever is there speaks no TLS.
    PlainThere,
    /// Whoever is there speaks TLS, and this side does not. Only a handshake shows it: who speaks TLS
    /// closes other connections, as somebody may who stops.
    TlsThere,
}

/// Why a call failed: the cause alone, if it is the connection, else what the other side said.
pub fn plain(status: &Status) -> String {
    if let Some(said) = causes(status).find_map(known) {
        return said;
    }
    if speaks_tls(status) {
        return "it speaks TLS, or no HTTP/2".to_owned();
    }
    let innermost = causes(status).last().map(ToString::to_string);
    match innermost {
        Some(innermost) if status.message().is_empty() => innermost,
        Some(innermost) if !status.message().contains(&innermost) => {
            format!("{}: {innermost}", status.message())
        }
        _ if status.message().is_empty() => status.code().description().to_owned(),
        _ => status.message().to_owned(),
    }
}

/// Whether another node has refused a call because the node that made it was given up.
pub fn says_removed(status: &Status, node: NodeId) -> bool {
    status.code() == Code::PermissionDenied && status.message() == removed_sentence(node)
}

/// Whether the node at the other end still hears this one about consensus: `None` when nobody answers.
/// One that was given up is heard by the members of shards that have not let it go yet. Nothing serves
/// the method: who may call it is decided before.
pub async fn is_heard(channel: Channel, own: NodeId) -> Option<bool> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.ok()?;
    let path = http::uri::PathAndQuery::from_static("/granary.raft.v1.Raft/IsHeard");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match client.unary(Request::new(()), path, codec).await {
        Ok(_) => Some(true),
        Err(status) if says_removed(&status, own) => Some(false),
        Err(status) => status.source().is_none().then_some(true),
    }
}

/// What a node that was given up hears; older versions say it in the same words.
pub(crate) fn removed_sentence(node: NodeId) -> String {
    format!("node {node} was removed from the cluster")
}

/// Why nobody will ever get an answer there, if so.
pub(crate) fn mismatch(status: &Status) -> Option<Mismatch> {
    match causes(status).find_map(tls_error) {
        Some(rustls::Error::InvalidCertificate(error)) if is_foreign(error) => {
            Some(Mismatch::NotTrusted)
        }
        Some(rustls::Error::InvalidMessage(_)) => Some(Mismatch::PlainThere),
        _ => None,
    }
}

/// Whether a connection failed because of the certificate that the other side showed.
pub(crate) fn has_shown_certificate(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Not one that is late or early: that may change.
fn is_foreign(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }
    )
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// The cause that says it all, in words.
fn known(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = tls_error(error) {
        return Some(match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "its certificate is not signed by a CA that is trusted here".to_owned()
            }
            rustls::Error::InvalidMessage(_) => "it speaks no TLS".to_owned(),
            other => other.to_string(),
        });
    }
    let error = error.downcast_ref::<io::Error>()?;
    // An error in an error has its own words, and comes next.
    if error.get_ref().is_some() && error.kind() != io::ErrorKind::TimedOut {
        return None;
    }
    Some(match error.kind() {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => without_number(&error.to_string()),
    })
}

fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error);
    }
    // An I/O error is not the source of the error it was made of.
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// "Connection refused (os error 111)" without the number.
fn without_number(said: &str) -> String {
    let words = said.rsplit_once(" (os error ").map(|(words, _)| words);
    words.unwrap_or(said).to_owned()
}

/// What answers in plain text with a TLS alert: its first bytes are no frame of HTTP/2.
fn speaks_tls(status: &Status) -> bool {
    causes(status).any(|error| error.to_string().contains("frame with invalid size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_is_said_in_words() {
        let refused = || io::Error::from_raw_os_error(111);
        let mut below = Status::unavailable("tcp connect error");
        below.set_source(std::sync::Arc::new(refused()));
        let mut certificate = Status::unavailable("transport error");
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, unknown);
        certificate.set_source(std::sync::Arc::new(wrapped));
        for (status, expected) in [
            (below, "Connection refused"),
            (
                certificate,
                "its certificate is not signed by a CA that is trusted here",
            ),
            (
                Status::failed_precondition("there is no disk 5"),
                "there is no disk 5",
            ),
        ] {
            assert_eq!(plain(&status), expected);
        }
    }
}
