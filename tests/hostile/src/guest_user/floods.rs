//! Taking so much that others get none.

use std::io::{Read as _, Write as _, stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sivshm_abi::limits::SESSION_CREDIT_BYTES;

use crate::attempt::{attempt_as, become_user, ended, errno_of, spawn, store};
use crate::device::Session;
use crate::report::{Got, attack, event};

use super::{NEIGHBOUR, Options, RO, RW, SERVICE, STRANGER, Scene, scene};

/// More sessions than a VM has places for.
const TOO_MANY: usize = 1000;

/// How often a neighbour opens its channel beside a flood.
const RESTARTS: usize = 16;

/// How often a service may be restarted without being a flood itself.
const RESTART_INTERVAL: Duration = Duration::from_millis(250);

/// Time after which a service that has flooded is let in again: that of some tokens of its bucket.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);

/// Bytes that are no TLS, as many as may be under way.
const GARBAGE: [u8; SESSION_CREDIT_BYTES] = [0x55; SESSION_CREDIT_BYTES];

/// How often the service stores and rings.
const WORK_INTERVAL: Duration = Duration::from_millis(1);

pub fn run(options: Options) {
    let writes = || scene(|s| s.map(&s.writable()?, RW).map(|m| store(m.start, 1)));
    let before = writes();
    let got = attempt_as(STRANGER, || {
        let mut held = Vec::new();
        for _ in 0..TOO_MANY {
            held.push(Session::open()?);
        }
        Ok(())
    });
    attack("hold-all-sessions", Got::Errno(Errno::EUSERS), got, before);

    let got = beside_a_hoarder(writes);
    attack("open-beside-a-hoarder", Got::Success, got, before);

    match Flood::new() {
        Ok(flood) => flooded(&flood, options, before),
        Err(errno) => attack(
            "session-during-a-flood",
            Got::Success,
            Got::Errno(errno),
            before,
        ),
    }
    std::thread::sleep(FORGIVEN_AFTER);
    attack("open-after-a-flood", Got::Success, writes(), before);
}

/// The time of a flood, as all of its processes see it.
struct Flood(EventFd);

impl Flood {
    fn new() -> nix::Result<Self> {
        EventFd::new().map(Self)
    }

    fn goes_on(&self) -> bool {
        !readable(&self.0, PollTimeout::ZERO)
    }

    fn end(&self) -> nix::Result<()> {
        self.0.write(1).map(drop)
    }
}

fn readable(file: impl AsFd, within: PollTimeout) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, within).is_ok_and(|ready| ready > 0)
}

/// Floods, and has others work meanwhile.
fn flooded(flood: &Flood, options: Options, before: Got) {
    let service = holding(flood);
    // A stranger opens and closes, holds what it can get, and writes; so does a process of the service.
    let floods = [
        as_user(STRANGER, flood, pour),
        as_user(SERVICE, flood, pour),
        as_user(STRANGER, flood, || Session::open().map(drop)),
        as_user(STRANGER, flood, || {
            let held: Vec<_> = (0..TOO_MANY).map_while(|_| Session::open().ok()).collect();
            drop(held);
            Ok(())
        }),
    ];
    event("flood-started");
    if options.neighbour {
        let got = attempt_as(NEIGHBOUR, neighbour);
        attack("open-during-a-flood", Got::Success, got, before);
    }
    // Until somebody says that it is enough.
    let at_most = Duration::from_secs(options.flood);
    readable(
        stdin(),
        PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX),
    );
    let end = flood.end();
    for flood in floods {
        flood.map_or_else(Got::Errno, ended);
    }
    let service = Got::from(end).and(service.map_or_else(Got::Errno, ended));
    attack("session-during-a-flood", Got::Success, service, before);
    event("flood-ended");
}

/// Writes into a session until that takes no more.
fn pour() -> nix::Result<()> {
    let session = Session::open()?;
    loop {
        (&session.0).write_all(&GARBAGE).map_err(errno_of)?;
    }
}

/// What `body` gets while a stranger holds every session that it can have.
fn beside_a_hoarder(body: impl FnOnce() -> Got) -> Got {
    let hoarder = spawn(|| {
        become_user(STRANGER)?;
        let _held: Vec<_> = (0..TOO_MANY).map_while(|_| Session::open().ok()).collect();
        raise(Signal::SIGSTOP)
    });
    let hoarder = match hoarder {
        Ok(hoarder) => hoarder,
        Err(errno) => return Got::Errno(errno),
    };
    let got = match waitpid(hoarder, Some(WaitPidFlag::WUNTRACED)) {
        Ok(WaitStatus::Stopped(..)) => body(),
        _ => Got::Absent,
    };
    // It can't have ended: nobody else continues it.
    let _ = kill(hoarder, Signal::SIGKILL);
    ended(hoarder);
    got
}

/// Repeats `body` as a user, whatever it gets.
fn as_user(uid: u32, flood: &Flood, body: impl Fn() -> nix::Result<()>) -> nix::Result<Pid> {
    spawn(move || {
        become_user(uid)?;
        while flood.goes_on() {
            // Refusals are the other attempts' matter.
            let _ = body();
        }
        Ok(())
    })
}

/// Opens a channel now and then, as a service does that is restarted.
fn neighbour() -> nix::Result<()> {
    for _ in 0..RESTARTS {
        let s = Scene::open_with(1)?;
        s.map(s.granted.first().ok_or(Errno::ENODATA)?, RO)?.touch();
        drop(s);
        std::thread::sleep(RESTART_INTERVAL);
    }
    Ok(())
}

/// A session of the service that works on, and has to keep its grants. Has them when this returns.
fn holding(flood: &Flood) -> nix::Result<Pid> {
    let (mut ours, mut theirs) = UnixStream::pair().map_err(errno_of)?;
    let child = spawn(|| {
        become_user(SERVICE)?;
        let s = Scene::open()?;
        let (m, line) = (s.map(&s.writable()?, RW)?, s.line()?);
        theirs.write_all(&[0]).map_err(errno_of)?;
        while flood.goes_on() {
            store(m.start, 1);
            s.session.notify(line.grant.id.0)?;
            std::thread::sleep(WORK_INTERVAL);
        }
        Ok(())
    })?;
    // Else a service that failed would leave this end waiting; how it failed is what it ends with.
    drop(theirs);
    let _ = ours.read_exact(&mut [0]);
    Ok(child)
}
