//! A session's descriptor in a process that did not open it.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::attempt::{as_result, attempt_as, ended, errno_of, spawn};
use crate::device::{adopt, map};
use crate::report::{Got, attack};

use super::{PAGE, RO, SERVICE, scene};

/// Has another process map a page at `offset` of the file.
type Way = fn(&File, i64) -> nix::Result<()>;

/// This program, as an ordinary file that anybody may map.
const ORDINARY: &str = "/proc/self/exe";

/// Uses the file as a stream.
type Use = fn(&File) -> nix::Result<()>;

const USES: &[(&str, Use, Errno)] = &[
    ("read-by-a-child", read_now, Errno::EACCES),
    ("write-by-a-child", write_now, Errno::EACCES),
    ("poll-by-a-child", poll_now, Errno::EIO),
];

const WAYS: &[(&str, Way)] = &[
    ("descriptor-inherited-by-fork", inherited),
    ("descriptor-stolen-by-pidfd", stolen),
    ("descriptor-passed-by-rights", passed),
    ("descriptor-kept-over-exec", kept),
];

pub fn run() {
    for (name, way) in WAYS {
        let ordinary = attempt_as(SERVICE, || {
            way(&File::open(ORDINARY).map_err(|_| Errno::ENOENT)?, 0)
        });
        let got = scene(|s| way(&s.session.0, s.read_only()?.offset(0)));
        attack(name, Got::Errno(Errno::EACCES), got, ordinary);
    }
    for (name, use_it, wanted) in USES {
        let own = scene(|s| use_it(&s.session.0));
        let got = scene(|s| as_result(ended(spawn(|| use_it(&s.session.0))?)));
        attack(name, Got::Errno(*wanted), got, own);
    }
}

fn read_now(mut file: &File) -> nix::Result<()> {
    // SAFETY: F_SETFL takes an integer.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    match file.read(&mut [0; 8]).map_err(errno_of) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn write_now(mut file: &File) -> nix::Result<()> {
    file.write(b"not a record").map(drop).map_err(errno_of)
}

/// `EIO` stands for `POLLERR`.
fn poll_now(file: &File) -> nix::Result<()> {
    let mut fds = [PollFd::new(
        file.as_fd(),
        PollFlags::POLLIN | PollFlags::POLLOUT,
    )];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds[0].revents() {
        Some(came) if came.contains(PollFlags::POLLERR) => Err(Errno::EIO),
        _ => Ok(()),
    }
}

fn inherited(file: &File, offset: i64) -> nix::Result<()> {
    as_result(ended(spawn(|| {
        map(file.as_fd(), offset, PAGE, RO).map(drop)
    })?))
}

fn stolen(file: &File, offset: i64) -> nix::Result<()> {
    let (owner, number) = (Pid::this(), file.as_raw_fd());
    as_result(ended(spawn(|| {
        // The inherited copy goes first, so that only the stolen one is left.
        // SAFETY: nothing in this child uses the descriptor again.
        Errno::result(unsafe { libc::close(number) })?;
        // SAFETY: pidfd_open takes two integers.
        let pidfd =
            Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, owner.as_raw(), 0) })?;
        // SAFETY: pidfd_getfd takes three integers.
        let stolen =
            Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
        let stolen: OwnedFd = adopt(i32::try_from(stolen).map_err(|_| Errno::EBADF)?);
        map(stolen.as_fd(), offset, PAGE, RO).map(drop)
    })?))
}

fn passed(file: &File, offset: i64) -> nix::Result<()> {
    let (ours, theirs) = UnixStream::pair().map_err(|_| Errno::EMFILE)?;
    let child = spawn(|| {
        let file = crate::rights::receive(&theirs)?;
        map(file.as_fd(), offset, PAGE, RO).map(drop)
    })?;
    crate::rights::send(&ours, file.as_fd())?;
    as_result(ended(child))
}

fn kept(file: &File, offset: i64) -> nix::Result<()> {
    let number = file.as_raw_fd();
    // SAFETY: F_SETFD takes an integer.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    let words = [
        "hostile",
        "map-descriptor",
        &number.to_string(),
        &offset.to_string(),
    ]
    .map(|word| CString::new(word).unwrap_or_default());
    nix::unistd::execv(c"/proc/self/exe", &words).map(|_| ())
}

/// What `descriptor-kept-over-exec` executes.
pub fn map_descriptor(number: i32, offset: i64) -> Got {
    let file = adopt(number);
    map(file.as_fd(), offset, PAGE, RO).map(drop).into()
}
