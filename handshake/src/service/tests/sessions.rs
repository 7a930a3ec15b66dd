//! Parties at either end of a session that are not who they should be.

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::Subject;
use sivshm_abi::name::{ServiceName, TrustDomain};

use crate::identity::{IdentityFault, Party, other};
use crate::service::wire::{Content, Hash, Message, MessageType, Pairing};
use crate::service::{ALPN, ServiceClient, ServiceFault, ServiceSession, SessionEvent};
use crate::tests::certificates::{Ca, Leaf, device, now, service, uri, vm};
use crate::tls::{Tls, TlsFault};
use crate::{CredentialError, Credentials};

fn camera() -> ServiceName {
    ServiceName::new("camera").unwrap()
}

/// Lets any party that wants `server` dial a session, and gives what each says.
fn meet(
    mut client: Tls,
    mut session: ServiceSession,
) -> (Result<bool, ServiceFault>, Result<(), ServiceFault>) {
    let mut proved = false;
    let (mut dialed, mut plain) = (Ok(()), Vec::new());
    for _ in 0..4 {
        match session.receive(&client.flush()) {
            Ok(events) => {
                let is_it = |event: &SessionEvent| matches!(event, SessionEvent::Authenticated(_));
                proved |= events.iter().any(is_it);
            }
            Err(fault) => return (Err(fault), dialed),
        }
        let bytes = session.outgoing();
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            if let Err(fault) = client.read(&mut bytes, &mut plain) {
                dialed = Err(fault.into());
                break;
            }
        }
    }
    (Ok(proved), dialed)
}

fn session(device: &Credentials) -> ServiceSession {
    ServiceSession::accept(device, camera(), now()).unwrap()
}

fn dial(credentials: &Credentials, alpn: &'static [u8]) -> Tls {
    Tls::dial(credentials, alpn, Party::Device(vm("a")), now()).unwrap()
}

/// What the device process of `a` says to a party that presents this leaf for `camera`.
fn refused(ca: &Ca, leaf: Leaf) -> ServiceFault {
    let server = ca.device("a");
    let honest = dial(&ca.service("a", "camera"), ALPN);
    assert_eq!(meet(honest, session(&server)).0, Ok(true));
    let impostor = dial(&ca.forge(&ca.issue(leaf)), ALPN);
    meet(impostor, session(&server)).0.unwrap_err()
}

fn not_camera(got: Subject) -> ServiceFault {
    ServiceFault::Identity(other(got, Party::Service(vm("a"), camera())))
}

#[test]
fn another_service_of_the_vm() {
    let leaf = Leaf::new(service("a", "microphone"));
    let microphone = ServiceName::new("microphone").unwrap();
    let expected = not_camera(Subject::Service(vm("a"), microphone));
    assert_eq!(refused(&Ca::new("car"), leaf), expected);
}

#[test]
fn the_service_of_another_vm() {
    let leaf = Leaf::new(service("b", "camera"));
    let expected = not_camera(Subject::Service(vm("b"), camera()));
    assert_eq!(refused(&Ca::new("car"), leaf), expected);
}

#[test]
fn a_device_process_as_a_service() {
    for name in ["a", "b"] {
        let expected = not_camera(Subject::Device(vm(name)));
        assert_eq!(refused(&Ca::new("car"), Leaf::new(device(name))), expected);
    }
    let ca = Ca::new("car");
    let refused = ServiceClient::dial(&ca.device("a"), now()).map(drop);
    let expected = ServiceFault::Wish("a device process has no session");
    assert_eq!(refused, Err(expected));
    let loaded = ca.load_service(&ca.issue(Leaf::new(device("a"))));
    let fault = other(Subject::Device(vm("a")), Party::AnyService);
    assert_eq!(loaded.map(drop), Err(CredentialError::Svid(fault)));
}

#[test]
fn a_service_or_another_device_process_as_the_own_device_process() {
    let ca = Ca::new("car");
    let honest = ca.device("a");
    for (leaf, got) in [
        (
            service("a", "microphone"),
            Subject::Service(vm("a"), ServiceName::new("microphone").unwrap()),
        ),
        (device("b"), Subject::Device(vm("b"))),
    ] {
        let mut impostor = ca.forge(&ca.issue(Leaf::new(leaf)));
        impostor.id = honest.id();
        let mut client = ServiceClient::dial(&ca.service("a", "camera"), now()).unwrap();
        let mut server = session(&impostor);
        server.receive(&client.outgoing()).unwrap();
        let at = std::time::Instant::now();
        let refused = client.receive(&server.outgoing(), now(), at).unwrap_err();
        let expected = other(got, Party::Device(vm("a")));
        assert_eq!(refused, ServiceFault::Identity(expected));
        assert_eq!(
            client.receive(&[0], now(), at).unwrap_err(),
            ServiceFault::Ended
        );
    }
}

#[test]
fn another_trust_domain_or_ca() {
    let ca = Ca::new("car");
    let leaf = Leaf::new(uri("spiffe://other.example/vm/a/svc/camera"));
    let domain = TrustDomain::new("other.example").unwrap();
    let expected = ServiceFault::Identity(IdentityFault::Domain(domain));
    assert_eq!(refused(&ca, leaf), expected);

    // The service of another CA does not believe the device process either, and is heard first.
    let other = Ca::new("other").service("a", "camera");
    let (server, client) = meet(dial(&other, ALPN), session(&ca.device("a")));
    let unknown = IdentityFault::Untrusted(webpki::Error::UnknownIssuer);
    assert_eq!(client, Err(ServiceFault::Identity(unknown)));
    let alert = matches!(server, Err(ServiceFault::Tls(TlsFault::Alert(_))));
    assert!(alert, "{server:?}");
}

#[test]
fn an_expired_svid() {
    let leaf = Leaf {
        days: (-3, -2),
        ..Leaf::new(service("a", "camera"))
    };
    let expected = ServiceFault::Identity(IdentityFault::Expired);
    assert_eq!(refused(&Ca::new("car"), leaf), expected);
}

#[test]
fn no_svid() {
    let ca = Ca::new("car");
    let mut config = rustls::ClientConfig::builder_with_details(
        std::sync::Arc::new(crate::tls::provider()),
        std::sync::Arc::new(crate::tls::GivenTime(crate::tls::unix_time(now()))),
    )
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .dangerous()
    .with_custom_certificate_verifier(crate::verifier::SvidVerifier::new(
        &ca.service("a", "camera"),
        Party::Device(vm("a")),
    ))
    .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = rustls_pki_types::ServerName::try_from("a").unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut session = session(&ca.device("a"));
    let flush = |client: &mut rustls::ClientConnection| {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    };
    assert!(session.receive(&flush(&mut client)).unwrap().is_empty());
    client.read_tls(&mut session.outgoing().as_slice()).unwrap();
    client.process_new_packets().unwrap();
    assert_eq!(
        session.receive(&flush(&mut client)).unwrap_err(),
        ServiceFault::Identity(IdentityFault::Missing)
    );
    assert!(!session.farewell().is_empty());
    assert_eq!(session.receive(&[0]).unwrap_err(), ServiceFault::Ended);
}

#[test]
fn the_protocol_of_device_processes() {
    let ca = Ca::new("car");
    let client = dial(&ca.service("a", "camera"), crate::ALPN);
    let fault = meet(client, session(&ca.device("a"))).0.unwrap_err();
    let none = rustls::Error::NoApplicationProtocol;
    assert_eq!(fault, ServiceFault::Tls(TlsFault::Protocol(none)));
}

#[test]
fn what_a_service_may_not_say() {
    let ca = Ca::new("car");
    let pairing = Pairing {
        channel: super::world::channel(),
        reader: ca.service("b", "display").id(),
    };
    let message = Message {
        pairing,
        content: Content::Installed(Hash([1; 32])),
    };
    let say = |bytes: &[u8]| {
        let (mut client, mut session) = (
            dial(&ca.service("a", "camera"), ALPN),
            session(&ca.device("a")),
        );
        let mut plain = Vec::new();
        session.receive(&client.flush()).unwrap();
        let hello = session.outgoing();
        let mut hello = hello.as_slice();
        while !hello.is_empty() {
            client.read(&mut hello, &mut plain).unwrap();
        }
        let events = session.receive(&client.flush()).unwrap();
        assert!(matches!(events[..], [SessionEvent::Authenticated(_)]));
        let bytes = client.write(bytes).unwrap();
        session.receive(&bytes)
    };
    let fault = say(&message.to_bytes()).unwrap_err();
    assert_eq!(
        fault,
        ServiceFault::OutOfTurn {
            got: MessageType::Installed,
            waiting: "a service's message"
        }
    );
    let good = Message {
        pairing,
        content: Content::End(Reason::OtherEnd),
    };
    let events = say(&good.to_bytes()).unwrap();
    assert!(matches!(&events[..], [SessionEvent::Message(said)] if *said == good));
    let noise = say(&[0xff; 9]).unwrap_err();
    assert!(matches!(noise, ServiceFault::Malformed(_)));
}
