//! Messages that are changed on their way, and what everybody who sees them says.

use super::world::{Cast, Hop, World};
use crate::Credentials;
use crate::service::wire::{Accept, Chain, Confirm, Content, Message, Open, Signature};
use crate::service::{ServiceFault, sign};

/// Signs with a party's own key, as a party that does not keep to the protocol can.
pub(super) fn sign_open(by: &Credentials, open: &mut Open) {
    open.chain = Chain::new(by.certified.cert.clone()).unwrap();
    open.body.chain = open.chain.hash();
    open.signature = signature(by, &open.body.to_bytes());
}

pub(super) fn sign_accept(by: &Credentials, accept: &mut Accept) {
    accept.chain = Chain::new(by.certified.cert.clone()).unwrap();
    accept.body.chain = accept.chain.hash();
    accept.signature = signature(by, &accept.body.to_bytes());
}

pub(super) fn signature(by: &Credentials, bytes: &[u8]) -> Signature {
    sign::sign(by, bytes).unwrap()
}

/// What the writer's device process, the reader's, and the reader say to an `open` that was changed
/// on its way, each if those before it pass it on. All say the same.
pub(super) fn everybody_refuses_open(cast: &Cast, change: impl Fn(&mut Open)) -> ServiceFault {
    World::new(cast).run().assert_opened();
    let tamper = |hop: Hop, message: &mut Message| {
        if let (Hop::UpA, Content::Open(open)) = (hop, &mut message.content) {
            change(open);
        }
    };
    refusals(cast, tamper, |world| {
        world.a.device.fault.clone().expect("device A refuses")
    })
}

/// The same for an `accept`: the reader's device process, the writer's, and the writer.
pub(super) fn everybody_refuses_accept(cast: &Cast, change: impl Fn(&mut Accept)) -> ServiceFault {
    World::new(cast).run().assert_opened();
    let tamper = |hop: Hop, message: &mut Message| {
        if let (Hop::UpB, Content::Accept(accept)) = (hop, &mut message.content) {
            change(accept);
        }
    };
    refusals(cast, tamper, |world| {
        world.b.device.fault.clone().expect("device B refuses")
    })
}

/// The same for a `confirm`: the writer's device process, the reader's, and the reader.
pub(super) fn everybody_refuses_confirm(
    cast: &Cast,
    change: impl Fn(&mut Confirm),
) -> ServiceFault {
    World::new(cast).run().assert_opened();
    let tamper = |hop: Hop, message: &mut Message| {
        if let (Hop::UpA, Content::Confirm(confirm)) = (hop, &mut message.content) {
            change(confirm);
        }
    };
    refusals(cast, tamper, |world| {
        world.a.device.fault.clone().expect("device A refuses")
    })
}

fn refusals(
    cast: &Cast,
    tamper: impl Fn(Hop, &mut Message),
    first: impl Fn(&World) -> ServiceFault,
) -> ServiceFault {
    let mut honest = World::new(cast);
    honest.run_with(&tamper).assert_nothing_opened();
    let fault = first(&honest);

    // The device process that should have refused first passes it on.
    for liar_a in [true, false] {
        let mut world = World::new(cast);
        world.a.device.lies = liar_a;
        world.b.device.lies = !liar_a;
        world.run_with(&tamper).assert_nothing_opened();
        let honest = if liar_a { &world.b } else { &world.a };
        assert_eq!(honest.device.fault.as_ref(), Some(&fault));
    }

    let mut world = World::new(cast).lying();
    world.run_with(&tamper).assert_nothing_opened();
    let services = [world.a.fault(), world.b.fault()];
    assert!(services.contains(&Some(fault.clone())), "{services:?}");
    fault
}
