//! What a VMM may do with the descriptors of its slices, and with its control memory.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{fchown, ftruncate, getgid};

use super::port::Port;
use super::windows::Windows;
use crate::attempt::attempt;
use crate::device::map;
use crate::report::{Got, attack};

const PAGE: usize = 4096;
const PAGE_OFFSET: i64 = 4096;

/// Something to do with a memory file, and what it has to get.
struct Operation {
    name: &'static str,
    run: fn(BorrowedFd<'_>) -> nix::Result<()>,
    /// On a slice that this VM only reads.
    read_only: Errno,
    /// On a slice that this VM writes; nothing if that is what the slice is for.
    written: Option<Errno>,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "reopen-for-writing",
        run: |file| reopen(file, OFlag::O_RDWR).map(drop),
        read_only: Errno::EACCES,
        written: None,
    },
    Operation {
        name: "map-for-writing",
        run: |file| map(file, 0, PAGE, libc::PROT_READ | libc::PROT_WRITE).map(drop),
        read_only: Errno::EACCES,
        written: None,
    },
    Operation {
        name: "protect-for-writing",
        run: |file| {
            let mapped = map(file, 0, PAGE, libc::PROT_READ)?;
            let (start, access) = (mapped.start.as_ptr(), libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: changes only the protection of the page that `mapped` owns.
            Errno::result(unsafe { libc::mprotect(start.cast(), PAGE, access) }).map(drop)
        },
        read_only: Errno::EACCES,
        written: None,
    },
    Operation {
        name: "write",
        run: |file| nix::sys::uio::pwrite(file, b"x", 0).map(drop),
        read_only: Errno::EBADF,
        written: None,
    },
    Operation {
        name: "punch-hole",
        run: |file| {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(file, hole, 0, PAGE_OFFSET)
        },
        read_only: Errno::EBADF,
        written: None,
    },
    Operation {
        name: "grow",
        run: |file| ftruncate(file, fstat(file)?.st_size + PAGE_OFFSET),
        read_only: Errno::EINVAL,
        written: Some(Errno::EPERM),
    },
    Operation {
        name: "shrink",
        run: |file| ftruncate(file, fstat(file)?.st_size - PAGE_OFFSET),
        read_only: Errno::EINVAL,
        written: Some(Errno::EPERM),
    },
    Operation {
        name: "change-mode",
        run: |file| fchmod(file, Mode::from_bits_truncate(0o666)),
        read_only: Errno::EPERM,
        written: Some(Errno::EPERM),
    },
    Operation {
        name: "change-group",
        run: |file| fchown(file, None, Some(getgid())),
        read_only: Errno::EPERM,
        // It is the group's already; the owner alone may say so again.
        written: Some(Errno::EPERM),
    },
    Operation {
        name: "add-seal",
        run: |file| fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).map(drop),
        read_only: Errno::EPERM,
        written: Some(Errno::EPERM),
    },
    // Whoever opens a leased file for writing waits for its holder.
    Operation {
        name: "lease",
        run: |file| {
            let file = reopen(file, OFlag::O_RDONLY)?;
            // SAFETY: the command takes an integer.
            let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
            Errno::result(leased).map(drop)
        },
        read_only: Errno::EACCES,
        written: Some(Errno::EACCES),
    },
];

/// Tries everything on the slices of this VM.
pub fn run(windows: &Windows) -> nix::Result<()> {
    let (read_only, own) = (windows.read_only()?, windows.own()?);
    attack(
        "stray-descriptor",
        Got::Absent,
        stray(windows),
        Got::Success,
    );
    read_only_slice("read-only-slice", read_only, own);
    written_memory("own-slice", own);
    Ok(())
}

/// Tries everything on the control memory, which its VMM reads and writes.
pub fn control(port: &Port) {
    written_memory("control-memory", port.memory.as_fd());
}

/// Tries to get more out of a slice that is only to be read; `own` shows that each attempt works
/// where it is granted.
pub fn read_only_slice(object: &str, slice: BorrowedFd<'_>, own: BorrowedFd<'_>) {
    for operation in OPERATIONS {
        let run = operation.run;
        let granted = match operation.written {
            None => attempt(|| run(own)),
            Some(_) => on_scratch(run),
        };
        let got = attempt(|| run(slice));
        let wanted = Got::Errno(operation.read_only);
        attack(
            &format!("{object}-{}", operation.name),
            wanted,
            got,
            granted,
        );
    }
}

/// Tries to change what a memory file is that may be written.
pub fn written_memory(object: &str, memory: BorrowedFd<'_>) {
    for operation in OPERATIONS {
        let Some(wanted) = operation.written else {
            continue;
        };
        let got = attempt(|| (operation.run)(memory));
        let granted = on_scratch(operation.run);
        attack(
            &format!("{object}-{}", operation.name),
            Got::Errno(wanted),
            got,
            granted,
        );
    }
}

/// Tries to make an open file of one's own out of one that was given for writing by another VM.
pub fn reopen_for_writing(object: &str, memory: BorrowedFd<'_>, own: BorrowedFd<'_>) {
    let wanted = Got::Errno(Errno::EACCES);
    let reopened = |file| attempt(|| reopen(file, OFlag::O_RDWR).map(drop));
    let (got, granted) = (reopened(memory), reopened(own));
    attack(
        &format!("{object}-reopen-for-writing"),
        wanted,
        got,
        granted,
    );
}

fn reopen(file: BorrowedFd<'_>, access: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path.as_str(), access, Mode::empty())
}

/// Does the same on a memory file of this process's own.
fn on_scratch(run: fn(BorrowedFd<'_>) -> nix::Result<()>) -> Got {
    attempt(|| run(scratch()?.as_fd()))
}

fn scratch() -> nix::Result<OwnedFd> {
    let file = memfd_create(c"scratch", MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&file, 2 * PAGE_OFFSET)?;
    Ok(file)
}

/// Whether this process was given anything else than its slices, the connection that it was
/// launched by, and standard input, output and error.
fn stray(windows: &Windows) -> Got {
    let slices = windows.written.iter().chain(&windows.read);
    let mut known: Vec<i32> = slices.map(|slice| slice.as_raw_fd()).collect();
    known.extend([0, 1, 2]);
    let Ok(listed) = std::fs::read_dir("/proc/self/fd") else {
        return Got::Errno(Errno::EIO);
    };
    let mut sockets = 0;
    for entry in listed.flatten() {
        let number = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
        // The listing's own descriptor is closed by now and has no target.
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        if known.contains(&number) || target.starts_with("/proc/") {
            continue;
        }
        sockets += 1;
        if !target.starts_with("socket:") || sockets > 1 {
            return Got::Success;
        }
    }
    Got::Absent
}
