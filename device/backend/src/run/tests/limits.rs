//! What a guest, a peer, a VMM or an operator meets when it asks for too much, and for how long each
//! is waited for. The figures are those of `docs/port.md`, section 6, and not the constants: a limit
//! that is raised, or not looked at any more, fails here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sivshm_abi::frame::{Payload, Reason, SessionId};
use sivshm_abi::grant::{Generation, GrantId};
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::wire::{Content, Message, Pairing, RefusalReason, Role};
use sivshm_ring::frames::SendError;

use super::guest::Guest;
use super::world::{Device, Host, POLICY, pair, run_until, service};
use crate::admin_wire::AdminAnswer;
use crate::paths::SocketDir;
use crate::run::poller::{Door, Source};
use crate::run::sessions::Said;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_nanos(1);

/// A moment at which everything that is counted by time is unused again.
fn later() -> Instant {
    Instant::now() + 100 * SECOND
}

impl Device {
    fn ready(&self, source: Source, now: Instant) {
        self.0.borrow_mut().on_ready(source, now).unwrap();
    }
}

/// Records of an audit whose reason has these words.
fn records(host: &Host, vm: &str, words: &str) -> usize {
    let audit = host.audit(vm);
    let reasons = audit
        .iter()
        .map(|record| record["reason"].as_str().unwrap());
    reasons.filter(|reason| reason.contains(words)).count()
}

/// Whether the other end has closed; what it said before is dropped.
fn closed(connection: &mut UnixStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn frames_of_a_guest_are_read_at_a_bounded_rate() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let mut guest = Guest::start(&host, "a", &[&a, &b]);
    run_until(&[&a], || a.0.borrow().control.sessions.driver());
    // Of a session that is not there: nobody answers.
    let frame = Payload::Revoked {
        grant: GrantId(1),
        generation: Generation(1),
    };
    let mut fill = || {
        let fits = |_: &u32| match guest.rings.send(SessionId(1), &frame) {
            Ok(()) => true,
            Err(SendError::Full) => false,
            Err(error) => panic!("{error}"),
        };
        (0..u32::MAX).take_while(fits).count()
    };
    let mut now = later();
    fill();
    a.ready(Source::Kick, now);
    assert_eq!(fill(), 256, "for one wake-up");
    let mut read = |now, wakes| {
        (0..wakes)
            .map(|_| {
                a.ready(Source::Kick, now);
                fill()
            })
            .sum::<usize>()
    };
    assert_eq!(256 + read(now, 100), 4096, "at once");
    now += SECOND / 4;
    assert_eq!(read(now, 100), 1024, "in a second");
}

#[test]
fn a_guest_that_does_not_read_is_not_read() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let mut guest = Guest::start(&host, "a", &[&a, &b]);
    let mut now = later();
    // Each is refused, and the refusals fill the ring to the guest.
    let open = Payload::Open(sivshm_abi::frame::Facts {
        pid: 1,
        uid: 1,
        gid: 1,
        exe_sha256: None,
    });
    let mut number = 0;
    // If it were read all the same, that would never stand still.
    for _ in 0..50 {
        let before = number;
        while guest.rings.send(SessionId(1 + number), &open).is_ok() {
            number += 1;
        }
        for _ in 0..100 {
            a.ready(Source::Kick, now);
        }
        now += SECOND;
        if number == before {
            break;
        }
    }
    assert_eq!(a.0.borrow().control.sessions.outgoing.len(), 384);
}

#[test]
fn a_peer_connects_at_a_bounded_rate_and_shakes_one_hand_at_a_time() {
    let host = Host::new();
    let b = host.start("b");
    let mut kept = Vec::new();
    let mut knock = |now, times: usize| {
        for _ in 0..times {
            kept.push(host.connect(SocketDir::Peer, "b"));
            b.ready(Source::Listener(Door::Peer), now);
        }
        records(&host, "b", "its user connects too often")
    };
    let now = later();
    assert_eq!(knock(now, 8), 0);
    assert_eq!(knock(now, 1), 1);
    assert_eq!(knock(now + SECOND - MOMENT, 1), 2);
    assert_eq!(knock(now + SECOND, 1), 2);
    assert_eq!(knock(now + SECOND, 1), 3);
    let crowded = records(
        &host,
        "b",
        "too many connections of its user are in their handshake",
    );
    assert_eq!(crowded, 8, "all nine but the last");
}

#[test]
fn a_door_is_not_all_that_is_looked_at() {
    let host = Host::new();
    let b = host.start("b");
    let _kept: Vec<_> = (0..40)
        .map(|_| host.connect(SocketDir::Launch, "b"))
        .collect();
    let before = b.0.borrow().last_connection;
    b.ready(Source::Listener(Door::Launch), Instant::now());
    let expected = (0..32).fold(before, |last, _| last.next());
    assert_eq!(b.0.borrow().last_connection, expected);
}

#[test]
fn a_peer_that_is_not_there_is_dialed_less_and_less_often() {
    let host = Host::new();
    let a = host.start("a");
    let mut now = Instant::now();
    a.at(now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let next = a.0.borrow().peers.deadline().unwrap();
        pauses.push((next - now).as_millis());
        now = next;
        a.at(now);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
}

#[test]
fn a_peer_that_comes_and_goes_is_refused_in_the_end() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let mut now = later();
    // By clocks of their own, because a peer may connect once a second only.
    let mut meet_again = |a: &Device| {
        now += SECOND;
        lose_link(a);
        run_until(&[&b], || !b.linked());
        a.at(now);
        b.ready(Source::Listener(Door::Peer), now);
    };
    for _ in 1..256 {
        let before = a.ring();
        meet_again(&a);
        run_until(&[&a, &b], || a.linked() && b.linked());
        assert_eq!(a.ring(), before + 1);
    }
    meet_again(&a);
    // Whichever of the two is complete first refuses.
    let words = "the peer has restarted too often";
    let refused = |vm| records(&host, vm, words) > 0;
    run_until(&[&a, &b], || refused("a") || refused("b"));
    run_until(&[&a, &b], || !a.linked() && !b.linked());
}

fn lose_link(device: &Device) {
    let (mut this, now) = (device.0.borrow_mut(), Instant::now());
    let this = &mut *this;
    let why = crate::run::peer_link::LinkEnd::Closed;
    let lost = this.peers.end_link(0, &why, &mut this.audit, now);
    this.on_peer_events(lost.unwrap().into_iter().collect(), now)
        .unwrap();
}

/// The last word about the one pairing.
fn end() -> Message {
    Message {
        pairing: Pairing {
            channel: ChannelName::new("question").unwrap(),
            reader: service("b", "answer"),
        },
        content: Content::End(Reason::OtherEnd),
    }
}

#[test]
fn a_peer_that_does_not_read_is_left() {
    let host = Host::new();
    let (a, _b) = pair(&host);
    let message = end();
    let mut passed = 0;
    let now = Instant::now();
    // A link that is still there after three times the bytes is not bounded.
    while a.linked() && passed < 150_000 {
        for _ in 0..1000 {
            let mut this = a.0.borrow_mut();
            let this = &mut *this;
            this.peers.pass(0, &message, &this.poller, now);
            passed += 1;
        }
        a.at(now);
    }
    // Type and length, pairing and reason, in a TLS record each.
    let record = 22 + 5 + message.to_bytes().len();
    let bytes = passed * record;
    // And what the socket takes.
    let most = 256 * 1024 + 512 * 8170;
    assert!((most..most + 1024 * 1024).contains(&bytes), "{bytes}");
}

#[test]
fn a_peer_makes_this_process_verify_at_a_bounded_rate() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let mut guest = Guest::start(&host, "a", &devices);
    guest.open(7, &host.identity("a", "ask"));
    guest.want(7, "question", service("b", "answer"), Role::Writer);
    let mut open = None;
    run_until(&devices, || {
        guest.serve();
        let mut this = a.0.borrow_mut();
        let this = &mut *this;
        let now = Instant::now();
        let scope = this.view.scope(now);
        this.control.read(&scope, &mut this.audit).unwrap();
        for said in &this.control.sessions.said {
            if let Said::Message(_, message) = said
                && matches!(message.content, Content::Open(_))
            {
                open = Some(Message::clone(message));
            }
        }
        this.serve_guest(now).unwrap();
        open.is_some()
    });
    let open = open.unwrap();
    let flood = RefusalReason::Flood.to_string();
    let floods = |now, times: usize| {
        for _ in 0..times {
            for message in [open.clone(), end()] {
                b.0.borrow_mut().on_peer_message(0, message, now).unwrap();
            }
        }
        records(&host, "b", &flood)
    };
    // The peer has one service, which has one pairing.
    let now = later();
    assert_eq!(floods(now, 12 + 6), 0);
    assert_eq!(floods(now, 1), 1);
    assert_eq!(floods(now + SECOND / 64 - MOMENT, 1), 2);
    assert_eq!(floods(now + SECOND / 64, 1), 2);
    // What comes after an open counts as well, whether or not it is awaited.
    let now = now + 100 * SECOND;
    assert_eq!(floods(now, 12 + 6 - 1), 2);
    let want = Message {
        content: Content::Want {
            peer: service("b", "answer"),
            integrity: None,
        },
        ..end()
    };
    for message in [open.clone(), want] {
        b.0.borrow_mut().on_peer_message(0, message, now).unwrap();
    }
    assert_eq!(records(&host, "b", &flood), 3);
}

#[test]
fn an_open_without_an_accept_is_given_up() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let mut guest = Guest::start(&host, "a", &devices);
    guest.open(7, &host.identity("a", "ask"));
    guest.want(7, "question", service("b", "answer"), Role::Writer);
    let before = Instant::now();
    run_until(&devices, || {
        guest.serve();
        b.0.borrow().mediation.deadline().is_some()
    });
    let passed = a.0.borrow().mediation.deadline().unwrap();
    let (least, most) = (before + 50 * SECOND, Instant::now() + 50 * SECOND);
    assert!((least..=most).contains(&passed));
    a.at(passed - MOMENT);
    assert_eq!(a.0.borrow().mediation.deadline(), Some(passed));
    a.at(passed);
    assert_ne!(a.0.borrow().mediation.deadline(), Some(passed));
}

#[test]
fn a_guest_has_so_long_to_let_go() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let mut guests = ["a", "b"].map(|vm| Guest::start(&host, vm, &devices));
    guests[0].open(7, &host.identity("a", "ask"));
    guests[1].open(8, &host.identity("b", "answer"));
    guests[0].want(7, "question", service("b", "answer"), Role::Writer);
    guests[1].want(8, "question", service("a", "ask"), Role::Reader);
    run_until(&devices, || {
        guests.iter_mut().for_each(Guest::serve);
        !guests[0].session(7).opened.is_empty()
    });
    host.admin(
        "a",
        r#"{"command":"revoke","channel":"question"}"#,
        &devices,
    );
    let this = a.0.borrow();
    let since = this.control.sessions.longest_ending().unwrap();
    let late = since + Duration::from_millis(100);
    assert!(this.control.sessions.contained(late));
    assert!(!this.control.sessions.contained(late + MOMENT));
}

/// Root's sockets, which bear one request each.
const LINES: [(SocketDir, Door); 2] = [
    (SocketDir::Launch, Door::Launch),
    (SocketDir::Admin, Door::Admin),
];

#[test]
fn who_connects_and_says_nothing_is_left() {
    let host = Host::new();
    let b = host.start("b");
    for (place, door) in LINES {
        let mut silent = host.connect(place, "b");
        let now = later();
        b.ready(Source::Listener(door), now);
        b.at(now + 5 * SECOND - MOMENT);
        assert!(!closed(&mut silent), "{door:?}");
        b.at(now + 5 * SECOND);
        assert!(closed(&mut silent), "{door:?}");
    }
}

#[test]
fn root_connects_so_often_and_no_more() {
    let host = Host::new();
    let b = host.start("b");
    for (place, door) in LINES {
        let mut connections: Vec<_> = (0..9).map(|_| host.connect(place, "b")).collect();
        b.ready(Source::Listener(door), Instant::now());
        let last = connections.last_mut().unwrap();
        assert!(closed(last), "{door:?}");
        let others = connections.iter_mut().take(8);
        assert_eq!(others.filter_map(|c| closed(c).then_some(())).count(), 0);
    }
}

#[test]
fn a_request_has_so_many_bytes_and_no_more() {
    let host = Host::new();
    let b = host.start("b");
    for (place, bytes) in [(SocketDir::Launch, 8192), (SocketDir::Admin, 4_195_328)] {
        for (bytes, answered) in [(bytes - 1, true), (bytes, false)] {
            let mut connection = host.connect(place, "b");
            connection.set_nonblocking(true).unwrap();
            let line = [vec![b'x'; bytes], vec![b'\n']].concat();
            let (mut sent, mut heard, mut over) = (0, Vec::<u8>::new(), false);
            run_until(&[&b], || {
                if let Ok(more) = connection.write(&line[sent..]) {
                    sent += more;
                }
                let mut buffer = [0; 4096];
                match connection.read(&mut buffer) {
                    Ok(0) => over = true,
                    Ok(more) => heard.extend(&buffer[..more]),
                    Err(error) => over = error.kind() != std::io::ErrorKind::WouldBlock,
                }
                over
            });
            assert_eq!(!heard.is_empty(), answered, "{place:?} {bytes}");
        }
    }
}

#[test]
fn a_launch_waits_so_long_for_its_peers() {
    let host = Host::new();
    let a = host.start("a");
    let mut launch = host.connect(SocketDir::Launch, "a");
    writeln!(launch, r#"{{"version":1,"vmm":"qemu","program":"test"}}"#).unwrap();
    let now = later();
    a.ready(Source::Listener(Door::Launch), now);
    let id = a.0.borrow().last_connection;
    a.ready(Source::Launch(id), now);
    a.at(now + 30 * SECOND - MOMENT);
    assert!(!closed(&mut launch));
    a.at(now + 30 * SECOND);
    assert!(closed(&mut launch));
    assert_eq!(records(&host, "a", "not established within 30 s: b"), 1);
}

#[test]
fn a_reload_has_so_many_bytes_and_a_refusal_so_many_characters() {
    let host = Host::new();
    let a = host.start("a");
    let reload = |policy: &str, crl: &str| {
        let mut this = a.0.borrow_mut();
        match this.reload("test", policy, crl, Instant::now()).unwrap() {
            AdminAnswer::Reloaded(_) => None,
            AdminAnswer::Refused { reason } => Some(reason),
            other => panic!("{other:?}"),
        }
    };
    let crl = std::fs::read_to_string(host.paths.crl()).unwrap();
    let filled = |text: &str, to: usize| format!("{text}{}", "\n".repeat(to - text.len()));
    let most = 1_048_576;
    assert_eq!(reload(&filled(POLICY, most), &filled(&crl, most)), None);
    let too_long = "of more than 1048576 bytes needs a restart";
    let refused = reload(&filled(POLICY, most + 1), &crl).unwrap();
    assert_eq!(refused, format!("a policy {too_long}"));
    let refused = reload(POLICY, &filled(&crl, most + 1)).unwrap();
    assert_eq!(refused, format!("a revocation list {too_long}"));
    let wordy = format!("{POLICY}\n{} = 1", "x".repeat(10_000));
    assert_eq!(reload(&wordy, &crl).unwrap().chars().count(), 4096);
}
