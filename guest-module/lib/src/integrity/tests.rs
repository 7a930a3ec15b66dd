//! Two ends over one memory, and a hostile writer VM that stores to it what it likes.

use proptest::prelude::*;
use sivshm_abi::channel::slot::{IDENTIFIER, LENGTH, NUMBER};
use sivshm_abi::channel::{ACK_BYTES, HEAD_BYTES, head, slot_header_bytes, slot_stride};
use sivshm_abi::grant::{Access, Integrity};
use sivshm_abi::name::ChannelName;
use sivshm_ring::Shared;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::IntegrityFault::{
    self, Corruption, Insertion, Loss, Masquerading, Repetition, WrongSequence,
};
use sivshm_ring::slots::{Geometry, Received};
use sivshm_sys::memfd::{Ownership, create};

use super::{KeyFault, Keys, Receiver, Sender, Suite};
use crate::error::Error;
use crate::mapping::Mapping;

const SLOT_BYTES: usize = 80;
const SLOTS: usize = 4;
const EPOCH: u64 = 0x0123_4567_89ab_cdef;
const KEYS: Keys<'_> = Keys {
    key: b"0123456789abcdef",
    iv: b"ABCDEFGHIJKL",
};
const SUITES: [Integrity; 2] = [Integrity::Crc32c, Integrity::Aead];

/// What tells one pairing from another.
#[derive(Clone, Copy)]
struct Pairing {
    channel: &'static str,
    epoch: u64,
    keys: Keys<'static>,
}

const OURS: Pairing = Pairing {
    channel: "frames",
    epoch: EPOCH,
    keys: KEYS,
};

/// A channel's memory and its two ends.
struct Ring {
    integrity: Integrity,
    overwrite: bool,
    pairing: Pairing,
    range: Mapping,
    line: Mapping,
    sender: Sender,
    receiver: Receiver,
}

fn bytes(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

fn memory(len: u64) -> Mapping {
    let ownership = Ownership {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        mode: 0o600,
    };
    let file = create(c"test", len, ownership).unwrap();
    Mapping::new(&file, 0, len, Access::ReadWrite).unwrap()
}

impl Ring {
    fn new(integrity: Integrity, overwrite: bool) -> Self {
        Self::of(OURS, integrity, overwrite)
    }

    fn of(pairing: Pairing, integrity: Integrity, overwrite: bool) -> Self {
        let slots = u64::try_from(SLOTS).unwrap() * Self::stride_of(integrity);
        let range = memory((HEAD_BYTES + slots).next_multiple_of(4096));
        let line = memory(ACK_BYTES);
        Self {
            sender: Self::sender(&range, &line, pairing, integrity, overwrite).unwrap(),
            receiver: Receiver::join(
                Self::used(&range, integrity),
                line.shared(),
                Self::geometry(integrity, overwrite),
                pairing.epoch,
                Self::suite(pairing, integrity),
            )
            .unwrap(),
            integrity,
            overwrite,
            pairing,
            range,
            line,
        }
    }

    fn sender(
        range: &Mapping,
        line: &Mapping,
        pairing: Pairing,
        integrity: Integrity,
        overwrite: bool,
    ) -> Result<Sender, Error> {
        Sender::start(
            Self::used(range, integrity),
            Self::geometry(integrity, overwrite),
            vec![ReaderLine::new(line.shared(), pairing.epoch).unwrap()],
            pairing.epoch,
            Self::suite(pairing, integrity),
        )
    }

    fn suite(pairing: Pairing, integrity: Integrity) -> Option<Suite> {
        let channel = ChannelName::new(pairing.channel).unwrap();
        Suite::new(integrity, channel, pairing.epoch, Some(pairing.keys)).unwrap()
    }

    fn geometry(integrity: Integrity, overwrite: bool) -> Geometry {
        Geometry {
            slot_bytes: u32::try_from(SLOT_BYTES).unwrap(),
            overwrite,
            integrity,
        }
    }

    fn stride_of(integrity: Integrity) -> u64 {
        slot_stride(u32::try_from(SLOT_BYTES).unwrap(), integrity)
    }

    /// Head page and exactly four slots.
    fn used(range: &Mapping, integrity: Integrity) -> Shared {
        let slots = SLOTS * bytes(Self::stride_of(integrity));
        range.shared().sub(0, bytes(HEAD_BYTES) + slots).unwrap()
    }

    /// The place of a slot.
    fn place(&self, number: usize) -> Shared {
        let stride = bytes(Self::stride_of(self.integrity));
        let offset = bytes(HEAD_BYTES) + (number - 1) % SLOTS * stride;
        self.range.shared().sub(offset, stride).unwrap()
    }

    fn take(&self, number: usize) -> Vec<u8> {
        let mut slot = vec![0; bytes(Self::stride_of(self.integrity))];
        self.place(number).copy_out(0, &mut slot).unwrap();
        slot
    }

    /// Stores a whole slot, as a hostile writer does.
    fn put(&self, number: usize, slot: &[u8]) {
        self.place(number).copy_in(0, slot).unwrap();
    }

    fn copy(&self, from: usize, to: usize) {
        self.put(to, &self.take(from));
    }

    fn stage(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            assert!(self.sender.stage(&payload(number)).unwrap());
        }
    }

    fn send(&mut self, numbers: impl IntoIterator<Item = usize>) {
        self.stage(numbers);
        self.sender.publish();
    }

    /// The number of the next slot, whose payload is the one that was sent.
    fn receive(&mut self) -> Result<Option<usize>, Error> {
        let mut to = [0xee; SLOT_BYTES];
        let received = self.receiver.receive(&mut to);
        if received.is_err() {
            assert!(to.iter().all(|byte| matches!(byte, 0 | 0xee)), "{to:?}");
        }
        Ok(received?.map(|Received { number, length, .. }| {
            let number = usize::try_from(number).unwrap();
            assert_eq!(&to[..length], payload(number), "slot {number}");
            number
        }))
    }

    #[track_caller]
    fn expect(&mut self, number: usize) {
        assert_eq!(self.receive().unwrap(), Some(number), "{self}");
    }

    #[track_caller]
    fn expect_fault(&mut self, expected: IntegrityFault) {
        let found = self.receive();
        let fits = matches!(found, Err(Error::Integrity(fault)) if fault == expected);
        assert!(fits, "{self}: {found:?} instead of {expected:?}");
    }

    /// Honest slots still pass, all the way round the ring.
    #[track_caller]
    fn expect_honest(mut self, sent: usize) {
        let _ = self.receiver.acknowledge();
        for number in sent + 1..=sent + 2 * SLOTS {
            self.send([number]);
            self.expect(number);
            let _ = self.receiver.acknowledge();
        }
        assert_eq!(self.receive().unwrap(), None);
    }
}

impl std::fmt::Display for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, overwrite {}", self.integrity.word(), self.overwrite)
    }
}

/// A payload that says which it is; lengths differ, and none is a multiple of a block.
fn payload(number: usize) -> Vec<u8> {
    let value = u8::try_from(number % 251).unwrap();
    vec![value; 33 + number % 40]
}

/// Each of the four rings that have integrity.
fn each(test: impl Fn(Ring)) {
    for integrity in SUITES {
        for overwrite in [false, true] {
            test(Ring::new(integrity, overwrite));
        }
    }
}

#[test]
fn corruption_of_any_bit_is_found() {
    each(|mut ring| {
        ring.send(1..=2);
        ring.expect(1);
        ring.expect(2);
        let header = bytes(slot_header_bytes(ring.integrity));
        // Another bit of each of the next slots, as far as the shortest of them reaches.
        let reserved = 24..32;
        let covered = (0..header + 33).filter(|at| !reserved.contains(at));
        let bits = covered.flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)));
        for (number, (at, bit)) in (3..).zip(bits) {
            let _ = ring.receiver.acknowledge();
            ring.send([number]);
            let mut slot = ring.take(number);
            slot[at] ^= bit;
            assert_ne!(slot[NUMBER..NUMBER + 8], [0; 8], "slot {number} is gone");
            ring.put(number, &slot);
            ring.expect_fault(Corruption);
        }
    });
}

#[test]
fn a_slot_of_another_channel_or_epoch_masquerades() {
    each(|mut ring| {
        let others = [
            Pairing {
                channel: "frames-2",
                ..OURS
            },
            Pairing {
                epoch: EPOCH - 1,
                ..OURS
            },
        ];
        ring.send([1]);
        ring.expect(1);
        for (number, pairing) in (2..).zip(others) {
            let mut other = Ring::of(pairing, ring.integrity, ring.overwrite);
            other.send(1..=number);
            ring.send([number]);
            ring.put(number, &other.take(number));
            ring.expect_fault(Masquerading);
        }
        ring.expect_honest(3);
    });
}

/// Whoever has all but the key, and forges a header that is right.
#[test]
fn a_slot_sealed_by_another_key_is_worth_nothing() {
    for overwrite in [false, true] {
        let mut ring = Ring::new(Integrity::Aead, overwrite);
        let keys = [
            Keys {
                key: b"0123456789abcdeF",
                ..KEYS
            },
            Keys {
                iv: b"ABCDEFGHIJKl",
                ..KEYS
            },
        ];
        for (number, keys) in (1..).zip(keys) {
            let mut other = Ring::of(Pairing { keys, ..OURS }, Integrity::Aead, overwrite);
            other.send(1..=number);
            ring.send([number]);
            ring.put(number, &other.take(number));
            ring.expect_fault(Corruption);
        }
        ring.expect_honest(2);
    }
}

#[test]
fn a_slot_that_was_received_is_a_repetition() {
    each(|mut ring| {
        ring.send(1..=3);
        ring.expect(1);
        ring.copy(1, 2);
        ring.expect_fault(Repetition);
        ring.expect(3);
        ring.expect_honest(3);
    });
}

/// A place that was published again, with what lay there the last time.
#[test]
fn a_slot_of_the_last_round_is_a_repetition() {
    each(|mut ring| {
        ring.send([1]);
        ring.expect(1);
        let old = ring.take(1);
        let _ = ring.receiver.acknowledge();
        ring.send(2..=5);
        ring.put(5, &old);
        for number in 2..=4 {
            ring.expect(number);
        }
        ring.expect_fault(Repetition);
        ring.expect_honest(5);
    });
}

#[test]
fn slots_that_change_places_are_a_loss_and_a_wrong_sequence() {
    each(|mut ring| {
        ring.send(1..=4);
        ring.expect(1);
        let (two, three) = (ring.take(2), ring.take(3));
        ring.put(2, &three);
        ring.put(3, &two);
        ring.expect_fault(Loss);
        ring.expect_fault(WrongSequence);
        ring.expect(4);
        ring.expect_honest(4);
    });
}

#[test]
fn a_slot_that_was_never_published_is_an_insertion() {
    each(|mut ring| {
        ring.send(1..=2);
        ring.stage([3]);
        ring.expect(1);
        ring.copy(3, 2);
        ring.expect_fault(Insertion);
        assert_eq!(ring.receive().unwrap(), None);
        ring.sender.publish();
        ring.expect(3);
        ring.expect_honest(3);
    });
}

#[test]
fn a_slot_that_is_not_there_is_a_loss() {
    for integrity in SUITES {
        let mut ring = Ring::new(integrity, false);
        ring.send(1..=2);
        ring.place(1).store_u64(NUMBER, 0).unwrap();
        ring.expect_fault(Loss);
        ring.expect(2);
        ring.expect_honest(2);
        // With overwriting it is no fault, but counted.
        let mut ring = Ring::new(integrity, true);
        ring.send(1..=2);
        ring.place(1).store_u64(NUMBER, 0).unwrap();
        let received = ring
            .receiver
            .receive(&mut [0; SLOT_BYTES])
            .unwrap()
            .unwrap();
        assert_eq!((received.number, received.lost), (2, 1));
    }
}

#[test]
fn what_an_honest_producer_overwrites_is_counted_and_no_fault() {
    for integrity in SUITES {
        let mut ring = Ring::new(integrity, true);
        for number in 1..=9 {
            ring.send([number]);
        }
        let received = ring
            .receiver
            .receive(&mut [0; SLOT_BYTES])
            .unwrap()
            .unwrap();
        assert_eq!((received.number, received.lost), (6, 5));
        // Slots 10 and 11 are not published, and lie at the places of 6 and 7.
        ring.stage(10..=11);
        let received = ring
            .receiver
            .receive(&mut [0; SLOT_BYTES])
            .unwrap()
            .unwrap();
        assert_eq!((received.number, received.lost), (8, 1));
    }
}

#[test]
fn loans_are_sealed_as_payloads_are() {
    each(|mut ring| {
        let bytes = payload(1);
        let mut loan = ring.sender.loan().unwrap().unwrap();
        let (first, rest) = bytes.split_at(7);
        loan.write(7, rest).unwrap();
        loan.write(0, first).unwrap();
        assert!(loan.write(SLOT_BYTES, &[1]).is_err());
        loan.stage(bytes.len()).unwrap();
        let loan = ring.sender.loan().unwrap().unwrap();
        assert!(loan.stage(SLOT_BYTES + 1).is_err());
        assert!(ring.sender.stage(&[0; SLOT_BYTES + 1]).is_err());
        ring.sender.publish();
        ring.expect(1);
        assert_eq!(ring.receive().unwrap(), None);
        ring.expect_honest(1);
    });
}

#[test]
fn a_payload_waits_for_a_buffer_that_holds_it() {
    each(|mut ring| {
        ring.send([1]);
        let length = payload(1).len();
        for short in [0, length - 1] {
            let outcome = ring.receiver.receive(&mut vec![0; short]);
            let fits = matches!(
                outcome,
                Err(Error::TooLong { needed, available }) if (needed, available) == (length, short)
            );
            assert!(fits, "{outcome:?}");
        }
        let mut to = vec![0; length];
        let received = ring.receiver.receive(&mut to).unwrap().unwrap();
        assert_eq!((received.length, to), (length, payload(1)));
    });
}

#[test]
fn aead_hides_payloads_and_never_seals_a_number_twice() {
    let mut ring = Ring::new(Integrity::Aead, false);
    ring.send([1]);
    let slot = ring.take(1);
    let plain = payload(1);
    assert!(!slot.windows(4).any(|bytes| bytes == &plain[..4]));
    assert!(!slot.windows(8).any(|bytes| bytes == &KEYS.key[..8]));
    // Whoever starts in the same epoch would start from the same numbers, published or not.
    let Ring { range, line, .. } = &ring;
    let again = Ring::sender(range, line, ring.pairing, Integrity::Aead, false);
    assert!(matches!(again, Err(Error::Key(KeyFault::Spent))));
    let fresh = Pairing {
        epoch: EPOCH + 1,
        ..OURS
    };
    assert!(Ring::sender(range, line, fresh, Integrity::Aead, false).is_ok());
    // Without a key numbers go on.
    let crc = Ring::new(Integrity::Crc32c, false);
    let Ring { range, line, .. } = &crc;
    assert!(Ring::sender(range, line, crc.pairing, Integrity::Crc32c, false).is_ok());
    let none = Suite::new(
        Integrity::Aead,
        ChannelName::new("frames").unwrap(),
        EPOCH,
        None,
    );
    assert_eq!(none.err(), Some(KeyFault::Missing));
}

/// The example of `docs/channels.md`, byte for byte.
#[test]
fn slots_are_the_documented_ones() {
    let document = include_str!("../../../../docs/channels.md");
    for integrity in SUITES {
        let mut ring = Ring::new(integrity, false);
        assert!(ring.sender.stage(b"hello").unwrap());
        let header = bytes(slot_header_bytes(integrity));
        let slot = &ring.take(1)[..header + 5];
        let hex: String = slot.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = format!("| {} | `{hex}` |", integrity.word());
        assert!(document.contains(&row), "{row}");
    }
}

proptest! {
    /// Whatever a hostile writer VM stores, also whole slots that were genuine once: no panic, and
    /// with `aead` nothing is received that was not sent, nothing twice, and nothing out of order.
    #[test]
    fn scribbles_are_survived(
        aead in any::<bool>(),
        overwrite in any::<bool>(),
        stores in proptest::collection::vec((any::<usize>(), any::<u64>(), 0..6_u8), 1..120),
    ) {
        let mut ring = Ring::new(SUITES[usize::from(aead)], overwrite);
        let memory = Ring::used(&ring.range, ring.integrity);
        let (mut sent, mut last, mut kept) = (0, 0, ring.take(1));
        for (place, value, what) in stores {
            let number = 1 + place % SLOTS;
            match what {
                0 => ring.put(number, &kept),
                1 => kept = ring.take(number),
                2 => memory.store_u64(place % memory.len() / 8 * 8, value).unwrap(),
                3 => memory.store_u64(head::SEQUENCE, value % 40).unwrap(),
                4 => {
                    let field = [LENGTH, NUMBER, IDENTIFIER, 32][place / SLOTS % 4];
                    ring.place(number).store_u64(field, value % 8).unwrap();
                }
                _ if matches!(ring.sender.free(), Ok(1..)) => {
                    sent += 1;
                    ring.send([sent]);
                }
                _ => {}
            }
            let mut to = [0; SLOT_BYTES];
            if let Ok(Some(received)) = ring.receiver.receive(&mut to) {
                let number = usize::try_from(received.number).unwrap();
                if aead {
                    prop_assert!(last < number && number <= sent);
                    prop_assert_eq!(&to[..received.length], payload(number));
                }
                prop_assert!(received.length <= SLOT_BYTES);
                last = number;
            }
            let _ = ring.receiver.acknowledge();
        }
    }
}
