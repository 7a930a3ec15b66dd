//! A device process that is a fixture: real sockets, memory files, eventfds, and the host's side of
//! the control rings.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getegid, geteuid};
use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::directory::{DirectoryHead, SliceId, WindowEntry};
use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, Reason, SessionId};
use sivshm_abi::grant::{
    Access, Generation, Grant, GrantId, GrantPeer, Kind, Part, RingId, Vector,
};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::limits::{MAX_DATA_BYTES, SESSION_CREDIT_BYTES};
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_abi::wire::Writer;
use sivshm_handshake::service::wire::{Pairing, Role};
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_ring::line::ReaderLine;
use sivshm_ring::region;
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd::{Ownership, create};
use sivshm_sys::{eventfd, scm};

use super::mediator::{Deed, Mediator, Planned, number};
use crate::attached::Attached;
use crate::backend::Backend;
use crate::tests::{Ca, service};
use crate::{Identity, Session};

/// Bytes of each of the two windows.
const WINDOW: u64 = 256 * 1024;
/// Where the readers' acknowledgement lines are in either, the first reader's last.
pub(super) const LINES: u64 = WINDOW - 4096;
/// Bytes of a channel: two lines are left out.
pub(super) const RANGE: u64 = WINDOW - 2 * 4096;
/// The same, as sizes of views.
pub(super) const LINES_AT: usize = 252 * 1024;
pub(super) const RANGE_BYTES: usize = 248 * 1024;
const _: () = assert!(LINES_AT as u64 == LINES && RANGE_BYTES as u64 == RANGE);
/// Long enough for a loaded machine; nothing here takes it but a failure.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
const UID: u32 = 1000;

/// The library's service.
pub(super) fn mapper() -> SpiffeId {
    service("manager", "mapper")
}

/// A peer's.
pub(super) fn reducer(vm: &str) -> SpiffeId {
    service(vm, "reducer")
}

/// The channel that the library writes: in window 0, its lines in window 1.
pub(super) fn job() -> ChannelName {
    ChannelName::new("job").unwrap()
}

/// The channel that the library reads: in window 1, its line in window 0.
pub(super) fn result() -> ChannelName {
    ChannelName::new("result").unwrap()
}

/// The device process of `manager`, and behind it the peers' VMs.
pub(super) struct Host {
    rings: ControlRings,
    session: SessionId,
    pub(super) mediator: Mediator,
    /// Bytes for the library, and what it takes of them now.
    unsent: VecDeque<u8>,
    credit: usize,
    /// Rung by the library for the device process.
    kick: OwnedFd,
    /// Rung by the library for the peers.
    pub(super) peer: OwnedFd,
    /// Own vectors of the library: control and peer.
    pub(super) vectors: [OwnedFd; 2],
    pub(super) port: UnixStream,
    pub(super) windows: [Shared; 2],
    grants: u32,
    live: Vec<Grant>,
    pub(super) epochs: BTreeMap<ChannelName, u64>,
    /// Changes grants before they are sent.
    pub(super) forge: fn(&mut Grant),
    /// Slots whose pages the library has reported gone.
    pub(super) revoked: Vec<GrantId>,
    pub(super) closed: Option<Reason>,
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

/// Channels `job` to and `result` from `worker-1/reducer`, which wants both.
pub(super) fn start(kind: Kind) -> (Host, Session) {
    start_over(kind, |attached| Box::new(attached))
}

/// The same, over what is made of the attachment.
pub(super) fn start_over(kind: Kind, over: impl Over) -> (Host, Session) {
    let (mut host, session) = start_with(mapper(), over);
    host.plan(job(), kind, mapper(), &["worker-1"]);
    let result_channel = Planned {
        kind,
        writer: reducer("worker-1"),
        readers: vec![mapper()],
    };
    host.mediator.plan.insert(result(), result_channel);
    let peer = host.mediator.peer("worker-1");
    peer.want(job(), Role::Reader, mapper());
    peer.want(result(), Role::Writer, mapper());
    (host, session)
}

/// What a session's backend is made of an attachment by.
pub(super) trait Over: FnOnce(Attached) -> Box<dyn Backend> + Send {}

impl<F: FnOnce(Attached) -> Box<dyn Backend> + Send> Over for F {}

/// A device process, and a session of a service of which it has heard.
pub(super) fn start_as(id: SpiffeId) -> (Host, Session) {
    start_with(id, |attached| Box::new(attached))
}

fn start_with(id: SpiffeId, over: impl Over) -> (Host, Session) {
    let mut ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let [svid, key, bundle] = ca.issue(id).write(folder.path(), "own");
    let identity = Identity::load(&svid, &key, &bundle).unwrap();
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
        let session = scope.spawn(|| {
            let attached = Attached::open(&text).unwrap();
            Session::start(&identity, over(attached)).unwrap()
        });
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
        mediator: Mediator::new(&mut ca, mapper()),
        unsent: VecDeque::new(),
        credit: SESSION_CREDIT_BYTES,
        kick,
        peer,
        vectors: [first, second],
        port,
        windows: windows.try_into().unwrap(),
        grants: 0,
        live: Vec::new(),
        epochs: BTreeMap::new(),
        forge: |_| {},
        revoked: Vec::new(),
        closed: None,
    };
    (host, session)
}

impl Host {
    pub(super) fn plan(
        &mut self,
        channel: ChannelName,
        kind: Kind,
        writer: SpiffeId,
        readers: &[&str],
    ) {
        let planned = Planned {
            kind,
            writer,
            readers: readers.iter().map(|vm| reducer(vm)).collect(),
        };
        self.mediator.plan.insert(channel, planned);
    }

    pub(super) fn send(&mut self, payload: &Payload) {
        self.rings.send(self.session, payload).unwrap();
        eventfd::ring(&self.vectors[0]).unwrap();
    }

    /// Serves the library and the peers while `call` runs in a thread of its own.
    pub(super) fn during<T: Send>(&mut self, call: impl FnOnce() -> T + Send) -> T {
        let done = eventfd::create().unwrap();
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| {
                let outcome = call();
                eventfd::ring(&done).unwrap();
                outcome
            });
            // A call that panics rings nobody.
            while !calling.is_finished() && eventfd::drain(&done).unwrap() == 0 {
                self.turn();
                self.rest(&done);
            }
            calling.join().unwrap()
        })
    }

    /// Serves them until something has come about.
    pub(super) fn serve_until(&mut self, come: impl Fn(&mut Self) -> bool) {
        let (never, deadline) = (eventfd::create().unwrap(), Instant::now() + LIMIT);
        self.turn();
        while !come(self) {
            assert!(Instant::now() < deadline, "it does not come about");
            self.rest(&never);
            self.turn();
        }
    }

    /// Sleeps until the library has something to say, a peer has rested, or `done` is rung.
    fn rest(&self, done: &OwnedFd) {
        let deadlines = (self.mediator.peers.iter()).filter_map(|peer| peer.deadline());
        let left = (deadlines.min())
            .map_or(LIMIT, |at| at.saturating_duration_since(Instant::now()))
            .min(Duration::from_secs(1));
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap();
        let mut fds = [&self.kick, done].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, timeout).unwrap();
        eventfd::drain(&self.kick).unwrap();
    }

    /// Does everything that there is to do.
    fn turn(&mut self) {
        let mut space = [0; LONGEST_PAYLOAD_BYTES];
        let mut deeds = self.mediator.settle();
        while let Some((session, payload)) = self.rings.receive(&mut space).unwrap() {
            assert_eq!(session, self.session);
            match payload {
                Payload::Data(bytes) => {
                    let credit = bytes.len().try_into().unwrap();
                    deeds.extend(self.mediator.hear(bytes));
                    deeds.extend(self.mediator.settle());
                    self.send(&Payload::Ring { credit });
                }
                Payload::Ring { credit } => self.credit += credit as usize,
                Payload::Revoked { grant, .. } => self.revoked.push(grant),
                Payload::Close(reason) => self.closed = Some(reason),
                payload => panic!("{payload:?} from the library"),
            }
        }
        // Grants come before the news of them, and revocations, too.
        for deed in deeds {
            match deed {
                Deed::Install(agreement) => {
                    self.epochs.insert(agreement.channel(), agreement.epoch());
                    self.grant(agreement.channel(), agreement.reader(), agreement.epoch());
                }
                Deed::Remove(pairing, reason) => self.remove(pairing, reason),
            }
        }
        self.unsent.extend(self.mediator.session.outgoing());
        while self.credit > 0 && !self.unsent.is_empty() {
            let count = self.credit.min(MAX_DATA_BYTES).min(self.unsent.len());
            let bytes: Vec<_> = self.unsent.drain(..count).collect();
            self.credit -= count;
            self.send(&Payload::Data(&bytes));
        }
    }

    /// Ends a channel with its first reader, for everybody.
    pub(super) fn end(&mut self, channel: ChannelName, reason: Reason) {
        let reader = self.mediator.plan[&channel].readers[0];
        if let Some(Deed::Remove(pairing, reason)) =
            self.mediator.end(Pairing { channel, reader }, reason)
        {
            self.remove(pairing, reason);
        }
        self.turn();
    }

    /// Grants what the library has of a pairing, unless it has it.
    pub(super) fn grant(&mut self, channel: ChannelName, reader: SpiffeId, epoch: u64) {
        let planned = self.mediator.plan[&channel].clone();
        let writes = planned.writer == mapper();
        let number = number(&planned, reader).unwrap();
        let Subject::Service(vm, _) = (if writes { reader } else { planned.writer }).subject else {
            panic!("a device process has no channel");
        };
        let peer = Some(GrantPeer {
            vm,
            ring: RingId(2),
            vector: Vector(1),
        });
        let access = |writable| {
            if writable {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            }
        };
        let base = Grant {
            id: GrantId(0),
            generation: Generation(0),
            channel,
            kind: planned.kind,
            part: Part::Data,
            readers: planned.readers.len().try_into().unwrap(),
            access: access(writes),
            window: u16::from(!writes),
            offset: 0,
            length: RANGE,
            epoch,
            expiry: 0,
            peer: peer.filter(|_| !writes),
        };
        let line = Grant {
            part: Part::Ack(number),
            access: access(!writes),
            window: u16::from(writes),
            offset: LINES - u64::from(number) * 4096,
            length: 4096,
            peer,
            ..base
        };
        for grant in [base, line] {
            let has = |live: &Grant| live.channel == channel && live.part == grant.part;
            if self.live.iter().any(has) {
                continue;
            }
            self.grants += 1;
            let mut grant = Grant {
                id: GrantId(self.grants),
                generation: Generation(self.grants.into()),
                ..grant
            };
            self.live.push(grant);
            (self.forge)(&mut grant);
            self.send(&Payload::Grant(grant));
        }
    }

    /// Takes back what the library has of a pairing: the data with the last line only.
    fn remove(&mut self, pairing: Pairing, reason: Reason) {
        let line =
            Part::Ack(number(&self.mediator.plan[&pairing.channel], pairing.reader).unwrap());
        let of_channel = |live: &Grant| live.channel == pairing.channel;
        let lines = (self.live.iter())
            .filter(|live| of_channel(live) && live.part != Part::Data && live.part != line);
        let last = lines.count() == 0;
        let gone: Vec<_> = (self.live)
            .extract_if(.., |live| {
                of_channel(live) && (live.part == line || (last && live.part == Part::Data))
            })
            .collect();
        for Grant { id, generation, .. } in gone {
            self.send(&Payload::Revoke {
                grant: id,
                generation,
                reason,
            });
        }
    }

    /// A channel's range and its first line.
    pub(super) fn views(&self, channel: ChannelName) -> (Shared, Shared) {
        let [ours, theirs] = self.windows;
        let (range, line) = if channel == job() {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        let line = line.sub(LINES_AT, 4096).unwrap();
        (range.sub(0, RANGE_BYTES).unwrap(), line)
    }

    /// The peer's end of `job`.
    pub(super) fn job_reader(&self) -> region::Reader {
        let (range, line) = self.views(job());
        region::Reader::join(range, line, self.epochs[&job()]).unwrap()
    }

    /// The peer's end of `result`.
    pub(super) fn result_writer(&self) -> region::Writer<[ReaderLine; 1]> {
        let (range, line) = self.views(result());
        let epoch = self.epochs[&result()];
        let line = ReaderLine::new(line, epoch).unwrap();
        region::Writer::start(range, [line], epoch).unwrap()
    }
}

/// Waits for a doorbell and takes its count.
pub(super) fn rung(doorbell: &OwnedFd) -> bool {
    let timeout = PollTimeout::try_from(LIMIT).unwrap();
    let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap() > 0 && eventfd::drain(doorbell).unwrap() > 0
}
