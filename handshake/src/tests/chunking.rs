//! The same outcome however bytes arrive, and no panic whatever they are.

use std::time::Instant;

use proptest::prelude::*;
use sivshm_abi::name::ChannelName;

use super::certificates::{Ca, domain, now, vm};
use super::world::{Fd, Gift, World, gifts, slice};
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_MANIFEST_ENTRIES};
use crate::wire::{MESSAGE_TYPES, ManifestEntry, Message, MessageType};
use crate::{Action, LinkId, PeerHandshake, PeerUid, REFUSAL_CODES, Refusal, RefusalCode};

#[test]
fn two_honest_parties_exchange_what_the_plan_says() {
    let mut world = World::honest();
    let (dialer, listener) = world.run(|| 4096).assert_established();
    assert_eq!(dialer.peer.vm(), vm("b"));
    assert_eq!(listener.peer.vm(), vm("a"));
    assert_eq!(listener.peer.uid(), PeerUid(70_001));
    assert_eq!(dialer.peer.id().domain, domain());
    assert_eq!((dialer.instance, listener.instance), ([2; 16], [1; 16]));
    assert_eq!(dialer.link, listener.link);
    assert_eq!(dialer.link, LinkId::new([1; 16], [2; 16], 5));
    let entries = |link: &crate::Established<Fd>| -> Vec<ManifestEntry> {
        link.objects.iter().map(|object| object.entry).collect()
    };
    assert_eq!(
        entries(&dialer),
        [
            ManifestEntry::Slice(slice(1)),
            ManifestEntry::Slice(slice(2)),
            ManifestEntry::Doorbell { id: 60 }
        ]
    );
    assert_eq!(
        entries(&listener),
        [
            ManifestEntry::Slice(slice(0)),
            ManifestEntry::Doorbell { id: 50 }
        ]
    );
    assert_eq!(world.dialer.machine().deadline(), None);
}

#[test]
fn one_byte_at_a_time_is_enough() {
    World::honest().run(|| 1).assert_established();
}

#[test]
fn the_largest_manifest_fits() {
    let ca = Ca::new("car");
    let most = u32::try_from(MAX_MANIFEST_ENTRIES - 1).unwrap();
    let dials = Gift {
        slices: (0..most).map(slice).collect(),
        doorbell: 1,
    };
    let (_, listens) = gifts();
    let mut world = World::with_gifts(&ca.device("a"), &ca.device("b"), &dials, &listens);
    let (_, listener) = world.run(|| 60_000).assert_established();
    assert_eq!(listener.objects.len(), MAX_MANIFEST_ENTRIES);
}

#[test]
fn an_established_link_carries_revocations_and_ends() {
    let mut world = World::honest();
    world.run(|| 4096).assert_established();
    let channel = ChannelName::new("job-1").unwrap();
    let bytes = world.dialer.machine().revoke(channel).unwrap();
    let actions = world.listener.machine().receive(&bytes, Vec::new());
    assert!(matches!(actions.unwrap().as_slice(), [Action::Revoke(name)] if *name == channel));

    let World {
        dialer,
        mut listener,
        ..
    } = world;
    let bytes = dialer.into_machine().bye();
    let actions = listener.machine().receive(&bytes, Vec::new()).unwrap();
    assert!(matches!(actions.as_slice(), [Action::Bye]));
    let after = listener.machine().receive(&[], Vec::new());
    assert_eq!(after.unwrap_err(), Refusal::Ended);
    assert_eq!(listener.machine().revoke(channel), None);
}

#[test]
fn an_established_link_passes_what_goes_between_device_processes() {
    use crate::service::wire::{Content, Hash, MESSAGE_TYPES, Message, Pairing};
    let ca = Ca::new("car");
    let mut world = World::new(&ca.device("a"), &ca.device("b"));
    let pairing = Pairing {
        channel: ChannelName::new("job-1").unwrap(),
        reader: ca.service("b", "reducer").id(),
    };
    let message = |content| Message { pairing, content };
    let installed = message(Content::Installed(Hash([1; 32])));
    assert_eq!(world.dialer.machine().pass(&installed), None);
    world.run(|| 4096).assert_established();
    let bytes = world.dialer.machine().pass(&installed).unwrap();
    let actions = world.listener.machine().receive(&bytes, Vec::new());
    assert!(matches!(actions.unwrap().as_slice(), [Action::Service(got)] if *got == installed));

    // What is for a session does not pass.
    let want = message(Content::Want {
        peer: ca.service("a", "mapper").id(),
        integrity: None,
    });
    let ways = |message: &Message| {
        let mut types = MESSAGE_TYPES.iter();
        types.find(|(kind, ..)| *kind == message.kind()).unwrap().3
    };
    assert!(ways(&installed).across && !ways(&want).across);
    let bytes = world.dialer.machine().pass(&want).unwrap();
    let refusal = world.listener.machine().receive(&bytes, Vec::new());
    assert_eq!(
        refusal.unwrap_err(),
        Refusal::OutOfTurn {
            got: MessageType::Service,
            waiting: crate::Step::Established
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_gives_the_same_link(sizes in proptest::collection::vec(1_usize..2000, 1..40)) {
        let mut sizes = sizes.into_iter().cycle();
        World::honest().run(|| sizes.next().unwrap()).assert_established();
    }

    /// TLS ignores a few bits, such as those of a record's version.
    #[test]
    fn a_flipped_bit_ends_the_link_or_changes_nothing(at in 0_usize..6000, bit in 0_u8..8) {
        let mut world = World::honest();
        let mut seen = 0;
        world.run_with(|| 512, |bytes| {
            if let Some(byte) = at.checked_sub(seen).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << bit;
            }
            seen += bytes.len();
        });
        let deadline = Instant::now() + 2 * HANDSHAKE_TIMEOUT;
        if world.listener.refusal.is_some() {
            prop_assert!(world.listener.link.is_none());
        } else if world.listener.link.is_none() {
            // It promised more bytes than will ever come.
            let late = world.listener.machine().expired(deadline);
            prop_assert!(matches!(late, Err(Refusal::Timeout { .. })), "{:?}", late);
        } else {
            let (dialer, listener) = world.assert_established();
            prop_assert_eq!(dialer.link, listener.link);
        }
    }

    #[test]
    fn random_bytes_make_no_machine_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        header in any::<bool>(),
    ) {
        let mut stream = if header { vec![0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3] } else { Vec::new() };
        stream.extend(bytes);
        let ca = Ca::new("car");
        let credentials = ca.device("a");
        let start = Instant::now();
        let mut listener = PeerHandshake::<Fd>::accept(&credentials, now(), start).unwrap();
        let _ = listener.receive(&stream, Vec::new());
        let (mut dialer, _) =
            PeerHandshake::<Fd>::dial(&credentials, vm("b"), 1, now(), start).unwrap();
        let _ = dialer.receive(&stream, Vec::new());
    }

    #[test]
    fn random_bytes_make_no_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(Some((message, len))) = Message::take(&bytes) {
            prop_assert_eq!(&message.to_bytes(), &bytes[..len]);
        }
        for code in 0..10 {
            if let Ok(kind) = MessageType::from_code(code)
                && let Ok(message) = Message::read(kind, &bytes)
            {
                prop_assert_eq!(&message.to_bytes()[5..], &bytes[..]);
            }
        }
    }
}

#[test]
fn numbers_and_tables_agree() {
    for (kind, code, name) in MESSAGE_TYPES {
        assert_eq!(kind.code(), *code);
        assert_eq!(MessageType::from_code(*code), Ok(*kind));
        assert_eq!(kind.to_string(), *name);
    }
    for (refusal, code, words) in REFUSAL_CODES {
        assert_eq!(refusal.code(), *code);
        assert_eq!(RefusalCode::from_code(*code), Ok(*refusal));
        assert_eq!(refusal.to_string(), *words);
    }
}
