//! The last word to each end of a channel, by somebody who can't know or does not say the truth.

use sivshm_abi::frame::Reason;

use super::world::{Cast, Hop, Record, World};
use crate::service::wire::{
    Accept, Agreed, AgreedBody, Confirm, Content, Message, MessageType, RefusalReason,
};
use crate::service::{Proof, ServiceFault};

fn refused(proof: Proof) -> Option<ServiceFault> {
    Some(ServiceFault::Proof(proof))
}

/// An exchange in which somebody between the services changes `agreed`. No device process finds
/// anything wrong with it.
fn changed(cast: &Cast, change: impl Fn(&mut Agreed)) -> World {
    let mut world = World::new(cast);
    world.run_with(|hop, message| {
        if let (Hop::Back, Content::Agreed(agreed)) = (hop, &mut message.content) {
            change(agreed);
        }
    });
    assert!(world.a.opened().is_none());
    for device in [&world.a.device, &world.b.device] {
        assert_eq!(device.fault, None);
        assert!(device.agreement.is_some());
    }
    world
}

/// A MAC by whoever has seen these.
type Mac<'a> = &'a dyn Fn(&Accept, &Confirm) -> [u8; 32];

/// An exchange in which the reader's device process keeps the `confirm` and says that the reader has
/// agreed to it, with a MAC of its choice.
fn alone(cast: &Cast, mac: Mac<'_>) -> World {
    let (mut accepted, mut said) = (None, None);
    let mut world = World::new(cast);
    world.run_with(|hop, message| match (hop, &mut message.content) {
        (Hop::UpB, Content::Accept(accept)) => accepted = Some(accept.clone()),
        (Hop::Across, Content::Confirm(confirm)) => {
            let mac = mac(accepted.as_ref().unwrap(), confirm);
            let confirm = confirm.hash();
            let body = AgreedBody { confirm };
            said = Some(Agreed { body, mac });
            message.content = Content::End(Reason::Incomplete);
        }
        _ => {}
    });
    let (pairing, content) = (cast.pairing(), Content::Agreed(said.unwrap()));
    world.inject(Hop::Back, Message { pairing, content }).run();
    let by_reader =
        |(hop, message): &(Hop, Message)| *hop == Hop::UpB && message.kind() == MessageType::Agreed;
    assert!(!world.seen.iter().any(by_reader));
    world.assert_nothing_opened();
    world
}

#[test]
fn no_device_process_can_agree_in_the_readers_place() {
    let cast = Cast::new();
    let old = cast.record();
    let macs: [Mac<'_>; 4] = [
        &|_, _| [0; 32],
        &|accept, _| accept.mac,
        &|_, confirm| confirm.mac,
        &|_, _| old.agreed.mac,
    ];
    for mac in macs {
        let world = alone(&cast, mac);
        assert_eq!(world.a.fault(), refused(Proof::Mac));
        let told = world.seen.iter().any(|(hop, message)| {
            let Content::Refusal(refusal) = message.content else {
                return false;
            };
            (*hop, refusal.by, refusal.reason) == (Hop::UpA, cast.writer.id(), RefusalReason::Proof)
        });
        assert!(told, "the writer keeps it to itself");
    }
}

#[test]
fn a_wrong_mac_is_refused_by_the_writer_alone() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    for byte in 0..32 {
        let world = changed(&cast, |agreed| agreed.mac[byte] ^= 1 << (byte % 8));
        assert_eq!(world.a.fault(), refused(Proof::Mac), "byte {byte}");
    }
}

#[test]
fn an_agreed_of_another_exchange() {
    let cast = Cast::new();
    let Record { agreed: old, .. } = cast.record();
    let world = changed(&cast, |agreed| *agreed = old);
    assert_eq!(world.a.fault(), refused(Proof::Exchange));
    let world = changed(&cast, |agreed| agreed.mac = old.mac);
    assert_eq!(world.a.fault(), refused(Proof::Mac));
}

#[test]
fn installed_is_no_agreed() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    let mut world = World::new(&cast);
    world.run_with(|hop, message| {
        if let (Hop::DownA, Content::Agreed(agreed)) = (hop, &message.content) {
            message.content = Content::Installed(agreed.body.confirm);
        }
    });
    assert!(world.a.opened().is_none());
    let (got, waiting) = (MessageType::Installed, "`agreed`");
    let fault = ServiceFault::OutOfTurn { got, waiting };
    assert_eq!(world.a.fault(), Some(fault));
}

#[test]
fn installed_names_the_confirm() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    let mut world = World::new(&cast);
    world.run_with(|hop, message| {
        if let (Hop::DownB, Content::Installed(confirm)) = (hop, &mut message.content) {
            confirm.0[0] ^= 1;
        }
    });
    assert!(world.b.opened().is_none());
    assert_eq!(world.b.fault(), refused(Proof::Exchange));
}
