//! What a client does when it is refused, when a pairing ends, and with several readers.

use std::time::Duration;

use sivshm_abi::frame::{REASONS, Reason};
use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::identity::SpiffeId;

use super::world::{Cast, Hop, World, channel};
use crate::service::limits::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::service::wire::{
    Content, Message, MessageType, RefusalReason, Role, SERVICE_REFUSALS, ServiceRefusal,
};
use crate::service::{ClientEvent, OpenTerms, ServiceFault, Term, Want};

fn want(peer: SpiffeId, role: Role, integrity: Option<Integrity>) -> Want {
    Want {
        channel: channel(),
        peer,
        role,
        integrity,
    }
}

fn refusal(cast: &Cast, reason: RefusalReason) -> Message {
    Message {
        pairing: cast.pairing(),
        content: Content::Refusal(ServiceRefusal {
            by: cast.device_b.id(),
            reason,
        }),
    }
}

fn end(cast: &Cast, reason: Reason) -> Message {
    Message {
        pairing: cast.pairing(),
        content: Content::End(reason),
    }
}

fn wants(world: &World, hop: Hop) -> usize {
    let is_it = |(at, message): &&(Hop, Message)| *at == hop && message.kind() == MessageType::Want;
    world.seen.iter().filter(is_it).count()
}

#[test]
fn what_can_heal_is_wanted_again_and_nothing_else() {
    let cast = Cast::new();
    for (reason, _, _, heals) in SERVICE_REFUSALS {
        let mut world = World::new(&cast);
        world.run().assert_opened();
        world.inject(Hop::DownA, refusal(&cast, *reason)).run();
        let Some(ClientEvent::Refused {
            refusal,
            fault,
            again,
            ..
        }) = world.a.events.pop()
        else {
            panic!("no event for {reason}");
        };
        assert_eq!((refusal.reason, again, fault), (*reason, *heals, None));
        assert_eq!(refusal.by, cast.device_b.id());
        assert_eq!(world.a.client.deadline().is_some(), *heals);
    }
    let last = [Reason::Closed, Reason::Admin, Reason::Policy];
    for (reason, _, _) in REASONS {
        let mut world = World::new(&cast);
        world.run().assert_opened();
        world.inject(Hop::DownA, end(&cast, *reason)).run();
        let event = world.a.events.pop();
        let Some(ClientEvent::Ended {
            reason: got, again, ..
        }) = event
        else {
            panic!("no event for {reason:?}");
        };
        assert_eq!((got, again), (*reason, !last.contains(reason)));
        assert_eq!(world.a.client.deadline().is_some(), again);
    }
}

#[test]
fn pauses_grow_and_never_spin() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    world.run().assert_opened();
    world.cut = Some(Hop::Across);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        world
            .inject(Hop::DownA, refusal(&cast, RefusalReason::Late))
            .run();
        let due = world.a.client.deadline().unwrap();
        pauses.push(due - world.at);
        let before = wants(&world, Hop::UpA);
        // Nothing is said before the time, however often bytes come.
        world.a.client.on_time(world.at).unwrap();
        world
            .inject(Hop::DownA, refusal(&cast, RefusalReason::Late))
            .run();
        assert_eq!(world.a.client.deadline(), Some(due));
        assert_eq!(wants(&world, Hop::UpA), before);
        world.at = due;
        world.a.client.on_time(due).unwrap();
        world.run();
        assert_eq!(wants(&world, Hop::UpA), before + 1);
        assert_eq!(world.a.client.deadline(), None);
    }
    assert_eq!(pauses[0], FIRST_PAUSE);
    assert_eq!(pauses[1], 2 * FIRST_PAUSE);
    assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
    // An attempt that lasted is followed by the next at once.
    let before = wants(&world, Hop::UpA);
    world.at += LONGEST_PAUSE;
    world
        .inject(Hop::DownA, refusal(&cast, RefusalReason::Late))
        .run();
    assert_eq!(wants(&world, Hop::UpA), before + 1);
}

#[test]
fn both_ends_come_back_after_an_end_with_fresh_keys() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    let (first, _) = world.run().assert_opened();
    world.at += LONGEST_PAUSE;
    world
        .inject(Hop::DownA, end(&cast, Reason::PeerGone))
        .inject(Hop::DownB, end(&cast, Reason::PeerGone))
        .run();
    let (second, reader) = world.assert_opened();
    assert_ne!(first.epoch, second.epoch);
    let keys = [first.keys, second.keys, reader.keys].map(|keys| *keys.unwrap().key());
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[1], keys[2]);
}

#[test]
fn the_required_integrity_is_the_services_own() {
    let cast = Cast::new();
    let plan = |integrity| OpenTerms {
        kind: Kind::Ring {
            slot_bytes: 4096,
            overwrite: false,
            integrity,
        },
        ..cast.terms()
    };
    let run = |offered, required: Option<Integrity>| {
        let mut world = World::idle(&cast, plan(offered));
        let at = world.at;
        let reader = want(cast.writer.id(), Role::Reader, required);
        let writer = want(cast.reader.id(), Role::Writer, None);
        world.b.client.want(reader, at).unwrap();
        world.a.client.want(writer, at).unwrap();
        world.run();
        world
    };
    for offered in [Integrity::None, Integrity::Crc32c, Integrity::Aead] {
        run(offered, None).assert_opened();
        for required in [Integrity::None, Integrity::Crc32c, Integrity::Aead] {
            let mut world = run(offered, Some(required));
            if offered == required {
                world.assert_opened();
            } else {
                let fault = ServiceFault::Differs(Term::Integrity);
                assert_eq!(world.b.fault(), Some(fault));
                assert_eq!(world.b.client.deadline(), None);
            }
        }
    }
}

#[test]
fn a_closed_end_is_said_and_forgotten() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    world.run().assert_opened();
    world.a.client.close(channel(), cast.reader.id());
    // Closing twice, or what nobody wanted, says nothing.
    world.a.client.close(channel(), cast.reader.id());
    world.a.client.close(channel(), cast.writer.id());
    world.run();
    let ends = |world: &World| -> Vec<Content> {
        let seen = world.seen.iter();
        seen.filter(|(hop, message)| *hop == Hop::UpA && message.kind() == MessageType::End)
            .map(|(_, message)| message.content.clone())
            .collect()
    };
    assert_eq!(ends(&world), [Content::End(Reason::Closed)]);
    // What crossed it is about nothing.
    let late = refusal(&cast, RefusalReason::Late);
    world.inject(Hop::DownA, late).run();
    assert!(
        world
            .a
            .events
            .iter()
            .all(|event| matches!(event, ClientEvent::Authenticated))
    );
    assert_eq!(world.a.client.deadline(), None);
    // It can be wanted again.
    let again = want(cast.reader.id(), Role::Writer, None);
    world.a.client.want(again, world.at).unwrap();
    world.run();
    assert_eq!(wants(&world, Hop::UpA), 2);
}

/// A service that takes an end up anew says so only when its device process has nothing more to say
/// about the last attempt.
#[test]
fn nothing_that_is_said_of_the_last_attempt_is_taken_for_the_next() {
    let cast = Cast::new();
    for last_word in [
        end(&cast, Reason::OtherEnd),
        refusal(&cast, RefusalReason::Late),
    ] {
        let mut world = World::new(&cast);
        world.run().assert_opened();
        let agreed = world.record().agreed;
        world.a.events.clear();
        world.cut = Some(Hop::UpA);
        world.a.client.close(channel(), cast.reader.id());
        let again = want(cast.reader.id(), Role::Writer, None);
        world.a.client.want(again, world.at).unwrap();
        world.run();
        let late = [Content::Terms(world.terms), Content::Agreed(agreed)];
        for content in late {
            let pairing = cast.pairing();
            world.inject(Hop::DownA, Message { pairing, content }).run();
        }
        assert_eq!(wants(&world, Hop::UpA), 1, "nothing is wanted yet");
        assert_eq!(world.a.client.deadline(), None);
        world.inject(Hop::DownA, last_word).run();
        assert_eq!(wants(&world, Hop::UpA), 2);
        assert!(world.a.events.is_empty(), "{:?}", world.a.events);
        // What comes now is about the new attempt.
        world.inject(Hop::DownA, end(&cast, Reason::OtherEnd)).run();
        assert_eq!(world.a.events.len(), 1);
        assert_eq!(world.a.client.deadline(), Some(world.at + FIRST_PAUSE));
    }
}

#[test]
fn wishes_that_can_not_be() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    let at = world.at;
    let client = &mut world.a.client;
    let mut refused = |peer, role| match client.want(want(peer, role, None), at) {
        Err(ServiceFault::Wish(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(cast.reader.id(), Role::Writer),
        "this end is wanted already"
    );
    let another = "the peer is not another one of this domain";
    assert_eq!(refused(cast.writer.id(), Role::Reader), another);
    let mut foreign = cast.reader.id();
    foreign.domain = sivshm_abi::name::TrustDomain::new("other.example").unwrap();
    assert_eq!(refused(foreign, Role::Writer), another);
    assert_eq!(
        refused(cast.device_b.id(), Role::Writer),
        "the peer is a device process"
    );
    world.run().assert_opened();
    let _ = world.a.client.farewell();
    let late = want(cast.reader.id(), Role::Writer, None);
    assert_eq!(world.a.client.want(late, at), Err(ServiceFault::Ended));
}

#[test]
fn readers_of_one_channel_share_the_writers_epoch() {
    let cast = Cast::new();
    let second = cast.ca.service("b", "printer");
    let mut world = World::idle(
        &cast,
        OpenTerms {
            kind: Kind::Region,
            ..cast.terms()
        },
    )
    .lying();
    world.terms.kind = Kind::Region;
    world.terms.readers = 2;
    let at = world.at;
    for peer in [cast.reader.id(), second.id()] {
        let want = want(peer, Role::Writer, None);
        world.a.client.want(want, at).unwrap();
    }
    world.run();
    let epochs = |world: &World| -> Vec<u64> {
        let seen = world.seen.iter();
        seen.filter_map(|(hop, message)| match &message.content {
            Content::Open(open) if *hop == Hop::UpA => Some(open.body.epoch),
            _ => None,
        })
        .collect()
    };
    let both = epochs(&world);
    assert_eq!(both.len(), 2);
    assert_eq!(both[0], both[1]);
    // One reader comes back: still the same.
    let mut message = refusal(&cast, RefusalReason::Late);
    world.at += LONGEST_PAUSE;
    world.inject(Hop::DownA, message.clone()).run();
    assert_eq!(epochs(&world).last(), both.first());
    // Both have gone: another.
    world.at += Duration::from_secs(1);
    world.inject(Hop::DownA, message.clone());
    message.pairing.reader = second.id();
    world.inject(Hop::DownA, message).run();
    world.at += LONGEST_PAUSE;
    world.a.client.on_time(world.at).unwrap();
    world.run();
    let last = *epochs(&world).last().unwrap();
    assert_ne!(last, both[0]);
}
