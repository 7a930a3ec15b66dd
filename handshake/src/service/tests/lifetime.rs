//! SVIDs that are withdrawn or end while something stands on them.

use std::time::Duration;

use super::world::{Cast, World};
use crate::identity::IdentityFault;
use crate::service::wire::Chain;
use crate::service::{ServiceFault, ServiceSession};
use crate::tests::certificates::{Ca, INTERMEDIATE, Leaf, device, now, service};
use crate::tls::unix_time;
use crate::{CredentialError, Credentials};

const WRITER: u64 = 77;

fn cast() -> Cast {
    let mut cast = Cast::new();
    let leaf = Leaf {
        serial: Some(WRITER),
        ..Leaf::new(service("a", "camera"))
    };
    cast.writer = cast.ca.load_service(&cast.ca.issue(leaf)).unwrap();
    cast
}

fn trusting(credentials: &Credentials, crls: &str) -> Credentials {
    credentials.with_crl(crls.as_bytes(), now()).unwrap()
}

#[test]
fn a_withdrawn_service_is_refused_by_everybody_who_has_the_list() {
    let mut cast = cast();
    World::new(&cast).run().assert_opened();
    let good = cast.ca.crls(&[], &[5], 1);
    cast.device_a = trusting(&cast.device_a, &good);
    cast.device_b = trusting(&cast.device_b, &good);
    World::new(&cast).run().assert_opened();

    let revoked = ServiceFault::Identity(IdentityFault::Revoked);
    let crls = cast.ca.crls(&[], &[5, WRITER], 1);
    let (device_a, device_b) = (cast.device_a.clone(), cast.device_b.clone());
    // At its own device process, when it dials.
    cast.device_a = trusting(&device_a, &crls);
    let name = sivshm_abi::name::ServiceName::new("camera").unwrap();
    let mut session = ServiceSession::accept(&cast.device_a, name, now()).unwrap();
    let mut client = crate::service::ServiceClient::dial(&cast.writer, now()).unwrap();
    let at = std::time::Instant::now();
    session.receive(&client.outgoing()).unwrap();
    client.receive(&session.outgoing(), now(), at).unwrap();
    assert_eq!(session.receive(&client.outgoing()).unwrap_err(), revoked);
    // At the other device process, when it opens.
    cast.device_a = device_a;
    cast.device_b = trusting(&device_b, &crls);
    let mut world = World::new(&cast);
    world.run().assert_nothing_opened();
    assert_eq!(world.b.device.fault, Some(revoked.clone()));
    // At the other service, if it has a list.
    cast.device_b = device_b;
    cast.reader = trusting(&cast.reader, &crls);
    let mut world = World::new(&cast);
    world.run().assert_nothing_opened();
    assert_eq!(world.b.fault(), Some(revoked.clone()));
    assert!(revoked.reason().heals());
}

#[test]
fn what_stands_on_an_svid_is_judged_again() {
    let cast = cast();
    let mut world = World::new(&cast);
    world.run().assert_opened();
    let service = world.a.service.take().unwrap();
    let agreement = world.b.device.agreement.take().unwrap();
    let good = trusting(&cast.device_b, &cast.ca.crls(&[], &[], 1));
    let bad = trusting(&cast.device_b, &cast.ca.crls(&[], &[WRITER], 1));
    let end = now() + Duration::from_secs(86400);
    assert_eq!(service.not_after(), end);
    assert_eq!(agreement.not_after(), end);
    let both = |credentials, wall| {
        let service = service.revalidate(credentials, wall);
        assert_eq!(service, agreement.revalidate(credentials, wall));
        service
    };
    assert_eq!(both(&cast.device_b, now()), Ok(()));
    assert_eq!(both(&good, now()), Ok(()));
    assert_eq!(both(&bad, now()), Err(IdentityFault::Revoked));
    let later = now() + Duration::from_secs(86401);
    assert_eq!(both(&cast.device_b, later), Err(IdentityFault::Expired));
    let early = now() - Duration::from_secs(86401);
    assert_eq!(both(&cast.device_b, early), Err(IdentityFault::NotYetValid));
}

#[test]
fn a_pairing_ends_with_the_shorter_life() {
    let mut cast = Cast::new();
    let leaf = Leaf {
        days: (-1, 3),
        ..Leaf::new(service("b", "display"))
    };
    cast.reader = cast.ca.load_service(&cast.ca.issue(leaf)).unwrap();
    let mut world = World::new(&cast);
    world.run().assert_opened();
    let day = Duration::from_secs(86400);
    let agreement = world.a.device.agreement.take().unwrap();
    assert_eq!(agreement.not_after(), now() + day);
    assert_eq!(world.b.service.unwrap().not_after(), now() + 3 * day);
}

/// What is remembered of a chain is what verifying it again would come to.
#[test]
fn a_known_chain_is_known_only_while_nothing_can_have_changed() {
    let day = Duration::from_secs(86400);
    let second = Duration::from_secs(1);
    let mut cast = Cast::new();
    let leaf = Leaf {
        days: (-1, 3),
        serial: Some(WRITER),
        ..Leaf::new(service("a", "camera"))
    };
    cast.writer = cast.ca.load_service(&cast.ca.issue(leaf)).unwrap();
    cast.device_b = trusting(&cast.device_b, &cast.ca.crls(&[], &[], 2));
    let chain = Chain::new(cast.writer.certified.cert.clone())
        .unwrap()
        .hash();
    let (writer, reader) = (cast.writer.id(), cast.reader.id());
    let known = |by: &Credentials, id, wall| by.known.find(chain, id, unix_time(wall)).is_some();
    assert!(!known(&cast.device_b, writer, now()));
    World::new(&cast).run().assert_opened();

    // For the party that it is the SVID of, from then on.
    assert!(known(&cast.device_b, writer, now()));
    assert!(known(&cast.device_b.clone(), writer, now()));
    assert!(!known(&cast.device_b, reader, now()));
    assert!(!known(&cast.device_b, writer, now() - second));
    // As long as the certificates are valid, and less long if a list has to be renewed before.
    assert!(known(&cast.device_a, writer, now() + 3 * day));
    assert!(!known(&cast.device_a, writer, now() + 3 * day + second));
    assert!(known(&cast.device_b, writer, now() + 2 * day - second));
    assert!(!known(&cast.device_b, writer, now() + 2 * day));
    // Not by other lists.
    let other = trusting(&cast.device_b, &cast.ca.crls(&[], &[WRITER], 2));
    assert!(!known(&other, writer, now()));

    // What is not known is verified, and found bad.
    cast.device_b = other;
    let mut world = World::new(&cast);
    world.run().assert_nothing_opened();
    let revoked = ServiceFault::Identity(IdentityFault::Revoked);
    assert_eq!(world.b.device.fault, Some(revoked));
}

#[test]
fn unknown_status_and_old_lists_are_refused() {
    let ca = Ca::new("car");
    let credentials = ca.device("a");
    let with = |pem: &str, days: u64| {
        let wall = now() + Duration::from_secs(days * 86400);
        credentials.with_crl(pem.as_bytes(), wall).map(drop)
    };
    let svid = |fault| Err(CredentialError::Svid(fault));
    assert_eq!(with(&ca.crls(&[], &[], 1), 0), Ok(()));
    // That of the intermediate's issuer is missing, and that of another CA's does not help.
    let unknown = IdentityFault::Status(webpki::Error::UnknownRevocationStatus);
    assert_eq!(with(&ca.crl(&[], 1), 0), svid(unknown.clone()));
    let other = Ca::new("other");
    assert_eq!(with(&other.crls(&[], &[], 1), 0), svid(unknown));
    // Of the right name, signed by somebody else.
    let same = Ca::new("car");
    let forged = IdentityFault::Untrusted(webpki::Error::InvalidCrlSignatureForPublicKey);
    assert_eq!(with(&same.crls(&[], &[], 1), 0), svid(forged));
    // Past its next update, while the SVID is still good.
    let old = ca.crls(&[], &[], -1);
    let Err(CredentialError::Svid(IdentityFault::Status(fault))) = with(&old, 0) else {
        panic!("an old list was taken");
    };
    assert!(matches!(fault, webpki::Error::CrlExpired { .. }));
    // The own SVID, and its issuer.
    let own = ca.issue(Leaf {
        serial: Some(3),
        ..Leaf::new(device("a"))
    });
    let own = ca.load("a", &own).unwrap();
    let revoked = Err(CredentialError::Svid(IdentityFault::Revoked));
    let judge = |pem: String| own.with_crl(pem.as_bytes(), now()).map(drop);
    assert_eq!(judge(ca.crls(&[], &[3], 1)), revoked);
    assert_eq!(judge(ca.crls(&[INTERMEDIATE], &[], 1)), revoked);
    // No list at all.
    assert_eq!(with("", 0), Err(CredentialError::Crl));
    assert_eq!(with(&ca.root, 0), Err(CredentialError::Crl));
    assert_eq!(
        with(&ca.crl(&[], 1).repeat(33), 0),
        Err(CredentialError::Crl)
    );
}

#[test]
fn a_peer_is_judged_again_too() {
    use crate::tests::world::World as Peers;
    let ca = Ca::new("car");
    let b = ca.issue(Leaf {
        serial: Some(9),
        ..Leaf::new(device("b"))
    });
    let (a, b) = (ca.device("a"), ca.load("b", &b).unwrap());
    let mut peers = Peers::new(&a, &b);
    let (link, _) = peers.run(|| 4096).assert_established();
    assert_eq!(link.peer.not_after(), now() + Duration::from_secs(86400));
    let good = trusting(&a, &ca.crls(&[], &[], 1));
    let bad = trusting(&a, &ca.crls(&[], &[9], 1));
    assert_eq!(link.peer.revalidate(&good, now()), Ok(()));
    assert_eq!(
        link.peer.revalidate(&bad, now()),
        Err(IdentityFault::Revoked)
    );
    // And when it dials.
    Peers::new(&good, &b).run(|| 4096).assert_established();
    let refusal = Peers::new(&bad, &b).dialer_refuses();
    assert_eq!(refusal, crate::Refusal::Identity(IdentityFault::Revoked));
}
