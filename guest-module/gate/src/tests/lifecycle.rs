//! Ports, windows, sessions and grants come and go.

use super::*;
use crate::{Bells, Complaint, Doorbell, Errno, GrantFault};
use sivshm_abi::limits::MAX_FRAMES_PER_WAKE;
use sivshm_abi::uapi::SessionState;

#[test]
fn windows_wait_for_the_port_and_are_claimed_once() {
    let mut world = World::unbound(control_memory());
    let gate = &mut world.gate;
    assert_eq!(gate.find(place(READ), WINDOW), Err(Errno::PortFirst));
    assert_eq!(gate.attach(world.control, BOOT), Ok(()));
    assert_eq!(gate.attach(world.control, BOOT), Err(Errno::Taken));
    assert_eq!(gate.find(place(READ), WINDOW / 2), Err(Errno::NoDevice));
    assert_eq!(gate.find(place(7), WINDOW), Err(Errno::NoDevice));
    let read = WindowNumber(READ);
    assert_eq!(gate.find(place(READ), WINDOW), Ok(read));
    assert_eq!(gate.claim(read, WINDOW / 2, 0), Err(Errno::NoDevice));
    assert_eq!(gate.claim(WindowNumber(2), WINDOW, 0), Err(Errno::NoDevice));
    assert_eq!(gate.claim(read, WINDOW, 0), Ok(()));
    assert_eq!(gate.claim(read, WINDOW, 0), Err(Errno::Taken));
    assert_eq!(gate.find(place(READ), WINDOW), Err(Errno::Taken));
}

#[test]
fn a_session_is_announced_once_its_grants_could_be_mapped() {
    let mut world = World::unbound(control_memory());
    assert_eq!(world.gate.attach(world.control, BOOT), Ok(()));
    let session = world.gate.open(owner(5), facts(5)).unwrap();
    assert_eq!(world.gate.claim(WindowNumber(READ), WINDOW, 0), Ok(()));
    world.effects();
    assert_eq!(world.heard().len(), 1, "HELLO only");
    assert_eq!(world.gate.claim(WindowNumber(WRITTEN), WINDOW, 0), Ok(()));
    world.effects();
    assert_eq!(world.heard(), [(session, Payload::Open(facts(5)))]);
}

#[test]
fn a_foreign_memory_is_left_alone_and_a_bad_directory_refused() {
    let control = control_memory();
    let mut gate = Box::<Gate>::default();
    assert_eq!(gate.attach(control, BOOT), Err(Errno::NoDevice));
    write_directory(control);
    let half = control.sub(0, control.len() / 2).unwrap();
    assert_eq!(gate.attach(half, BOOT), Err(Errno::NoDevice));
    control.store_u32(8, 99).unwrap();
    assert_eq!(gate.attach(control, BOOT), Err(Errno::BadDirectory));
    assert!(gate.directory().is_none());
    assert_eq!(gate.open(owner(1), facts(1)), Err(Errno::NoDevice));
}

#[test]
fn a_session_lives_from_open_to_close() {
    let mut world = World::new();
    let session = world.open(5);
    let me = caller(session, 5);
    let state = |world: &mut World| world.gate.list(me).map(|listing| listing.state);
    assert_eq!(state(&mut world), Ok(SessionState::Opening));
    world.say(session, Payload::Grant(grant(5, Access::ReadOnly)));
    assert_eq!(world.poll(me, &Bells::new()), "changed room");
    assert_eq!(state(&mut world), Ok(SessionState::Active));
    assert_eq!(world.poll(me, &Bells::new()), "room");

    world.gate.close(session, Files(6));
    assert_eq!(world.effects(), [], "a stranger's close ends nothing");
    world.gate.close(session, Files(5));
    let effects = world.effects();
    assert!(matches!(effects.first(), Some(Effect::Unmap(_))));
    assert_eq!(world.heard(), [(session, Payload::Close(Reason::Closed))]);
    assert_eq!(world.poll(me, &Bells::new()), "data changed room");
    assert_eq!(state(&mut world), Ok(SessionState::Closed));
    assert_eq!(world.poll(me, &Bells::new()), "data room");
    world.gate.release(session);
    assert_eq!(world.effects(), []);
    assert_eq!(state(&mut world), Err(Errno::Ended));
}

#[test]
fn close_is_said_only_once_the_pages_are_gone() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadWrite);
    world.gate.release(session);
    assert_eq!(world.gate.next_effect(), Some(Effect::Unmap(slot)));
    assert_eq!(world.heard(), []);
    world.gate.unmapped(slot);
    world.effects();
    assert_eq!(world.heard(), [(session, Payload::Close(Reason::Closed))]);
}

#[test]
fn a_close_by_the_host_is_answered_and_tells_why() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    world.say(session, Payload::Close(Reason::RoleTaken));
    assert_eq!(world.unmapped, [slot]);
    assert_eq!(
        world.heard(),
        [(session, Payload::Close(Reason::RoleTaken))]
    );
    let listing = world.gate.list(caller(session, 5)).unwrap();
    assert_eq!(listing.reason, Some(Reason::RoleTaken));
    assert_eq!(listing.grants, 0);
    world.gate.release(session);
    world.effects();
    assert_eq!(world.heard(), [], "one CLOSE is enough");
}

#[test]
fn revoked_is_said_only_once_the_pages_are_gone() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    world.host.send(session, &revoke(5, 10)).unwrap();
    assert!(!world.gate.receive());
    assert!(world.map(caller(session, 5), slot, false).is_err());
    assert_eq!(world.gate.next_effect(), Some(Effect::Unmap(slot)));
    assert_eq!(world.gate.next_effect(), Some(Effect::Wake));
    assert_eq!(world.gate.next_effect(), None);
    assert_eq!(world.heard(), []);
    world.gate.unmapped(slot);
    assert_eq!(world.effects(), [Effect::Ring(Doorbell::CONTROL)]);
    assert_eq!(world.heard(), [(session, revoked(5, 10))]);
}

#[test]
fn a_revoke_of_what_is_not_there_is_answered_too() {
    let mut world = World::new();
    let (session, _) = world.granted(5, Access::ReadOnly);
    world.say(session, revoke(77, 1));
    assert_eq!(world.heard(), [(session, revoked(77, 1))]);
    world.say(session, revoke(5, 9));
    assert_eq!(world.heard(), [(session, revoked(5, 9))]);
    assert_eq!(
        world.unmapped,
        [],
        "generation 10 outlives a revocation of 9"
    );
}

#[test]
fn a_grant_at_or_below_a_revoked_generation_is_refused() {
    let mut world = World::new();
    let (session, old) = world.granted(5, Access::ReadOnly);
    world.say(session, revoke(5, 12));
    world.heard();
    for (id, generation, admitted) in [(6, 11, false), (7, 12, false), (8, 13, true)] {
        let again = Grant {
            id: GrantId(id),
            generation: Generation(generation),
            ..grant(5, Access::ReadOnly)
        };
        let effects = world.say(session, Payload::Grant(again));
        let refusal = Effect::Report(Complaint::Grant(GrantFault::Revoked));
        assert_eq!(effects, [if admitted { Effect::Wake } else { refusal }]);
    }
    let new = world.slot(session, 5);
    assert_eq!((new.place(), old.place()), (0, 0));
    assert_ne!(new, old, "a slot's number is never used twice");
    assert!(world.map(caller(session, 5), old, false).is_err());
    assert!(world.map(caller(session, 5), new, false).is_ok());
}

#[test]
fn grants_that_make_no_sense_are_refused() {
    let mut world = World::new();
    let (session, _) = world.granted(1, Access::ReadOnly);
    let good = grant(2, Access::ReadOnly);
    let bell = |vector| {
        let peer = good.peer.unwrap();
        Some(GrantPeer {
            vector: Vector(vector),
            ..peer
        })
    };
    let cases = [
        (GrantFault::Window, Grant { window: 2, ..good }),
        (GrantFault::Range, Grant { length: 0, ..good }),
        (GrantFault::Range, Grant { offset: 1, ..good }),
        (
            GrantFault::Range,
            Grant {
                length: 4097,
                ..good
            },
        ),
        (
            GrantFault::Range,
            Grant {
                length: WINDOW,
                ..good
            },
        ),
        (
            GrantFault::Range,
            Grant {
                offset: u64::MAX - 4095,
                ..good
            },
        ),
        (
            GrantFault::Access,
            Grant {
                access: Access::ReadWrite,
                ..good
            },
        ),
        (
            GrantFault::Vector,
            Grant {
                peer: bell(0),
                ..good
            },
        ),
        (
            GrantFault::Vector,
            Grant {
                peer: bell(4),
                ..good
            },
        ),
        (GrantFault::Expiry, Grant { expiry: 1, ..good }),
        (
            GrantFault::Duplicate,
            Grant {
                id: GrantId(1),
                ..good
            },
        ),
        (
            GrantFault::Duplicate,
            Grant {
                channel: grant(1, Access::ReadOnly).channel,
                ..good
            },
        ),
    ];
    for (fault, grant) in cases {
        let effects = world.say(session, Payload::Grant(grant));
        assert_eq!(
            effects,
            [Effect::Report(Complaint::Grant(fault))],
            "{grant:?}"
        );
    }
    let nobody = SessionId(session.0.wrapping_add(1));
    assert_eq!(world.say(nobody, Payload::Grant(good)), []);
    assert_eq!(world.say(session, Payload::Grant(good)), [Effect::Wake]);
}

#[test]
fn no_user_takes_the_places_of_others() {
    let mut world = World::new();
    let mut opened = 0;
    while world.gate.open(owner(1), facts(1)).is_ok() {
        opened += 1;
    }
    assert_eq!(opened, crate::sessions::MAX_SESSIONS_PER_USER);
    assert_eq!(
        world.gate.open(owner(1), facts(1)),
        Err(Errno::TooManySessions)
    );
    assert!(world.gate.open(owner(2), facts(2)).is_ok());
    for uid in 2.. {
        if world.gate.open(owner(uid), facts(uid)).is_err() {
            assert_eq!(opened + usize::try_from(uid).unwrap() - 1, MAX_SESSIONS);
            break;
        }
    }
}

#[test]
fn frames_that_do_not_fit_are_sent_later() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    // Fill the guest-to-host ring with answers that the device process does not consume.
    let mut number = 1000;
    while !world.gate.frames_owed() {
        world.say(session, revoke(number, 1));
        number += 1;
    }
    // The parked answer holds every later frame back, and none is lost.
    for late in 0..3 {
        world.host.send(session, &revoke(number + late, 1)).unwrap();
    }
    world.host.send(session, &revoke(5, 10)).unwrap();
    assert!(!world.gate.receive());
    assert!(world.map(caller(session, 5), slot, false).is_ok());
    let mut answers = world.heard();
    while world.gate.frames_owed() || answers.last() != Some(&(session, revoked(5, 10))) {
        world.pump();
        answers.extend(world.heard());
    }
    let expected = (1000..number + 3).map(|number| (session, revoked(number, 1)));
    assert!(
        answers
            .into_iter()
            .eq(expected.chain([(session, revoked(5, 10))]))
    );
}

#[test]
fn one_call_takes_in_a_bounded_number_of_frames() {
    let mut world = World::new();
    for _ in 0..=MAX_FRAMES_PER_WAKE {
        let close = Payload::Close(Reason::Flood);
        world.host.send(SessionId(1), &close).unwrap();
    }
    assert!(world.gate.receive());
    assert!(!world.gate.receive());
}

#[test]
fn all_grants_end_with_the_port_and_with_a_moved_bar() {
    let ends: [fn(&mut Gate); 3] = [
        Gate::detach,
        |gate| gate.observe(WindowNumber(WRITTEN), address(READ)),
        |gate| gate.unclaim(WindowNumber(READ)),
    ];
    for end in ends {
        let mut world = World::new();
        let (session, slot) = world.granted(5, Access::ReadOnly);
        for window in [WRITTEN, READ] {
            world.gate.observe(WindowNumber(window), address(window));
        }
        assert!(world.map(caller(session, 5), slot, false).is_ok());
        end(&mut world.gate);
        assert!(world.map(caller(session, 5), slot, false).is_err());
        world.effects();
        assert_eq!(world.unmapped, [slot]);
        let listing = world.gate.list(caller(session, 5)).unwrap();
        assert_eq!(listing.state, SessionState::Closed);
        world.gate.release(session);
        assert_eq!(world.effects(), []);
    }
}

#[test]
fn a_port_can_be_bound_again() {
    let mut world = World::new();
    let (session, _) = world.granted(5, Access::ReadOnly);
    world.gate.detach();
    world.effects();
    let boot = [9; 16];
    assert_eq!(world.gate.attach(world.control, boot), Ok(()));
    world.effects();
    let hello = Payload::Hello { version: 1, boot };
    assert_eq!(world.heard(), [(SessionId(0), hello)]);
    let read = world.gate.find(place(READ), WINDOW);
    assert_eq!(read, Err(Errno::Taken), "a claim outlives the port");
    assert_ne!(world.open(6), session);
}

#[test]
fn a_ring_reaches_the_peer_and_its_ring_reaches_us() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    let (me, bells) = (caller(session, 5), Bells::new());
    let doorbell = world.gate.notify(me, GrantId(5)).unwrap();
    assert_eq!(doorbell.value(), 9 << 16);
    assert_eq!(world.gate.bell_of(me, GrantId(5)), Ok((slot, Vector(2))));
    world.gate.list(me).unwrap();
    assert_eq!(
        world.gate.rings(me, GrantId(5), 0, &bells),
        Err(Errno::NotYet)
    );
    bells.rang(Vector(1));
    assert_eq!(world.poll(me, &bells), "room");
    bells.rang(Vector(2));
    assert_eq!(world.poll(me, &bells), "rung room");
    assert_eq!(world.gate.rings(me, GrantId(5), 0, &bells), Ok(1));
    assert_eq!(world.poll(me, &bells), "room");
    let stranger = caller(session, 6);
    assert_eq!(world.gate.notify(stranger, GrantId(5)), Err(Errno::Denied));
    assert_eq!(world.gate.readiness(stranger), Err(Errno::Denied));
    assert_eq!(world.gate.rung(stranger, &bells), Err(Errno::Denied));
    assert_eq!(world.gate.notify(me, GrantId(6)), Err(Errno::NoGrant));
    world.say(session, revoke(5, 10));
    assert_eq!(
        world.gate.rings(me, GrantId(5), 1, &bells),
        Err(Errno::NoGrant)
    );
}

#[test]
fn a_writers_own_data_has_nobody_to_ring() {
    let mut world = World::new();
    let session = world.open(5);
    let data = Grant {
        peer: None,
        ..grant(5, Access::ReadWrite)
    };
    world.say(session, Payload::Grant(data));
    assert_eq!(
        world.gate.notify(caller(session, 5), GrantId(5)),
        Err(Errno::NoPeer)
    );
}

#[test]
fn frames_of_a_guest_are_refused_from_a_host() {
    let mut world = World::new();
    let session = world.open(5);
    for payload in [Payload::Open(facts(1)), revoked(1, 1)] {
        let effects = world.say(session, payload);
        let complaint = Complaint::Unexpected(payload.kind());
        assert_eq!(effects, [Effect::Report(complaint)]);
    }
    assert_eq!(world.heard(), []);
}

#[test]
fn every_errno_is_the_documented_one() {
    let document = include_str!("../../../../docs/device-file.md");
    for (errno, code, name) in crate::ERRNOS {
        assert_eq!(errno.code(), *code);
        let never_seen = [Errno::Taken, Errno::BadDirectory, Errno::PortFirst];
        let line = std::format!("\n| `{name}` | {code} | ");
        assert_eq!(
            document.contains(&line),
            !never_seen.contains(errno),
            "{name}"
        );
    }
}
