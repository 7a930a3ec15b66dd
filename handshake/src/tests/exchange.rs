//! Authenticated parties that do not keep to the terms, the manifest or the protocol.

use std::rc::Rc;
use std::time::Instant;

use sivshm_abi::grant::Generation;
use sivshm_abi::wire::Malformed;

use super::certificates::{Ca, now, vm};
use super::world::{Fd, World, eventfd, gifts, memfd, slice, terms};
use crate::identity::Party;
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_PAYLOAD_BYTES};
use crate::terms::{REQUIRED_SEALS, SLICE_MODE};
use crate::tls::Tls;
use crate::wire::{
    Contract, Hello, Manifest, ManifestEntry, Message, MessageType, PROTOCOL_VERSION, Rights,
    SliceEntry, Told,
};
use crate::{
    ALPN, Action, Arrived, Blame, EventfdFacts, Expected, HelloFault, ManifestFault, MemfdFacts,
    ObjectFacts, PeerHandshake, PeerUid, Refusal, RefusalCode, RightsFault, Step, TlsFault,
};

#[test]
fn different_contracts_are_named_to_both() {
    let (ours, theirs) = (Contract([4; 32]), Contract([5; 32]));
    let mut world = World::honest();
    world.dialer.terms.as_mut().unwrap().contract = theirs;
    let refusal = world.listener_refuses();
    let fault = HelloFault::Contract { ours, theirs };
    assert_eq!(refusal, Refusal::Hello(fault));
    assert_eq!(refusal.blame(), Blame::Policy);
    for digest in [ours, theirs] {
        assert!(refusal.to_string().contains(&digest.to_string()));
    }
    let told = Told::Contract {
        refuser: ours,
        refused: theirs,
    };
    assert_eq!(world.dialer.refusal, Some(Refusal::Told(told)));
}

#[test]
fn hellos_that_do_not_fit() {
    let mut world = World::honest();
    world.dialer.terms.as_mut().unwrap().policy_serial = 4;
    let serial = HelloFault::Serial { ours: 3, theirs: 4 };
    assert_eq!(world.listener_refuses(), Refusal::Hello(serial));

    let mut world = World::honest();
    world.dialer.terms.as_mut().unwrap().host_boot = [8; 16];
    let boot = Refusal::Hello(HelloFault::HostBoot);
    assert_eq!(world.listener_refuses(), boot);

    let mut inside = Inside::admitted();
    let hello = Hello {
        version: 2,
        ..HELLO
    };
    let version = HelloFault::Version { ours: 1, theirs: 2 };
    assert_eq!(
        inside.refuses(&Message::Hello(hello), &[]),
        Refusal::Hello(version)
    );
    assert_eq!(inside.told(), Told::Code(RefusalCode::Version));
}

/// What the dialer says to a listener that gives its manifest so.
fn manifest_refused(change: fn(&mut Vec<ManifestEntry>)) -> ManifestFault {
    let mut world = World::honest();
    let terms = world.listener.terms.as_mut().unwrap();
    let mut entries: Vec<_> = terms.outgoing.iter().map(|out| out.entry).collect();
    change(&mut entries);
    let original = terms.outgoing[0].original.clone();
    terms.outgoing = entries
        .into_iter()
        .map(|entry| crate::Outgoing {
            entry,
            original: original.clone(),
        })
        .collect();
    let refusal = world.dialer_refuses();
    let told = Refusal::Told(Told::Code(RefusalCode::Manifest));
    assert_eq!(world.listener.refusal, Some(told));
    match refusal {
        Refusal::Manifest(fault) => fault,
        other => panic!("{other}"),
    }
}

fn slice_changed(change: fn(&mut SliceEntry)) -> ManifestFault {
    // A function pointer can't capture: the change is made to a copy here and compared there.
    let mut entry = slice(1);
    change(&mut entry);
    let mut world = World::honest();
    let terms = world.listener.terms.as_mut().unwrap();
    terms.outgoing[0].entry = ManifestEntry::Slice(entry);
    match world.dialer_refuses() {
        Refusal::Manifest(fault) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn manifests_that_are_not_the_plans() {
    let count = |got| ManifestFault::Count { got, want: 3 };
    assert_eq!(manifest_refused(|entries| entries.truncate(2)), count(2));
    assert_eq!(
        manifest_refused(|entries| entries.push(ManifestEntry::Doorbell { id: 1 })),
        count(4)
    );
    assert!(matches!(
        manifest_refused(|entries| entries.swap(0, 1)),
        ManifestFault::Other {
            at: 0,
            got: ManifestEntry::Slice(_),
            want: Expected::Slice { .. }
        }
    ));
    assert_eq!(
        manifest_refused(|entries| entries[2] = ManifestEntry::Slice(slice(2))),
        ManifestFault::Other {
            at: 2,
            got: ManifestEntry::Slice(slice(2)),
            want: Expected::Doorbell
        }
    );
}

#[test]
fn slices_that_are_not_the_plans() {
    let (at, slice) = (0, slice(1).slice);
    assert_eq!(
        slice_changed(|entry| entry.bytes *= 2),
        ManifestFault::Bytes {
            at,
            slice,
            got: 262_144,
            want: 131_072
        }
    );
    assert_eq!(
        slice_changed(|entry| entry.seals &= !0x20),
        ManifestFault::Seals {
            at,
            slice,
            got: REQUIRED_SEALS & !0x20
        }
    );
    let ownership = |got| ManifestFault::Ownership {
        at,
        slice,
        got,
        want: (0, 70_100),
    };
    assert_eq!(
        slice_changed(|entry| entry.uid = 70_101),
        ownership((70_101, 70_100, SLICE_MODE))
    );
    assert_eq!(
        slice_changed(|entry| entry.gid = 0),
        ownership((0, 0, SLICE_MODE))
    );
    assert_eq!(
        slice_changed(|entry| entry.mode = 0o666),
        ownership((0, 70_100, 0o666))
    );
    assert_eq!(
        slice_changed(|entry| entry.generation = Generation(6)),
        ManifestFault::Generation {
            at,
            slice,
            got: Generation(6),
            seen: Generation(7)
        }
    );
}

#[test]
fn more_seals_and_a_newer_generation_are_welcome() {
    let mut world = World::honest();
    let out = &mut world.listener.terms.as_mut().unwrap().outgoing[0];
    let entry = SliceEntry {
        generation: Generation(8),
        ..slice(1)
    };
    out.entry = ManifestEntry::Slice(entry);
    let sealed = SliceEntry {
        seals: REQUIRED_SEALS | 0x10,
        ..entry
    };
    out.original = Rc::new(ObjectFacts::Memfd(memfd(sealed)));
    world.run(|| 4096).assert_established();
}

/// What the dialer says to a listener that sends other copies than its manifest names: slices 1 and
/// 2, doorbell 60.
fn rights_refused(swap: fn(&mut Vec<Fd>)) -> RightsFault {
    let mut world = World::honest();
    world.listener.swap = swap;
    let refusal = world.dialer_refuses();
    let told = Refusal::Told(Told::Code(RefusalCode::Rights));
    assert_eq!(world.listener.refusal, Some(told));
    match refusal {
        Refusal::Rights(fault) => fault,
        other => panic!("{other}"),
    }
}

fn fd(facts: MemfdFacts) -> Fd {
    Rc::new(ObjectFacts::Memfd(facts))
}

#[test]
fn extra_missing_and_reordered_descriptors() {
    assert_eq!(
        rights_refused(|rights| rights.push(fd(memfd(slice(9))))),
        RightsFault::Surplus {
            promised: 3,
            came: 4
        }
    );
    assert_eq!(
        rights_refused(|rights| drop(rights.pop())),
        RightsFault::Missing {
            announced: 3,
            came: 2
        }
    );
    assert_eq!(
        rights_refused(|rights| rights.swap(0, 2)),
        RightsFault::Reordered { at: 0, belongs: 2 }
    );
    assert_eq!(
        rights_refused(|rights| rights[1] = rights[0].clone()),
        RightsFault::Reordered { at: 1, belongs: 0 }
    );
}

#[test]
fn substituted_descriptors() {
    let other = ObjectFacts::Memfd(memfd(SliceEntry {
        ino: 77,
        ..slice(2)
    }));
    assert_eq!(
        rights_refused(|rights| {
            let ino = 77;
            rights[1] = fd(memfd(SliceEntry { ino, ..slice(2) }));
        }),
        RightsFault::Substituted { at: 1, got: other }
    );
    let got = ObjectFacts::Eventfd(eventfd(61));
    assert_eq!(
        rights_refused(|rights| rights[2] = Rc::new(ObjectFacts::Eventfd(eventfd(61)))),
        RightsFault::Substituted { at: 2, got }
    );
    // An eventfd whose identifier is a slice's inode, a slice in the doorbell's place, a socket.
    let got = ObjectFacts::Eventfd(eventfd(1001));
    assert_eq!(
        rights_refused(|rights| rights[0] = Rc::new(ObjectFacts::Eventfd(eventfd(1001)))),
        RightsFault::Substituted { at: 0, got }
    );
    assert_eq!(
        rights_refused(|rights| rights[2] = rights[1].clone()),
        RightsFault::Reordered { at: 2, belongs: 1 }
    );
    let got = ObjectFacts::Other;
    assert_eq!(
        rights_refused(|rights| rights[2] = Rc::new(ObjectFacts::Other)),
        RightsFault::Substituted { at: 2, got }
    );
}

#[test]
fn the_right_object_in_the_wrong_state() {
    assert_eq!(
        rights_refused(|rights| {
            let read_only = false;
            rights[0] = fd(MemfdFacts {
                read_only,
                ..memfd(slice(1))
            });
        }),
        RightsFault::Writable { at: 0 }
    );
    let differs = |field, got, want| RightsFault::Differs {
        at: 0,
        field,
        got,
        want,
    };
    let good = memfd(slice(1));
    let (bytes, seals, other, mode) = (4096, 0x07, 1, 0o777);
    for (facts, fault) in [
        (MemfdFacts { bytes, ..good }, differs("size", 4096, 131_072)),
        (MemfdFacts { seals, ..good }, differs("seals", 0x07, 0x27)),
        (MemfdFacts { uid: other, ..good }, differs("owner", 1, 0)),
        (
            MemfdFacts { gid: other, ..good },
            differs("group", 1, 70_100),
        ),
        (MemfdFacts { mode, ..good }, differs("mode", 0o777, 0o664)),
    ] {
        let mut inside = Inside::ready();
        assert_eq!(
            inside.sends(&[ObjectFacts::Memfd(facts)]),
            Refusal::Rights(fault)
        );
    }
    for (semaphore, nonblocking, what) in [
        (
            true,
            true,
            "is a semaphore: its ringer would never be heard again",
        ),
        (false, false, "blocks: its ringer could be stopped"),
    ] {
        let doorbell = EventfdFacts {
            id: 60,
            semaphore,
            nonblocking,
        };
        let good = [slice(1), slice(2)].map(|entry| ObjectFacts::Memfd(memfd(entry)));
        let sent = [good.as_slice(), &[ObjectFacts::Eventfd(doorbell)]].concat();
        assert_eq!(
            Inside::ready().sends(&sent),
            Refusal::Rights(RightsFault::Doorbell { at: 2, what })
        );
    }
}

/// A party with a good SVID and uid that says what it likes: it dials as `a`, gives what the other
/// tests' listener gives, and takes what their dialer gives.
struct Inside {
    tls: Tls,
    heard: Vec<u8>,
    victim: PeerHandshake<Fd>,
}

const HELLO: Hello = Hello {
    version: PROTOCOL_VERSION,
    connection: 5,
    instance: [2; 16],
    host_boot: [9; 16],
    policy_serial: 3,
    contract: Contract([4; 32]),
};

fn manifest() -> Message {
    let slices = [slice(1), slice(2)].map(ManifestEntry::Slice);
    let doorbell = ManifestEntry::Doorbell { id: 60 };
    Message::Manifest(Manifest::new([slices.as_slice(), &[doorbell]].concat()).unwrap())
}

fn arrived(facts: &[ObjectFacts]) -> Vec<Arrived<Fd>> {
    let arrive = |facts: &ObjectFacts| Arrived {
        descriptor: Rc::new(*facts),
        facts: *facts,
    };
    facts.iter().map(arrive).collect()
}

impl Inside {
    /// TLS is over, the victim has not been told yet to go on.
    fn authenticated() -> Self {
        let ca = Ca::new("car");
        let mut tls = Tls::dial(&ca.device("a"), ALPN, Party::Device(vm("b")), now()).unwrap();
        let mut victim = PeerHandshake::accept(&ca.device("b"), now(), Instant::now()).unwrap();
        let mut heard = Vec::new();
        while tls.authenticated().unwrap().is_none() {
            for action in victim.receive(&tls.flush(), Vec::new()).unwrap() {
                let Action::Send(bytes) = action else {
                    panic!("{action:?}");
                };
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    tls.read(&mut bytes, &mut heard).unwrap();
                }
            }
        }
        let actions = victim.receive(&tls.flush(), Vec::new()).unwrap();
        assert!(matches!(actions.as_slice(), [Action::CheckPeer { .. }]));
        Self { tls, heard, victim }
    }

    fn admitted() -> Self {
        let mut inside = Self::authenticated();
        let (theirs, ours) = gifts();
        let uid = PeerUid(1);
        let admitted = inside
            .victim
            .admit(uid, Some(uid), |_| terms(1, &theirs, &ours));
        inside.hear(admitted.unwrap());
        inside
    }

    fn greeted() -> Self {
        let mut inside = Self::admitted();
        inside.says(&Message::Hello(HELLO));
        inside
    }

    /// Manifest and ready are said: descriptors are awaited.
    fn ready() -> Self {
        let mut inside = Self::greeted();
        inside.says(&manifest());
        inside.says(&Message::Ready);
        inside
    }

    fn hear(&mut self, actions: Vec<Action<Fd>>) {
        for action in actions {
            if let Action::Send(bytes) | Action::SendRights { bytes, .. } = action {
                self.read(&bytes);
            }
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.tls.read(&mut bytes, &mut self.heard).unwrap();
        }
    }

    /// Says something that the victim takes.
    fn says(&mut self, message: &Message) {
        let bytes = self.tls.write(&message.to_bytes()).unwrap();
        let actions = self.victim.receive(&bytes, Vec::new());
        self.hear(actions.unwrap());
    }

    fn refuses_bytes(&mut self, plain: &[u8], rights: &[ObjectFacts]) -> Refusal {
        let bytes = self.tls.write(plain).unwrap();
        let result = self.victim.receive(&bytes, arrived(rights));
        result.expect_err("the victim took it")
    }

    /// Says something that the victim refuses.
    fn refuses(&mut self, message: &Message, rights: &[ObjectFacts]) -> Refusal {
        self.refuses_bytes(&message.to_bytes(), rights)
    }

    /// Sends descriptors that the victim refuses.
    fn sends(&mut self, facts: &[ObjectFacts]) -> Refusal {
        let rights = Message::Rights(Rights::new(facts.len()).unwrap());
        self.refuses(&rights, facts)
    }

    /// The refusal that the victim leaves behind.
    fn told(mut self) -> Told {
        let machine = std::mem::replace(
            &mut self.victim,
            PeerHandshake::accept(&Ca::new("car").device("b"), now(), Instant::now()).unwrap(),
        );
        self.read(&machine.last_words());
        let mut heard = self.heard.as_slice();
        loop {
            let (message, len) = Message::take(heard).unwrap().expect("a refusal");
            if let Message::Refusal(told) = message {
                return told;
            }
            heard = &heard[len..];
        }
    }
}

#[test]
fn descriptors_before_their_time() {
    let one = [ObjectFacts::Memfd(memfd(slice(1)))];
    let uninvited = |waiting| Refusal::Rights(RightsFault::Uninvited { count: 1, waiting });
    let ca = Ca::new("car");
    let mut stranger = PeerHandshake::accept(&ca.device("b"), now(), Instant::now()).unwrap();
    assert_eq!(
        stranger.receive(&[22], arrived(&one)).unwrap_err(),
        uninvited(Step::Tls)
    );
    for (mut inside, waiting) in [
        (Inside::authenticated(), Step::Admission),
        (Inside::admitted(), Step::Hello),
        (Inside::greeted(), Step::Manifest),
    ] {
        assert_eq!(inside.refuses(&Message::Ready, &one), uninvited(waiting));
        assert_eq!(inside.told(), Told::Code(RefusalCode::Rights));
    }
}

#[test]
fn descriptors_after_their_time() {
    let mut inside = Inside::ready();
    let all = [
        ObjectFacts::Memfd(memfd(slice(1))),
        ObjectFacts::Memfd(memfd(slice(2))),
        ObjectFacts::Eventfd(eventfd(60)),
    ];
    let rights = Message::Rights(Rights::new(3).unwrap());
    let bytes = inside.tls.write(&rights.to_bytes()).unwrap();
    let actions = inside.victim.receive(&bytes, arrived(&all));
    assert!(matches!(
        actions.unwrap().as_slice(),
        [Action::DenyRights, Action::Send(_)]
    ));
    let waiting = Step::Accepted;
    assert_eq!(
        inside.refuses(&Message::Accepted, &all[..1]),
        Refusal::Rights(RightsFault::Uninvited { count: 1, waiting })
    );
}

#[test]
fn descriptors_may_come_ahead_of_their_message_but_not_behind_it() {
    let mut inside = Inside::ready();
    let one = arrived(&[ObjectFacts::Memfd(memfd(slice(1)))]);
    assert!(inside.victim.receive(&[], one).unwrap().is_empty());
    let rights = Message::Rights(Rights::new(2).unwrap());
    assert_eq!(
        inside.refuses(&rights, &[]),
        Refusal::Rights(RightsFault::Missing {
            announced: 2,
            came: 1
        })
    );
}

#[test]
fn messages_out_of_turn() {
    let turn = |got, waiting| Refusal::OutOfTurn { got, waiting };
    assert_eq!(
        Inside::admitted().refuses(&manifest(), &[]),
        turn(MessageType::Manifest, Step::Hello)
    );
    assert_eq!(
        Inside::greeted().refuses(&Message::Hello(HELLO), &[]),
        turn(MessageType::Hello, Step::Manifest)
    );
    // Accepted before anything was sent would free the originals too early.
    let mut inside = Inside::greeted();
    inside.says(&manifest());
    assert_eq!(
        inside.refuses(&Message::Accepted, &[]),
        turn(MessageType::Accepted, Step::Ready)
    );
    let mut inside = Inside::ready();
    assert_eq!(
        inside.refuses(&Message::Accepted, &[]),
        turn(MessageType::Accepted, Step::Rights)
    );
    assert_eq!(inside.told(), Told::Code(RefusalCode::Protocol));
}

#[test]
fn bytes_that_are_no_message() {
    let malformed = |bytes: &[u8]| match Inside::admitted().refuses_bytes(bytes, &[]) {
        Refusal::Malformed(malformed) => malformed,
        other => panic!("{other}"),
    };
    let oversized = u32::try_from(MAX_PAYLOAD_BYTES + 1).unwrap().to_le_bytes();
    assert_eq!(
        malformed(&[oversized.as_slice(), &[1]].concat()),
        Malformed::TooMany {
            what: "payload bytes",
            max: MAX_PAYLOAD_BYTES
        }
    );
    assert_eq!(
        malformed(&[0, 0, 0, 0, 99]),
        Malformed::BadValue("message.type")
    );
    assert_eq!(
        malformed(&[1, 0, 0, 0, 3, 0]),
        Malformed::Trailing("message")
    );
    assert_eq!(
        malformed(&[1, 0, 0, 0, 1, 0]),
        Malformed::Truncated("hello.version")
    );
    assert_eq!(
        malformed(&[1, 0, 0, 0, 4, 0]),
        Malformed::BadValue("rights.count")
    );
    let mut manifest = Message::Manifest(Manifest::new(Vec::new()).unwrap()).to_bytes();
    manifest[5..].copy_from_slice(&514_u16.to_le_bytes());
    assert_eq!(
        malformed(&manifest),
        Malformed::TooMany {
            what: "manifest entries",
            max: 513
        }
    );
}

#[test]
fn a_peer_that_talks_before_it_is_admitted_is_bounded() {
    let mut inside = Inside::authenticated();
    let refusal = inside.refuses_bytes(&[0; 100], &[]);
    assert_eq!(
        refusal,
        Refusal::Malformed(Malformed::TooMany {
            what: "bytes before this side's `hello`",
            max: 87
        })
    );
}

#[test]
fn a_hello_may_come_before_admission() {
    let mut inside = Inside::authenticated();
    inside.says(&Message::Hello(HELLO));
    let (theirs, ours) = gifts();
    let uid = PeerUid(1);
    let actions = inside
        .victim
        .admit(uid, Some(uid), |_| terms(1, &theirs, &ours))
        .unwrap();
    // Its hello, and its manifest.
    assert!(matches!(
        actions.as_slice(),
        [Action::Send(_), Action::Send(_)]
    ));
    let again = inside
        .victim
        .admit(uid, Some(uid), |_| terms(1, &theirs, &ours));
    assert_eq!(again.unwrap_err(), Refusal::Ended);
}

#[test]
fn originals_are_kept_until_the_peer_has_accepted_its_copies() {
    let ca = Ca::new("car");
    let mut world = World::new(&ca.device("a"), &ca.device("b"));
    let original = |world: &World| {
        let terms = world.dialer.terms.as_ref().unwrap();
        terms.outgoing[0].original.clone()
    };
    let kept = original(&world);
    // In the terms, and here.
    assert_eq!(Rc::strong_count(&kept), 2);
    let mut most = 0;
    world.run_with(|| 64, |_| most = most.max(Rc::strong_count(&kept)));
    // The machine's, the copy on its way, and here.
    assert_eq!(most, 3);
    let (_, listener) = world.assert_established();
    // The peer's copy, and here.
    assert_eq!(Rc::strong_count(&kept), 2);
    drop(listener);
    assert_eq!(Rc::strong_count(&kept), 1);
}

#[test]
fn a_refused_machine_holds_no_descriptor() {
    let mut inside = Inside::ready();
    let one = arrived(&[ObjectFacts::Memfd(memfd(slice(1)))]);
    let held = one[0].descriptor.clone();
    inside.victim.receive(&[], one).unwrap();
    assert_eq!(Rc::strong_count(&held), 2);
    inside.refuses(&Message::Accepted, &[]);
    assert_eq!(Rc::strong_count(&held), 1);
}

#[test]
fn a_silent_peer_is_refused_at_the_deadline() {
    let mut inside = Inside::greeted();
    let deadline = inside.victim.deadline().unwrap();
    assert_eq!(
        inside.victim.expired(deadline - HANDSHAKE_TIMEOUT / 2),
        Ok(())
    );
    assert_eq!(
        inside.victim.expired(deadline),
        Err(Refusal::Timeout {
            waiting: Step::Manifest
        })
    );
    assert_eq!(inside.told(), Told::Code(RefusalCode::Timeout));
}

#[test]
fn a_peer_that_leaves_or_refuses_in_the_middle() {
    let mut inside = Inside::greeted();
    assert_eq!(
        inside.refuses(&Message::Bye, &[]),
        Refusal::Tls(TlsFault::Closed)
    );
    let told = Told::Contract {
        refuser: Contract([1; 32]),
        refused: Contract([2; 32]),
    };
    let mut inside = Inside::greeted();
    let refusal = inside.refuses(&Message::Refusal(told), &[]);
    assert_eq!(refusal, Refusal::Told(told));
    assert_eq!(refusal.blame(), Blame::Policy);

    let mut inside = Inside::greeted();
    let end = inside.tls.farewell(None);
    assert_eq!(
        inside.victim.receive(&end, Vec::new()).unwrap_err(),
        Refusal::Tls(TlsFault::Closed)
    );
}
