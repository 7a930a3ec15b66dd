//! Accepts that are not what they should be.

use sivshm_abi::identity::Subject;
use sivshm_abi::name::ServiceName;

use super::change::{everybody_refuses_accept, sign_accept, sign_open, signature};
use super::world::{Cast, Hop, World};
use crate::identity::{IdentityFault, Party, other};
use crate::service::wire::{AcceptBody, Content, MessageType};
use crate::service::{Proof, ServiceFault, Term};
use crate::tests::certificates::{Leaf, device, service, vm};

#[test]
fn swapped_keys() {
    let cast = Cast::new();
    let changes: [fn(&mut AcceptBody); 2] = [
        |accept| accept.key = [7; 32],
        |accept| accept.nonce = [7; 32],
    ];
    for change in changes {
        let fault = everybody_refuses_accept(&cast, |accept| change(&mut accept.body));
        assert_eq!(fault, ServiceFault::Proof(Proof::Signature));
    }
}

#[test]
fn another_services_accept() {
    let cast = Cast::new();
    let stranger = cast.ca.service("b", "printer");
    // It says who it is.
    let fault = everybody_refuses_accept(&cast, |accept| {
        accept.body.reader = stranger.id();
        sign_accept(&stranger, accept);
    });
    assert_eq!(fault, ServiceFault::Differs(Term::Reader));
    // It says that it is the one wanted.
    let fault = everybody_refuses_accept(&cast, |accept| sign_accept(&stranger, accept));
    let display = Party::Service(vm("b"), ServiceName::new("display").unwrap());
    let got = Subject::Service(vm("b"), ServiceName::new("printer").unwrap());
    assert_eq!(fault, ServiceFault::Identity(other(got, display)));
    // It says that it answers somebody else.
    let fault = everybody_refuses_accept(&cast, |accept| {
        accept.body.writer = stranger.id();
        sign_accept(&cast.reader, accept);
    });
    assert_eq!(fault, ServiceFault::Differs(Term::Writer));
    // It signs with the wrong key.
    let fault = everybody_refuses_accept(&cast, |accept| {
        accept.signature = signature(&stranger, &accept.body.to_bytes());
    });
    assert_eq!(fault, ServiceFault::Proof(Proof::Signature));
}

#[test]
fn a_lying_device_process_that_accepts_itself() {
    let cast = Cast::new();
    let got = Subject::Device(vm("b"));
    let display = Party::Service(vm("b"), ServiceName::new("display").unwrap());
    let fault = everybody_refuses_accept(&cast, |accept| sign_accept(&cast.device_b, accept));
    assert_eq!(fault, ServiceFault::Identity(other(got, display)));
    // An SVID of its own making.
    let own = crate::tests::certificates::Ca::new("car").service("b", "display");
    let fault = everybody_refuses_accept(&cast, |accept| sign_accept(&own, accept));
    let unknown = IdentityFault::Untrusted(webpki::Error::InvalidSignatureForPublicKey);
    assert_eq!(fault, ServiceFault::Identity(unknown));
    let leaf = cast.ca.forge(&cast.ca.issue(Leaf::new(device("b"))));
    let fault = everybody_refuses_accept(&cast, |accept| sign_accept(&leaf, accept));
    assert_eq!(fault, ServiceFault::Identity(other(got, display)));
}

#[test]
fn an_accept_of_another_open() {
    let cast = Cast::new();
    let record = cast.record();
    let fault = everybody_refuses_accept(&cast, |accept| *accept = record.accept.clone());
    assert_eq!(fault, ServiceFault::Proof(Proof::Exchange));
    // Signed again by the reader itself, for another channel's `open`.
    let mut swapped = record.open;
    swapped.body.channel = sivshm_abi::name::ChannelName::new("other").unwrap();
    sign_open(&cast.writer, &mut swapped);
    let fault = everybody_refuses_accept(&cast, |accept| {
        accept.body.open = swapped.hash();
        sign_accept(&cast.reader, accept);
    });
    assert_eq!(fault, ServiceFault::Proof(Proof::Exchange));
}

#[test]
fn messages_reflected_to_their_sender() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    // The writer's own `open` comes back instead of an `accept`.
    let mut world = World::new(&cast).lying();
    let mut open = None;
    world.run_with(|hop, message| match (hop, &mut message.content) {
        (Hop::UpA, content @ Content::Open(_)) => open = Some(content.clone()),
        (Hop::DownA, content @ Content::Accept(_)) => *content = open.clone().unwrap(),
        _ => {}
    });
    world.assert_nothing_opened();
    let out_of_turn = |got, waiting| Some(ServiceFault::OutOfTurn { got, waiting });
    assert_eq!(world.a.fault(), out_of_turn(MessageType::Open, "`accept`"));
    // The reader's own `accept` comes back instead of a `confirm`.
    let mut world = World::new(&cast).lying();
    let mut accept = None;
    world.run_with(|hop, message| match (hop, &mut message.content) {
        (Hop::UpB, content @ Content::Accept(_)) => accept = Some(content.clone()),
        (Hop::DownB, content @ Content::Confirm(_)) => *content = accept.clone().unwrap(),
        _ => {}
    });
    assert!(world.b.opened().is_none());
    assert_eq!(
        world.b.fault(),
        out_of_turn(MessageType::Accept, "`confirm`")
    );
    // The writer's `open` as the `open` of a pairing in which it reads.
    let mut world = World::new(&cast);
    world.b.device.plan.writer = cast.reader.id();
    world.b.device.plan.reader = cast.writer.id();
    world.run().assert_nothing_opened();
    assert_eq!(
        world.b.device.fault,
        Some(ServiceFault::Differs(Term::Writer))
    );
}

#[test]
fn a_wrong_mac_is_refused_by_the_writer_alone() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    for byte in [0, 31] {
        let mut world = World::new(&cast);
        world.run_with(|hop, message| {
            if let (Hop::UpB, Content::Accept(accept)) = (hop, &mut message.content) {
                accept.mac[byte] ^= 1;
            }
        });
        world.assert_nothing_opened();
        assert_eq!(world.a.fault(), Some(ServiceFault::Proof(Proof::Mac)));
        for device in [&world.a.device, &world.b.device] {
            assert_eq!(device.fault, None);
            assert!(device.accepted.is_some() && device.agreement.is_none());
        }
    }
}

#[test]
fn another_svid_of_the_reader_is_as_good() {
    let mut cast = Cast::new();
    cast.reader = cast
        .ca
        .load_service(&cast.ca.issue(Leaf::new(service("b", "display"))))
        .unwrap();
    World::new(&cast).run().assert_opened();
}
