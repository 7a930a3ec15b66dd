//! Reading and writing mapped pages through the kernel, past the page tables.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::attempt::{attempt_as, become_user, ended, errno_of, spawn, store};
use crate::device::{Mapped, anonymous};
use crate::report::{Got, attack};

use super::{PAGE, RW, SERVICE, Scene, scene};

/// Does something to eight bytes of this process at an address.
type Way = fn(usize) -> nix::Result<()>;

const WAYS: &[(&str, Way, Errno)] = &[
    ("read-proc-mem", read_mem, Errno::EIO),
    ("write-proc-mem", write_mem, Errno::EIO),
    ("process-vm-readv", vm_read, Errno::EFAULT),
    ("process-vm-writev", vm_write, Errno::EFAULT),
];

pub fn run(writes: Got) {
    for (name, way, wanted) in WAYS {
        let ordinary = attempt_as(SERVICE, || way(present(&anonymous(PAGE)?)));
        let got = scene(|s| way(present(&s.map(&s.writable()?, RW)?)));
        attack(name, Got::Errno(*wanted), got, ordinary);
    }
    let ordinary = peek(|| Ok(((), anonymous(PAGE)?)));
    let got = peek(|| {
        let s = Scene::open()?;
        let m = s.map(&s.writable()?, RW)?;
        Ok((s, m))
    });
    attack("ptrace-peek", Got::Errno(Errno::EIO), got, ordinary);
    attack("core-dump", Got::Absent, core_dump(), writes);
}

/// The address of a page, which is in the page table from here on.
fn present(m: &Mapped) -> usize {
    store(m.start, 1);
    m.start.as_ptr() as usize
}

fn read_mem(at: usize) -> nix::Result<()> {
    let mut file = File::open("/proc/self/mem").map_err(errno_of)?;
    file.seek(SeekFrom::Start(at as u64)).map_err(errno_of)?;
    file.read_exact(&mut [0; 8]).map_err(errno_of)
}

fn write_mem(at: usize) -> nix::Result<()> {
    let file = OpenOptions::new().write(true).open("/proc/self/mem");
    let mut file = file.map_err(errno_of)?;
    file.seek(SeekFrom::Start(at as u64)).map_err(errno_of)?;
    file.write_all(&[0; 8]).map_err(errno_of)
}

fn vm_read(at: usize) -> nix::Result<()> {
    let mut space = [0_u8; 8];
    let remote = [RemoteIoVec { base: at, len: 8 }];
    process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut space)], &remote).map(drop)
}

fn vm_write(at: usize) -> nix::Result<()> {
    let remote = [RemoteIoVec { base: at, len: 8 }];
    process_vm_writev(Pid::this(), &[IoSlice::new(&[0; 8])], &remote).map(drop)
}

/// Reads a word of a process of the same user, which maps a page and stops, as a debugger does.
fn peek<T>(page: impl FnOnce() -> nix::Result<(T, Mapped)>) -> Got {
    attempt_as(SERVICE, || {
        let (mut ours, mut theirs) = UnixStream::pair().map_err(errno_of)?;
        let child = spawn(|| {
            let (_held, page) = page()?;
            theirs
                .write_all(&present(&page).to_le_bytes())
                .map_err(errno_of)?;
            raise(Signal::SIGSTOP)
        })?;
        // Else a child that failed would leave this end waiting.
        drop(theirs);
        let mut at = [0; size_of::<usize>()];
        let peeked = ours.read_exact(&mut at).map_err(errno_of).and_then(|()| {
            trace(libc::PTRACE_SEIZE, child, 0, 0)?;
            waitpid(child, Some(WaitPidFlag::WUNTRACED))?;
            let mut word = 0_u64;
            let to = (&raw mut word) as usize;
            trace(libc::PTRACE_PEEKDATA, child, usize::from_le_bytes(at), to)
        });
        kill(child, Signal::SIGKILL)?;
        ended(child);
        peeked
    })
}

pub(super) fn trace(request: libc::c_uint, child: Pid, at: usize, data: usize) -> nix::Result<()> {
    // SAFETY: of the requests used here PTRACE_PEEKDATA takes an address of this process, to which it
    // writes a word, and PTRACE_GETREGS and PTRACE_SETREGS one of registers: their callers give those
    // of a `u64` and of a `user_regs_struct`.
    let rc = unsafe { libc::syscall(libc::SYS_ptrace, request, child.as_raw(), at, data) };
    Errno::result(rc).map(drop)
}

/// Whether a core file holds the window's bytes; it must hold those of an ordinary page.
///
/// The markers are stored in upper case and stand nowhere else in that form.
fn core_dump() -> Got {
    const WINDOW: &[u8] = b"sivshm-window-marker";
    const ORDINARY: &[u8] = b"sivshm-ordinary-page";
    const CORE: &str = "/tmp/core";
    let child = spawn(|| {
        nix::unistd::chdir("/tmp")?;
        become_user(SERVICE)?;
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
        // Everything that can be dumped.
        std::fs::write("/proc/self/coredump_filter", "0xff").map_err(errno_of)?;
        let s = Scene::open()?;
        let m = s.map(&s.writable()?, RW)?;
        for (at, byte) in (0..).zip(WINDOW) {
            // SAFETY: the marker is shorter than the mapped page.
            store(unsafe { m.start.add(at) }, byte.to_ascii_uppercase());
        }
        let ordinary = std::hint::black_box(ORDINARY.to_ascii_uppercase());
        raise(Signal::SIGABRT)?;
        drop(ordinary);
        Ok(())
    });
    let ended = child.map_or_else(Got::Errno, ended);
    if ended != Got::Signal(Signal::SIGABRT) {
        return ended;
    }
    let core = std::fs::read(CORE).unwrap_or_default();
    // It would fill the guest's memory if there were many.
    let _ = std::fs::remove_file(CORE);
    let holds = |marker: &[u8]| {
        let marker = marker.to_ascii_uppercase();
        core.windows(marker.len()).any(|bytes| bytes == marker)
    };
    match (holds(ORDINARY), holds(WINDOW)) {
        (false, _) => Got::Errno(Errno::ENOENT),
        (true, true) => Got::Success,
        (true, false) => Got::Absent,
    }
}
