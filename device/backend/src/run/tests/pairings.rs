//! Channels are opened, and ended, by services that prove who they are, from end to end.

use std::time::Instant;

use sivshm_abi::frame::{Payload, Reason};
use sivshm_abi::grant::Part;
use sivshm_handshake::service::ClientEvent;
use sivshm_handshake::service::wire::{RefusalReason, Role};

use super::guest::{Guest, run};
use super::world::{Device, Host, pair, run_until, service};
use crate::admin_wire::{AdminAnswer, ChannelState, PairingState};

const QUESTION: &str = "question";

/// Two VMs with their guests, and a service of each.
struct World {
    host: Host,
    a: Device,
    b: Device,
    asker: Guest,
    answerer: Guest,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let (a, b) = pair(&host);
        let devices = [&a, &b];
        let mut asker = Guest::start(&host, "a", &devices);
        let mut answerer = Guest::start(&host, "b", &devices);
        asker.open(7, &host.identity("a", "ask"));
        answerer.open(8, &host.identity("b", "answer"));
        Self {
            host,
            a,
            b,
            asker,
            answerer,
        }
    }

    fn ask(&mut self) {
        self.asker
            .want(7, QUESTION, service("b", "answer"), Role::Writer);
    }

    fn answer(&mut self) {
        self.answerer
            .want(8, QUESTION, service("a", "ask"), Role::Reader);
    }

    fn until(&mut self, mut so: impl FnMut(&Guest, &Guest) -> bool) {
        let devices = [&self.a, &self.b];
        let mut guests = [&mut self.asker, &mut self.answerer];
        run(&devices, &mut guests, |guests| so(guests[0], guests[1]));
    }

    /// Opens the channel once more.
    fn opened(&mut self) {
        let before = (
            self.asker.session(7).opened.len(),
            self.answerer.session(8).opened.len(),
        );
        self.until(|a, b| {
            a.session(7).opened.len() > before.0 && b.session(8).opened.len() > before.1
        });
    }

    fn open() -> Self {
        let mut world = Self::new();
        world.ask();
        world.answer();
        world.opened();
        world
    }
}

/// The same epoch at both ends, in what services know and in every grant.
fn epoch_of_both(world: &World) -> u64 {
    let (a, b) = (world.asker.session(7), world.answerer.session(8));
    let opened = a.opened.last().into_iter().chain(b.opened.last());
    let granted = a.grants.iter().chain(&b.grants).map(|grant| grant.epoch);
    let mut epochs: Vec<_> = opened.map(|opened| opened.epoch).chain(granted).collect();
    assert_eq!(epochs.len(), 6, "two services and four grants");
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
    epochs[0]
}

#[test]
fn a_channel_opens_whoever_wants_it_first() {
    for writer_first in [true, false] {
        let mut world = World::new();
        if writer_first {
            world.ask();
        } else {
            world.answer();
        }
        world.until(|a, b| a.session(7).authenticated && b.session(8).authenticated);
        for _ in 0..20 {
            world.until(|_, _| true);
        }
        assert!(world.asker.session(7).grants.is_empty());
        assert!(world.answerer.session(8).grants.is_empty());
        if writer_first {
            world.answer();
        } else {
            world.ask();
        }
        world.opened();
        assert_ne!(epoch_of_both(&world), 0);
    }
}
