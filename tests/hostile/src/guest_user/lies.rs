//! Lies about a channel that was opened honestly: whoever owns a guest owns its services, and can't be
//! kept from that.

use std::time::{Duration, Instant};

use sivshm_abi::channel::{ack, head};

use crate::attempt::{attempt_as, store_u64};
use crate::report::event;

use super::{RW, SERVICE, Scene};

/// How long it lies: until the other end has noticed, and left.
const LIES: Duration = Duration::from_secs(10);

/// Plays the service, and lies in every field that its peer reads.
pub fn run() {
    // How it ends is the other end's matter: with its time, or with the pages of the channel.
    attempt_as(SERVICE, || {
        let s = Scene::open()?;
        let (written, line) = (s.writable()?, s.line()?);
        let (data, acknowledged) = (s.map(&written, RW)?, s.map(&line, RW)?);
        let seed = line.grant.epoch | 1;
        event(&format!("lying-{seed:016x}"));
        let mut noise = Noise(seed);
        let until = Instant::now() + LIES;
        while Instant::now() < until {
            for at in [head::SEQUENCE, head::LENGTH, head::WAITING] {
                store_u64(&data, at, noise.tempting());
            }
            for at in [ack::SEEN, ack::WAITING] {
                store_u64(&acknowledged, at, noise.tempting());
            }
            store_u64(&data, head::EPOCH, noise.mostly(written.grant.epoch));
            store_u64(&acknowledged, ack::EPOCH, noise.mostly(line.grant.epoch));
            s.session.notify(line.grant.id.0)?;
        }
        Ok(())
    });
    event("lied");
}

/// Numbers that look like chance: xorshift.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number that somebody may believe: small, huge, or anything.
    fn tempting(&mut self) -> u64 {
        match self.next() % 4 {
            0 => self.next() % 64,
            1 => u64::MAX - self.next() % 64,
            2 => 1 << (self.next() % 64),
            _ => self.next(),
        }
    }

    /// The truth, mostly: else nobody looks at the rest.
    fn mostly(&mut self, truth: u64) -> u64 {
        match self.next() % 8 {
            0 => self.tempting(),
            _ => truth,
        }
    }
}
