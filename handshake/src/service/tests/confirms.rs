//! Confirms that are not what they should be, and keys of small order.

use super::change::{everybody_refuses_confirm, sign_accept, sign_open, signature};
use super::world::{Cast, Hop, World};
use crate::service::wire::{Content, RefusalReason};
use crate::service::{Proof, ServiceFault};

#[test]
fn a_confirm_by_somebody_else() {
    let cast = Cast::new();
    for impostor in [&cast.reader, &cast.device_a, &cast.device_b] {
        let fault = everybody_refuses_confirm(&cast, |confirm| {
            confirm.signature = signature(impostor, &confirm.body.to_bytes());
        });
        assert_eq!(fault, ServiceFault::Proof(Proof::Signature));
    }
}

#[test]
fn a_confirm_of_another_exchange() {
    let cast = Cast::new();
    let old = cast.record().confirm;
    let fault = everybody_refuses_confirm(&cast, |confirm| *confirm = old.clone());
    assert_eq!(fault, ServiceFault::Proof(Proof::Exchange));
    // Signed again by the writer itself.
    let fault = everybody_refuses_confirm(&cast, |confirm| {
        confirm.body.exchange = old.body.exchange;
        confirm.signature = signature(&cast.writer, &confirm.body.to_bytes());
    });
    assert_eq!(fault, ServiceFault::Proof(Proof::Exchange));
}

#[test]
fn a_wrong_mac_is_refused_by_the_reader_alone() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    let mut world = World::new(&cast);
    world.run_with(|hop, message| {
        if let (Hop::UpA, Content::Confirm(confirm)) = (hop, &mut message.content) {
            confirm.mac[5] ^= 0x80;
        }
    });
    world.assert_nothing_opened();
    assert_eq!(world.b.fault(), Some(ServiceFault::Proof(Proof::Mac)));
    let agreed = |(_, message): &(Hop, crate::service::wire::Message)| {
        matches!(message.content, Content::Agreed(_))
    };
    assert!(!world.seen.iter().any(agreed));
}

#[test]
fn the_macs_of_accept_and_confirm_are_no_substitutes() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    let mut mac = [0; 32];
    world.run_with(|hop, message| match (hop, &mut message.content) {
        (Hop::UpB, Content::Accept(accept)) => mac = accept.mac,
        (Hop::UpA, Content::Confirm(confirm)) => confirm.mac = mac,
        _ => {}
    });
    world.assert_nothing_opened();
    assert_eq!(world.b.fault(), Some(ServiceFault::Proof(Proof::Mac)));
}

/// Every u-coordinate below 2^256 whose points have a small order, on the curve and on its twist,
/// with and without the bit that X25519 ignores (<https://cr.yp.to/ecdh.html#validate>).
fn small_orders() -> Vec<[u8; 32]> {
    let eight = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    let other_eight = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ];
    // p is 2^255 - 19.
    let near_p = |low: u8| {
        std::array::from_fn(|at| match at {
            0 => low,
            31 => 0x7f,
            _ => 0xff,
        })
    };
    let mut one = [0; 32];
    one[0] = 1;
    let mut all = vec![[0; 32], one, eight, other_eight];
    all.extend([0xec, 0xed, 0xee].map(near_p));
    let high: Vec<_> = all.iter().map(|u| with_high_bit(*u)).collect();
    all.extend(high);
    all
}

fn with_high_bit(mut u: [u8; 32]) -> [u8; 32] {
    u[31] |= 0x80;
    u
}

#[test]
fn keys_of_small_order_from_the_writer() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    for key in small_orders() {
        let mut world = World::new(&cast);
        world.run_with(|hop, message| {
            if let (Hop::UpA, Content::Open(open)) = (hop, &mut message.content) {
                open.body.key = key;
                sign_open(&cast.writer, open);
            }
        });
        world.assert_nothing_opened();
        let fault = world.b.fault();
        assert_eq!(fault, Some(ServiceFault::Proof(Proof::Key)), "{key:x?}");
        assert_eq!(fault.unwrap().reason(), RefusalReason::Proof);
        assert_eq!(world.b.device.fault, None);
    }
}

#[test]
fn keys_of_small_order_from_the_reader() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    for key in small_orders() {
        let mut world = World::new(&cast);
        world.run_with(|hop, message| {
            if let (Hop::UpB, Content::Accept(accept)) = (hop, &mut message.content) {
                accept.body.key = key;
                sign_accept(&cast.reader, accept);
            }
        });
        world.assert_nothing_opened();
        let fault = Some(ServiceFault::Proof(Proof::Key));
        assert_eq!(world.a.fault(), fault, "{key:x?}");
    }
}
