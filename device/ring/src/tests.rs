//! Channels between ends that behave, and between one end and a peer that stores anything.

#![expect(
    clippy::cast_possible_truncation,
    reason = "test values fit, and random ones are meant to wrap"
)]

use proptest::prelude::*;
use sivshm_abi::channel::{ack, head, slot_stride};
use sivshm_abi::grant::Integrity;
use std::vec;
use std::vec::Vec;

use crate::line::{Fault, ReaderLine};
use crate::memory::Memory;
use crate::region;
use crate::shared::Shared;
use crate::slots::{Consumer, Geometry, LoanError, Producer, ReceiveError, Received};

const PAGE: usize = 4096;
const SLOT: u32 = 40;
const SLOTS: usize = 4;
const RANGE: usize = PAGE + SLOTS * slot_stride(SLOT, Integrity::None) as usize;
const EPOCH: u64 = 3;

/// One range and the lines of two readers.
struct Channel {
    range: Memory,
    lines: [Memory; 2],
}

impl Channel {
    fn new() -> Self {
        Self {
            range: Memory::new(RANGE),
            lines: [Memory::new(PAGE), Memory::new(PAGE)],
        }
    }

    fn lines(&self) -> Vec<ReaderLine> {
        let line = |line: &Memory| ReaderLine::new(line.shared(), EPOCH).unwrap();
        self.lines.iter().map(line).collect()
    }

    fn producer(&self, overwrite: bool) -> Producer<Vec<ReaderLine>> {
        Producer::start(
            self.range.shared(),
            geometry(overwrite),
            self.lines(),
            EPOCH,
        )
        .unwrap()
    }

    fn consumer(&self, line: usize, overwrite: bool) -> Consumer {
        let line = self.lines[line].shared();
        Consumer::join(self.range.shared(), line, geometry(overwrite), EPOCH).unwrap()
    }

    fn writer(&self) -> region::Writer<Vec<ReaderLine>> {
        region::Writer::start(self.range.shared(), self.lines(), EPOCH).unwrap()
    }

    fn reader(&self, line: usize) -> region::Reader {
        region::Reader::join(self.range.shared(), self.lines[line].shared(), EPOCH).unwrap()
    }
}

fn geometry(overwrite: bool) -> Geometry {
    Geometry {
        slot_bytes: SLOT,
        overwrite,
        integrity: Integrity::None,
    }
}

fn receive(consumer: &mut Consumer) -> Result<Option<(u64, Vec<u8>, u64)>, ReceiveError> {
    let mut bytes = vec![0; SLOT as usize];
    Ok(consumer.receive(&mut bytes)?.map(|received| {
        bytes.truncate(received.length);
        (received.number, bytes, received.lost)
    }))
}

#[test]
fn a_full_ring_waits_for_its_slowest_consumer() {
    let channel = Channel::new();
    let mut producer = channel.producer(false);
    let mut consumers = [channel.consumer(0, false), channel.consumer(1, false)];
    for value in 0..4 {
        producer.stage(&[value; 3]).unwrap();
    }
    assert_eq!(producer.stage(&[9]), Err(LoanError::Full));
    assert_eq!(receive(&mut consumers[0]), Ok(None), "not published yet");
    assert_eq!(producer.publish(), 4);
    for consumer in &mut consumers {
        assert_eq!(receive(consumer), Ok(Some((1, vec![0; 3], 0))));
    }
    assert!(!consumers[0].acknowledge());
    assert_eq!(producer.free(), Ok(0));
    assert!(!consumers[1].acknowledge());
    assert_eq!(producer.free(), Ok(1));
    producer.stage(&[4; 3]).unwrap();
    producer.publish();
    for number in 2..=5 {
        let payload = vec![number as u8 - 1; 3];
        assert_eq!(receive(&mut consumers[0]), Ok(Some((number, payload, 0))));
    }
    assert_eq!(receive(&mut consumers[0]), Ok(None));
}

#[test]
fn a_loan_that_is_dropped_publishes_nothing() {
    let channel = Channel::new();
    let mut producer = channel.producer(false);
    let mut consumer = channel.consumer(0, false);
    let mut loan = producer.loan().unwrap();
    loan.write(0, &[1; 40]).unwrap();
    assert!(loan.write(1, &[1; 40]).is_err());
    assert!(loan.stage(41).is_err());
    assert_eq!(producer.stage(&[0; 41]), Err(LoanError::TooLong));
    let _given_back = producer.loan().unwrap();
    assert_eq!(producer.publish(), 0);
    assert_eq!(receive(&mut consumer), Ok(None));
}

#[test]
fn an_overwritten_slot_is_counted_as_lost() {
    let channel = Channel::new();
    let mut producer = channel.producer(true);
    let mut consumer = channel.consumer(0, true);
    for value in 1..=10 {
        producer.stage(&[value]).unwrap();
        producer.publish();
    }
    assert_eq!(receive(&mut consumer), Ok(Some((7, vec![7], 6))));
    // The producer is filling the place of slot 8 with slot 12.
    producer.stage(&[11]).unwrap();
    let loan = producer.loan().unwrap();
    assert_eq!(receive(&mut consumer), Ok(Some((9, vec![9], 1))));
    loan.stage(1).unwrap();
    assert_eq!(receive(&mut consumer), Ok(Some((10, vec![10], 0))));
}

#[test]
fn a_payload_that_does_not_fit_the_buffer_stays() {
    let channel = Channel::new();
    let mut producer = channel.producer(false);
    let mut consumer = channel.consumer(0, false);
    producer.stage(&[5; 20]).unwrap();
    producer.publish();
    assert_eq!(
        consumer.receive(&mut [0; 19]),
        Err(ReceiveError::TooLong(20))
    );
    assert_eq!(receive(&mut consumer), Ok(Some((1, vec![5; 20], 0))));
}

#[test]
fn a_region_goes_round_by_sequence_and_acknowledgement() {
    let channel = Channel::new();
    let mut writer = channel.writer();
    let mut readers = [channel.reader(0), channel.reader(1)];
    assert_eq!(writer.lagging(), Ok(None));
    for number in 1..=3 {
        writer.write(2, &[number as u8; 5]).unwrap();
        assert_eq!(writer.publish(7), Ok(number));
        assert!(matches!(writer.lagging(), Ok(Some(_))));
        for reader in &mut readers {
            let message = reader.poll().unwrap().unwrap();
            let mut bytes = [0xff; 7];
            reader.copy_out(message, 0, &mut bytes).unwrap();
            assert_eq!((bytes[1], bytes[2]), (0, number as u8));
            assert!(reader.copy_out(message, 1, &mut bytes).is_err());
            assert!(!reader.acknowledge(message));
            assert_eq!(reader.poll(), Ok(None));
        }
        assert_eq!(writer.lagging(), Ok(None));
    }
    assert!(writer.publish(writer.capacity() + 1).is_err());
    assert_eq!(writer.sequence(), 3);
}

#[test]
fn the_next_epoch_starts_from_nothing() {
    let channel = Channel::new();
    let mut writer = channel.writer();
    writer.publish(1).unwrap();
    let mut late =
        region::Reader::join(channel.range.shared(), channel.lines[0].shared(), EPOCH + 1).unwrap();
    assert_eq!(late.poll(), Ok(None), "a message of the last epoch");
    let next = ReaderLine::new(channel.lines[0].shared(), EPOCH + 1).unwrap();
    let mut writer = region::Writer::start(channel.range.shared(), [next], EPOCH + 1).unwrap();
    assert_eq!(late.poll(), Ok(None));
    writer.publish(1).unwrap();
    let message = late.poll().unwrap().unwrap();
    let _ = late.acknowledge(message);
    assert_eq!(writer.lagging(), Ok(None));
    // A page of another epoch is no page whose count fell.
    channel.range.shared().store_u64(head::EPOCH, 0).unwrap();
    assert_eq!(late.poll(), Ok(None));
    channel
        .range
        .shared()
        .store_u64(head::EPOCH, EPOCH + 1)
        .unwrap();
    // A reader that is still in the last epoch has acknowledged nothing of this.
    assert_eq!(channel.reader(0).poll(), Ok(None));
    assert!(matches!(writer.lagging(), Ok(Some(_))));
}

#[test]
fn an_end_that_starts_again_goes_on_where_it_was() {
    let channel = Channel::new();
    for (number, value) in (1..).zip([7, 8]) {
        let mut producer = channel.producer(false);
        let mut consumers = [channel.consumer(0, false), channel.consumer(1, false)];
        producer.stage(&[value]).unwrap();
        assert_eq!(producer.publish(), number);
        for consumer in &mut consumers {
            assert_eq!(receive(consumer), Ok(Some((number, vec![value], 0))));
            let _ = consumer.acknowledge();
        }
        assert_eq!(channel.producer(false).free(), Ok(SLOTS as u64));
    }
}

#[test]
fn lies_of_a_peer_are_named() {
    let channel = Channel::new();
    let mut producer = channel.producer(false);
    let mut consumer = channel.consumer(0, false);
    let (range, line) = (channel.range.shared(), channel.lines[0].shared());
    line.store_u64(ack::SEEN, 1).unwrap();
    assert_eq!(producer.free(), Err(Fault::Ahead));
    range.store_u64(head::SEQUENCE, 5).unwrap();
    assert_eq!(receive(&mut consumer), Err(Fault::Overrun.into()));
    range.store_u64(head::SEQUENCE, 1).unwrap();
    assert_eq!(receive(&mut consumer), Err(Fault::Slot.into()));
    let mut reader = channel.reader(1);
    range.store_u64(head::LENGTH, u64::MAX).unwrap();
    let message = reader.poll().unwrap().unwrap();
    assert_eq!(message.length, RANGE - PAGE);
    let _ = reader.acknowledge(message);
    range.store_u64(head::SEQUENCE, 0).unwrap();
    assert_eq!(reader.poll(), Err(Fault::Backwards));
}

/// The pages of an end whose grants have ended may be empty from one load to the next.
#[test]
fn a_message_whose_pages_went_away_is_no_message() {
    let channel = Channel::new();
    let range = channel.range.shared();
    let mut writer = channel.writer();
    let mut reader = channel.reader(0);
    writer.write(0, b"whole").unwrap();
    writer.publish(5).unwrap();
    let message = reader.poll().unwrap().unwrap();
    range.fill(0, range.len(), 0).unwrap();
    let refused = reader.copy_out(message, 0, &mut [0; 5]);
    assert_eq!(refused, Err(Fault::Withdrawn.into()));
    assert_eq!(reader.poll(), Ok(None));
}

/// What a hostile peer does to its memory between two calls of the other end.
fn store_anything(memory: Shared, (place, value, small): (usize, u64, bool)) {
    // Mostly the words that mean something: the page's fields and the slots' headers.
    let stride = slot_stride(SLOT, Integrity::None) as usize;
    let fields = [
        0,
        64,
        128,
        192,
        PAGE,
        PAGE + 8,
        PAGE + stride,
        PAGE + stride + 8,
    ];
    let at = match fields.get(place % 12) {
        Some(field) => *field,
        None => place % memory.len(),
    };
    let at = at.min(memory.len() - 8) / 8 * 8;
    let value = if small { value % 8 } else { value };
    memory.store_u64(at, value).unwrap();
}

fn stores() -> impl Strategy<Value = Vec<(usize, u64, bool)>> {
    proptest::collection::vec((any::<usize>(), any::<u64>(), any::<bool>()), 1..200)
}

/// The buffer of a receiver, with a byte behind it that must stay.
struct Guarded([u8; SLOT as usize + 1]);

impl Guarded {
    fn receive(&mut self, consumer: &mut Consumer) -> Result<Option<Received>, ReceiveError> {
        self.0[SLOT as usize] = 0xa5;
        let outcome = consumer.receive(&mut self.0[..SLOT as usize]);
        assert_eq!(self.0[SLOT as usize], 0xa5);
        outcome
    }
}

proptest! {
    /// I5, for a consumer: numbers rise, lengths fit, and every call ends.
    #[test]
    fn a_hostile_producer_is_survived(stores in stores(), overwrite in any::<bool>()) {
        let channel = Channel::new();
        let mut consumer = channel.consumer(0, overwrite);
        let mut buffer = Guarded([0; SLOT as usize + 1]);
        let mut last = 0;
        for store in stores {
            store_anything(channel.range.shared(), store);
            if let Ok(Some(received)) = buffer.receive(&mut consumer) {
                prop_assert!(received.number > last);
                prop_assert!(received.length <= SLOT as usize);
                prop_assert_eq!(received.lost, received.number - last - 1);
                last = received.number;
            }
            let _ = consumer.acknowledge();
        }
    }

    /// I5, for a producer: it never believes in more room than there is.
    #[test]
    fn a_hostile_consumer_is_survived(stores in stores(), overwrite in any::<bool>()) {
        let channel = Channel::new();
        let mut producer = channel.producer(overwrite);
        let mut unseen = 0_u64;
        for store in stores {
            store_anything(channel.lines[0].shared(), store);
            if let Ok(free) = producer.free() {
                prop_assert!(free <= SLOTS as u64);
            }
            if producer.stage(&[1; 7]).is_ok() {
                unseen += 1;
                // The other reader, which never joined, holds back every slot.
                prop_assert!(overwrite || unseen <= SLOTS as u64);
            }
            producer.publish();
            let _ = producer.readers()[0].must_ring();
        }
    }

    /// I5, for both ends of a region.
    #[test]
    fn a_hostile_end_of_a_region_is_survived(stores in stores()) {
        let channel = Channel::new();
        let mut reader = channel.reader(0);
        let mut buffer = [0; RANGE];
        for store in &stores {
            store_anything(channel.range.shared(), *store);
            if let Ok(Some(message)) = reader.poll() {
                prop_assert!(message.length <= RANGE - PAGE);
                let outcome = reader.copy_out(message, 0, &mut buffer[..message.length]);
                prop_assert_eq!(outcome, Ok(()));
                let _ = reader.acknowledge(message);
            }
        }
        let channel = Channel::new();
        let mut writer = channel.writer();
        for store in stores {
            store_anything(channel.lines[0].shared(), store);
            let _ = writer.publish(8).unwrap();
            // The other reader, which never joined, has seen nothing.
            prop_assert!(!matches!(writer.lagging(), Ok(None)));
        }
    }
}

/// I5 with true concurrency: a thread stores at random to everything the producer owns.
#[test]
fn a_peer_that_scribbles_meanwhile_is_survived() {
    let channel = Channel::new();
    let range = channel.range.shared();
    let mut consumer = channel.consumer(0, true);
    let mut reader = channel.reader(1);
    let mut buffer = Guarded([0; SLOT as usize + 1]);
    std::thread::scope(|scope| {
        let scribbler = scope.spawn(move || {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..200_000 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                store_anything(range, (state as usize >> 8, state >> 20, state & 3 != 0));
            }
        });
        while !scribbler.is_finished() {
            if let Ok(Some(received)) = buffer.receive(&mut consumer) {
                assert!(received.length <= SLOT as usize);
            }
            if let Ok(Some(message)) = reader.poll() {
                assert!(message.length <= RANGE - PAGE);
                let _ = reader.acknowledge(message);
            }
        }
    });
}
