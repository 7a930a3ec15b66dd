//! What a guest meets when it asks for too much. The figures are those of `docs/port.md`, section 6,
//! and not the constants: a limit that is raised, or not looked at any more, fails here.

use sivshm_handshake::service::Want;
use sivshm_handshake::service::wire::{Content, Pairing, Role, Terms};
use sivshm_handshake::wire::Contract;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_nanos(1);

#[test]
fn sessions_that_prove_nothing_are_few_and_end() {
    let mut manager = Manager::new();
    for id in 1..=5 {
        manager.hear(id, open(1000)).unwrap();
    }
    assert_eq!(manager.closed(), [Reason::Flood]);
    assert_eq!(
        manager.prove(98, 1001, &keys().idle),
        None,
        "another service's are its own"
    );
    manager.pass(30 * SECOND - MOMENT);
    assert!(manager.closed().is_empty());
    manager.pass(MOMENT);
    assert_eq!(manager.closed(), [Reason::Unproved; 4]);
    assert_eq!(manager.prove(99, 1000, &keys().mapper), None);
}

/// Opens and closes sessions of a user until one is refused as a flood. Returns how many were not.
fn opened(manager: &mut Manager, uid: u32) -> u32 {
    let flood = (0..1000).find(|_| {
        manager.hear(1, open(uid)).unwrap();
        let closed = manager.closed();
        manager.hear(1, Payload::Close(Reason::Closed)).unwrap();
        closed == [Reason::Flood]
    });
    flood.unwrap()
}

#[test]
fn a_flood_of_opens_is_refused_and_ends() {
    let mut manager = Manager::new();
    // A process that is no service is refused anyhow, and counted all the same.
    assert_eq!(opened(&mut manager, 0), 64);
    assert_eq!(opened(&mut manager, 1000), 64);
    manager.pass(SECOND);
    assert_eq!(opened(&mut manager, 0), 16);
    assert_eq!(opened(&mut manager, 1000), 16);
    manager.pass(SECOND / 16 - MOMENT);
    assert_eq!(opened(&mut manager, 1000), 0);
    manager.pass(MOMENT);
    assert_eq!(opened(&mut manager, 1000), 1);
    assert_eq!(opened(&mut manager, 1001), 64, "the flood is not its own");
}

#[test]
fn a_driver_that_starts_again_and_again_is_stopped() {
    let mut manager = Manager::new();
    let hellos = |manager: &mut Manager| {
        let refused = (0..1000).find(|_| manager.hear(0, hello()).is_err());
        refused.unwrap()
    };
    assert_eq!(hellos(&mut manager), 63, "one was said already");
    manager.pass(SECOND);
    assert_eq!(hellos(&mut manager), 16);
}

#[test]
fn a_guest_has_so_many_sessions_and_no_more() {
    let mut policy = String::from(
        "version = 1\ntrust_domain = \"test.example\"\nserial = 1\n[[vm]]\nname = \"manager\"\n",
    );
    for uid in 1000..1017 {
        policy += &format!(
            "[[service]]\nvm = \"manager\"\nname = \"s{uid}\"\nprocess = {{ uid = {uid} }}\n"
        );
    }
    let mut manager = Manager::with(&policy);
    for id in 0..64 {
        manager.hear(1 + id, open(1000 + id / 4)).unwrap();
    }
    assert!(manager.closed().is_empty());
    manager.hear(65, open(1016)).unwrap();
    assert_eq!(manager.closed(), [Reason::Flood]);
}

#[test]
fn no_frame_is_read_while_too_many_wait_for_the_guest() {
    let mut manager = Manager::new();
    let full = (1..10_000).find(|id| {
        manager.hear(*id, open(0)).unwrap();
        !manager.sessions.ready()
    });
    assert_eq!(full, Some(384));
    manager.sessions.outgoing.pop_front();
    assert!(manager.sessions.ready());
}

/// A session that says more than it may make us verify is heard later, gets no credit until then,
/// and takes nothing from another one.
#[test]
fn signatures_are_verified_at_a_bounded_rate() {
    let mut manager = Manager::new();
    let mut client = ServiceClient::dial(&keys().mapper, SystemTime::now()).unwrap();
    manager.hear(1, open(1000)).unwrap();
    assert_eq!(manager.talk(1, &mut client, manager.now), None);
    let worker = VmName::new("worker").unwrap();
    let reader = SpiffeId {
        domain: TrustDomain::new("test.example").unwrap(),
        subject: Subject::Service(worker, ServiceName::new("reducer").unwrap()),
    };
    let (channel, kind) = (manager.plan.channels[0].name, manager.plan.channels[0].kind);
    let want = Want {
        channel,
        peer: reader,
        role: Role::Writer,
        integrity: None,
    };
    let mut clock = manager.now;
    client.want(want, clock).unwrap();
    let terms = Content::Terms(Terms {
        contract: Contract([0; 32]),
        serial: 1,
        kind,
        slice_generation: Generation(1),
        host_boot: [0; 16],
        role: Role::Writer,
        reader: 0,
        readers: 1,
    });
    let pairing = Pairing { channel, reader };
    let mut opens = |manager: &mut Manager, count: u32| -> usize {
        for _ in 0..count {
            for content in [terms.clone(), Content::End(Reason::OtherEnd)] {
                let message = Message { pairing, content };
                manager
                    .act(|sessions, scope, audit| {
                        sessions.say(SessionId(1), &message, scope, audit)
                    })
                    .unwrap();
                assert_eq!(manager.talk(1, &mut client, clock), None);
            }
            clock += Duration::from_secs(10);
            client.on_time(clock).unwrap();
            assert_eq!(manager.talk(1, &mut client, clock), None);
        }
        let said = manager.said();
        said.iter()
            .filter(|kind| **kind == MessageType::Open)
            .count()
    };
    // Each round is a want and an open, and the first want is made already.
    let rounds = (12 + 6) / 2;
    assert_eq!(opens(&mut manager, rounds), rounds as usize);
    assert_eq!(opens(&mut manager, 1), 0, "one too many");
    let next = manager.now + SECOND / 64;
    assert_eq!(manager.sessions.deadline(), Some(next));
    assert!(manager.sessions.live[&SessionId(1)].has_more());
    assert_eq!(manager.prove(2, 1001, &keys().idle), None);
    manager.pass(SECOND / 64);
    assert_eq!(manager.said().len(), 1);

    // Another session of the service begins where this one ended.
    manager.hear(1, Payload::Close(Reason::Closed)).unwrap();
    let mut again = ServiceClient::dial(&keys().mapper, SystemTime::now()).unwrap();
    again.want(want, manager.now).unwrap();
    manager.hear(3, open(1000)).unwrap();
    assert_eq!(manager.talk(3, &mut again, manager.now), None);
    assert!(manager.said().is_empty() && manager.sessions.live[&SessionId(3)].has_more());
}

#[test]
fn a_service_that_does_not_read_ends() {
    let mut manager = Manager::new();
    assert_eq!(manager.prove(1, 1000, &keys().mapper), None);
    let (channel, reader) = (manager.plan.channels[0].name, keys().mapper.id());
    let message = Message {
        pairing: Pairing { channel, reader },
        content: Content::End(Reason::OtherEnd),
    };
    let (mut said, mut sent, mut record) = (0, 0, 0);
    let closed = loop {
        manager
            .act(|sessions, scope, audit| sessions.say(SessionId(1), &message, scope, audit))
            .unwrap();
        said += 1;
        let mut closed = None;
        for (_, frame) in manager.take() {
            match frame {
                Frame::Data(bytes) => sent += bytes.len(),
                Frame::Control(payload) => closed = Some(payload),
            }
        }
        if said == 1 {
            record = sent;
        }
        if closed.is_some() || said == 10_000 {
            break closed;
        }
    };
    assert_eq!(closed, Some(Payload::Close(Reason::Flood)));
    assert_eq!(sent, 8192, "no more than its credit");
    // The credit, what may wait, and as much again for its one pairing.
    assert_eq!(said - 1, (8192 + 65536 + 8170) / record);
}
