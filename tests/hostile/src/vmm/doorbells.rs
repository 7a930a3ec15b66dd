//! Doorbells: eventfds whose open file several parties share, so that each can change its flags and
//! its counter.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use clap::ValueEnum;

use super::chatter::Chatter;
use super::port::Port;
use crate::attempt::{attempt, spawn};
use crate::report::{Got, attack, event};

/// Lowest number of a call by the x32 convention.
const X32_CALLS: i64 = 0x4000_0000;

/// Largest count that an eventfd can be given.
const FULL: [u8; 8] = (u64::MAX - 1).to_ne_bytes();

/// Sessions asked for, each of which has the device process ring.
const QUESTIONS: u32 = 2000;

/// Tries to make a doorbell blocking under the filter that a VMM runs in.
pub fn filtered(port: &Port) {
    let Some(doorbell) = port.doorbells.first() else {
        return;
    };
    // The filter takes nothing else away: a file can be made non-blocking.
    let granted = attempt(|| {
        let (end, _other) = nix::unistd::pipe()?;
        fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if nonblocking(end.as_fd())? {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    });
    attack(
        "filtered-set-flags",
        Got::Absent,
        blocking_after(doorbell, || clear(doorbell)),
        granted,
    );
    attack(
        "filtered-fionbio",
        Got::Absent,
        blocking_after(doorbell, || {
            let off = 0_i32;
            // SAFETY: reads the integer that it is given, which outlives the call.
            let done = unsafe { libc::ioctl(doorbell.as_raw_fd(), libc::FIONBIO, &raw const off) };
            Errno::result(done).map(drop)
        }),
        granted,
    );
    attack(
        "filtered-x32-call",
        Got::Signal(Signal::SIGSYS),
        attempt(|| {
            let number = X32_CALLS | libc::SYS_fcntl;
            // SAFETY: takes three integers.
            let done = unsafe { libc::syscall(number, doorbell.as_raw_fd(), libc::F_SETFL, 0) };
            Errno::result(done).map(drop)
        }),
        granted,
    );
}

/// What happens to every doorbell, all the time.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Storm {
    /// It is rung and its count is taken at once: who is woken and reads it waits.
    Empty,
    /// Its count is as high as it gets: who rings it waits.
    Full,
    /// It becomes full and empty in turns.
    Changing,
}

/// Makes every doorbell blocking, for real, keeps it as `storm` says, and has the own device process
/// answer and ring meanwhile.
pub fn storm(port: &Port, storm: Storm) -> nix::Result<()> {
    for doorbell in &port.doorbells {
        clear(doorbell)?;
        if nonblocking(doorbell.as_fd())? {
            return Err(Errno::ENOTRECOVERABLE);
        }
        if matches!(storm, Storm::Full) {
            take(doorbell)?;
            nix::unistd::write(doorbell, &FULL)?;
        }
        if matches!(storm, Storm::Full | Storm::Changing) {
            loop_in_child(|| nix::unistd::write(doorbell, &FULL).map(drop))?;
        }
        if matches!(storm, Storm::Changing) {
            loop_in_child(|| nix::unistd::read(doorbell, &mut [0; 8]).map(drop))?;
        }
    }
    let mut chatter = Chatter::start(&port.memory)?;
    event("storming");
    for _ in 0..QUESTIONS {
        chatter.ask()?;
        if matches!(storm, Storm::Empty) {
            for doorbell in &port.doorbells {
                nix::unistd::write(doorbell, &1_u64.to_ne_bytes())?;
                take(doorbell)?;
            }
        }
        // The device process may look now.
        nix::sched::sched_yield()?;
    }
    event("asked");
    Ok(())
}

/// Takes the count, if there is one, without waiting.
fn take(doorbell: &OwnedFd) -> nix::Result<()> {
    let mut count = [0_u8; 8];
    let part = libc::iovec {
        iov_base: count.as_mut_ptr().cast(),
        iov_len: count.len(),
    };
    let (file, nowait) = (doorbell.as_raw_fd(), libc::RWF_NOWAIT);
    // SAFETY: `part` covers exactly `count`, which outlives the call.
    match Errno::result(unsafe { libc::preadv2(file, &raw const part, 1, -1, nowait) }) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn loop_in_child(body: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
    spawn(|| {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Processor time is not what this takes from others.
        // SAFETY: takes integers.
        Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) })?;
        loop {
            body()?;
        }
    })
    .map(drop)
}

fn clear(doorbell: &OwnedFd) -> nix::Result<()> {
    fcntl(doorbell, FcntlArg::F_SETFL(OFlag::empty())).map(drop)
}

fn nonblocking(file: BorrowedFd<'_>) -> nix::Result<bool> {
    let flags = fcntl(file, FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}

/// [`Got::Absent`] if `clear` seems to work and has no effect.
fn blocking_after(doorbell: &OwnedFd, clear: impl FnOnce() -> nix::Result<()>) -> Got {
    match clear().and_then(|()| nonblocking(doorbell.as_fd())) {
        Ok(true) => Got::Absent,
        Ok(false) => Got::Success,
        Err(errno) => Got::Errno(errno),
    }
}
