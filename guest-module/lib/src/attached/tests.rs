//! The library against a device process that is a fixture: real sockets, memory files, eventfds
//! and the host's side of the control rings.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getegid, geteuid};
use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::directory::{DirectoryHead, SliceId, WindowEntry};
use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, Reason, SessionId};
use sivshm_abi::grant::{
    Access, Generation, Grant, GrantId, GrantPeer, Integrity, Kind, Part, RingId, Vector,
};
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_abi::wire::Writer;
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_ring::line::ReaderLine;
use sivshm_ring::region;
use sivshm_ring::slots::{self, Geometry};
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd::{Ownership, create};
use sivshm_sys::{eventfd, scm};

use crate::{Error, Session, Wait};

/// Bytes of each of the two windows.
const WINDOW: u64 = 256 * 1024;
/// Where the acknowledgement lines are in either.
const LINES: u64 = WINDOW - 4096;
/// The same, as offsets into a view.
const LINES_AT: usize = 252 * 1024;
const _: () = assert!(LINES_AT as u64 == LINES);
/// Long enough for a loaded machine; nothing here takes it but a failure.
const LIMIT: Duration = Duration::from_secs(10);
const LIMIT_MS: u16 = 10_000;
const EPOCH: u64 = 77;
const UID: u32 = 1000;

/// What the fixture's VM shares with its one peer.
#[derive(Clone, Copy)]
enum Channel {
    /// `job`: window 0, written here.
    Job,
    /// `result`: window 1, written by the peer.
    Result,
}

/// A device process, and behind it the peer VM.
struct Host {
    rings: ControlRings,
    session: SessionId,
    /// Rung by the library for the device process.
    kick: OwnedFd,
    /// Rung by the library for the peer.
    peer: OwnedFd,
    /// Own vectors of the library: control and peer.
    vectors: [OwnedFd; 2],
    port: UnixStream,
    windows: [Shared; 2],
    grants: u32,
    /// Of the channels granted from now on.
    kind: Kind,
}

fn memory(bytes: u64) -> (OwnedFd, Shared) {
    let ownership = Ownership {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mode: 0o600,
    };
    let file = create(c"test", bytes, ownership).unwrap();
    let shared = Mapping::new(&file).unwrap().shared();
    (file, shared)
}

fn write_directory(control: Shared) {
    let head = DirectoryHead {
        vm: VmName::new("manager").unwrap(),
        instance: [7; 16],
        generation: 1,
        vectors: 2,
        windows: 2,
        max_sessions: 8,
        max_grants: 8,
    };
    let mut space = [0; DirectoryHead::BYTES + 2 * WindowEntry::BYTES];
    let mut to = Writer::new(&mut space);
    head.write(&mut to).unwrap();
    for (number, access) in [(0, Access::ReadWrite), (1, Access::ReadOnly)] {
        let line = WindowEntry {
            slice: SliceId(number),
            access,
            place: None,
            bytes: WINDOW,
            generation: Generation(1),
        };
        line.write(&mut to).unwrap();
    }
    control.copy_in(0, &space).unwrap();
}

fn say(port: &UnixStream, message: i64, right: Option<BorrowedFd<'_>>) {
    let rights: Vec<_> = right.into_iter().collect();
    assert_eq!(scm::send(port, &message.to_le_bytes(), &rights).unwrap(), 8);
}

/// A device process and a session that it has heard of, but not answered.
fn start() -> (Host, Session) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (control_file, control) = memory(CONTROL_BYTES);
    write_directory(control);
    let (files, windows): (Vec<_>, Vec<_>) = (0..2).map(|_| memory(WINDOW)).unzip();
    let [kick, peer, first, second] = [(); 4].map(|()| eventfd::create().unwrap());
    let text = format!(
        r#"{{"port":{path:?},"guest_uid":{UID},"windows":[
            {{"fd":{},"bytes":{WINDOW},"access":"read_write"}},
            {{"fd":{},"bytes":{WINDOW},"access":"read_only"}}]}}"#,
        files[0].as_raw_fd(),
        files[1].as_raw_fd(),
    );
    let mut rings = ControlRings::new(control, Side::Host).unwrap();
    let (port, session) = std::thread::scope(|scope| {
        let session = scope.spawn(|| Session::attach(&text).unwrap());
        let (port, _) = listener.accept().unwrap();
        say(&port, 0, None);
        say(&port, 1, None);
        say(&port, -1, Some(control_file.as_fd()));
        say(&port, 0, Some(kick.as_fd()));
        say(&port, 2, Some(peer.as_fd()));
        say(&port, 1, Some(first.as_fd()));
        say(&port, 1, Some(second.as_fd()));
        (port, session.join().unwrap())
    });
    let mut space = [0; LONGEST_PAYLOAD_BYTES];
    let hello = rings.receive(&mut space).unwrap().unwrap();
    assert!(matches!(
        hello,
        (SessionId(0), Payload::Hello { version: 1, .. })
    ));
    let (number, open) = rings.receive(&mut space).unwrap().unwrap();
    let Payload::Open(Facts {
        pid,
        uid,
        exe_sha256,
        ..
    }) = open
    else {
        panic!("{open:?} in place of OPEN");
    };
    assert_eq!((pid, uid), (std::process::id(), UID));
    assert!(exe_sha256.is_some());
    let host = Host {
        rings,
        session: number,
        kick,
        peer,
        vectors: [first, second],
        port,
        windows: windows.try_into().unwrap(),
        grants: 0,
        kind: Kind::Region,
    };
    (host, session)
}

impl Host {
    fn send(&mut self, payload: &Payload) {
        self.rings.send(self.session, payload).unwrap();
        eventfd::ring(&self.vectors[0]).unwrap();
    }

    /// The library's next frame.
    fn receive(&mut self) -> Payload<'static> {
        loop {
            let mut space = [0; LONGEST_PAYLOAD_BYTES];
            if let Some((session, payload)) = self.rings.receive(&mut space).unwrap() {
                assert_eq!(session, self.session);
                return payload.detached().unwrap();
            }
            assert!(rung(&self.kick), "the library says nothing");
        }
    }

    /// Grants the library's end of a channel.
    fn grant(&mut self, channel: Channel) {
        self.grant_in(channel, EPOCH);
    }

    /// Grants it for an epoch.
    fn grant_in(&mut self, channel: Channel, epoch: u64) {
        let peer = Some(GrantPeer {
            vm: VmName::new("worker-1").unwrap(),
            ring: RingId(2),
            vector: Vector(1),
        });
        let (name, writes) = match channel {
            Channel::Job => ("job", true),
            Channel::Result => ("result", false),
        };
        let base = Grant {
            id: GrantId(0),
            generation: Generation(u64::from(self.grants) + 1),
            channel: ChannelName::new(name).unwrap(),
            kind: self.kind,
            part: Part::Data,
            readers: 1,
            access: if writes {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            },
            window: u16::from(!writes),
            offset: 0,
            length: LINES,
            epoch,
            expiry: 0,
            peer: peer.filter(|_| !writes),
        };
        let line = Grant {
            part: Part::Ack(0),
            access: if writes {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            },
            window: u16::from(writes),
            offset: LINES,
            length: 4096,
            peer,
            ..base
        };
        for grant in [base, line] {
            self.grants += 1;
            let id = GrantId(self.grants);
            self.send(&Payload::Grant(Grant { id, ..grant }));
        }
    }

    /// The peer's end of `job`.
    fn job_reader(&self) -> region::Reader {
        let [ours, theirs] = self.windows;
        let (range, line) = (ours.sub(0, LINES_AT), theirs.sub(LINES_AT, 4096));
        region::Reader::join(range.unwrap(), line.unwrap(), EPOCH).unwrap()
    }

    /// The peer's end of `result`.
    fn result_writer(&self) -> region::Writer<[ReaderLine; 1]> {
        let [ours, theirs] = self.windows;
        let line = ReaderLine::new(ours.sub(LINES_AT, 4096).unwrap(), EPOCH).unwrap();
        region::Writer::start(theirs.sub(0, LINES_AT).unwrap(), [line], EPOCH).unwrap()
    }
}

/// Waits for a doorbell and takes its count.
fn rung(doorbell: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(LIMIT_MS)).unwrap() > 0
        && eventfd::drain(doorbell).unwrap() > 0
}

#[test]
fn a_message_goes_out_and_its_acknowledgement_comes_back() {
    let (mut host, session) = start();
    host.grant(Channel::Job);
    let mut writer = session
        .region_writer("job", Wait::Interrupt, LIMIT)
        .unwrap();
    assert_eq!(writer.capacity() as u64, LINES - 4096);
    let mut reader = host.job_reader();
    writer.write(b"hello", LIMIT).unwrap();
    assert_eq!(eventfd::drain(&host.peer).unwrap(), 0, "nobody slept");
    let message = reader.poll().unwrap().unwrap();
    let mut bytes = [0; 5];
    reader.copy_out(message, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");

    // The writer sleeps for the acknowledgement; the peer rings because it does.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| writer.wait_seen(LIMIT).unwrap());
        let waits = || {
            host.windows[0]
                .load_u64(sivshm_abi::channel::head::WAITING)
                .unwrap()
                != 0
        };
        while !waits() {
            std::thread::yield_now();
        }
        assert!(reader.acknowledge(message));
        eventfd::ring(&host.vectors[1]).unwrap();
        waiting.join().unwrap();
    });

    // The peer sleeps; the writer rings it.
    let slept = reader.sleeper().wait(
        0,
        || reader.poll().map_err(|fault| fault.to_string()),
        || {
            writer.write(b"again", LIMIT).unwrap();
            rung(&host.peer).then_some(()).ok_or("not rung".to_owned())
        },
    );
    assert_eq!(slept.unwrap().sequence, 2);
}

#[test]
fn a_reader_that_sleeps_is_woken_in_either_mode() {
    for wait in [Wait::Interrupt, Wait::Poll] {
        let (mut host, session) = start();
        host.grant(Channel::Result);
        let mut reader = session.region_reader("result", wait, LIMIT).unwrap();
        let mut writer = host.result_writer();
        let bytes = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut bytes = [0; 8];
                let length = reader.read(&mut bytes, LIMIT).unwrap();
                bytes[..length].to_vec()
            });
            writer.write(0, b"42").unwrap();
            writer.publish(2).unwrap();
            if writer.readers()[0].must_ring() {
                eventfd::ring(&host.vectors[1]).unwrap();
            }
            reading.join().unwrap()
        });
        assert_eq!(bytes, b"42");
        assert_eq!(writer.lagging(), Ok(None));
        let nothing = reader.wait(Duration::from_millis(20));
        assert!(matches!(nothing, Err(Error::Timeout(_))), "{nothing:?}");
    }
}

#[test]
fn a_peer_that_lies_is_named() {
    let (mut host, session) = start();
    host.grant(Channel::Result);
    let mut reader = session
        .region_reader("result", Wait::Interrupt, LIMIT)
        .unwrap();
    let mut writer = host.result_writer();
    host.windows[1]
        .store_u64(sivshm_abi::channel::head::LENGTH, 1)
        .unwrap();
    writer.publish(9).unwrap();
    let message = reader.wait(LIMIT).unwrap();
    reader.acknowledge(message).unwrap();
    host.windows[1]
        .store_u64(sivshm_abi::channel::head::SEQUENCE, 0)
        .unwrap();
    let lied = reader.wait(LIMIT);
    assert!(matches!(lied, Err(Error::Peer(_))), "{lied:?}");
}

#[test]
fn a_revoked_channel_ends_wherever_it_is_used_and_can_be_granted_again() {
    let (mut host, session) = start();
    host.grant(Channel::Job);
    let mut writer = session
        .region_writer("job", Wait::Interrupt, LIMIT)
        .unwrap();
    writer.publish(0).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| writer.wait_seen(LIMIT));
        for grant in [1, 2] {
            host.send(&Payload::Revoke {
                grant: GrantId(grant),
                generation: Generation(1),
                reason: Reason::Admin,
            });
            let revoked = Payload::Revoked {
                grant: GrantId(grant),
                generation: Generation(1),
            };
            assert_eq!(host.receive(), revoked);
        }
        let ended = waiting.join().unwrap();
        assert!(
            matches!(ended, Err(Error::Revoked(Some(Reason::Admin)))),
            "{ended:?}"
        );
    });
    assert!(matches!(writer.prepare(0, b"x"), Err(Error::Revoked(_))));
    assert!(matches!(writer.publish(1), Err(Error::Revoked(_))));
    drop(writer);
    host.grant_in(Channel::Job, EPOCH + 1);
    let mut writer = session
        .region_writer("job", Wait::Interrupt, LIMIT)
        .unwrap();
    writer.write(b"x", LIMIT).unwrap();
}

/// In either mode, and although the reader has seen numbers that the emptied page does not have.
#[test]
fn a_revoked_reader_blames_nobody() {
    for wait in [Wait::Interrupt, Wait::Poll] {
        let (mut host, session) = start();
        host.grant(Channel::Result);
        let mut reader = session.region_reader("result", wait, LIMIT).unwrap();
        let mut writer = host.result_writer();
        writer.publish(0).unwrap();
        let message = reader.wait(LIMIT).unwrap();
        reader.acknowledge(message).unwrap();
        let ended = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.wait(LIMIT));
            host.send(&Payload::Revoke {
                grant: GrantId(1),
                generation: Generation(1),
                reason: Reason::PeerGone,
            });
            waiting.join().unwrap()
        });
        assert!(
            matches!(ended, Err(Error::Revoked(Some(Reason::PeerGone)))),
            "{ended:?}"
        );
    }
}

#[test]
fn the_session_ends_when_the_last_end_is_dropped() {
    let (mut host, session) = start();
    host.grant(Channel::Job);
    let writer = session
        .region_writer("job", Wait::Interrupt, LIMIT)
        .unwrap();
    drop(session);
    assert_eq!(
        host.rings.receive(&mut [0; LONGEST_PAYLOAD_BYTES]),
        Ok(None)
    );
    drop(writer);
    assert_eq!(host.receive(), Payload::Close(Reason::Closed));
}

#[test]
fn a_process_that_no_service_matches_is_told_so() {
    let (mut host, session) = start();
    host.send(&Payload::Close(Reason::NoService));
    let ended = session.region_writer("job", Wait::Interrupt, LIMIT);
    assert!(
        matches!(ended, Err(Error::Ended(Some(Reason::NoService)))),
        "{ended:?}"
    );
}

#[test]
fn a_device_process_that_dies_ends_everything() {
    let (mut host, session) = start();
    host.grant(Channel::Result);
    let mut reader = session
        .region_reader("result", Wait::Interrupt, LIMIT)
        .unwrap();
    drop(host.port);
    let ended = reader.wait(LIMIT);
    assert!(
        matches!(ended, Err(Error::Revoked(Some(Reason::PeerGone)))),
        "{ended:?}"
    );
    let ended = session.region_reader("result", Wait::Interrupt, LIMIT);
    assert!(
        matches!(ended, Err(Error::Ended(Some(Reason::PeerGone)))),
        "{ended:?}"
    );
}

#[test]
fn a_channel_of_another_kind_or_name_is_refused() {
    let (mut host, session) = start();
    host.grant(Channel::Job);
    let other = session.producer("job", Wait::Interrupt, LIMIT);
    assert!(matches!(other, Err(Error::Kind("ring"))));
    let none = session.region_writer("result", Wait::Poll, Duration::from_millis(20));
    assert!(matches!(none, Err(Error::Timeout(_))));
    let bad = session.region_writer("No Name", Wait::Poll, LIMIT);
    assert!(matches!(bad, Err(Error::Name(_))));
}

/// Rings of four slots.
const SLOT_BYTES: u32 = 60_000;
const GEOMETRY: Geometry = Geometry {
    slot_bytes: SLOT_BYTES,
    overwrite: false,
    integrity: Integrity::None,
};

fn start_rings() -> (Host, Session) {
    let (mut host, session) = start();
    host.kind = Kind::Ring {
        slot_bytes: SLOT_BYTES,
        overwrite: false,
        integrity: Integrity::None,
    };
    host.grant(Channel::Job);
    host.grant(Channel::Result);
    (host, session)
}

#[test]
fn a_producer_waits_for_a_full_ring() {
    let (host, session) = start_rings();
    let mut producer = session.producer("job", Wait::Interrupt, LIMIT).unwrap();
    let [ours, theirs] = host.windows;
    let (range, line) = (ours.sub(0, LINES_AT), theirs.sub(LINES_AT, 4096));
    let (range, line) = (range.unwrap(), line.unwrap());
    let mut consumer = slots::Consumer::join(range, line, GEOMETRY, EPOCH).unwrap();
    for value in 0..4 {
        producer.send(&[value; 3], LIMIT).unwrap();
    }
    assert_eq!(producer.free().unwrap(), 0);
    assert!(!producer.stage(&[4; 3]).unwrap());
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| producer.send(&[4; 3], LIMIT).unwrap());
        let waits = || range.load_u64(sivshm_abi::channel::head::WAITING).unwrap() != 0;
        while !waits() {
            std::thread::yield_now();
        }
        let mut payload = [0; 3];
        assert!(consumer.receive(&mut payload).unwrap().is_some());
        assert!(consumer.acknowledge());
        eventfd::ring(&host.vectors[1]).unwrap();
        sending.join().unwrap();
    });
    let mut last = [0; 3];
    while consumer.receive(&mut last).unwrap().is_some() {}
    assert_eq!(last, [4; 3]);
}

#[test]
fn a_consumer_receives_in_order_and_gives_back() {
    let (host, session) = start_rings();
    let mut consumer = session.consumer("result", Wait::Interrupt, LIMIT).unwrap();
    let [ours, theirs] = host.windows;
    let line = ReaderLine::new(ours.sub(LINES_AT, 4096).unwrap(), EPOCH).unwrap();
    let range = theirs.sub(0, LINES_AT).unwrap();
    let mut producer = slots::Producer::start(range, GEOMETRY, [line], EPOCH).unwrap();
    for value in 0..4 {
        producer.stage(&[value]).unwrap();
    }
    producer.publish();
    let mut payload = [0; 1];
    for value in 0..4 {
        let received = consumer.receive(&mut payload, LIMIT).unwrap();
        assert_eq!((received.length, payload[0], received.lost), (1, value, 0));
    }
    assert_eq!(producer.free(), Ok(0));
    // A wait gives back what was received.
    let nothing = consumer.wait(Duration::from_millis(20));
    assert!(matches!(nothing, Err(Error::Timeout(_))), "{nothing:?}");
    assert_eq!(producer.free(), Ok(4));
}
