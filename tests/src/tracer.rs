//! A process that is killed at a step that the test chooses: just before one of its system calls.

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// System calls by which a process does what others can see: it says or takes something, or makes or
/// ends what it shares with them. Others can't tell where between two of them a process was killed.
const SEEN_BY_OTHERS: &[(libc::c_long, &str)] = &[
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_preadv2, "preadv2"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_shutdown, "shutdown"),
    (libc::SYS_close, "close"),
    (libc::SYS_mmap, "mmap"),
    (libc::SYS_munmap, "munmap"),
];

/// From when on steps count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// Now.
    Now,
    /// The first call of this name after the process has executed so many more programs.
    Call(&'static str, usize),
}

/// The kill that awaits a process.
#[derive(Debug)]
pub struct Death(JoinHandle<nix::Result<Option<&'static str>>>);

impl Death {
    /// Has a process, which has one thread so far, killed just before the `step`-th system call that
    /// others can see, of its first thread or a later one. Steps count from 1.
    ///
    /// # Errors
    /// If the process may not be traced.
    pub fn at(process: Pid, since: Since, step: usize) -> Result<Self> {
        let (sender, seized) = channel();
        // Only the thread that seized may trace; and this one has no child that it could wait for.
        let thread = std::thread::spawn(move || trace(process, since, step, &sender));
        let death = Self(thread);
        match seized.recv() {
            Ok(()) => Ok(death),
            Err(_) => match death.before() {
                Ok(_) => bail!("process {process} ended before it was traced"),
                Err(error) => Err(error),
            },
        }
    }

    /// The call that was not made any more; none if the process has ended without this.
    ///
    /// # Errors
    /// If the process could not be traced; it was killed then.
    pub fn before(self) -> Result<Option<&'static str>> {
        match self.0.join() {
            Ok(outcome) => outcome.context("can't trace"),
            Err(_) => bail!("a tracer panicked"),
        }
    }
}

/// Follows a process until it is to die. However this returns, the kernel kills what is left of it.
fn trace(
    process: Pid,
    mut since: Since,
    mut step: usize,
    seized: &Sender<()>,
) -> nix::Result<Option<&'static str>> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(process, options)?;
    // Who has stopped once can be told to stop at system calls.
    ptrace::interrupt(process)?;
    loop {
        let (stopped, signal) = match next_stop() {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Some(call) = about_to_call(thread)? {
                    if since == Since::Call(call, 0) {
                        since = Since::Now;
                    }
                    if since == Since::Now {
                        step = step.saturating_sub(1);
                    }
                    if step == 0 {
                        unless_killed(kill(process, Signal::SIGKILL))?;
                        return Ok(Some(call));
                    }
                }
                (thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, _, event)) => {
                if let (libc::PTRACE_EVENT_EXEC, Since::Call(_, execs)) = (event, &mut since) {
                    *execs = execs.saturating_sub(1);
                }
                (thread, None)
            }
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(_) => continue,
            Err(Errno::ECHILD) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        unless_killed(ptrace::syscall(stopped, signal))?;
        // Who has heard it before does not listen any more.
        let _heard = seized.send(());
    }
}

/// Waits until a tracee of this thread stops or ends.
fn next_stop() -> nix::Result<WaitStatus> {
    waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD))
}

/// The call that a stopped thread is about to make, if others can see it.
fn about_to_call(thread: Pid) -> nix::Result<Option<&'static str>> {
    let stop = unless_killed(ptrace::syscall_info(thread))?;
    if stop.is_none_or(|stop| stop.op != libc::PTRACE_SYSCALL_INFO_ENTRY) {
        return Ok(None);
    }
    let registers = unless_killed(ptrace::getregs(thread))?;
    let mut seen = SEEN_BY_OTHERS.iter();
    Ok(registers.and_then(|registers| {
        let is_it = |number: libc::c_long| number.cast_unsigned() == registers.orig_rax;
        seen.find_map(|(number, call)| is_it(*number).then_some(*call))
    }))
}

/// A stopped thread can be killed by others at any time.
fn unless_killed<T>(outcome: nix::Result<T>) -> nix::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A shell that becomes `command` when it is told a line. It executes one program more than
/// `command` alone.
#[must_use]
pub fn once_told(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"read -r _ && exec "$@""#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}
