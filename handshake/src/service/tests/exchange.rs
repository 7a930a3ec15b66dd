//! The whole exchange, as it should be.

use std::time::Duration;

use sivshm_abi::grant::{Integrity, Kind};

use super::world::{Cast, Hop, World, aead, channel};
use crate::service::limits::MAX_SERVICE_MESSAGE_BYTES;
use crate::service::wire::{Content, MessageType, Role, Terms};
use crate::service::{OpenTerms, Want};
use crate::tests::certificates::{Leaf, now, service};

#[test]
fn four_honest_parties_agree() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    let (writer, reader) = world.run().assert_opened();
    assert_eq!((writer.role, reader.role), (Role::Writer, Role::Reader));
    assert_eq!(writer.peer, cast.reader.id());
    assert_eq!(reader.peer, cast.writer.id());
    assert_eq!((writer.kind, reader.kind), (aead(), aead()));
    let keys = [writer.keys.unwrap(), reader.keys.unwrap()];
    assert_eq!(keys[0].key(), keys[1].key());
    assert_eq!(keys[0].iv(), keys[1].iv());
    assert_ne!(keys[0].key(), &[0; 16]);

    for end in [&world.a, &world.b] {
        let agreement = end.device.agreement.as_ref().unwrap();
        assert_eq!(agreement.channel(), channel());
        assert_eq!(agreement.writer(), cast.writer.id());
        assert_eq!(agreement.reader(), cast.reader.id());
        assert_eq!(agreement.epoch(), writer.epoch);
        assert_eq!(agreement.not_after(), now() + Duration::from_secs(86400));
        assert_eq!(agreement.revalidate(&end.device.credentials, now()), Ok(()));
    }
    assert_eq!(world.a.service.as_ref().unwrap().id(), cast.writer.id());
    assert_eq!(world.b.service.as_ref().unwrap().id(), cast.reader.id());
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let mut world = World::new(&Cast::new());
    world.chunk = 1;
    world.run().assert_opened();
}

#[test]
fn messages_come_in_the_documented_order() {
    let mut world = World::new(&Cast::new());
    world.run().assert_opened();
    let order = |hops: [Hop; 2]| -> Vec<MessageType> {
        let seen = world.seen.iter();
        seen.filter(|(hop, _)| hops.contains(hop))
            .map(|(_, message)| message.kind())
            .collect()
    };
    use MessageType::{Accept, Agreed, Confirm, Installed, Open, Terms, Want};
    assert_eq!(
        order([Hop::UpA, Hop::DownA]),
        [Want, Terms, Open, Accept, Confirm, Agreed]
    );
    assert_eq!(
        order([Hop::Across, Hop::Back]),
        [Open, Accept, Confirm, Agreed, Installed]
    );
    assert_eq!(
        order([Hop::UpB, Hop::DownB]),
        [Want, Terms, Open, Accept, Confirm, Agreed, Installed]
    );
    let longest = world.seen.iter().map(|(_, seen)| seen.to_bytes().len());
    assert!(longest.max().unwrap() < MAX_SERVICE_MESSAGE_BYTES / 2);
}

#[test]
fn keys_are_given_for_aead_only_and_differ_each_time() {
    let cast = Cast::new();
    let plain = OpenTerms {
        kind: Kind::Region,
        ..cast.terms()
    };
    let mut world = World::idle(&cast, plain);
    let want = |peer, role| Want {
        channel: channel(),
        peer,
        role,
        integrity: Some(Integrity::None),
    };
    let at = world.at;
    let (a, b) = (&mut world.a.client, &mut world.b.client);
    a.want(want(cast.reader.id(), Role::Writer), at).unwrap();
    b.want(want(cast.writer.id(), Role::Reader), at).unwrap();
    let (writer, reader) = world.run().assert_opened();
    assert!(writer.keys.is_none() && reader.keys.is_none());

    let [first, second] = [(), ()].map(|()| World::new(&cast).run().assert_opened().0);
    assert_ne!(first.epoch, second.epoch);
    let (first, second) = (first.keys.unwrap(), second.keys.unwrap());
    assert_ne!(first.key(), second.key());
    assert_ne!(first.iv(), second.iv());
    assert_eq!(format!("{first:?}"), "ChannelKeys");
}

#[test]
fn keys_of_p384_sign_too() {
    let mut cast = Cast::new();
    let leaf = Leaf {
        algorithm: &rcgen::PKCS_ECDSA_P384_SHA384,
        ..Leaf::new(service("b", "display"))
    };
    cast.reader = cast.ca.load_service(&cast.ca.issue(leaf)).unwrap();
    World::new(&cast).run().assert_opened();
}

#[test]
fn a_newer_open_replaces_an_older_one() {
    let mut world = World::new(&Cast::new());
    // The link breaks before the `accept` has come; the writer's device process says its terms again.
    let terms = Content::Terms(Terms {
        role: Role::Writer,
        ..world.terms
    });
    let mut lost = None;
    world.run_with(|hop, message| {
        if let (Hop::Back, None, Content::Accept(accept)) = (hop, &lost, &message.content) {
            lost = Some(accept.body.open);
            message.content = terms.clone();
        }
    });
    let (writer, _) = world.assert_opened();
    let open = world.record().open;
    assert_ne!(Some(open.hash()), lost);
    assert_eq!(open.body.epoch, writer.epoch);
}
