//! What was recorded once and is played again: by the network there is none, but by a device
//! process that lies, in the same boot or after a restart.

use super::world::{Cast, Hop, Record, World};
use crate::service::wire::{Content, Message};
use crate::service::{OpenTerms, Proof, ServiceFault, Term, check_open};
use crate::tests::certificates::now;

/// A world in which everything that the writer says is what was recorded.
fn replay(cast: &Cast, record: &Record, lying: bool) -> World {
    let mut world = World::new(cast);
    world.a.device.lies = true;
    world.b.device.lies = lying;
    world.run_with(|hop, message| match (hop, &mut message.content) {
        (Hop::Across, Content::Open(open)) => **open = record.open.clone(),
        (Hop::Across, Content::Confirm(confirm)) => *confirm = record.confirm.clone(),
        (Hop::Back, Content::Accept(accept)) if lying => **accept = record.accept.clone(),
        _ => {}
    });
    world
}

#[test]
fn a_replayed_open_is_accepted_by_nobody_who_can_confirm_it() {
    let cast = Cast::new();
    let record = cast.record();
    // The reader can't know the `open` for an old one, and makes a new key for it.
    let mut world = replay(&cast, &record, false);
    world.assert_nothing_opened();
    assert_eq!(world.b.device.fault, None);
    assert!(world.b.device.agreement.is_none());
    // The writer knows that it is not the one it sent.
    assert_eq!(world.a.fault(), Some(ServiceFault::Proof(Proof::Exchange)));
}

#[test]
fn a_replayed_open_and_confirm_are_refused_by_the_reader() {
    let cast = Cast::new();
    let record = cast.record();
    let mut world = World::new(&cast).lying();
    world.cut = Some(Hop::Back);
    world.run_with(|hop, message| {
        if let (Hop::Across, Content::Open(open)) = (hop, &mut message.content) {
            **open = record.open.clone();
        }
    });
    let confirm = Content::Confirm(record.confirm.clone());
    let pairing = cast.pairing();
    world.inject(
        Hop::DownB,
        Message {
            pairing,
            content: confirm,
        },
    );
    world.run().assert_nothing_opened();
    assert_eq!(world.b.fault(), Some(ServiceFault::Proof(Proof::Exchange)));
    // The honest device process of the reader says the same.
    let check = |record: &Record, accept: &Record| {
        let opened = check_open(&record.open, &cast.terms(), &cast.device_b, now()).unwrap();
        let accepted = opened.accept(&accept.accept, &cast.device_b, now())?;
        accepted.confirm(&record.confirm).map(drop)
    };
    let other = cast.record();
    assert_eq!(check(&record, &record), Ok(()));
    let exchange = Err(ServiceFault::Proof(Proof::Exchange));
    assert_eq!(check(&record, &other), exchange);
    assert_eq!(check(&other, &record), exchange);
}

#[test]
fn a_whole_exchange_replayed_to_both_ends() {
    let cast = Cast::new();
    let record = cast.record();
    let mut world = replay(&cast, &record, true);
    world.assert_nothing_opened();
    assert_eq!(world.a.fault(), Some(ServiceFault::Proof(Proof::Exchange)));
}

#[test]
fn replays_after_a_restart_of_the_host() {
    let cast = Cast::new();
    let record = cast.record();
    let restarted = OpenTerms {
        host_boot: [10; 16],
        ..cast.terms()
    };
    let check = |terms: &OpenTerms| {
        check_open(&record.open, terms, &cast.device_b, now()).map(|checked| checked.hash())
    };
    assert_eq!(check(&cast.terms()), Ok(record.open.hash()));
    let fault = ServiceFault::Differs(Term::HostBoot);
    assert_eq!(check(&restarted), Err(fault.clone()));
    // To the reader itself, whose device process lies but does not hide the new boot.
    let mut world = replay_after_restart(&cast, &record, restarted);
    world.assert_nothing_opened();
    assert_eq!(world.b.fault(), Some(fault));
    // After a restart of the device process the slice has a new generation.
    let restarted = OpenTerms {
        slice_generation: sivshm_abi::grant::Generation(12),
        ..cast.terms()
    };
    let fault = ServiceFault::Differs(Term::SliceGeneration);
    assert_eq!(check(&restarted), Err(fault.clone()));
    let mut world = replay_after_restart(&cast, &record, restarted);
    assert_eq!(world.b.fault(), Some(fault));
    world.assert_nothing_opened();
}

fn replay_after_restart(cast: &Cast, record: &Record, plan: OpenTerms) -> World {
    let mut world = World::new(cast).lying();
    world.terms.host_boot = plan.host_boot;
    world.terms.slice_generation = plan.slice_generation;
    world.run_with(|hop, message| {
        if let (Hop::DownB, Content::Open(open)) = (hop, &mut message.content) {
            **open = record.open.clone();
        }
    });
    world
}

#[test]
fn an_agreement_is_had_through_the_confirm_only() {
    let cast = Cast::new();
    let record = cast.record();
    let opened = check_open(&record.open, &cast.terms(), &cast.device_b, now()).unwrap();
    let accepted = opened
        .accept(&record.accept, &cast.device_b, now())
        .unwrap();
    // What the reader and the device processes could make without the writer.
    let mut confirm = record.confirm.clone();
    for impostor in [&cast.reader, &cast.device_a, &cast.device_b] {
        confirm.signature = super::change::signature(impostor, &confirm.body.to_bytes());
        assert_eq!(
            accepted.confirm(&confirm).map(drop),
            Err(ServiceFault::Proof(Proof::Signature))
        );
    }
    let agreement = accepted.confirm(&record.confirm).unwrap();
    assert_eq!(agreement.hash(), record.confirm.hash());
    assert_eq!(agreement.epoch(), opened.epoch());
}
