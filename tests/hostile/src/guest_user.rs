//! A hostile process in a guest, as the user of a service: it holds that service's grants and wants
//! more.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::attempt::{attempt, attempt_as, ended, load, spawn, store};
use crate::device::{Granted, Mapped, Session, adopt, find, map, map_flags};
use crate::report::{Got, attack};

const PAGE: usize = 4096;
const RO: i32 = libc::PROT_READ;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The user that no service of this VM matches.
const STRANGER: u32 = 1001;

/// The user that services run as.
const SERVICE: u32 = 1000;

/// Grants that a reducer holds: data and acknowledgement line of two channels.
const GRANTS: usize = 4;

/// A session that holds its service's grants.
struct Scene {
    session: Session,
    granted: Vec<Granted>,
}

impl Scene {
    fn open() -> nix::Result<Self> {
        let session = Session::open()?;
        let granted = session.wait_grants(GRANTS)?;
        if granted.len() < GRANTS {
            Err(Errno::ENODATA)
        } else {
            Ok(Self { session, granted })
        }
    }

    /// The channel that this service reads.
    fn read_only(&self) -> nix::Result<Granted> {
        find(&self.granted, true, false).ok_or(Errno::ENODATA)
    }

    /// The channel that this service writes.
    fn writable(&self) -> nix::Result<Granted> {
        find(&self.granted, true, true).ok_or(Errno::ENODATA)
    }

    fn map(&self, granted: &Granted, prot: i32) -> nix::Result<Mapped> {
        map(self.session.0.as_fd(), granted.offset(0), PAGE, prot)
    }
}

/// Runs `body` with a fresh session of the service, in a child.
fn scene(body: impl FnOnce(Scene) -> nix::Result<()>) -> Got {
    attempt_as(SERVICE, || body(Scene::open()?))
}

/// Runs `body` as a stranger, with the offset of a grant that the service holds meanwhile.
fn beside_the_service(body: impl FnOnce(i64) -> nix::Result<()>) -> Got {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else {
        return Got::Errno(Errno::EMFILE);
    };
    let service = spawn(|| {
        nix::unistd::setgid(SERVICE.into())?;
        nix::unistd::setuid(SERVICE.into())?;
        let s = Scene::open()?;
        let offset = s.writable()?.offset(0).to_le_bytes();
        theirs.write_all(&offset).map_err(errno_of)?;
        // Held until the other end closes.
        theirs.read(&mut [0]).map(drop).map_err(errno_of)
    });
    let mut offset = [0; 8];
    let got = match ours.read_exact(&mut offset) {
        Ok(()) => attempt_as(STRANGER, || body(i64::from_le_bytes(offset))),
        Err(error) => Got::Errno(errno_of(error)),
    };
    // Not only closed: the child holds a copy.
    let _ = ours.shutdown(std::net::Shutdown::Both);
    if let Ok(service) = service {
        ended(service);
    }
    got
}

/// Tries everything.
pub fn run() {
    let mapped = scene(|s| s.map(&s.writable()?, RW).map(|m| store(m.start, 1)));
    mapping(mapped);
    stores(mapped);
    lifetime(mapped);
    descriptors(mapped);
    memory(mapped);
    rings();
    flood(mapped);
}

fn mapping(mapped: Got) {
    let got = scene(|s| {
        let mut none = s.writable()?;
        none.slot = (0..u32::MAX)
            .find(|slot| s.granted.iter().all(|g| g.slot != *slot))
            .unwrap_or(0);
        s.map(&none, RO).map(drop)
    });
    attack("mmap-without-grant", Got::Errno(Errno::EACCES), got, mapped);

    let got = scene(|s| {
        let ack = find(&s.granted, false, true).ok_or(Errno::ENODATA)?;
        map(s.session.0.as_fd(), ack.offset(0), 2 * PAGE, RW).map(drop)
    });
    attack("mmap-beyond-grant", Got::Errno(Errno::EACCES), got, mapped);

    let got = scene(|s| {
        let slot = s.writable()?;
        let child = spawn(move || {
            let own = Session::open()?;
            own.wait_grants(1)?;
            map(own.0.as_fd(), slot.offset(0), PAGE, RO).map(drop)
        })?;
        as_result(ended(child))
    });
    attack(
        "mmap-of-another-session",
        Got::Errno(Errno::EACCES),
        got,
        mapped,
    );

    let got = beside_the_service(|offset| {
        let own = Session::open()?;
        own.wait_grants(1)?;
        map(own.0.as_fd(), offset, PAGE, RO).map(drop)
    });
    attack("mmap-as-a-stranger", Got::Errno(Errno::EACCES), got, mapped);

    let got = scene(|s| s.map(&s.writable()?, RW | libc::PROT_EXEC).map(drop));
    attack("mmap-executable", Got::Errno(Errno::EACCES), got, mapped);

    let got = scene(|s| {
        let slot = s.writable()?;
        map_flags(
            s.session.0.as_fd(),
            slot.offset(0),
            PAGE,
            RW,
            libc::MAP_PRIVATE,
        )
        .map(drop)
    });
    attack("mmap-private", Got::Errno(Errno::EINVAL), got, mapped);
}

fn stores(mapped: Got) {
    let read = scene(|s| {
        let _ = load(s.map(&s.read_only()?, RO)?.start);
        Ok(())
    });
    let got = scene(|s| s.map(&s.read_only()?, RW).map(drop));
    attack(
        "mmap-read-only-for-writing",
        Got::Errno(Errno::EACCES),
        got,
        mapped,
    );

    let got = scene(|s| s.map(&s.read_only()?, RO).map(|m| store(m.start, 1)));
    attack(
        "store-through-read-only",
        Got::Signal(Signal::SIGSEGV),
        got,
        mapped,
    );

    let protect = |m: &Mapped, prot| {
        // SAFETY: changes only the protection of pages that `m` owns.
        Errno::result(unsafe { libc::mprotect(m.start.as_ptr().cast(), m.length, prot) }).map(drop)
    };
    let allowed = scene(|s| protect(&s.map(&s.writable()?, RO)?, RW));
    let got = scene(|s| protect(&s.map(&s.read_only()?, RO)?, RW));
    attack(
        "mprotect-read-only-to-write",
        Got::Errno(Errno::EACCES),
        got,
        allowed,
    );
    let got = scene(|s| protect(&s.map(&s.writable()?, RW)?, RO | libc::PROT_EXEC));
    attack(
        "mprotect-to-execute",
        Got::Errno(Errno::EACCES),
        got,
        allowed,
    );

    let remap = |m: &Mapped, length, flags| {
        // SAFETY: on success the old range of `m` is gone and its drop unmaps nothing of ours.
        let moved = unsafe { libc::mremap(m.start.as_ptr().cast(), m.length, length, flags) };
        if moved == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(())
        }
    };
    let got = scene(|s| remap(&s.map(&s.read_only()?, RO)?, 2 * PAGE, libc::MREMAP_MAYMOVE));
    attack("mremap-grow", Got::Errno(Errno::EFAULT), got, read);
    let got = scene(|s| {
        let m = s.map(&s.read_only()?, RO)?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice, to be replaced.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                RO,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: `place` is the page mapped a line above, which nothing uses.
        let moved = unsafe { libc::mremap(m.start.as_ptr().cast(), PAGE, PAGE, flags, place) };
        if moved == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(())
        }
    });
    attack("mremap-move", Got::Errno(Errno::EINVAL), got, read);
}

fn lifetime(mapped: Got) {
    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        drop(s);
        load(m.start);
        Ok(())
    });
    attack("use-after-close", Got::Signal(Signal::SIGBUS), got, mapped);

    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        let at = m.start;
        as_result(ended(spawn(move || {
            load(at);
            Ok(())
        })?))?;
        Ok(())
    });
    attack(
        "mapping-inherited-by-fork",
        Got::Signal(Signal::SIGSEGV),
        got,
        mapped,
    );
}

fn descriptors(mapped: Got) {
    let wanted = Got::Errno(Errno::EACCES);
    let got = scene(|s| {
        let slot = s.writable()?;
        let file = s.session.0.try_clone().map_err(|_| Errno::EMFILE)?;
        as_result(ended(spawn(move || {
            map(file.as_fd(), slot.offset(0), PAGE, RO).map(drop)
        })?))
    });
    attack("descriptor-inherited-by-fork", wanted, got, mapped);

    let got = scene(|s| {
        let slot = s.writable()?;
        let number = s.session.0.as_raw_fd();
        let owner = Pid::this();
        as_result(ended(spawn(move || {
            // SAFETY: pidfd_open takes two integers.
            let pidfd =
                Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, owner.as_raw(), 0) })?;
            // SAFETY: pidfd_getfd takes three integers.
            let stolen =
                Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
            let stolen: OwnedFd = adopt(i32::try_from(stolen).map_err(|_| Errno::EBADF)?);
            map(stolen.as_fd(), slot.offset(0), PAGE, RO).map(drop)
        })?))
    });
    attack("descriptor-stolen-by-pidfd", wanted, got, mapped);

    let got = scene(|s| {
        let slot = s.writable()?;
        let (ours, theirs) = UnixStream::pair().map_err(|_| Errno::EMFILE)?;
        let child = spawn(move || {
            let file = crate::rights::receive(&theirs)?;
            map(file.as_fd(), slot.offset(0), PAGE, RO).map(drop)
        })?;
        crate::rights::send(&ours, s.session.0.as_fd())?;
        as_result(ended(child))
    });
    attack("descriptor-passed-by-rights", wanted, got, mapped);

    let got = scene(|s| {
        let slot = s.writable()?;
        let number = s.session.0.as_raw_fd();
        // SAFETY: F_SETFD takes an integer.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
        let words = [
            "hostile",
            "map-descriptor",
            &number.to_string(),
            &slot.offset(0).to_string(),
        ]
        .map(|word| CString::new(word).unwrap_or_default());
        nix::unistd::execv(c"/proc/self/exe", &words).map(|_| ())
    });
    attack("descriptor-kept-over-exec", wanted, got, mapped);
}

/// What `descriptor-kept-over-exec` executes.
pub fn map_descriptor(number: i32, offset: i64) -> Got {
    let file = adopt(number);
    map(file.as_fd(), offset, PAGE, RO).map(drop).into()
}

fn memory(mapped: Got) {
    // The same operations on an ordinary page of the same process work.
    let ordinary = vec![1_u8; PAGE];
    let ordinary_at = ordinary.as_ptr() as usize;
    let from_mem = |at: usize| {
        let mut file = std::fs::File::open("/proc/self/mem").map_err(errno_of)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at as u64)).map_err(errno_of)?;
        file.read_exact(&mut [0; 8]).map_err(errno_of)
    };
    let granted = attempt(|| from_mem(ordinary_at));
    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        from_mem(m.start.as_ptr() as usize)
    });
    attack("proc-mem", Got::Errno(Errno::EIO), got, granted);

    let copy = |at: usize| {
        let mut space = [0_u8; 8];
        let remote = [nix::sys::uio::RemoteIoVec { base: at, len: 8 }];
        nix::sys::uio::process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut space)], &remote)
            .map(drop)
    };
    let granted = attempt(|| copy(ordinary_at));
    let got = scene(|s| copy(s.map(&s.writable()?, RW)?.start.as_ptr() as usize));
    attack("process-vm-readv", Got::Errno(Errno::EFAULT), got, granted);

    let write = |at: usize| {
        let remote = [nix::sys::uio::RemoteIoVec { base: at, len: 8 }];
        nix::sys::uio::process_vm_writev(Pid::this(), &[IoSlice::new(&[0; 8])], &remote).map(drop)
    };
    let granted = attempt(|| write(ordinary_at));
    let got = scene(|s| write(s.map(&s.writable()?, RW)?.start.as_ptr() as usize));
    attack("process-vm-writev", Got::Errno(Errno::EFAULT), got, granted);

    attack("core-dump", Got::Absent, core_dump(), mapped);
}

/// Whether a core file holds the window's bytes; it must hold those of an ordinary page.
///
/// The markers are stored in upper case and stand nowhere else in that form.
fn core_dump() -> Got {
    const WINDOW: &[u8] = b"sivshm-window-marker";
    const ORDINARY: &[u8] = b"sivshm-ordinary-page";
    let child = spawn(|| {
        nix::unistd::chdir("/tmp")?;
        nix::unistd::setgid(SERVICE.into())?;
        nix::unistd::setuid(SERVICE.into())?;
        // A change of user ends dumpability; this process wants to be dumped.
        nix::sys::prctl::set_dumpable(true)?;
        let s = Scene::open()?;
        let m = s.map(&s.writable()?, RW)?;
        for (at, byte) in (0..).zip(WINDOW) {
            // SAFETY: the marker is shorter than the mapped page.
            store(unsafe { m.start.add(at) }, byte.to_ascii_uppercase());
        }
        let ordinary = std::hint::black_box(ORDINARY.to_ascii_uppercase());
        nix::sys::signal::raise(Signal::SIGABRT)?;
        drop(ordinary);
        Ok(())
    });
    let ended = child.map_or_else(Got::Errno, ended);
    if ended != Got::Signal(Signal::SIGABRT) {
        return ended;
    }
    let core = std::fs::read("/tmp/core").unwrap_or_default();
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

fn rings() {
    let granted = scene(|s| {
        let ack = find(&s.granted, false, true).ok_or(Errno::ENODATA)?;
        s.session.notify(ack.grant.id.0)
    });
    let got = scene(|s| {
        let foreign = (1..)
            .find(|id| s.granted.iter().all(|g| g.grant.id.0 != *id))
            .unwrap_or(u32::MAX);
        s.session.notify(foreign)
    });
    attack(
        "notify-without-grant",
        Got::Errno(Errno::EACCES),
        got,
        granted,
    );
    let got = scene(|s| {
        let id = s.writable()?.grant.id.0;
        as_result(ended(spawn(move || {
            let own = Session::open()?;
            own.wait_grants(1)?;
            own.notify(id)
        })?))
    });
    attack(
        "notify-with-another-session's-grant",
        Got::Errno(Errno::EACCES),
        got,
        granted,
    );
}

/// Opens until refused, then shows that one more session works once the flood has ended.
fn flood(mapped: Got) {
    let got = attempt_as(STRANGER, || {
        let mut held = Vec::new();
        for _ in 0..10_000 {
            held.push(Session::open()?);
        }
        Ok(())
    });
    attack("flood-of-opens", Got::Errno(Errno::EBUSY), got, mapped);
    let after = scene(|s| s.map(&s.writable()?, RW).map(drop));
    attack("service-after-flood", Got::Success, after, mapped);
}

fn as_result(got: Got) -> nix::Result<()> {
    match got {
        Got::Success => Ok(()),
        Got::Errno(errno) => Err(errno),
        Got::Signal(signal) => nix::sys::signal::raise(signal),
        Got::Absent => Err(Errno::ENOENT),
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
