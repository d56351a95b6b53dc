//! TLS of clients that talk to servers of others: whom they believe, and by which clock.
//!
//! Must not know who asks what over it. Nodes among each other believe one authority of their own, elsewhere.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use crate::Runtime;

/// The certificates of a PEM file, at least one. May block.
///
/// # Errors
/// A file that cannot be read or has none.
pub fn read_certificates(file: impl AsRef<Path>) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| match error {
        pem::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    match found.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no certificate in PEM",
        )),
        false => Ok(found),
    }
}

/// TLS 1.2 and 1.3, for servers that the system's certificates or `own` vouch for at the runtime's time. Reads the
/// system's: may block.
///
/// # Errors
/// None that the cryptography of this build gives a reason for.
pub fn tls_client(
    runtime: &Runtime,
    own: Vec<CertificateDer<'static>>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some of the system's certificates cannot be read");
    }
    roots.add_parsable_certificates(system.certs.into_iter().chain(own));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clock = Arc::new(WallClock(runtime.clone()));
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The runtime's clock, by which certificates are judged.
struct WallClock(Runtime);

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_millis(self.0.now().as_millis());
        Some(UnixTime::since_unix_epoch(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_none() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("ca.pem");
        assert_eq!(
            read_certificates(&file).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        for text in ["", "certificate", "-----BEGIN CERTIFICATE-----\n!\n"] {
            std::fs::write(&file, text).unwrap();
            let error = read_certificates(&file).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text}");
        }
    }
}
