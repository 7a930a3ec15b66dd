//! One attempt, in a child process of its own, so that a signal ends the attempt and nothing else.

use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, Uid, fork, setgid, setuid};
use sivshm_abi::frame::Reason;
use sivshm_handshake::service::wire::RefusalReason;

use crate::device::Mapped;
use crate::report::Got;

/// Exit code of a child whose attempt worked; others are the errno that it got, or what follows.
const WORKED: i32 = 0;

/// Exit code of a child whose session was closed, less the number of the reason: above every errno.
const CLOSED: i32 = 160;

/// Exit code of a child whose channel was refused, less the number of the reason.
const REFUSED: i32 = 200;

/// Runs `body` in a child and says what it got.
pub fn attempt(body: impl FnOnce() -> nix::Result<()>) -> Got {
    spawn(body).map_or_else(Got::Errno, ended)
}

/// Has a child say what it gets as another user.
pub fn probe_as(uid: u32, body: impl FnOnce() -> Got) -> Got {
    spawn_probe_as(uid, body).map_or_else(Got::Errno, ended)
}

/// Starts a child that says what it gets as another user.
pub fn spawn_probe_as(uid: u32, body: impl FnOnce() -> Got) -> nix::Result<Pid> {
    fork_with(|| become_user(uid).map_or_else(Got::Errno, |()| body()))
}

/// Runs `body` in a child as another user.
pub fn attempt_as(uid: u32, body: impl FnOnce() -> nix::Result<()>) -> Got {
    attempt(|| {
        become_user(uid)?;
        body()
    })
}

/// Becomes another user, whose other processes may look at this one as at any of theirs: what they
/// don't get is not owed to this process's being undumpable.
pub fn become_user(uid: u32) -> nix::Result<()> {
    setgid(nix::unistd::Gid::from_raw(uid))?;
    setuid(Uid::from_raw(uid))?;
    nix::sys::prctl::set_dumpable(true)
}

/// Starts a child that runs `body` and exits with what it got.
pub fn spawn(body: impl FnOnce() -> nix::Result<()>) -> nix::Result<Pid> {
    fork_with(|| body().into())
}

fn fork_with(body: impl FnOnce() -> Got) -> nix::Result<Pid> {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = match body() {
                Got::Success => WORKED,
                Got::Errno(errno) => errno as i32,
                Got::Absent => Errno::ENOENT as i32,
                Got::Closed(reason) => CLOSED + i32::from(reason.code()),
                Got::Refused(reason) => REFUSED + i32::from(reason.code()),
                // No child says this of itself.
                Got::Signal(_) => Errno::EINTR as i32,
            };
            // SAFETY: ends the child without running the parent's exit handlers twice.
            unsafe { libc::_exit(code) }
        }
    }
}

/// How a child ended.
pub fn ended(child: Pid) -> Got {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, WORKED)) => Got::Success,
        Ok(WaitStatus::Exited(_, code)) => refused(code)
            .or_else(|| closed(code))
            .unwrap_or_else(|| Got::Errno(Errno::from_raw(code))),
        Ok(WaitStatus::Signaled(_, signal, _)) => Got::Signal(signal),
        Ok(_) => Got::Signal(Signal::SIGSTOP),
        Err(errno) => Got::Errno(errno),
    }
}

fn closed(code: i32) -> Option<Got> {
    let code = u16::try_from(code - CLOSED).ok()?;
    Reason::from_code(code).ok().map(Got::Closed)
}

fn refused(code: i32) -> Option<Got> {
    let code = u16::try_from(code - REFUSED).ok()?;
    RefusalReason::from_code(code).ok().map(Got::Refused)
}

/// What a child got, as what its parent gets: a signal ends the parent in the same way.
pub fn as_result(got: Got) -> nix::Result<()> {
    match got {
        Got::Success => Ok(()),
        Got::Errno(errno) => Err(errno),
        Got::Signal(signal) => nix::sys::signal::raise(signal),
        Got::Absent => Err(Errno::ENOENT),
        Got::Closed(_) | Got::Refused(_) => Err(Errno::EPROTO),
    }
}

/// The errno of a failed operation of the standard library.
pub fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Has the signals of a refused access end the process at once: the runtime's own handler for them
/// lets a signal pass that was raised.
pub fn take_signals_as_they_are() {
    for which in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this program.
        let _ = unsafe { signal(which, SigHandler::SigDfl) };
    }
}

/// Loads one byte; the signal of a refused access ends the process.
pub fn load(at: NonNull<u8>) -> u8 {
    // SAFETY: not sound by design: whether the address may be read is what is being tried. A fault
    // ends this child with a signal, which is the result.
    unsafe { at.read_volatile() }
}

/// Stores one byte; as [`load`].
pub fn store(at: NonNull<u8>, value: u8) {
    // SAFETY: as in `load`.
    unsafe { at.write_volatile(value) };
}

/// Stores eight bytes in a mapping; as [`load`].
pub fn store_u64(to: &Mapped, at: usize, value: u64) {
    assert!(at.is_multiple_of(8) && at + 8 <= to.length);
    // SAFETY: as in `load`; the place is aligned, because mappings are, and within the mapping.
    unsafe { to.start.add(at).cast::<u64>().write_volatile(value) };
}
