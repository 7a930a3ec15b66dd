//! What the digest of an executable proves, and what not: which file the process executes, and nothing
//! about who drives it. The policy names the executable of the service of user 1003: a shell.

use std::ffi::CString;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, execve};

use crate::attempt::{as_result, attempt_as, ended, spawn};
use crate::report::{Got, attack};

use super::PINNED;
use super::memory::trace;

/// The executable that the policy names.
pub const NAMED: &str = "/bin/named";

/// The same shell with one byte more.
const ANOTHER: &str = "/bin/another";

/// A library that opens the device file in whatever program it is loaded into.
const PRELOADED: &str = "LD_PRELOAD=/lib/preloaded.so";

/// Opens the device file in the shell itself, says what is no TLS, and listens: a process whose facts
/// fit hears an alert, any other nothing. No descriptor of the session is closed before that.
const SCRIPT: &str = "exec 3<>/dev/sivshm && exec <&3 >&3
echo UUUUUUUUUUUUUUUU
read -r said
[ \"$said\" ]";

/// Tries everything.
pub fn run() {
    // These succeed: that is the bound of what the digest proves.
    let fit = Got::Success;
    let unfit = Got::Errno(Errno::EPERM);
    attack("script-of-the-named-interpreter", fit, script(NAMED), fit);
    attack(
        "script-of-another-interpreter",
        unfit,
        script(ANOTHER),
        script(NAMED),
    );
    attack(
        "preload-into-the-named-executable",
        fit,
        preload(NAMED),
        fit,
    );
    attack(
        "preload-into-another-executable",
        unfit,
        preload(ANOTHER),
        preload(NAMED),
    );
    attack("ptrace-of-the-named-executable", fit, traced(NAMED), fit);
    attack(
        "ptrace-of-another-executable",
        unfit,
        traced(ANOTHER),
        traced(NAMED),
    );
}

/// Whether a script that a shell interprets has the facts of the service.
pub fn script(shell: &str) -> Got {
    attempt_as(PINNED, || exec(shell, &["-c", SCRIPT], &[]))
}

/// The same of a library in the shell.
fn preload(shell: &str) -> Got {
    attempt_as(PINNED, || exec(shell, &["-c", ":"], &[PRELOADED]))
}

/// Executes a program that exits with 0 or an errno.
fn exec(program: &str, arguments: &[&str], environment: &[&str]) -> nix::Result<()> {
    let text = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
    let program = text(program)?;
    let arguments = arguments.iter().map(|argument| text(argument));
    let arguments: Vec<_> = [Ok(program.clone())]
        .into_iter()
        .chain(arguments)
        .collect::<Result<_, _>>()?;
    let environment: Vec<_> = environment
        .iter()
        .map(|setting| text(setting))
        .collect::<Result<_, _>>()?;
    execve(&program, &arguments, &environment).map(|_| ())
}

/// Whether system calls that a debugger of the same user makes a program do have the facts of the
/// service.
fn traced(program: &str) -> Got {
    attempt_as(PINNED, || {
        let child = spawn(|| {
            trace(libc::PTRACE_TRACEME, Pid::from_raw(0), 0, 0)?;
            exec(program, &["-c", ":"], &[])
        })?;
        let outcome = puppet(child);
        // It can't have ended: it is stopped.
        let _ = kill(child, Signal::SIGKILL);
        ended(child);
        outcome
    })
}

/// Bytes of `syscall`, in the order of memory.
const SYSCALL: u64 = 0x050f;

fn puppet(child: Pid) -> nix::Result<()> {
    stopped(child)?;
    let regs = registers(child)?;
    let poke = |at: u64, word: u64| {
        let number = |number| usize::try_from(number).map_err(|_| Errno::EFAULT);
        trace(libc::PTRACE_POKEDATA, child, number(at)?, number(word)?)
    };
    poke(regs.rip, SYSCALL)?;
    // Below the stack, and the red zone.
    let place = (regs.rsp - 256) & !7;
    let path = *b"/dev/sivshm\0\0\0\0\0";
    for (at, word) in (place..).step_by(8).zip(path.as_chunks().0) {
        poke(at, u64::from_le_bytes(*word))?;
    }
    let call = |number: i64, arguments: [u64; 3]| {
        let mut asked = regs;
        asked.rax = number.cast_unsigned();
        // No system call was interrupted that would be restarted.
        asked.orig_rax = u64::MAX;
        [asked.rdi, asked.rsi, asked.rdx] = arguments;
        trace(libc::PTRACE_SETREGS, child, 0, (&raw const asked) as usize)?;
        trace(libc::PTRACE_SINGLESTEP, child, 0, 0)?;
        stopped(child)?;
        let result = registers(child)?.rax.cast_signed();
        match i32::try_from(-result) {
            Ok(errno @ 1..4096) => Err(Errno::from_raw(errno)),
            _ => Ok(result.cast_unsigned()),
        }
    };
    let file = call(libc::SYS_open, [place, libc::O_RDWR as u64, 0])?;
    // A session that takes no more has nothing to say either.
    let _ = call(libc::SYS_write, [file, place, path.len() as u64]);
    match call(libc::SYS_read, [file, place, 8])? {
        0 => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

fn registers(child: Pid) -> nix::Result<libc::user_regs_struct> {
    // SAFETY: all of its fields are integers.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, child, 0, (&raw mut regs) as usize)?;
    Ok(regs)
}

fn stopped(child: Pid) -> nix::Result<()> {
    match waitpid(child, None)? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(()),
        other => as_result(match other {
            WaitStatus::Exited(_, code) => Got::Errno(Errno::from_raw(code)),
            _ => Got::Errno(Errno::ECHILD),
        }),
    }
}
