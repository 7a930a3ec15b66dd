//! I5: a device process that sends anything.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One thing that a device process or a guest process does.
#[derive(Clone, Debug)]
enum Step {
    Open(u32),
    Close(usize, u32),
    Release(usize),
    Grant(usize, Grant),
    Revoke(usize, u32, u64),
    HostClose(usize),
    Fault(usize, u64, u64, bool),
}

fn any_grant() -> impl Strategy<Value = Grant> {
    let range = (0_u64..300, 0_u64..300).prop_map(|(at, pages)| (at * 4096, pages * 4096));
    let range = prop_oneof![9 => range, 1 => (any::<u64>(), any::<u64>())];
    (1_u32..6, 0_u64..20, 0_u16..3, any::<bool>(), range).prop_map(
        |(number, generation, window, write, (offset, length))| Grant {
            id: GrantId(number),
            generation: Generation(generation),
            access: if write {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            },
            window,
            offset,
            length,
            ..grant(number, Access::ReadOnly)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let pick = 0_usize..4;
    prop_oneof![
        2 => (0_u32..3).prop_map(Step::Open),
        1 => (pick.clone(), 0_u32..3).prop_map(|(which, by)| Step::Close(which, by)),
        1 => pick.clone().prop_map(Step::Release),
        6 => (pick.clone(), any_grant()).prop_map(|(which, grant)| Step::Grant(which, grant)),
        2 => (pick.clone(), 1_u32..6, 0_u64..20)
            .prop_map(|(which, number, generation)| Step::Revoke(which, number, generation)),
        1 => pick.clone().prop_map(Step::HostClose),
        6 => (0_usize..4, 0_u64..400, 0_u64..400, any::<bool>())
            .prop_map(|(which, at, pages, write)| Step::Fault(which, at, pages, write)),
    ]
}

proptest! {
    /// Whatever is granted, revoked and closed in whatever order: what maps was granted to that
    /// session by a frame that was not revoked since, within its range and its access.
    #[test]
    fn what_maps_was_granted(steps in proptest::collection::vec(any_step(), 1..120)) {
        let mut world = World::new();
        let mut sessions = std::vec![(SessionId(0), 0); 4];
        let mut granted: BTreeMap<(u32, u32), Grant> = BTreeMap::new();
        let mut ended: Vec<(Caller, Slot)> = Vec::new();
        for step in steps {
            let mut before = Vec::new();
            for (session, uid) in &sessions {
                let me = caller(*session, *uid);
                let mut from = 0;
                while let Ok(Some((slot, _))) = world.gate.next_grant(me, from) {
                    before.push((me, slot));
                    from = slot.place() + 1;
                }
            }
            match step {
                Step::Open(uid) => {
                    if let Ok(session) = world.gate.open(owner(uid), facts(uid)) {
                        sessions.rotate_left(1);
                        *sessions.last_mut().unwrap() = (session, uid);
                    }
                }
                Step::Close(which, by) => {
                    let (session, uid) = sessions[which];
                    world.gate.close(session, Files(by.into()));
                    if by == uid {
                        granted.retain(|(holder, _), _| *holder != session.0);
                    }
                }
                Step::Release(which) => {
                    let (session, _) = sessions[which];
                    world.gate.release(session);
                    granted.retain(|(holder, _), _| *holder != session.0);
                }
                Step::Grant(which, grant) => {
                    let (session, _) = sessions[which];
                    let effects = world.say(session, Payload::Grant(grant));
                    if effects.contains(&Effect::Wake) && !effects.iter().any(|effect| {
                        matches!(effect, Effect::Report(_))
                    }) {
                        granted.insert((session.0, grant.id.0), grant);
                    }
                }
                Step::Revoke(which, number, generation) => {
                    let (session, _) = sessions[which];
                    world.say(session, revoke(number, generation));
                    granted.retain(|(holder, id), grant| {
                        (*holder, *id) != (session.0, number)
                            || grant.generation.0 > generation
                    });
                }
                Step::HostClose(which) => {
                    let (session, _) = sessions[which];
                    world.say(session, Payload::Close(Reason::Admin));
                    granted.retain(|(holder, _), _| *holder != session.0);
                }
                Step::Fault(which, at, pages, write) => {
                    let (session, uid) = sessions[which];
                    let (at, length) = (at * 4096, pages * 4096);
                    for (me, slot) in &before {
                        let asker = caller(session, uid);
                        let result = world.gate.fault(asker, slot.offset() + at, length, write);
                        let Ok(place) = result else { continue };
                        prop_assert_eq!(*me, asker, "a stranger's grant was mapped");
                        let covering = granted.iter().find(|((holder, _), grant)| {
                            *holder == session.0
                                && grant.window == place.window.0
                                && grant.offset <= place.offset
                                && place.offset + length <= grant.offset + grant.length
                                && (grant.access.writable() || !(write || place.writable))
                        });
                        prop_assert!(covering.is_some(), "{:?} was never granted", place);
                        prop_assert!(place.offset + length <= WINDOW);
                        prop_assert!(!place.writable || place.window.0 == WRITTEN);
                    }
                }
            }
            world.pump();
            world.heard();
            for (me, slot) in before {
                if world.unmapped.contains(&slot) {
                    ended.push((me, slot));
                }
            }
            for (me, slot) in &ended {
                let fault = world.gate.fault(*me, slot.offset(), 4096, false);
                prop_assert!(fault.is_err(), "an unmapped slot came back");
            }
        }
    }

    /// Any bytes anywhere in the control memory: every call returns.
    #[test]
    fn no_bytes_make_the_gate_panic_or_spin(
        writes in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 1..300),
    ) {
        let mut world = World::new();
        let (session, _) = world.granted(1, Access::ReadOnly);
        let bells = Bells::new();
        let host_tail = usize::try_from(control::HOST_INDEXES + control::TAIL).unwrap();
        let words = world.control.len() / 4;
        for (place, value, tail) in writes {
            let at = usize::try_from(place).unwrap() % words * 4;
            world.control.store_u32(at, value).unwrap();
            if tail {
                let moved = world.control.load_u32(host_tail).unwrap().wrapping_add(value % 256);
                world.control.store_u32(host_tail, moved).unwrap();
            }
            let mut calls = 0;
            while world.gate.receive() {
                calls += 1;
                prop_assert!(calls <= control::RING_BYTES / 12, "received more than a ring holds");
            }
            world.effects();
            let _ = world.gate.list(caller(session, 1));
            let _ = world.gate.readiness(caller(session, 1));
            let _ = world.gate.rung(caller(session, 1), &bells);
            let _ = world.gate.read(caller(session, 1), &mut [0; 100]);
            let _ = world.gate.write(caller(session, 1), &[0; 100]);
        }
        world.gate.detach();
        world.effects();
    }

    /// A hostile directory is refused or believed, and never makes a claim out of its bounds.
    #[test]
    fn no_directory_makes_the_gate_panic(
        writes in proptest::collection::vec((0_usize..300, any::<u32>()), 0..40),
    ) {
        let mut world = World::unbound(control_memory());
        for (word, value) in writes {
            world.control.store_u32(8 + word * 4, value).unwrap();
        }
        if world.gate.attach(world.control, BOOT).is_ok() {
            let vectors = world.gate.directory().unwrap().vectors;
            prop_assert!(usize::from(vectors) <= sivshm_abi::limits::MAX_VECTORS);
        }
        if let Ok(window) = world.gate.find(place(READ), WINDOW) {
            prop_assert_eq!(world.gate.claim(window, WINDOW, 0), Ok(()));
        }
        world.effects();
    }
}
