//! What one process of the host may do to another one.

use std::fs;
use std::io::IoSliceMut;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::attempt::{attempt, errno_of, spawn};
use crate::report::{Got, attack};

/// Bytes to copy out of another process; its forked child has them at the same address.
static MARK: [u8; 8] = *b"hostile!";

/// Something to do to a process, and what it has to get.
struct Operation {
    name: &'static str,
    run: fn(Pid) -> nix::Result<()>,
    wanted: Errno,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "trace",
        run: |process| {
            // SAFETY: seizing takes numbers only.
            let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, process.as_raw(), 0, 0) };
            Errno::result(seized).map(drop)
        },
        wanted: Errno::EPERM,
    },
    Operation {
        name: "copy-memory",
        run: |process| {
            let remote = [RemoteIoVec {
                base: (&raw const MARK).addr(),
                len: MARK.len(),
            }];
            let mut space = MARK;
            process_vm_readv(process, &mut [IoSliceMut::new(&mut space)], &remote).map(drop)
        },
        wanted: Errno::EPERM,
    },
    Operation {
        name: "open-memory",
        run: |process| {
            let open = fs::File::open(format!("/proc/{process}/mem"));
            open.map(drop).map_err(errno_of)
        },
        wanted: Errno::EACCES,
    },
    Operation {
        name: "list-descriptors",
        run: |process| {
            let listed = fs::read_dir(format!("/proc/{process}/fd"));
            listed.map(drop).map_err(errno_of)
        },
        wanted: Errno::EACCES,
    },
    Operation {
        name: "open-descriptor",
        run: |process| {
            let open = fs::File::open(format!("/proc/{process}/fd/0"));
            open.map(drop).map_err(errno_of)
        },
        wanted: Errno::EACCES,
    },
    Operation {
        name: "enter-root",
        run: |process| {
            let listed = fs::read_dir(format!("/proc/{process}/root/"));
            listed.map(drop).map_err(errno_of)
        },
        wanted: Errno::EACCES,
    },
    Operation {
        name: "take-descriptor",
        run: |process| {
            // SAFETY: takes two integers.
            let held = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
            let held = Errno::result(held)?;
            // SAFETY: takes three integers.
            let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, held, 1, 0) };
            Errno::result(taken).map(drop)
        },
        wanted: Errno::EPERM,
    },
    // Last, because where it works nothing else can be tried any more.
    Operation {
        name: "kill",
        run: |process| kill(process, Signal::SIGKILL),
        wanted: Errno::EPERM,
    },
];

/// Tries everything on a process, and on a child of our own to show that it works there.
pub fn run(target: &str, process: i32) {
    run_without(target, process, &[]);
}

/// As [`run`], leaving out what is no promise.
pub fn run_without(target: &str, process: i32, left_out: &[&str]) {
    let own = spawn(|| {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        nix::unistd::pause();
        Ok(())
    });
    let Ok(own) = own else { return };
    for operation in OPERATIONS {
        if left_out.contains(&operation.name) {
            continue;
        }
        let got = attempt(|| (operation.run)(Pid::from_raw(process)));
        let granted = attempt(|| (operation.run)(own));
        attack(
            &format!("{}-of-{target}", operation.name),
            Got::Errno(operation.wanted),
            got,
            granted,
        );
    }
    // Both fail only if it is gone already.
    let _ = kill(own, Signal::SIGKILL);
    let _ = waitpid(own, None);
}
