//! Parties that are not who they should be. Each is refused with the reason that is its own.

use std::sync::Arc;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, InvalidMessage, PeerIncompatible,
};
use rustls_pki_types::ServerName;
use sivshm_abi::identity::{BadSpiffeId, Subject};
use sivshm_abi::name::{ServiceName, TrustDomain};

use super::certificates::{Ca, Leaf, Svid, device, now, service, uri, vm};
use super::world::{Fd, World};
use crate::identity::{Party, other};
use crate::limits::MAX_UNAUTHENTICATED_BYTES;
use crate::tls::provider;
use crate::verifier::SvidVerifier;
use crate::{
    ALPN, AdmissionFault, Blame, IdentityFault, PeerHandshake, PeerUid, Refusal, RefusalCode,
    TlsFault,
};

/// What a listener and a dialer say to a party that presents this SVID. Both trust `ca`.
fn both_refuse(ca: &Ca, svid: &Svid) -> (Refusal, Refusal) {
    let impostor = ca.forge(svid);
    let listener = World::new(&impostor, &ca.device("b")).listener_refuses();
    let dialer = World::new(&ca.device("a"), &impostor).dialer_refuses();
    (listener, dialer)
}

fn refused(leaf: Leaf) -> IdentityFault {
    let ca = Ca::new("car");
    let (listener, dialer) = both_refuse(&ca, &ca.issue(leaf));
    assert_eq!(listener, dialer);
    assert_eq!(listener.blame(), Blame::Peer);
    match listener {
        Refusal::Identity(fault) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn another_ca() {
    let (ca, other) = (Ca::new("car"), Ca::new("other"));
    let untrusted = Refusal::Identity(IdentityFault::Untrusted(webpki::Error::UnknownIssuer));
    for name in ["a", "b"] {
        let (listener, dialer) = both_refuse(&ca, &other.issue(Leaf::new(device(name))));
        assert_eq!(listener, untrusted);
        assert_eq!(dialer, untrusted);
    }
}

#[test]
fn another_ca_of_the_same_name() {
    let (ca, same) = (Ca::new("car"), Ca::new("car"));
    let (listener, dialer) = both_refuse(&ca, &same.issue(Leaf::new(device("b"))));
    for refusal in [listener, dialer] {
        let fault = IdentityFault::Untrusted(webpki::Error::InvalidSignatureForPublicKey);
        assert_eq!(refusal, Refusal::Identity(fault));
    }
}

#[test]
fn expired_and_not_yet_valid() {
    let leaf = |days| Leaf {
        days,
        ..Leaf::new(device("b"))
    };
    assert_eq!(refused(leaf((-2, -1))), IdentityFault::Expired);
    assert_eq!(refused(leaf((1, 2))), IdentityFault::NotYetValid);
}

#[test]
fn a_service() {
    let ca = Ca::new("car");
    let svid = ca.issue(Leaf::new(service("b", "camera")));
    let (listener, dialer) = both_refuse(&ca, &svid);
    let camera = Subject::Service(vm("b"), ServiceName::new("camera").unwrap());
    let refusal = |want| Refusal::Identity(other(camera, want));
    assert_eq!(listener, refusal(Party::AnyDevice));
    assert_eq!(dialer, refusal(Party::Device(vm("b"))));
}

#[test]
fn another_vm() {
    let ca = Ca::new("car");
    let mut world = World::new(&ca.device("a"), &ca.device("c"));
    let (got, want) = (Subject::Device(vm("c")), Party::Device(vm("b")));
    assert_eq!(world.dialer_refuses(), Refusal::Identity(other(got, want)));
}

#[test]
fn a_vm_that_the_policy_does_not_join() {
    let mut world = World::honest();
    world.listener.planned = None;
    let refusal = world.listener_refuses();
    assert_eq!(
        refusal,
        Refusal::Admission(AdmissionFault::NoLink { vm: vm("a") })
    );
    assert_eq!(refusal.blame(), Blame::Policy);
    assert_told(&mut world, RefusalCode::NoLink);
}

/// Asserts that the dialer was told this reason and no more.
fn assert_told(world: &mut World, code: RefusalCode) {
    let told = crate::wire::Told::Code(code);
    assert_eq!(world.dialer.refusal, Some(Refusal::Told(told)));
}

#[test]
fn a_relay_with_another_uid() {
    let mut world = World::honest();
    world.listener.found = PeerUid(70_099);
    assert_eq!(
        world.listener_refuses(),
        Refusal::Admission(AdmissionFault::Uid {
            vm: vm("a"),
            found: PeerUid(70_099),
            planned: PeerUid(70_001),
        })
    );
    assert_told(&mut world, RefusalCode::Uid);
}

#[test]
fn another_trust_domain() {
    assert_eq!(
        refused(Leaf::new(uri("spiffe://other.example/vm/b/device"))),
        IdentityFault::Domain(TrustDomain::new("other.example").unwrap())
    );
}

#[test]
fn names_that_are_not_exactly_one_spiffe_id() {
    let one = IdentityFault::Profile("subjectAltName is not exactly one URI");
    let with = |other: SanType| Leaf {
        names: vec![device("b"), other],
        ..Leaf::new(device("b"))
    };
    assert_eq!(refused(with(device("c"))), one);
    assert_eq!(refused(with(device("b"))), one);
    let dns = SanType::DnsName("b.car.example".try_into().unwrap());
    assert_eq!(refused(with(dns.clone())), one);
    assert_eq!(refused(Leaf::new(dns)), one);
    let none = Leaf {
        names: Vec::new(),
        ..Leaf::new(device("b"))
    };
    assert_eq!(
        refused(none),
        IdentityFault::Profile("it has no subjectAltName")
    );
    assert_eq!(
        refused(Leaf::new(uri("https://car.example/vm/b/device"))),
        IdentityFault::Name(BadSpiffeId::Scheme)
    );
}

#[test]
fn usages_that_are_not_a_leafs() {
    let ca = Leaf {
        is_ca: IsCa::Ca(BasicConstraints::Unconstrained),
        ..Leaf::new(device("b"))
    };
    let as_leaf = webpki::Error::CaUsedAsEndEntity;
    assert_eq!(refused(ca), IdentityFault::Untrusted(as_leaf));

    let usages = |usages| Leaf {
        usages,
        ..Leaf::new(device("b"))
    };
    let wrong = IdentityFault::Profile("keyUsage has no digitalSignature, or a CA's usage");
    let signs = KeyUsagePurpose::DigitalSignature;
    assert_eq!(
        refused(usages(vec![signs, KeyUsagePurpose::KeyCertSign])),
        wrong
    );
    assert_eq!(
        refused(usages(vec![signs, KeyUsagePurpose::CrlSign])),
        wrong
    );
    assert_eq!(refused(usages(vec![KeyUsagePurpose::KeyAgreement])), wrong);
    assert_eq!(
        refused(usages(Vec::new())),
        IdentityFault::Profile("it has no critical keyUsage")
    );

    let none = Leaf {
        purposes: Vec::new(),
        ..Leaf::new(device("b"))
    };
    assert_eq!(
        refused(none),
        IdentityFault::Profile("it has no extKeyUsage")
    );
    // What a service with only one of the two gets as dialer; as listener WebPKI itself refuses.
    let server = Leaf {
        purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
        ..Leaf::new(device("b"))
    };
    let car = Ca::new("car");
    let (listener, _) = both_refuse(&car, &car.issue(server));
    let both = IdentityFault::Profile("extKeyUsage is not both serverAuth and clientAuth");
    assert_eq!(listener, Refusal::Identity(both));
}

#[test]
fn a_chain_that_is_too_long() {
    let ca = Ca::new("car");
    let svid = ca.issue(Leaf::new(device("b")));
    let chain = svid.chain + &ca.intermediate.repeat(3);
    let svid = Svid { chain, ..svid };
    let (listener, _) = both_refuse(&ca, &svid);
    assert!(matches!(
        listener,
        Refusal::Identity(IdentityFault::TooLong {
            certificates: 5,
            ..
        })
    ));
}

/// A TLS client that is not one of ours, and what a listener says to it.
fn listener_refuses(alpn: &[&[u8]], with_svid: bool) -> Refusal {
    let ca = Ca::new("car");
    let impostor = ca.device("a");
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(SvidVerifier::new(&impostor, Party::Device(vm("b"))));
    let mut config = if with_svid {
        config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &impostor.certified,
        ))))
    } else {
        config.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // The verifier's time is the real one here; the certificates' is not.
    config.time_provider = Arc::new(crate::tls::GivenTime(crate::tls::unix_time(now())));
    let name = ServerName::try_from("b").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut listener = listener(&ca);
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        assert!(!bytes.is_empty(), "the listener waits for more");
        match listener.receive(&bytes, Vec::new()) {
            Ok(actions) => {
                for action in actions {
                    let crate::Action::Send(bytes) = action else {
                        panic!("the listener accepted: {action:?}");
                    };
                    client.read_tls(&mut bytes.as_slice()).unwrap();
                }
                client.process_new_packets().unwrap();
            }
            Err(refusal) => return refusal,
        }
    }
}

fn listener(ca: &Ca) -> PeerHandshake<Fd> {
    PeerHandshake::accept(&ca.device("b"), now(), std::time::Instant::now()).unwrap()
}

#[test]
fn no_certificate() {
    let refusal = listener_refuses(&[ALPN], false);
    assert_eq!(refusal, Refusal::Identity(IdentityFault::Missing));
}

#[test]
fn another_application_protocol() {
    let refusal = listener_refuses(&[b"sivshm-service/1", b"h2"], true);
    assert_eq!(
        refusal,
        Refusal::Tls(TlsFault::Protocol(Error::NoApplicationProtocol))
    );
}

#[test]
fn no_application_protocol() {
    assert_eq!(listener_refuses(&[], true), Refusal::Tls(TlsFault::Alpn));
}

#[test]
fn an_older_tls() {
    // A TLS 1.2 client's hello: ECDHE-ECDSA with AES-128-GCM, P-256, ECDSA with SHA-256, our ALPN,
    // and no supported_versions.
    let mut extensions = vec![
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups
        0, 11, 0, 2, 1, 0, // ec_point_formats
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms
        0, 23, 0, 0, // extended_master_secret
        0, 16, 0, 16, 0, 14, 13, // ALPN
    ];
    extensions.extend(ALPN);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0]);
    body.push(u8::try_from(extensions.len()).unwrap());
    body.extend(extensions);
    let len = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, len + 4, 1, 0, 0, len];
    hello.extend(body);

    let ca = Ca::new("car");
    let refusal = listener(&ca).receive(&hello, Vec::new()).unwrap_err();
    let old = PeerIncompatible::SupportedVersionsExtensionRequired;
    assert_eq!(refusal, Refusal::Tls(TlsFault::Protocol(old.into())));
}

#[test]
fn a_replayed_flight() {
    let ca = Ca::new("car");
    let (a, b) = (ca.device("a"), ca.device("b"));
    let mut world = World::new(&a, &b);
    world.run(|| 4096).assert_established();
    let recorded = world.to_listener.recorded;
    let mut second = PeerHandshake::<Fd>::accept(&b, now(), std::time::Instant::now()).unwrap();
    let refusal = second.receive(&recorded, Vec::new()).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Tls(TlsFault::Protocol(Error::DecryptError))
    );
}

#[test]
fn a_party_that_is_refused_is_told_only_by_an_alert() {
    let ca = Ca::new("car");
    let old = Leaf {
        days: (-2, -1),
        ..Leaf::new(device("a"))
    };
    let mut world = World::new(&ca.forge(&ca.issue(old)), &ca.device("b"));
    world.listener_refuses();
    let told = world.dialer.refusal.unwrap();
    let alert = AlertDescription::CertificateUnknown;
    assert_eq!(told, Refusal::Tls(TlsFault::Alert(alert)));
    assert_eq!(told.blame(), Blame::Host);
}

#[test]
fn somebody_who_talks_and_never_authenticates() {
    // Handshake records of one fragment each, of a hello that never ends.
    let ca = Ca::new("car");
    let mut listener = listener(&ca);
    let mut stream = vec![22, 3, 1, 0, 5, 1, 0, 0xff, 0xff, 0];
    while stream.len() <= MAX_UNAUTHENTICATED_BYTES {
        stream.extend([22, 3, 1, 0, 1, 0]);
    }
    let refusal = listener.receive(&stream, Vec::new()).unwrap_err();
    assert_eq!(refusal, Refusal::Tls(TlsFault::TooLong));
    assert!(listener.deadline().is_none());
}

#[test]
fn something_that_is_no_tls() {
    let ca = Ca::new("car");
    let refusal = listener(&ca).receive(b"GET / HTTP/1.1\r\n\r\n", Vec::new());
    let noise = Error::InvalidMessage(InvalidMessage::InvalidContentType);
    assert_eq!(
        refusal.unwrap_err(),
        Refusal::Tls(TlsFault::Protocol(noise))
    );
}
