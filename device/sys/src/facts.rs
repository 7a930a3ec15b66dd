//! What a descriptor really refers to, whatever its sender says (DESIGN section 8).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::memfd::{Ownership, Seals, seals_of};

/// Most bytes of an `fdinfo` file that are read; an eventfd's has about 130.
const FDINFO_BYTES: usize = 512;

/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// Facts about a received descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectFacts {
    /// A memory file in ordinary (not huge-page) memory.
    Memory(MemoryFacts),
    /// An eventfd.
    Doorbell(DoorbellFacts),
    /// Anything else; drop it.
    Other,
}

/// Facts about a memory file. Device and inode name it while any descriptor to it is open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryFacts {
    /// Device of its file system.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Size.
    pub bytes: u64,
    /// Seals.
    pub seals: Seals,
    /// Whether this descriptor is open for reading only.
    pub read_only: bool,
    /// Owner, group and permission bits.
    pub ownership: Ownership,
}

/// Facts about an eventfd.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DoorbellFacts {
    /// The kernel's number of it, unique while it exists.
    pub id: u64,
    /// Whether reads take one instead of all.
    pub semaphore: bool,
    /// Whether it is non-blocking now.
    pub nonblocking: bool,
}

/// The process's own `/proc/self/fdinfo`, opened while `/proc` is still there.
#[derive(Debug)]
pub struct FdInfo(OwnedFd);

impl FdInfo {
    /// Opens the directory.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn open() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open("/proc/self/fdinfo", flags, Mode::empty())?))
    }

    /// Reads the entry of one of the process's descriptors.
    fn entry(&self, of: impl AsFd) -> io::Result<String> {
        let name = of.as_fd().as_raw_fd().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.0, name.as_str(), flags, Mode::empty())?;
        let mut bytes = [0; FDINFO_BYTES];
        let len = nix::unistd::read(&file, &mut bytes)?;
        let text = bytes.get(..len).unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(io::Error::other)
    }
}

impl AsFd for FdInfo {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ObjectFacts {
    /// Looks at a descriptor.
    ///
    /// # Errors
    /// The host does not say what it is; treat it as [`ObjectFacts::Other`] and drop it.
    pub fn of(descriptor: impl AsFd, fdinfo: &FdInfo) -> io::Result<Self> {
        let stat = fstat(&descriptor)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG if fstatfs(&descriptor)?.filesystem_type() == TMPFS_MAGIC => {
                let access = fcntl(&descriptor, FcntlArg::F_GETFL)? & libc::O_ACCMODE;
                Ok(Self::Memory(MemoryFacts {
                    device: stat.st_dev,
                    inode: stat.st_ino,
                    bytes: u64::try_from(stat.st_size).map_err(io::Error::other)?,
                    seals: seals_of(&descriptor)?,
                    read_only: access == libc::O_RDONLY,
                    ownership: Ownership {
                        uid: stat.st_uid,
                        gid: stat.st_gid,
                        mode: stat.st_mode & PERMISSIONS,
                    },
                }))
            }
            // Anonymous inodes (eventfd, epoll, timerfd, ...) have no file type at all.
            0 => Ok(doorbell(&fdinfo.entry(&descriptor)?).map_or(Self::Other, Self::Doorbell)),
            _ => Ok(Self::Other),
        }
    }
}

/// Reads an `fdinfo` entry; none if it is not an eventfd's.
fn doorbell(entry: &str) -> Option<DoorbellFacts> {
    let field = |name: &str| {
        entry
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let flags = i32::from_str_radix(field("flags")?, 8).ok()?;
    Some(DoorbellFacts {
        id: field("eventfd-id")?.parse().ok()?,
        semaphore: field("eventfd-semaphore")? != "0",
        nonblocking: flags & libc::O_NONBLOCK != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eventfd, memfd};
    use nix::sys::eventfd::{EfdFlags, EventFd};

    #[test]
    fn doorbells_are_told_apart() {
        let fdinfo = FdInfo::open().unwrap();
        let (a, b) = (eventfd::create().unwrap(), eventfd::create().unwrap());
        let ObjectFacts::Doorbell(first) = ObjectFacts::of(&a, &fdinfo).unwrap() else {
            panic!("not recognised")
        };
        assert!(first.nonblocking && !first.semaphore);
        let again = ObjectFacts::of(a.try_clone().unwrap(), &fdinfo).unwrap();
        assert_eq!(again, ObjectFacts::Doorbell(first));
        assert_ne!(ObjectFacts::of(&b, &fdinfo).unwrap(), again);
    }

    #[test]
    fn flags_of_a_doorbell_are_seen() {
        let fdinfo = FdInfo::open().unwrap();
        let odd = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE).unwrap();
        let ObjectFacts::Doorbell(facts) = ObjectFacts::of(&odd, &fdinfo).unwrap() else {
            panic!("not recognised")
        };
        assert!(facts.semaphore && !facts.nonblocking);
    }

    #[test]
    fn a_memory_file_is_described() {
        let ownership = Ownership {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mode: 0o664,
        };
        let file = memfd::create(c"test", 4096, ownership).unwrap();
        let reader = memfd::reopen_read_only(&file).unwrap();
        let fdinfo = FdInfo::open().unwrap();
        let facts = [&file, &reader].map(|fd| match ObjectFacts::of(fd, &fdinfo).unwrap() {
            ObjectFacts::Memory(facts) => facts,
            other => panic!("{other:?}"),
        });
        assert!(!facts[0].read_only && facts[1].read_only);
        assert_eq!(
            (facts[0].device, facts[0].inode),
            (facts[1].device, facts[1].inode)
        );
        assert_eq!((facts[1].bytes, facts[1].ownership), (4096, ownership));
        assert!(facts[1].seals.contains(Seals::FIXED));
    }

    #[test]
    fn other_objects_are_other() {
        let fdinfo = FdInfo::open().unwrap();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(
            ObjectFacts::of(&reader, &fdinfo).unwrap(),
            ObjectFacts::Other
        );
        let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty());
        let facts = ObjectFacts::of(epoll.unwrap().0, &fdinfo).unwrap();
        assert_eq!(facts, ObjectFacts::Other);
    }
}
