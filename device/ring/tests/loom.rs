//! Every interleaving, and every reordering that the memory model allows, of a producer and a
//! consumer: run by `RUSTFLAGS="--cfg loom" cargo test --release -p sivshm-ring --test loom`.
//!
//! The code under test is the crate's own; only the memory below it is loom's. Loom treats
//! sequentially consistent *accesses* as acquire and release, but models sequentially consistent
//! *fences*, and the crate uses no other. Two models leave out one step of the protocol each, and
//! have to fail: a checker that finds nothing in them would prove nothing about the others.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use sivshm_abi::channel::{HEAD_BYTES, ack, head, slot, slot_header_bytes, slot_stride};
use sivshm_abi::grant::Integrity;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::{Consumer, Geometry, Header, Producer, ReceiveError, Seal};
use sivshm_ring::wake::Sleeper;
use sivshm_ring::{Model, Shared, region};

const EPOCH: u64 = 9;
const PAGE: usize = HEAD_BYTES as usize;
const STRIDE: usize = slot_stride(8, Integrity::None) as usize;
// A header with integrity has room in the same stride, so that one memory serves both.
const _: () = assert!(slot_stride(8, Integrity::Aead) as usize == STRIDE);

/// An eventfd: a ring before the sleep is not lost, and clears when seen.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The writer's range with two slots of eight bytes, and the reader's line.
fn memory(integrity: Integrity) -> (Shared, Shared) {
    let payload = slot_header_bytes(integrity) as usize;
    let fields: &[usize] = match integrity {
        Integrity::None => &[slot::LENGTH, slot::NUMBER],
        _ => &[
            slot::LENGTH,
            slot::NUMBER,
            slot::CRC,
            slot::IDENTIFIER,
            slot::TAG,
            slot::TAG + 8,
        ],
    };
    let slot = |at: usize| {
        let fields = fields.iter().copied().chain([payload]);
        fields.map(move |field| PAGE + at * STRIDE + field)
    };
    let words = [head::SEQUENCE, head::LENGTH, head::WAITING, head::EPOCH];
    let range = Model::leak(words.into_iter().chain(slot(0)).chain(slot(1)));
    let line = Model::leak([ack::SEEN, ack::WAITING, ack::EPOCH]);
    (
        Shared::model(range, PAGE + 2 * STRIDE),
        Shared::model(line, PAGE),
    )
}

fn ring(overwrite: bool, integrity: Integrity) -> (Producer<[ReaderLine; 1]>, Consumer) {
    ring_in(memory(integrity), overwrite, integrity)
}

fn ring_in(
    (range, line): (Shared, Shared),
    overwrite: bool,
    integrity: Integrity,
) -> (Producer<[ReaderLine; 1]>, Consumer) {
    let geometry = Geometry {
        slot_bytes: 8,
        overwrite,
        integrity,
    };
    let readers = [ReaderLine::new(line, EPOCH).unwrap()];
    let producer = Producer::start(range, geometry, readers, EPOCH).unwrap();
    let consumer = Consumer::join(range, line, geometry, EPOCH).unwrap();
    (producer, consumer)
}

fn receive(consumer: &mut Consumer) -> Result<Option<u64>, ReceiveError> {
    let mut payload = [0; 8];
    let received = consumer.receive(&mut payload)?;
    Ok(received.map(|_| u64::from_le_bytes(payload)))
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// The consumer sleeps for a payload that the producer publishes: it always wakes, and the payload
/// is whole. Its loan is published while it may be at any step of going to sleep.
#[test]
fn a_consumer_that_sleeps_is_woken() {
    check(3, || {
        let (mut producer, mut consumer) = ring(false, Integrity::None);
        let bell = Arc::new(Doorbell::default());
        let other = bell.clone();
        let thread = thread::spawn(move || {
            producer.stage(&77_u64.to_le_bytes()).unwrap();
            producer.publish();
            if producer.readers()[0].must_ring() {
                other.ring();
            }
        });
        let sleeper = consumer.sleeper();
        let got = sleeper.wait(
            1,
            || receive(&mut consumer),
            || {
                bell.sleep();
                Ok(())
            },
        );
        assert_eq!(got, Ok(77));
        thread.join().unwrap();
    });
}

/// The producer sleeps for a free slot while the consumer acknowledges: it always wakes, and
/// nothing is overwritten.
#[test]
fn a_producer_that_sleeps_is_woken() {
    check(3, || {
        let (mut producer, mut consumer) = ring(false, Integrity::None);
        for value in [1_u64, 2] {
            producer.stage(&value.to_le_bytes()).unwrap();
        }
        producer.publish();
        let bell = Arc::new(Doorbell::default());
        let other = bell.clone();
        let thread = thread::spawn(move || {
            assert_eq!(receive(&mut consumer), Ok(Some(1)));
            if consumer.acknowledge() {
                other.ring();
            }
            assert_eq!(receive(&mut consumer), Ok(Some(2)));
        });
        let sleeper = producer.sleeper();
        let free = sleeper.wait(
            0,
            || producer.free().map(|free| (free > 0).then_some(free)),
            || {
                bell.sleep();
                Ok(())
            },
        );
        assert_eq!(free, Ok(1));
        producer.stage(&3_u64.to_le_bytes()).unwrap();
        producer.publish();
        thread.join().unwrap();
    });
}

/// The ends join in any order: nothing is received that this epoch's producer has not published.
#[test]
fn an_epoch_begins_before_its_first_slot() {
    check(3, || {
        let (range, line) = memory(Integrity::None);
        // What the last epoch left behind.
        range.store_u64(head::EPOCH, EPOCH - 1).unwrap();
        range.store_u64(head::SEQUENCE, 2).unwrap();
        let geometry = Geometry {
            slot_bytes: 8,
            overwrite: false,
            integrity: Integrity::None,
        };
        let thread = thread::spawn(move || {
            let readers = [ReaderLine::new(line, EPOCH).unwrap()];
            let mut producer = Producer::start(range, geometry, readers, EPOCH).unwrap();
            producer.stage(&5_u64.to_le_bytes()).unwrap();
            producer.publish();
        });
        let mut consumer = Consumer::join(range, line, geometry, EPOCH).unwrap();
        assert!(matches!(receive(&mut consumer), Ok(None | Some(5))));
        thread.join().unwrap();
        assert!(matches!(receive(&mut consumer), Ok(None | Some(5))));
    });
}

/// A producer that overwrites: what the consumer gets is whole, in order, and what is missing is
/// counted.
#[test]
fn what_is_overwritten_is_lost_and_counted_and_never_torn() {
    check(2, || {
        let (mut producer, mut consumer) = ring(true, Integrity::None);
        let thread = thread::spawn(move || {
            for value in 1..=4_u64 {
                producer.stage(&(value * 11).to_le_bytes()).unwrap();
                producer.publish();
            }
        });
        let mut expected = 1;
        for _ in 0..2 {
            let mut payload = [0; 8];
            match consumer.receive(&mut payload) {
                Ok(Some(received)) => {
                    assert_eq!(received.number, expected + received.lost);
                    assert_eq!(u64::from_le_bytes(payload), received.number * 11);
                    expected = received.number + 1;
                }
                Ok(None) | Err(ReceiveError::Outrun) => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread.join().unwrap();
    });
}

/// The seal of a value: as many stores as a real one, each of which belongs to the value.
fn seal(number: u64, value: u64) -> Seal {
    Seal {
        crc: value as u32,
        identifier: number,
        tag: (u128::from(value) << 64 | u128::from(number)).to_le_bytes(),
    }
}

/// A producer that overwrites slots with integrity: a seal is never seen beside a payload, a number
/// or parts of a seal that it does not belong to, so that an honest race is never called a fault.
#[test]
fn a_seal_that_is_overwritten_is_never_torn() {
    check(2, || {
        let (mut producer, mut consumer) = ring(true, Integrity::Aead);
        let thread = thread::spawn(move || {
            for value in [11, 22, 33_u64] {
                let mut loan = producer.loan().unwrap();
                let seal = seal(loan.number(), value);
                loan.write(0, &value.to_le_bytes()).unwrap();
                loan.stage_sealed(8, &seal).unwrap();
                producer.publish();
            }
        });
        let mut expected = 1;
        for _ in 0..2 {
            let mut payload = [0; 8];
            let open = |header: &Header, payload: &mut [u8]| {
                let value = u64::from_le_bytes(payload.try_into().unwrap());
                assert_eq!(header.seal, seal(header.number, value), "a torn slot");
                Ok(())
            };
            match consumer.receive_sealed(&mut payload, 8, open) {
                Ok(Some(received)) => {
                    assert_eq!(received.number, expected + received.lost);
                    assert_eq!(u64::from_le_bytes(payload), received.number * 11);
                    expected = received.number + 1;
                }
                Ok(None) | Err(ReceiveError::Outrun) => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread.join().unwrap();
    });
}

/// A region's reader that sleeps is woken, and sees the bytes that belong to the number.
#[test]
fn a_region_reader_that_sleeps_is_woken() {
    check(3, || {
        let (range, line) = memory(Integrity::None);
        let readers = [ReaderLine::new(line, EPOCH).unwrap()];
        let mut writer = region::Writer::start(range, readers, EPOCH).unwrap();
        let mut reader = region::Reader::join(range, line, EPOCH).unwrap();
        let bell = Arc::new(Doorbell::default());
        let other = bell.clone();
        let thread = thread::spawn(move || {
            writer.write(0, &5_u64.to_le_bytes()).unwrap();
            writer.publish(8).unwrap();
            if writer.readers()[0].must_ring() {
                other.ring();
            }
        });
        let message = reader
            .sleeper()
            .wait(
                0,
                || reader.poll(),
                || {
                    bell.sleep();
                    Ok(())
                },
            )
            .unwrap();
        let mut bytes = [0; 8];
        reader.copy_out(message, 0, &mut bytes).unwrap();
        assert_eq!((message.sequence, u64::from_le_bytes(bytes)), (1, 5));
        thread.join().unwrap();
    });
}

/// A region's pages become empty at any moment: its reader finds the message whole, or none.
#[test]
fn a_region_that_goes_away_is_never_torn() {
    check(3, || {
        let (range, line) = memory(Integrity::None);
        let readers = [ReaderLine::new(line, EPOCH).unwrap()];
        let mut writer = region::Writer::start(range, readers, EPOCH).unwrap();
        let mut reader = region::Reader::join(range, line, EPOCH).unwrap();
        writer.write(0, &5_u64.to_le_bytes()).unwrap();
        writer.publish(8).unwrap();
        let thread = thread::spawn(move || {
            // All at once, as far as a reader can tell: whoever sees one sees the epoch.
            for word in [head::EPOCH, head::SEQUENCE, head::LENGTH, PAGE] {
                range.store_u64(word, 0).unwrap();
            }
        });
        if let Some(message) = reader.poll().unwrap() {
            assert_eq!((message.sequence, message.length), (1, 8));
            let mut bytes = [0; 8];
            if reader.copy_out(message, 0, &mut bytes).is_ok() {
                assert_eq!(u64::from_le_bytes(bytes), 5);
            }
        }
        thread.join().unwrap();
    });
}

/// The same with the slots of a ring.
#[test]
fn a_slot_that_goes_away_is_never_torn() {
    for integrity in [Integrity::None, Integrity::Crc32c] {
        check(3, move || {
            let (range, line) = memory(integrity);
            let (mut producer, mut consumer) = ring_in((range, line), false, integrity);
            let payload = PAGE + slot_header_bytes(integrity) as usize;
            let mut loan = producer.loan().unwrap();
            loan.write(0, &5_u64.to_le_bytes()).unwrap();
            match integrity {
                Integrity::None => loan.stage(8).unwrap(),
                _ => loan.stage_sealed(8, &seal(1, 5)).unwrap(),
            }
            producer.publish();
            let thread = thread::spawn(move || {
                for word in [head::EPOCH, PAGE + slot::NUMBER, head::SEQUENCE, payload] {
                    range.store_u64(word, 0).unwrap();
                }
            });
            let mut bytes = [0; 8];
            let received = match integrity {
                Integrity::None => consumer.receive(&mut bytes),
                // Whatever the seal says: its slot is not there any more.
                _ => consumer.receive_sealed(&mut bytes, 8, |_, _| Ok(())),
            };
            if let Ok(Some(received)) = received {
                assert_eq!((received.number, received.length), (1, 8));
                assert_eq!(u64::from_le_bytes(bytes), 5);
            }
            thread.join().unwrap();
        });
    }
}

/// Without the second look, loom finds the lost wake-up: the consumer goes to sleep, and the
/// producer has done all it will ever do and has not rung.
#[test]
#[should_panic(expected = "nobody will ever ring")]
fn a_sleep_without_the_second_look_misses_the_ring() {
    check(3, || {
        let (mut producer, mut consumer) = ring(false, Integrity::None);
        let mut thread = Some(thread::spawn(move || {
            producer.stage(&77_u64.to_le_bytes()).unwrap();
            producer.publish();
            producer.readers()[0].must_ring()
        }));
        // Every other look, the one after `waiting` is published, is blind.
        let mut blind = true;
        let sleeper = consumer.sleeper();
        let look = || {
            blind = !blind;
            if blind {
                Ok(None)
            } else {
                receive(&mut consumer)
            }
        };
        let got = sleeper.wait(1, look, || {
            let rung = thread.take().is_some_and(|thread| thread.join().unwrap());
            rung.then_some(()).ok_or(ReceiveError::Outrun)
        });
        assert!(got.is_ok(), "nobody will ever ring");
    });
}

/// Without the fence between `waiting` and the second look, loom finds the reordering in which both
/// ends miss each other. This is the protocol by hand, less that fence.
#[test]
#[should_panic(expected = "both ends missed each other")]
fn a_sleep_without_the_fence_misses_the_ring() {
    check(3, || {
        let (range, line) = memory(Integrity::None);
        let thread = thread::spawn(move || {
            range.store_u64(head::SEQUENCE, 1).unwrap();
            line.load_u64(ack::WAITING).unwrap() != 0
        });
        line.store_u64(ack::WAITING, 1).unwrap();
        let seen = range.load_u64(head::SEQUENCE).unwrap() != 0;
        let rung = thread.join().unwrap();
        assert!(seen || rung, "both ends missed each other");
    });
}

/// Each type crosses to the thread that uses it.
const _: () = {
    const fn crosses<T: Send>() {}
    crosses::<Sleeper>();
    crosses::<Producer<[ReaderLine; 1]>>();
};
