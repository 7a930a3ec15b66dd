//! Handshake bytes in both directions, and who may send how many of them.

use super::*;
use crate::{Complaint, Errno, FlowFault};
use proptest::prelude::*;
use sivshm_abi::limits::{MAX_DATA_BYTES, SESSION_CREDIT_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::vec;

const CREDIT: u32 = 8192;

/// Reads everything that has come.
fn read_all(world: &mut World, me: Caller) -> Vec<u8> {
    let mut all = Vec::new();
    let mut some = [0; 1000];
    loop {
        match world.gate.read(me, &mut some) {
            Ok(count) if count > 0 => all.extend_from_slice(&some[..count]),
            end => {
                assert!(matches!(end, Ok(0) | Err(Errno::NotYet)), "{end:?}");
                return all;
            }
        }
    }
}

/// Writes until nothing more is taken; how many bytes were.
fn write_all(world: &mut World, me: Caller) -> usize {
    let mut sum = 0;
    loop {
        match world.gate.write(me, &[7; 3 * MAX_DATA_BYTES]) {
            Ok(count) => sum += count,
            end => {
                assert_eq!(end, Err(Errno::NotYet));
                world.effects();
                return sum;
            }
        }
    }
}

fn bytes(world: &mut World) -> usize {
    world.heard();
    world.carried.drain(..).map(|(_, bytes)| bytes.len()).sum()
}

#[test]
fn what_is_written_reaches_the_device_process_and_is_rung() {
    let mut world = World::new();
    let session = world.open(5);
    let me = caller(session, 5);
    assert_eq!(world.gate.write(me, b"hello"), Ok(5));
    assert_eq!(world.effects(), [Effect::Ring(crate::Doorbell::CONTROL)]);
    assert_eq!(world.gate.write(me, b""), Ok(0));
    assert_eq!(world.gate.write(me, &[1; 5000]), Ok(MAX_DATA_BYTES));
    world.effects();
    assert_eq!(world.heard(), []);
    let expected = [
        (session, b"hello".to_vec()),
        (session, vec![1; MAX_DATA_BYTES]),
    ];
    assert_eq!(world.carried, expected);
    let stranger = caller(session, 6);
    assert_eq!(world.gate.write(stranger, b"x"), Err(Errno::Denied));
    assert_eq!(world.gate.read(stranger, &mut [0]), Err(Errno::Denied));
}

#[test]
fn what_the_device_process_sends_is_read_and_given_back() {
    let mut world = World::new();
    let session = world.open(5);
    let me = caller(session, 5);
    assert_eq!(world.gate.read(me, &mut [0]), Err(Errno::NotYet));
    assert_eq!(world.gate.read(me, &mut []), Ok(0));
    assert_eq!(world.poll(me, &Bells::new()), "room");
    assert_eq!(world.say(session, Payload::Data(b"hello")), [Effect::Wake]);
    assert_eq!(world.poll(me, &Bells::new()), "data room");
    let mut to = [0; 3];
    assert_eq!(world.gate.read(me, &mut to), Ok(3));
    assert_eq!((&to, world.effects()), (b"hel", vec![]));
    assert_eq!(world.gate.read(me, &mut to), Ok(2));
    assert_eq!(&to[..2], b"lo");
    assert_eq!(world.poll(me, &Bells::new()), "room");
    assert_eq!(world.effects(), [Effect::Ring(crate::Doorbell::CONTROL)]);
    let given = Payload::Ring { credit: 5 };
    assert_eq!(world.heard(), [(session, given)]);
}

#[test]
fn a_session_writes_no_more_than_its_credit() {
    let mut world = World::new();
    let session = world.open(5);
    let me = caller(session, 5);
    assert_eq!(write_all(&mut world, me), SESSION_CREDIT_BYTES);
    assert_eq!(world.poll(me, &Bells::new()), "");
    assert!(!world.gate.frames_owed(), "no use in trying again");
    assert_eq!(bytes(&mut world), SESSION_CREDIT_BYTES);
    let credit = Payload::Ring { credit: 100 };
    assert_eq!(world.say(session, credit), [Effect::Wake]);
    assert_eq!(world.poll(me, &Bells::new()), "room");
    assert_eq!(write_all(&mut world, me), 100);
}

#[test]
fn a_fault_in_one_sessions_flow_ends_that_session_only() {
    let data = Payload::Data(&[0; MAX_DATA_BYTES]);
    let too_much = [data, data, data, data, Payload::Data(&[0])];
    let credit = [Payload::Ring { credit: 1 }];
    let cases: [(&[Payload<'_>], FlowFault, usize); 2] = [
        (&too_much, FlowFault::Data, SESSION_CREDIT_BYTES),
        (&credit, FlowFault::Credit, 0),
    ];
    for (frames, fault, readable) in cases {
        let mut world = World::new();
        let (session, slot) = world.granted(5, Access::ReadOnly);
        let other = world.open(6);
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            world.say(session, *frame);
        }
        let effects = world.say(session, *last);
        assert!(effects.contains(&Effect::Report(Complaint::Flow(fault))));
        assert_eq!(world.unmapped, [slot]);
        let close = Payload::Close(Reason::Protocol);
        assert_eq!(world.heard(), [(session, close)]);
        assert_eq!(read_all(&mut world, caller(session, 5)).len(), readable);
        assert_eq!(world.say(other, Payload::Data(b"x")), [Effect::Wake]);
        assert_eq!(read_all(&mut world, caller(other, 6)), b"x");
    }
}

#[test]
fn a_closed_session_is_read_to_its_end() {
    let mut world = World::new();
    let session = world.open(5);
    let me = caller(session, 5);
    world.say(session, Payload::Data(b"bye"));
    world.say(session, Payload::Close(Reason::NoService));
    assert_eq!(world.gate.write(me, b"x"), Err(Errno::Ended));
    assert_eq!(world.say(session, Payload::Data(b"x")), [], "it crossed");
    assert_eq!(world.say(session, Payload::Ring { credit: CREDIT }), []);
    let mut to = [0; 2];
    assert_eq!(world.gate.read(me, &mut to), Ok(2));
    assert_eq!(world.gate.read(me, &mut to), Ok(1));
    assert_eq!(world.gate.read(me, &mut to), Ok(0));
    let heard = world.heard();
    let close = Payload::Close(Reason::NoService);
    assert_eq!(
        heard,
        [(session, close)],
        "a closed session gives no credit"
    );
}

#[test]
fn a_session_that_is_not_announced_waits_to_write() {
    let mut world = World::unbound(control_memory());
    assert_eq!(world.gate.attach(world.control, BOOT), Ok(()));
    let session = world.gate.open(owner(5), facts(5)).unwrap();
    let me = caller(session, 5);
    world.effects();
    assert_eq!(world.gate.write(me, b"x"), Err(Errno::NotYet));
    assert_eq!(world.poll(me, &Bells::new()), "");
    assert_eq!(world.say(session, Payload::Data(b"x")), [], "unknown");
    for window in [WRITTEN, READ] {
        let claimed = world.gate.claim(WindowNumber(window), WINDOW, 0);
        assert_eq!(claimed, Ok(()));
    }
    assert!(world.effects().contains(&Effect::Wake));
    assert_eq!(world.gate.write(me, b"x"), Ok(1));
    assert_eq!(read_all(&mut world, me), b"");
}

#[test]
fn a_place_that_is_used_again_starts_afresh() {
    let mut world = World::new();
    for _ in 0..=MAX_SESSIONS {
        let session = world.open(5);
        let me = caller(session, 5);
        assert_eq!(read_all(&mut world, me), b"");
        world.say(session, Payload::Data(b"left unread"));
        assert_eq!(write_all(&mut world, me), SESSION_CREDIT_BYTES);
        world.gate.release(session);
        world.effects();
        world.heard();
    }
}

/// A device process that does not consume: `DATA` stops where the others' half of the ring begins,
/// and everything else still gets through.
#[test]
fn data_leaves_room_for_what_the_gate_owes() {
    let mut world = World::new();
    let (first, slot) = world.granted(1, Access::ReadOnly);
    let mut sessions = vec![first];
    sessions.extend((2..10).map(|uid| world.open(uid)));
    let mut written = 0;
    for (session, uid) in sessions.iter().zip(1..) {
        written += write_all(&mut world, caller(*session, uid));
    }
    assert!(written < 9 * SESSION_CREDIT_BYTES);
    let (last, other) = (caller(sessions[8], 9), caller(first, 1));
    assert_eq!(world.poll(last, &Bells::new()), "");
    assert!(world.gate.frames_owed(), "to be tried again after a while");
    world.say(first, Payload::Data(b"x"));
    assert_eq!(read_all(&mut world, other), b"x");
    world.say(first, revoke(1, 10));
    world.gate.release(sessions[1]);
    world.effects();
    assert_eq!(world.poll(last, &Bells::new()), "", "still no room");
    let heard = world.heard();
    let carried: usize = world.carried.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((carried, world.unmapped.as_slice()), (written, &[slot][..]));
    let expected = [
        (first, Payload::Ring { credit: 1 }),
        (first, revoked(1, 10)),
        (sessions[1], Payload::Close(Reason::Closed)),
    ];
    assert_eq!(heard, expected);
    assert_eq!(world.effects(), [Effect::Wake], "room again");
    assert!(!world.gate.frames_owed());
    assert_eq!(world.poll(last, &Bells::new()), "room");
    assert_eq!(write_all(&mut world, last), SESSION_CREDIT_BYTES);
}

#[test]
fn a_ring_that_breaks_under_a_write_ends_every_session() {
    let mut world = World::new();
    let session = world.open(5);
    let head = usize::try_from(control::HOST_INDEXES + control::HEAD).unwrap();
    world.control.store_u32(head, u32::MAX / 2).unwrap();
    let me = caller(session, 5);
    assert_eq!(world.poll(me, &Bells::new()), "room");
    assert_eq!(world.gate.write(me, b"x"), Err(Errno::Ended));
    assert_eq!(world.poll(me, &Bells::new()), "data changed room");
    assert!(!world.gate.frames_owed());
}

/// One thing that happens to sessions' bytes.
#[derive(Clone, Debug)]
enum Step {
    Open(u32),
    Data(usize, usize),
    Credit(usize, u32),
    HostClose(usize),
    Read(usize, usize),
    Write(usize, usize),
    Release(usize),
    HostConsumes,
}

fn any_step() -> impl Strategy<Value = Step> {
    let pick = 0_usize..4;
    prop_oneof![
        2 => (0_u32..3).prop_map(Step::Open),
        6 => (pick.clone(), 1..=MAX_DATA_BYTES).prop_map(|(which, len)| Step::Data(which, len)),
        3 => (pick.clone(), 0..CREDIT / 2).prop_map(|(which, credit)| Step::Credit(which, credit)),
        1 => pick.clone().prop_map(Step::HostClose),
        6 => (pick.clone(), 0_usize..5000).prop_map(|(which, len)| Step::Read(which, len)),
        6 => (pick.clone(), 0_usize..5000).prop_map(|(which, len)| Step::Write(which, len)),
        1 => pick.prop_map(Step::Release),
        4 => Just(Step::HostConsumes),
    ]
}

/// What a session's two directions must be.
struct Model {
    uid: u32,
    live: bool,
    unread: VecDeque<u8>,
    /// What the device process may send, as far as it was told.
    host_credit: usize,
    /// What the session may send, as far as the device process has told.
    credit: usize,
}

/// The device process consumes its frames.
fn hear(world: &mut World, models: &mut BTreeMap<u32, Model>) {
    for (session, payload) in world.heard() {
        if let (Payload::Ring { credit }, Some(model)) = (payload, models.get_mut(&session.0)) {
            model.host_credit += usize::try_from(credit).unwrap();
            assert!(model.host_credit + model.unread.len() <= SESSION_CREDIT_BYTES);
        }
    }
}

proptest! {
    /// I5: whatever a device process sends, a session is read what was sent to it, in order, writes
    /// no more than its credit, and ends by its own fault only.
    #[test]
    fn a_hostile_device_process_hurts_no_other_session(
        steps in proptest::collection::vec(any_step(), 1..150),
    ) {
        let mut world = World::new();
        let mut models: BTreeMap<u32, Model> = BTreeMap::new();
        let mut sessions = [SessionId(0); 4];
        let mut next = 0_u8;
        for step in steps {
            match step {
                Step::Open(uid) => {
                    if let Ok(session) = world.gate.open(owner(uid), facts(uid)) {
                        world.pump();
                        sessions.rotate_left(1);
                        sessions[3] = session;
                        models.insert(session.0, Model {
                            uid,
                            live: true,
                            unread: VecDeque::new(),
                            host_credit: SESSION_CREDIT_BYTES,
                            credit: SESSION_CREDIT_BYTES,
                        });
                    }
                }
                Step::Data(which, len) => {
                    hear(&mut world, &mut models);
                    let data: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    world.say(sessions[which], Payload::Data(&data));
                    if let Some(model) = models.get_mut(&sessions[which].0).filter(|model| model.live) {
                        model.live = len <= model.host_credit;
                        if model.live {
                            model.host_credit -= len;
                            model.unread.extend(data);
                        }
                    }
                }
                Step::Credit(which, credit) => {
                    world.say(sessions[which], Payload::Ring { credit });
                    if let Some(model) = models.get_mut(&sessions[which].0).filter(|model| model.live) {
                        let sum = model.credit + usize::try_from(credit).unwrap();
                        model.live = sum <= SESSION_CREDIT_BYTES;
                        model.credit = if model.live { sum } else { model.credit };
                    }
                }
                Step::HostClose(which) => {
                    world.say(sessions[which], Payload::Close(Reason::Admin));
                    if let Some(model) = models.get_mut(&sessions[which].0) {
                        model.live = false;
                    }
                }
                Step::Read(which, len) => {
                    let Some(model) = models.get_mut(&sessions[which].0) else { continue };
                    let mut to = vec![0; len];
                    let read = world.gate.read(caller(sessions[which], model.uid), &mut to);
                    let expected: Vec<u8> = model.unread.drain(..len.min(model.unread.len())).collect();
                    match read {
                        Ok(count) => prop_assert_eq!(&to[..count], expected),
                        Err(errno) => {
                            prop_assert_eq!(errno, Errno::NotYet);
                            prop_assert!(model.live && model.unread.is_empty() && len > 0);
                        }
                    }
                }
                Step::Write(which, len) => {
                    let Some(model) = models.get_mut(&sessions[which].0) else { continue };
                    let wrote = world.gate.write(caller(sessions[which], model.uid), &vec![0; len]);
                    match wrote {
                        Ok(count) => {
                            prop_assert!(model.live);
                            prop_assert_eq!(count, len.min(MAX_DATA_BYTES).min(model.credit));
                            model.credit -= count;
                        }
                        Err(errno) => {
                            let expected = if model.live { Errno::NotYet } else { Errno::Ended };
                            prop_assert_eq!(errno, expected);
                        }
                    }
                }
                Step::Release(which) => {
                    world.gate.release(sessions[which]);
                    models.remove(&sessions[which].0);
                    sessions[which] = SessionId(0);
                }
                Step::HostConsumes => hear(&mut world, &mut models),
            }
            world.pump();
            for (session, model) in &models {
                let me = caller(SessionId(*session), model.uid);
                let ready = world.gate.readiness(me).unwrap();
                prop_assert_eq!(ready.data, !model.live || !model.unread.is_empty());
                prop_assert!(model.live || ready.room);
                prop_assert!(!ready.room || !model.live || model.credit > 0);
            }
        }
    }
}
