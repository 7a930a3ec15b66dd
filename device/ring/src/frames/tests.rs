//! The control rings, also with a peer that stores anything.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the control memory's constants fit a usize, and test values are meant to wrap"
)]

use super::*;
use crate::memory::Memory;
use proptest::prelude::*;
use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Generation, GrantId};

fn pair() -> (Memory, ControlRings, ControlRings) {
    let memory = Memory::new(control::CONTROL_BYTES as usize);
    let host = ControlRings::new(memory.shared(), Side::Host).unwrap();
    let guest = ControlRings::new(memory.shared(), Side::Guest).unwrap();
    (memory, host, guest)
}

const fn space() -> Space {
    [0; LONGEST_PAYLOAD_BYTES]
}

fn revoke(number: u32) -> Payload<'static> {
    Payload::Revoke {
        grant: GrantId(number),
        generation: Generation(u64::from(number) << 32),
        reason: Reason::Admin,
    }
}

#[test]
fn frames_arrive_in_order_around_the_end_of_the_ring() {
    let (_memory, mut host, mut guest) = pair();
    for number in 0..10_000 {
        host.send(SessionId(number), &revoke(number)).unwrap();
        guest
            .send(SessionId(number), &Payload::Close(Reason::Closed))
            .unwrap();
        assert_eq!(
            guest.receive(&mut space()),
            Ok(Some((SessionId(number), revoke(number))))
        );
        let close = Payload::Close(Reason::Closed);
        assert_eq!(
            host.receive(&mut space()),
            Ok(Some((SessionId(number), close)))
        );
    }
    assert_eq!(guest.receive(&mut space()), Ok(None));
    assert_eq!(host.receive(&mut space()), Ok(None));
}

#[test]
fn a_full_ring_refuses_and_goes_on_once_consumed() {
    let (_memory, mut host, mut guest) = pair();
    let bytes = FrameHeader::BYTES as u32 + 14;
    let mut sent = 0;
    while host.send(SessionId(1), &revoke(sent)).is_ok() {
        sent += 1;
        assert_eq!(host.room(), Ok(RING_BYTES - sent * bytes));
    }
    assert_eq!(host.send(SessionId(1), &revoke(sent)), Err(SendError::Full));
    assert_eq!(sent, RING_BYTES / bytes);
    for number in 0..sent {
        assert_eq!(
            guest.receive(&mut space()).unwrap().unwrap().1,
            revoke(number)
        );
    }
    host.send(SessionId(1), &revoke(sent)).unwrap();
    assert_eq!(
        guest.receive(&mut space()).unwrap().unwrap().1,
        revoke(sent)
    );
}

#[test]
fn a_guest_driver_that_starts_again_drops_what_was_meant_for_the_last() {
    let (memory, mut host, mut guest) = pair();
    host.send(SessionId(1), &revoke(1)).unwrap();
    guest.send(SessionId(1), &revoke(2)).unwrap();
    let mut guest = ControlRings::new(memory.shared(), Side::Guest).unwrap();
    assert_eq!(guest.receive(&mut space()), Ok(None));
    guest.send(SessionId(2), &revoke(3)).unwrap();
    host.send(SessionId(2), &revoke(4)).unwrap();
    assert_eq!(
        host.receive(&mut space()),
        Ok(Some((SessionId(1), revoke(2))))
    );
    assert_eq!(
        host.receive(&mut space()),
        Ok(Some((SessionId(2), revoke(3))))
    );
    assert_eq!(
        guest.receive(&mut space()),
        Ok(Some((SessionId(2), revoke(4))))
    );
}

#[test]
fn data_of_every_length_arrives_as_it_was_sent() {
    let (_memory, mut host, mut guest) = pair();
    let bytes: std::vec::Vec<u8> = (0..LONGEST_PAYLOAD_BYTES).map(|at| at as u8).collect();
    for len in (1..=bytes.len()).rev().step_by(37) {
        let data = Payload::Data(&bytes[..len]);
        guest.send(SessionId(1), &data).unwrap();
        assert_eq!(host.receive(&mut space()), Ok(Some((SessionId(1), data))));
    }
}

#[test]
fn a_reset_forgets_both_directions() {
    let (memory, mut host, mut guest) = pair();
    host.send(SessionId(1), &revoke(1)).unwrap();
    guest.send(SessionId(1), &revoke(2)).unwrap();
    host.reset();
    let mut guest = ControlRings::new(memory.shared(), Side::Guest).unwrap();
    assert_eq!(
        (host.receive(&mut space()), guest.receive(&mut space())),
        (Ok(None), Ok(None))
    );
}

#[test]
fn an_index_out_of_range_is_the_peers_fault() {
    let (memory, mut host, _guest) = pair();
    let guest_page = memory
        .shared()
        .sub(control::GUEST_INDEXES as usize, 4096)
        .unwrap();
    guest_page
        .store_u32(control::TAIL as usize, RING_BYTES + 1)
        .unwrap();
    assert_eq!(host.receive(&mut space()), Err(RingFault::Index));
    guest_page.store_u32(control::HEAD as usize, 1).unwrap();
    assert_eq!(host.room(), Err(RingFault::Index));
    assert_eq!(
        host.send(SessionId(1), &revoke(1)),
        Err(SendError::Fault(RingFault::Index))
    );
}

#[test]
fn a_frame_longer_than_what_was_produced_is_the_peers_fault() {
    let (memory, mut host, mut guest) = pair();
    guest.send(SessionId(1), &revoke(1)).unwrap();
    let tail = control::GUEST_INDEXES as usize;
    for short in [1, 11, 12, 25] {
        memory.shared().store_u32(tail, short).unwrap();
        let truncated = RingFault::Frame(Malformed::Truncated("frame"));
        assert_eq!(host.receive(&mut space()), Err(truncated));
    }
    memory.shared().store_u32(tail, 26).unwrap();
    assert!(host.receive(&mut space()).unwrap().is_some());
}

proptest! {
    /// I5: whatever a peer writes, each call ends, and nothing but whole frames is believed.
    #[test]
    fn a_hostile_peer_stops_only_its_own_frames(
        writes in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 1..200),
    ) {
        let (memory, mut host, _guest) = pair();
        let shared = memory.shared();
        let words = [
            (control::GUEST_INDEXES + control::TAIL) as usize,
            (control::GUEST_INDEXES + control::HEAD) as usize,
        ];
        for (place, value, near) in writes {
            // Half of the writes move an index by little, the others store anything anywhere.
            let offset = words[place as usize % 2];
            if near {
                let moved = shared.load_u32(offset).unwrap().wrapping_add(value % 64);
                shared.store_u32(offset, moved).unwrap();
            } else {
                let at = place as usize % (control::CONTROL_BYTES as usize / 4) * 4;
                shared.store_u32(at, value).unwrap();
            }
            let before = host.received;
            match host.receive(&mut space()) {
                Ok(Some(_)) => {
                    let taken = host.received.wrapping_sub(before) as usize;
                    prop_assert!((FrameHeader::BYTES..=FrameHeader::BYTES + LONGEST_PAYLOAD_BYTES).contains(&taken));
                }
                Ok(None) | Err(_) => prop_assert_eq!(host.received, before),
            }
            let before = host.sent;
            if host.send(SessionId(1), &revoke(value)).is_err() {
                prop_assert_eq!(host.sent, before);
            }
        }
    }
}
