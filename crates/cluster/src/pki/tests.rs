//! Tests of the authority: who is trusted, rotation, sealed keys.

use std::sync::Arc;

use granary_runtime::{Runtime, SeededEntropy, SystemClock};
use granary_types::{NodeId, Timestamp};

use super::*;
use crate::Peer;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

fn runtime() -> Runtime {
    Runtime::simulated(Arc::new(SystemClock), Arc::new(SeededEntropy::new(7)))
}

#[test]
fn an_authority_survives_its_files() {
    let made = Authority::generate(&runtime(), CLUSTER).unwrap();
    let from_pem = Authority::from_pem(&made.certificate_pem(), &made.key_pem()).unwrap();
    let from_der = Authority::from_der(made.certificate(), &made.key_der()).unwrap();
    for again in [from_pem, from_der] {
        assert_eq!(again.certificate(), made.certificate());
        assert_eq!(again.key_der(), made.key_der());
        assert_eq!(again.fingerprint(), made.fingerprint());
    }
    let other = Authority::generate(&runtime(), CLUSTER).unwrap();
    let mixed = Authority::from_pem(&made.certificate_pem(), &other.key_pem());
    assert!(matches!(mixed, Err(PkiError::ForeignKey(_))), "{mixed:?}");
    assert!(Authority::generate(&runtime(), "two.labels").is_err());
}

#[test]
fn the_authority_decides_the_names_not_the_request() {
    let runtime = runtime();
    let authority = Authority::generate(&runtime, CLUSTER).unwrap();
    // A request for somebody else's name, and for a CA's rights.
    let key = rcgen::KeyPair::generate().unwrap();
    let wish = format!("node-1.{CLUSTER}.granary");
    let mut params = rcgen::CertificateParams::new(vec![wish]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap();
    let issued = authority.issue_node(&runtime, CLUSTER, NodeId(9), request.der());
    let facts = CertificateFacts::read(&issued.unwrap()).unwrap();
    assert_eq!(facts.names, [format!("node-9.{CLUSTER}.granary")]);
    assert_eq!(facts.peer(CLUSTER), Some(Peer::Node(NodeId(9))));
    assert_eq!(facts.peer("other"), None);
    assert_eq!(facts.public_key, key.public_key_raw());
    let ca = CertificateFacts::read(authority.certificate()).unwrap();
    assert_eq!(facts.issuer, ca.subject);
    let now = runtime.now();
    let days = |count: u64| Timestamp(now.0 + count * 86_400_000);
    assert!(facts.not_after > days(89) && facts.not_after <= days(90));
    assert!(facts.renew_at() > days(58) && facts.renew_at() < days(62));
}

#[test]
fn damaged_requests_are_refused() {
    let runtime = runtime();
    let authority = Authority::generate(&runtime, CLUSTER).unwrap();
    let request = NodeKey::generate().unwrap().request().unwrap();
    let mut forged = request.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut off", request[..40].to_vec()),
        ("another signature", forged),
        ("too long", vec![0x30; 1 << 20]),
    ] {
        let issued = authority.issue_node(&runtime, CLUSTER, NodeId(2), &bytes);
        assert!(
            matches!(issued, Err(PkiError::Malformed { .. })),
            "{what}: {issued:?}"
        );
    }
}

#[test]
fn an_admin_certificate_names_an_operator() {
    let runtime = runtime();
    let authority = Authority::generate(&runtime, CLUSTER).unwrap();
    let key = NodeKey::generate().unwrap();
    let key = NodeKey::from_pem(&key.to_pem()).unwrap();
    let issued = authority.issue_admin(&runtime, CLUSTER, &key).unwrap();
    let read = certificates_from_pem(certificate_pem(&issued).as_bytes()).unwrap();
    assert_eq!(read, std::slice::from_ref(&issued));
    let facts = CertificateFacts::read(&issued).unwrap();
    assert_eq!(facts.peer(CLUSTER), Some(Peer::Admin));
}

#[test]
fn tokens_survive_being_copied_and_nothing_else() {
    let runtime = runtime();
    let fingerprint = Fingerprint([5; 32]);
    let token = JoinToken::make(&runtime, fingerprint);
    let text = token.reveal();
    let read = JoinToken::parse(&format!(" {text}\n")).unwrap();
    assert_eq!(read.reveal(), text);
    assert_eq!(read.fingerprint(), fingerprint);
    let kept = token.record(Timestamp(1));
    assert!(secret_matches(&kept, read.secret()));
    let other = JoinToken::make(&runtime, fingerprint);
    assert!(!secret_matches(&kept, other.secret()));
    assert!(!secret_matches(&kept, b""));
    for broken in [
        "",
        "granary",
        &text[..text.len() - 1],
        &text[1..],
        "granary.a.b.c",
    ] {
        assert!(JoinToken::parse(broken).is_err(), "{broken}");
    }
    assert!(!format!("{token:?}").contains(text.rsplit('.').next().unwrap()));
}
