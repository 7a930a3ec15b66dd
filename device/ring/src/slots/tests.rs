//! Rings with integrity: what a consumer makes of slots whose seal is proved or not. The seal is a
//! toy; the real ones, and every fault that a hostile writer can stage, are tested in the library.

#![expect(
    clippy::cast_possible_truncation,
    reason = "test values fit, and random ones are meant to wrap"
)]

use proptest::prelude::*;
use sivshm_abi::channel::slot::{CRC, IDENTIFIER, LENGTH, NUMBER};
use sivshm_abi::channel::{head, slot_stride};
use sivshm_abi::grant::Integrity;

use super::IntegrityFault::{Corruption, Insertion, Loss, Repetition, WrongSequence};
use super::{Consumer, Geometry, Header, IntegrityFault, Producer, ReceiveError, Received, Seal};
use crate::line::{Fault, ReaderLine};
use crate::memory::Memory;
use crate::shared::Shared;

const PAGE: usize = 4096;
const SLOT: usize = 16;
const SLOTS: usize = 4;
const STRIDE: usize = slot_stride(SLOT as u32, Integrity::Crc32c) as usize;
const EPOCH: u64 = 3;

/// A ring whose payloads are one byte, many times over.
struct Ring {
    range: Memory,
    _line: Memory,
    producer: Producer<[ReaderLine; 1]>,
    consumer: Consumer,
}

impl Ring {
    fn new(overwrite: bool) -> Self {
        let range = Memory::new(PAGE + SLOTS * STRIDE);
        let line = Memory::new(PAGE);
        let geometry = Geometry {
            slot_bytes: SLOT as u32,
            overwrite,
            integrity: Integrity::Crc32c,
        };
        let readers = [ReaderLine::new(line.shared(), EPOCH).unwrap()];
        let producer = Producer::start(range.shared(), geometry, readers, EPOCH).unwrap();
        Self {
            consumer: Consumer::join(range.shared(), line.shared(), geometry, EPOCH).unwrap(),
            producer,
            range,
            _line: line,
        }
    }

    /// Fills the next slots with these payloads.
    fn stage(&mut self, values: impl IntoIterator<Item = u8>) {
        for value in values {
            let mut loan = self.producer.loan().unwrap();
            let payload = [value; SLOT];
            let seal = seal(loan.number(), &payload);
            loan.write(0, &payload).unwrap();
            loan.stage_sealed(SLOT, &seal).unwrap();
        }
    }

    fn send(&mut self, values: impl IntoIterator<Item = u8>) {
        self.stage(values);
        self.producer.publish();
    }

    fn receive(&mut self) -> Result<Option<(u64, u8, u64)>, ReceiveError> {
        let mut space = [0xee; SLOT];
        let outcome = self.consumer.receive_sealed(&mut space, SLOT, open);
        if outcome.is_err() {
            let cleared = |space: &[u8; SLOT]| space.iter().all(|byte| matches!(byte, 0 | 0xee));
            assert!(cleared(&space), "{outcome:?} leaves {space:?}");
        }
        let found = outcome?;
        Ok(found.map(|Received { number, lost, .. }| (number, space[0], lost)))
    }

    fn place(&self, number: usize) -> Shared {
        let range = self.range.shared();
        let place = (number - 1) % SLOTS;
        range.sub(PAGE + place * STRIDE, STRIDE).unwrap()
    }

    /// Copies one slot, header and payload, over another.
    fn copy(&self, from: usize, to: usize) {
        let mut slot = [0; STRIDE];
        self.place(from).copy_out(0, &mut slot).unwrap();
        self.place(to).copy_in(0, &slot).unwrap();
    }
}

fn seal(number: u64, payload: &[u8]) -> Seal {
    let sum = payload.iter().fold(number, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    Seal {
        crc: sum as u32,
        identifier: sum,
        tag: [0; 16],
    }
}

fn open(header: &Header, payload: &mut [u8]) -> Result<(), IntegrityFault> {
    let right = seal(header.number, payload) == header.seal;
    right.then_some(()).ok_or(Corruption)
}

const fn fault(fault: IntegrityFault) -> Result<Option<(u64, u8, u64)>, ReceiveError> {
    Err(ReceiveError::Integrity(fault))
}

#[test]
fn a_slot_that_is_not_the_one_due_is_given_up_and_the_next_is_received() {
    let mut ring = Ring::new(false);
    ring.send([1, 2, 3]);
    ring.stage([4]);
    ring.copy(4, 1);
    assert_eq!(ring.receive(), fault(Insertion));
    assert_eq!(ring.receive(), Ok(Some((2, 2, 0))));
    ring.copy(2, 3);
    assert_eq!(ring.receive(), fault(Repetition));
    ring.producer.publish();
    ring.place(4).store_u32(LENGTH, SLOT as u32 + 1).unwrap();
    assert_eq!(ring.receive(), fault(Corruption));
    assert_eq!(ring.receive(), Ok(None));
    assert!(!ring.consumer.acknowledge());
    ring.send([5]);
    assert_eq!(ring.receive(), Ok(Some((5, 5, 0))));
}

#[test]
fn slots_that_change_places_are_lost_and_late() {
    let mut ring = Ring::new(false);
    ring.send([1, 2, 3]);
    // The place of slot 4 serves for the exchange.
    ring.copy(1, 4);
    ring.copy(2, 1);
    ring.copy(4, 2);
    assert_eq!(ring.receive(), fault(Loss));
    assert_eq!(ring.receive(), fault(WrongSequence));
    assert_eq!(ring.receive(), Ok(Some((3, 3, 0))));
}

#[test]
fn a_slot_that_was_never_written_is_lost() {
    let mut ring = Ring::new(false);
    ring.send([1]);
    ring.range.shared().store_u64(head::SEQUENCE, 3).unwrap();
    assert_eq!(ring.receive(), Ok(Some((1, 1, 0))));
    assert_eq!(ring.receive(), fault(Loss));
    assert_eq!(ring.receive(), fault(Loss));
    ring.range.shared().store_u64(head::SEQUENCE, 2).unwrap();
    assert_eq!(ring.receive(), Err(Fault::Backwards.into()));
    ring.range.shared().store_u64(head::SEQUENCE, 8).unwrap();
    assert_eq!(ring.receive(), Err(Fault::Overrun.into()));
}

#[test]
fn what_an_honest_producer_overwrites_is_no_fault() {
    let mut ring = Ring::new(true);
    for value in 1..=10 {
        ring.send([value]);
    }
    assert_eq!(ring.receive(), Ok(Some((7, 7, 6))));
    // Slots 12 and 13 are at the places of 8 and 9, and not published; 14 is being filled.
    ring.stage(11..=13);
    let loan = ring.producer.loan().unwrap();
    assert_eq!(loan.number(), 14);
    assert_eq!(ring.receive(), Ok(None));
    ring.producer.publish();
    assert_eq!(ring.receive(), Ok(Some((11, 11, 3))));
}

#[test]
fn what_nobody_may_overwrite_is_a_fault() {
    let mut ring = Ring::new(true);
    ring.send(1..=3);
    ring.copy(2, 1);
    assert_eq!(ring.receive(), fault(Loss));
    assert_eq!(ring.receive(), Ok(Some((2, 2, 0))));
    // A slot of five rounds later, with a seal that holds.
    let seal = seal(23, &[9; SLOT]);
    let place = ring.place(3);
    place.copy_in(32, &[9; SLOT]).unwrap();
    place.store_u64(IDENTIFIER, seal.identifier).unwrap();
    place.store_u32(CRC, seal.crc).unwrap();
    place.store_u64(NUMBER, 23).unwrap();
    assert_eq!(ring.receive(), fault(Insertion));
}

#[test]
fn a_payload_is_proved_before_its_length_is_believed() {
    let mut ring = Ring::new(false);
    ring.send([1, 2]);
    let mut space = [0; SLOT];
    let Ring { consumer, .. } = &mut ring;
    let outcome = consumer.receive_sealed(&mut space, SLOT - 1, open);
    assert_eq!(outcome, Err(ReceiveError::TooLong(SLOT)));
    assert_eq!(space, [0; SLOT]);
    let outcome = consumer.receive_sealed(&mut space[1..], SLOT, open);
    assert_eq!(outcome, Err(ReceiveError::TooLong(SLOT)));
    assert_eq!(ring.receive(), Ok(Some((1, 1, 0))));
    ring.place(2).store_u32(LENGTH, 1).unwrap();
    let outcome = ring.consumer.receive_sealed(&mut space, 0, open);
    assert_eq!(outcome, Err(ReceiveError::Integrity(Corruption)));
}

proptest! {
    /// I5, with integrity: whatever is stored, what is received was sent, once and in order.
    #[test]
    fn a_hostile_writer_is_survived(
        overwrite in any::<bool>(),
        stores in proptest::collection::vec((any::<usize>(), any::<u64>(), 0..4_u8), 1..200),
    ) {
        let mut ring = Ring::new(overwrite);
        let (mut sent, mut last) = (0_u8, 0);
        for (place, value, what) in stores {
            let memory = ring.range.shared();
            match what {
                0 => ring.copy(1 + place % SLOTS, 1 + value as usize % SLOTS),
                1 => memory.store_u64(place % memory.len() / 8 * 8, value).unwrap(),
                2 => memory.store_u64(head::SEQUENCE, value % 300).unwrap(),
                _ if matches!(ring.producer.free(), Ok(1..)) && sent < u8::MAX => {
                    sent += 1;
                    ring.send([sent]);
                }
                _ => {}
            }
            if let Ok(Some((number, value, _))) = ring.receive() {
                prop_assert_eq!(number, u64::from(value));
                prop_assert!(number > last && number <= u64::from(sent));
                last = number;
            }
            let _ = ring.consumer.acknowledge();
        }
    }
}
