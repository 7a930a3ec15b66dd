//! Channels are opened, and ended, by services that prove who they are, from end to end.

use std::time::Instant;

use sivshm_abi::frame::{Payload, Reason};
use sivshm_abi::grant::Part;
use sivshm_handshake::service::ClientEvent;
use sivshm_handshake::service::limits::{INSTALL_WITHIN, OPEN_LIFETIME, STEP_WITHIN};
use sivshm_handshake::service::wire::{RefusalReason, Role};

use super::guest::{Guest, run};
use super::world::{Device, Host, PATIENCE, POLICY, pair, service};
use crate::admin_wire::{AdminAnswer, ChannelState, PairingState};
use crate::run::RunError;
use crate::run::peer_link::LinkEnd;

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

    /// With the channel open.
    fn open() -> Self {
        let mut world = Self::new();
        world.ask(7);
        world.answer(8);
        world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 2);
        world
    }

    fn ask(&mut self, session: u32) {
        let reader = service("b", "answer");
        self.asker.want(session, QUESTION, reader, Role::Writer);
    }

    fn answer(&mut self, session: u32) {
        let writer = service("a", "ask");
        self.answerer.want(session, QUESTION, writer, Role::Reader);
    }

    fn until(&mut self, mut so: impl FnMut(&Guest, &Guest) -> bool) {
        let mut guests = [&mut self.asker, &mut self.answerer];
        run(&[&self.a, &self.b], &mut guests, |guests| {
            so(guests[0], guests[1])
        });
    }

    /// Lets everything that can happen at once happen.
    fn settle(&mut self) {
        let mut turns = 0..50;
        self.until(|_, _| turns.next().is_none());
    }

    /// The epoch that the two services know, and all four grants have.
    fn epoch(&self, ask: u32, answer: u32) -> u64 {
        let (a, b) = (self.asker.session(ask), self.answerer.session(answer));
        let opened = a.opened.last().into_iter().chain(b.opened.last());
        let granted = a.grants.iter().chain(&b.grants).map(|grant| grant.epoch);
        let mut epochs: Vec<_> = opened.map(|opened| opened.epoch).chain(granted).collect();
        assert_eq!(epochs.len(), 6, "two services and four grants");
        epochs.dedup();
        assert_eq!(epochs.len(), 1);
        epochs[0]
    }

    fn lose_link(&self) {
        let mut a = self.a.0.borrow_mut();
        let (this, now) = (&mut *a, Instant::now());
        let peers = &mut this.peers;
        let lost = peers.end_link(0, &LinkEnd::Closed, &mut this.audit, now);
        let lost = lost.unwrap().into_iter().collect();
        this.on_peer_events(lost, now).unwrap();
    }

    fn state(&self, vm: &str) -> PairingState {
        let status = self.host.status(vm, &[&self.a, &self.b]);
        status.channels[0].pairings[0].state
    }
}

/// Whether a service was told that a pairing was refused for a reason.
fn refused(guest: &Guest, session: u32, why: RefusalReason) -> bool {
    let is_it = |event: &ClientEvent| matches!(event, ClientEvent::Refused { refusal, .. } if refusal.reason == why);
    guest.session(session).setbacks.iter().any(is_it)
}

#[test]
fn a_channel_opens_whoever_wants_it_first() {
    for writer_first in [true, false] {
        let mut world = World::new();
        match writer_first {
            true => world.ask(7),
            false => world.answer(8),
        }
        world.until(|a, b| a.session(7).authenticated && b.session(8).authenticated);
        world.settle();
        assert!(world.asker.session(7).grants.is_empty());
        assert!(world.answerer.session(8).grants.is_empty());
        match writer_first {
            true => world.answer(8),
            false => world.ask(7),
        }
        world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 2);
        assert_ne!(world.epoch(7, 8), 0);
        for vm in ["a", "b"] {
            let status = world.host.status(vm, &[&world.a, &world.b]);
            assert_eq!(status.channels[0].state, ChannelState::Granted);
            assert_eq!(status.sessions[0].grants, 2);
            assert!(status.sessions[0].proved);
            let pairing = &status.channels[0].pairings[0];
            assert_eq!(pairing.state, PairingState::Open);
            assert!(pairing.handshake_us.is_some() && pairing.epoch.is_some());
            let audit = world.host.audit(vm);
            let agreed = audit.iter().position(|record| record["event"] == "pairing");
            let granted = audit.iter().position(|record| record["event"] == "grant");
            assert!(
                agreed.unwrap() < granted.unwrap(),
                "recorded before it is granted"
            );
        }
    }
}

/// I7: a device process that can't write its record any more grants nothing, and ends.
#[test]
fn nothing_is_granted_without_its_record() {
    let mut world = World::new();
    world.ask(7);
    world.until(|a, b| a.session(7).authenticated && b.session(8).authenticated);
    world.settle();
    world.a.lose_audit();
    world.answer(8);
    let end = Instant::now() + PATIENCE;
    let failed = loop {
        assert!(Instant::now() < end, "it goes on without its record");
        if let Err(failed) = world.a.try_step() {
            break failed;
        }
        world.b.step();
        world.asker.serve();
        world.answerer.serve();
    };
    assert!(matches!(failed, RunError::Audit(_)), "{failed}");
    world.asker.serve();
    assert!(world.asker.session(7).grants.is_empty());
    assert!(world.asker.session(7).opened.is_empty());
}

/// I3: the facts of a process, and a service at the other end, are not enough.
#[test]
fn nothing_is_granted_before_both_services_agree() {
    let mut world = World::new();
    world.answerer.freeze(8);
    world.ask(7);
    world.until(|a, _| a.session(7).authenticated);
    world.settle();
    assert!(world.asker.session(7).grants.is_empty());
    assert!(world.answerer.session(8).grants.is_empty());
    assert_eq!(world.state("a"), PairingState::Opening);
    assert_eq!(world.state("b"), PairingState::Idle);
}

/// Each pairing of a channel with several readers is opened and ended by itself; the writer's data
/// is granted with the first and goes with the last.
#[test]
fn readers_of_one_channel_come_and_go_by_themselves() {
    let more = r#"
        [[vm]]
        name = "c"
        [[vm]]
        name = "d"
        [[service]]
        vm = "c"
        name = "answer"
        process = { uid = 1000 }
        [[service]]
        vm = "d"
        name = "answer"
        process = { uid = 1000 }
    "#;
    let readers = r#"["b/answer", "c/answer", "d/answer"]"#;
    let policy = POLICY.replace(r#"["b/answer"]"#, readers) + more;
    let host = Host::with(&policy);
    let vms = ["a", "b", "c", "d"];
    let devices = vms.map(|vm| host.start(vm));
    let devices = devices.each_ref();
    run(&devices, &mut [], |_| {
        devices.iter().all(|device| device.linked())
    });
    let mut guests = vms.map(|vm| Guest::start(&host, vm, &devices));
    guests[0].open(1, &host.identity("a", "ask"));
    for at in 1..4 {
        guests[at].open(1, &host.identity(vms[at], "answer"));
        guests[0].want(1, QUESTION, service(vms[at], "answer"), Role::Writer);
    }
    let [asker, readers @ ..] = guests.each_mut();
    let [first, second, third] = readers;
    let reads = |guest: &mut Guest| guest.want(1, QUESTION, service("a", "ask"), Role::Reader);
    let parts = |guest: &Guest| -> Vec<_> {
        guest
            .session(1)
            .grants
            .iter()
            .map(|grant| grant.part)
            .collect()
    };

    reads(second);
    run(&devices, &mut [asker, first, second, third], |guests| {
        guests[0].session(1).opened.len() == 1 && guests[2].session(1).opened.len() == 1
    });
    assert_eq!(parts(asker), [Part::Data, Part::Ack(1)]);
    assert_eq!(parts(second), [Part::Data, Part::Ack(1)]);
    assert!(parts(first).is_empty());

    reads(first);
    reads(third);
    run(&devices, &mut [asker, first, second, third], |guests| {
        guests[0].session(1).opened.len() == 3
    });
    assert_eq!(asker.session(1).grants.len(), 4);
    let epochs = [&*asker, first, second, third].map(|guest| guest.session(1).grants[0].epoch);
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    assert!(
        asker
            .session(1)
            .grants
            .iter()
            .all(|grant| grant.epoch == epochs[0])
    );

    for (gone, left) in [(&mut *second, 3), (&mut *first, 2), (&mut *third, 0)] {
        gone.unwant(1, QUESTION, service("a", "ask"));
        run(&devices, &mut [asker, gone], |guests| {
            guests[0].session(1).grants.len() == left && guests[1].session(1).grants.is_empty()
        });
    }
    assert_eq!(asker.session(1).ends(), [Reason::OtherEnd; 3]);
}

#[test]
fn a_service_that_starts_again_opens_again_with_another_epoch() {
    for writer in [true, false] {
        let mut world = World::open();
        let before = world.epoch(7, 8);
        let (ask, answer) = match writer {
            true => {
                world.asker.close(7);
                let identity = world.host.identity("a", "ask");
                world.asker.open(17, &identity);
                world.ask(17);
                (17, 8)
            }
            false => {
                world.answerer.close(8);
                let identity = world.host.identity("b", "answer");
                world.answerer.open(18, &identity);
                world.answer(18);
                (7, 18)
            }
        };
        // The other end does nothing but see its end and the new epoch.
        world.until(|a, b| {
            let (a, b) = (a.session(ask), b.session(answer));
            a.opened.last().is_some_and(|opened| opened.epoch != before)
                && b.opened.last().is_some_and(|opened| opened.epoch != before)
                && a.grants.len() + b.grants.len() == 4
        });
        assert_ne!(world.epoch(ask, answer), before);
        let stayed = match writer {
            true => world.answerer.session(8),
            false => world.asker.session(7),
        };
        assert_eq!(stayed.ends(), [Reason::OtherEnd]);
        let revoked: Vec<_> = stayed.revoked.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(revoked, [Reason::OtherEnd; 2]);
        let highest = stayed
            .revoked
            .iter()
            .map(|(grant, _)| grant.generation)
            .max();
        let lowest = stayed.grants.iter().map(|grant| grant.generation).min();
        assert!(lowest > highest, "generations grow");
    }
}

#[test]
fn a_service_that_closes_its_end_ends_the_pairing_at_both_gates() {
    let mut world = World::open();
    world.asker.unwant(7, QUESTION, service("b", "answer"));
    world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).grants.is_empty());
    let reasons = |guest: &Guest, session| -> Vec<_> {
        let revoked = &guest.session(session).revoked;
        revoked.iter().map(|(_, reason)| *reason).collect()
    };
    assert_eq!(reasons(&world.asker, 7), [Reason::Closed; 2]);
    assert_eq!(reasons(&world.answerer, 8), [Reason::OtherEnd; 2]);
    world.ask(7);
    world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 4);
    world.epoch(7, 8);
}

#[test]
fn a_link_that_is_lost_ends_its_pairings_and_one_that_is_back_opens_them() {
    let mut world = World::open();
    let before = world.epoch(7, 8);
    world.lose_link();
    world.until(|a, b| a.session(7).ends().len() + b.session(8).ends().len() == 2);
    assert_eq!(world.asker.session(7).ends(), [Reason::PeerGone]);
    assert_eq!(world.answerer.session(8).ends(), [Reason::PeerGone]);
    world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 4);
    world.until(|a, b| a.session(7).grants.len() + b.session(8).grants.len() == 4);
    assert_ne!(world.epoch(7, 8), before);
}

#[test]
fn a_peer_that_starts_again_gets_a_new_ring_id_and_its_vmm_a_new_launch() {
    let mut world = World::open();
    let ring = world.a.ring();
    let World {
        host, a, b, asker, ..
    } = &mut world;
    *b = {
        let gone = std::mem::replace(b, host.start("b"));
        drop(gone);
        host.start("b")
    };
    run(&[a], &mut [asker], |guests| {
        guests[0].session(7).grants.is_empty()
    });
    assert_eq!(asker.session(7).ends(), [Reason::PeerGone]);
    run(&[a, b], &mut [asker], |_| a.linked() && b.linked());
    assert!(a.ring() > ring);
    let status = host.status("a", &[a, b]);
    assert!(status.contained);
    assert!(status.peers[0].link.as_ref().unwrap().needs_relaunch);
    // Its VMM has the old slice: the service wants the channel in vain.
    run(&[a, b], &mut [asker], |_| {
        let a = a.0.borrow();
        a.mediation.iter().all(|pairing| pairing.is_wanted())
    });
}

#[test]
fn a_revocation_ends_the_channel_at_both_ends_for_good() {
    let mut world = World::open();
    let revoke = r#"{"command":"revoke","channel":"question"}"#;
    let answer = world.host.admin("a", revoke, &[&world.a, &world.b]);
    let expected = matches!(answer, AdminAnswer::Revoked { grants: 2, .. });
    assert!(expected, "{answer:?}");
    world.until(|a, b| a.session(7).ends().len() + b.session(8).ends().len() == 2);
    assert_eq!(world.asker.session(7).ends(), [Reason::Admin]);
    assert_eq!(world.answerer.session(8).ends(), [Reason::Admin]);
    for guest in [&world.asker, &world.answerer] {
        let session = guest.sessions.values().next().unwrap();
        assert!(session.grants.is_empty());
        assert!(
            session
                .revoked
                .iter()
                .all(|(_, reason)| *reason == Reason::Admin)
        );
    }
    for vm in ["a", "b"] {
        let status = world.host.status(vm, &[&world.a, &world.b]);
        assert_eq!(status.channels[0].state, ChannelState::Revoked);
    }
    // Who wants it again is told so at once.
    world.ask(7);
    world.until(|a, _| a.session(7).ends().len() == 2);

    // A peer that starts again is told, so that the channel stays revoked at both ends.
    let World { host, a, b, .. } = world;
    drop(b);
    let b = host.start("b");
    run(&[&a, &b], &mut [], |_| {
        let b = b.0.borrow();
        b.mediation
            .iter()
            .all(|pairing| pairing.over() == Some(Reason::Admin))
    });
}

#[test]
fn a_process_is_admitted_by_its_facts_and_its_svid_together() {
    let mut world = World::new();
    world.until(|a, _| a.session(7).authenticated);
    let (host, asker) = (&world.host, &mut world.asker);
    let own = host.identity("a", "ask");
    asker.open_as(1, 1001, Some(&own));
    asker.open_as(2, 1000, Some(&host.identity("b", "answer")));
    asker.open_as(3, 1000, Some(&own));
    world.until(|a, _| (1..=3).all(|session| a.session(session).closed.is_some()));
    let closed: Vec<_> = (1..=3)
        .filter_map(|session| world.asker.session(session).closed)
        .collect();
    let expected = [Reason::NoService, Reason::Unproved, Reason::RoleTaken];
    assert_eq!(closed, expected);
    assert!((1..=3).all(|session| world.asker.session(session).opened.is_empty()));
    assert_eq!(
        world.host.status("a", &[&world.a, &world.b]).sessions.len(),
        1
    );
}

#[test]
fn a_service_may_want_its_own_ends_only_and_its_true_peer() {
    let mut world = World::new();
    world
        .asker
        .want(7, QUESTION, service("b", "other"), Role::Writer);
    world
        .asker
        .want(7, "unknown", service("b", "answer"), Role::Writer);
    world
        .asker
        .want(7, QUESTION, service("b", "answer"), Role::Reader);
    world
        .answerer
        .want(8, QUESTION, service("a", "other"), Role::Reader);
    world.until(|a, b| a.session(7).setbacks.len() == 3 && b.session(8).setbacks.len() == 1);
    assert!(refused(&world.asker, 7, RefusalReason::Policy));
    assert!(refused(&world.answerer, 8, RefusalReason::Peer));
    for event in &world.answerer.session(8).setbacks {
        let ClientEvent::Refused { refusal, again, .. } = event else {
            panic!("{event:?}")
        };
        let device = world
            .b
            .0
            .borrow()
            .held
            .plan
            .device_id(world.b.0.borrow().vm);
        assert_eq!((refusal.by, *again), (device, false));
    }
}

#[test]
fn an_open_that_nobody_answers_expires() {
    let mut world = World::new();
    world.ask(7);
    world.until(|a, _| a.session(7).authenticated);
    world.settle();
    world.b.at(Instant::now() + OPEN_LIFETIME);
    world.until(|a, _| refused(a, 7, RefusalReason::Late));
    // Its client has not given up, so the reader still finds it.
    world.answer(8);
    world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 2);
    world.epoch(7, 8);
}

/// One side has all that it needs and the other one does not go on: both take back what they have.
#[test]
fn an_end_that_does_not_go_on_is_not_waited_for() {
    let mut world = World::new();
    world.ask(7);
    world.answer(8);
    // As soon as the reader has the open, the writer freezes.
    world.until(|a, _| a.session(7).authenticated);
    run(&[&world.a, &world.b], &mut [&mut world.asker], |_| {
        let b = world.b.0.borrow();
        b.mediation.deadline().is_some()
    });
    world.asker.freeze(7);
    world.until(|_, b| b.session(8).authenticated);
    world.settle();
    assert_eq!(world.state("b"), PairingState::Opening);
    world.b.at(Instant::now() + STEP_WITHIN);
    world.until(|_, b| b.session(8).ends() == [Reason::Incomplete]);
    assert_ne!(world.state("a"), PairingState::Open);
    assert!(world.answerer.session(8).grants.is_empty());
}

#[test]
fn a_device_process_that_dies_before_it_has_installed_leaves_nothing_granted() {
    let mut world = World::new();
    world.ask(7);
    world.answer(8);
    // The reader's side has installed; the writer's never hears of it.
    world.until(|a, b| a.session(7).authenticated && b.session(8).authenticated);
    let World {
        host,
        a,
        b,
        mut asker,
        mut answerer,
    } = world;
    run(&[&a, &b], &mut [&mut asker, &mut answerer], |_| {
        let b = b.0.borrow();
        b.mediation.iter().any(|pairing| pairing.live().is_some())
    });
    let live =
        a.0.borrow()
            .mediation
            .iter()
            .any(|pairing| pairing.live().is_some());
    assert!(!live, "the other side is a step behind");
    drop(a);
    run(&[&b], &mut [&mut answerer], |guests| {
        let session = guests[0].session(8);
        session.ends() == [Reason::PeerGone] && session.grants.is_empty()
    });
    assert!(answerer.session(8).opened.is_empty());
    assert_eq!(answerer.session(8).revoked.len(), 2);
    drop(host);
}

#[test]
fn an_installation_that_the_other_side_does_not_confirm_is_taken_back() {
    let mut world = World::new();
    world.ask(7);
    world.answer(8);
    let World {
        a,
        b,
        asker,
        answerer,
        ..
    } = &mut world;
    run(&[a, b], &mut [asker, answerer], |_| {
        let b = b.0.borrow();
        b.mediation.iter().any(|pairing| pairing.live().is_some())
    });
    b.at(Instant::now() + INSTALL_WITHIN);
    run(&[a, b], &mut [asker, answerer], |guests| {
        guests[1].session(8).ends() == [Reason::Incomplete]
    });
    world.until(|a, b| !a.session(7).opened.is_empty() && !b.session(8).opened.is_empty());
    world.until(|a, b| a.session(7).grants.len() + b.session(8).grants.len() == 4);
    world.epoch(7, 8);
}

/// DESIGN 9: no new pairing over a range before both gates have acknowledged the end of the old one.
#[test]
fn nothing_is_opened_again_before_both_gates_have_let_go() {
    for reader_holds in [true, false] {
        let mut world = World::open();
        match reader_holds {
            true => world.answerer.lets_go = false,
            false => world.asker.lets_go = false,
        }
        world.asker.unwant(7, QUESTION, service("b", "answer"));
        world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).grants.is_empty());
        world.ask(7);
        world.settle();
        assert_eq!(world.state("a"), PairingState::Wanted);
        assert_eq!(world.asker.session(7).opened.len(), 1);
        match reader_holds {
            true => world.answerer.let_go(8),
            false => world.asker.let_go(7),
        }
        world.until(|a, b| a.session(7).opened.len() + b.session(8).opened.len() == 4);
        world.epoch(7, 8);
    }
}

#[test]
fn a_device_process_leaves_in_good_order() {
    let mut world = World::open();
    world.b.0.borrow_mut().leave(Instant::now()).unwrap();
    let World {
        host,
        a,
        asker,
        answerer,
        ..
    } = &mut world;
    run(&[a], &mut [asker, answerer], |guests| {
        let gone = |session: u32, guest: &Guest| guest.session(session).grants.is_empty();
        !a.linked() && gone(7, guests[0]) && gone(8, guests[1])
    });
    assert_eq!(answerer.session(8).ends(), [Reason::PeerGone]);
    assert_eq!(asker.session(7).ends(), [Reason::PeerGone]);
    let audit = host.audit("a");
    let mut ends = audit.iter().rev();
    let lost = ends.find(|record| record["event"] == "peer").unwrap();
    assert_eq!(lost["reason"], LinkEnd::Bye.to_string());
    assert_eq!(host.audit("b").last().unwrap()["event"], "process");
}

#[test]
fn the_end_of_a_vmm_is_the_end_of_its_pairings() {
    let world = World::open();
    let World {
        host,
        a,
        b,
        asker,
        mut answerer,
    } = world;
    drop(asker);
    run(&[&a, &b], &mut [&mut answerer], |guests| {
        guests[0].session(8).ends() == [Reason::OtherEnd]
    });
    assert!(a.0.borrow().launcher.vmm().is_none());
    assert!(host.status("a", &[&a, &b]).sessions.is_empty());
}

#[test]
fn a_session_that_overdraws_its_credit_ends_alone() {
    let mut world = World::open();
    let before = world.epoch(7, 8);
    let identity = world.host.identity("a", "ask");
    world.asker.open(9, &identity);
    world.asker.say(9, &Payload::Ring { credit: 1 });
    world.until(|a, _| a.session(9).closed == Some(Reason::Protocol));
    assert_eq!(world.epoch(7, 8), before);
}

/// A world in which anything may happen to one channel.
struct Turmoil {
    world: World,
    ask: u32,
    answer: u32,
    asks: bool,
    answers: bool,
}

impl Turmoil {
    fn happen(&mut self, what: u32) {
        let (reader, writer) = (service("b", "answer"), service("a", "ask"));
        let world = &mut self.world;
        match what {
            0 if self.asks => world.asker.unwant(self.ask, QUESTION, reader),
            0 => world.ask(self.ask),
            1 if self.answers => world.answerer.unwant(self.answer, QUESTION, writer),
            1 => world.answer(self.answer),
            2 => {
                world.asker.close(self.ask);
                self.ask += 2;
                let identity = world.host.identity("a", "ask");
                world.asker.open(self.ask, &identity);
                world.ask(self.ask);
            }
            3 => {
                world.answerer.close(self.answer);
                self.answer += 2;
                let identity = world.host.identity("b", "answer");
                world.answerer.open(self.answer, &identity);
                world.answer(self.answer);
            }
            4 => world.lose_link(),
            _ => {
                world.answerer.lets_go = false;
                return;
            }
        }
        match what {
            0 => self.asks = !self.asks,
            1 => self.answers = !self.answers,
            2 => self.asks = true,
            3 => self.answers = true,
            _ => {}
        }
    }

    /// Both services want the channel, and both gates let go.
    fn calm(&mut self) {
        self.world.answerer.let_go(self.answer);
        if !self.asks {
            self.happen(0);
        }
        if !self.answers {
            self.happen(1);
        }
    }
}

/// Whatever happens in whatever order, and in the middle of whatever: when both services want the
/// channel, both come to have it, with one epoch.
#[test]
fn two_services_that_want_a_channel_come_to_have_it() {
    for seed in 1..=8_u32 {
        let mut turmoil = Turmoil {
            world: World::new(),
            ask: 7,
            answer: 8,
            asks: false,
            answers: false,
        };
        let mut dice = seed;
        for _ in 0..6 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            turmoil.happen((dice >> 16) % 6);
            let mut turns = 0..(dice >> 24) % 12;
            turmoil.world.until(|_, _| turns.next().is_none());
        }
        turmoil.calm();
        let (ask, answer) = (turmoil.ask, turmoil.answer);
        turmoil.world.until(|a, b| {
            let (a, b) = (a.session(ask), b.session(answer));
            let epoch = a.opened.last().map(|opened| opened.epoch);
            let all = a.grants.iter().chain(&b.grants);
            epoch.is_some()
                && epoch == b.opened.last().map(|opened| opened.epoch)
                && all.clone().count() == 4
                && all.into_iter().all(|grant| Some(grant.epoch) == epoch)
        });
    }
}
