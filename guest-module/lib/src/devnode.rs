//! The guest's device file, `/dev/sivshm` (DESIGN section 10, `docs/device-file.md`).
#![expect(unsafe_code, reason = "ioctl with an argument has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Grant, GrantId};
use sivshm_abi::limits::GRANT_OFFSET_SHIFT;
use sivshm_abi::uapi::{self, SessionState};
use sivshm_abi::wire::{Malformed, NoSpace, Reader, Writer};

use crate::backend::{Awaited, Backend, Bell, Granted, Status};
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::mapping::Mapping;

/// Grants that a list has room for at first; a longer one is asked for again.
const FIRST_CAPACITY: usize = 64;

/// `WAIT`'s timeout that never comes.
const FOREVER: u32 = u32::MAX;

/// An open device file.
#[derive(Debug)]
pub(crate) struct DevNode {
    file: Arc<File>,
    /// Ends the control thread's sleep.
    woken: Doorbell,
}

impl DevNode {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let refused = |source: io::Error| Error::Open {
            place: path.display().to_string(),
            hint: match Errno::from_raw(source.raw_os_error().unwrap_or_default()) {
                Errno::ENOENT => "load the sivshm module in this guest",
                Errno::ENODEV => "the VM has no port: start it by `sivshm run`",
                Errno::EUSERS => "too many sessions are open: close one",
                Errno::EACCES => "ask this guest's administrator for access to the device file",
                _ => "see the cause",
            },
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(refused)?;
        let session = Self {
            file: Arc::new(file),
            woken: Doorbell::new().map_err(refused)?,
        };
        let mut version = [0; 4];
        ioctl(&session.file, READ, uapi::VERSION, &mut version)
            .map_err(|errno| refused(errno.into()))?;
        if u32::from_le_bytes(version) != uapi::UAPI_VERSION {
            return Err(Error::Open {
                place: path.display().to_string(),
                hint: "install module and library of the same version",
                source: io::ErrorKind::Unsupported.into(),
            });
        }
        Ok(session)
    }

    /// Asks for the list with room for `capacity` grants; gives how many there are, too.
    fn ask(&self, capacity: usize) -> Result<(Status, usize, Vec<u8>), Error> {
        let failed = Error::host("list this session's grants");
        let mut entries = vec![0; capacity * uapi::GRANT_INFO_BYTES];
        let mut argument = [0; uapi::LIST_BYTES];
        let address = entries.as_mut_ptr().expose_provenance();
        write_list(&mut argument, address, capacity).map_err(|error| failed(other(error)))?;
        // `entries` outlives the call, and the kernel fills at most `capacity` of its entries.
        ioctl(&self.file, READ | WRITE, uapi::LIST, &mut argument)
            .map_err(|errno| failed(errno.into()))?;
        let (status, count) = read_list(&argument).map_err(|error| failed(other(error)))?;
        Ok((status, count, entries))
    }
}

impl Backend for DevNode {
    fn status(&self) -> Result<Status, Error> {
        Ok(self.ask(0)?.0)
    }

    fn list(&self) -> Result<(Status, Vec<Granted>), Error> {
        let mut capacity = FIRST_CAPACITY;
        loop {
            let (status, count, entries) = self.ask(capacity)?;
            if count > capacity {
                capacity = count;
                continue;
            }
            let granted = entries
                .chunks_exact(uapi::GRANT_INFO_BYTES)
                .take(count)
                .map(read_granted)
                .collect::<Result<_, _>>();
            let granted = granted.map_err(|error| Error::host("list grants")(other(error)))?;
            return Ok((status, granted));
        }
    }

    fn read(&self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        match nix::unistd::read(&*self.file, to) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(Error::host("read from the device process")(errno)),
        }
    }

    fn write(&self, from: &[u8]) -> Result<usize, Error> {
        match nix::unistd::write(&*self.file, from) {
            Ok(count) => Ok(count),
            // That the session has closed is what the next read says.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ESHUTDOWN) => Ok(0),
            Err(errno) => Err(Error::host("write to the device process")(errno)),
        }
    }

    fn sleep(&self, awaited: Awaited) -> Result<(), Error> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN | PollFlags::POLLPRI, awaited.news);
        events.set(PollFlags::POLLOUT, awaited.room);
        let mut fds = [
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.file.as_fd(), events),
        ];
        let timeout = awaited.left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, so that the last sleep is not a busy loop.
            let millis = left.as_micros().div_ceil(1000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        // A file of which nothing is awaited any more would be reported as closed all the same.
        let count = if events.is_empty() { 1 } else { 2 };
        let (fds, _) = fds.split_at_mut(count);
        match poll(fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {
                self.woken.hush();
                Ok(())
            }
            Err(errno) => Err(Error::host("wait for the device process")(errno)),
        }
    }

    fn wake(&self) {
        // An own eventfd can always be rung.
        let _rung = self.woken.ring();
    }

    fn map(&self, granted: &Granted) -> Result<Mapping, Error> {
        let Granted { slot, grant } = granted;
        let offset = u64::from(*slot) << GRANT_OFFSET_SHIFT;
        Mapping::watched(&*self.file, offset, grant.length, grant.access)
            .map_err(Error::host("map a granted range"))
    }

    fn ring(&self, grant: GrantId) -> Result<(), Error> {
        let mut argument = grant.0.to_le_bytes();
        ioctl(&self.file, WRITE, uapi::NOTIFY, &mut argument).map_err(ended("ring the peer"))
    }

    fn bell(&self, grant: &Grant) -> Result<Box<dyn Bell>, Error> {
        Ok(Box::new(Vector {
            file: Arc::clone(&self.file),
            grant: grant.id,
            seen: 0,
        }))
    }
}

/// A peer's rings, as the module counts them.
#[derive(Debug)]
struct Vector {
    file: Arc<File>,
    grant: GrantId,
    seen: u64,
}

impl Bell for Vector {
    fn sleep(&mut self, left: Option<Duration>) -> Result<(), Error> {
        let timeout = left.map_or(FOREVER, |left| {
            // Rounded up, so that the last sleep is not a busy loop.
            u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(FOREVER - 1)
        });
        let [a, b, c, d] = self.grant.0.to_le_bytes();
        let [e, f, g, h] = timeout.to_le_bytes();
        let mut argument = [0; uapi::WAIT_BYTES];
        argument[..8].copy_from_slice(&[a, b, c, d, e, f, g, h]);
        argument[8..].copy_from_slice(&self.seen.to_le_bytes());
        match ioctl(&self.file, READ | WRITE, uapi::WAIT, &mut argument) {
            Ok(()) => {
                let [.., a, b, c, d, e, f, g, h] = argument;
                self.seen = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::ETIMEDOUT | Errno::EINTR) => Ok(()),
            Err(errno) => Err(ended("wait for the peer")(errno)),
        }
    }
}

/// The error of a call that names a grant.
fn ended(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| match errno {
        Errno::ENOENT | Errno::ESHUTDOWN => Error::Revoked(None),
        errno => Error::host(doing)(errno),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn write_list(
    argument: &mut [u8; uapi::LIST_BYTES],
    address: usize,
    capacity: usize,
) -> Result<(), NoSpace> {
    let mut to = Writer::new(argument);
    to.u64(u64::try_from(address).map_err(|_| NoSpace)?)?;
    to.u32(u32::try_from(capacity).map_err(|_| NoSpace)?)
}

fn read_list(argument: &[u8; uapi::LIST_BYTES]) -> Result<(Status, usize), Malformed> {
    let mut from = Reader::new(argument);
    from.bytes(12, "list.request")?;
    let count = from.u32("list.count")?;
    let state = SessionState::from_code(from.u32("list.state")?);
    let reason = match from.u32("list.reason")? {
        0 => None,
        code => {
            let code = u16::try_from(code).map_err(|_| Malformed::BadValue("list.reason"))?;
            Some(Reason::from_code(code)?)
        }
    };
    let status = Status {
        state,
        reason,
        changes: from.u64("list.changes")?,
    };
    let count = usize::try_from(count).map_err(|_| Malformed::BadValue("list.count"))?;
    Ok((status, count))
}

fn read_granted(entry: &[u8]) -> Result<Granted, Malformed> {
    let mut from = Reader::new(entry);
    let slot = from.u32("slot")?;
    from.u32("reserved")?;
    Ok(Granted {
        slot,
        grant: Grant::read(&mut from)?,
    })
}

/// Directions of an `ioctl`'s argument, as in `<asm-generic/ioctl.h>`.
const WRITE: u64 = 1;
const READ: u64 = 2;

/// One `ioctl` of the device file, whose argument is `argument`, all of it.
fn ioctl(file: &File, direction: u64, number: u8, argument: &mut [u8]) -> Result<(), Errno> {
    let size = u64::try_from(argument.len()).map_err(|_| Errno::E2BIG)?;
    let request =
        direction << 30 | size << 16 | u64::from(uapi::IOCTL_TYPE) << 8 | u64::from(number);
    // SAFETY:
    // - `file` is borrowed for the whole call, so the descriptor stays open;
    // - the request's size field is the length of `argument`, which is writable for the whole
    //   call; the driver of this type byte touches no other memory of ours, except for LIST, which
    //   fills the array that `ask` has made as long as it says;
    // - a file of another driver answers ENOTTY: the type byte is in use by nobody else.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_the_module_writes_it() {
        let mut argument = [0; uapi::LIST_BYTES];
        write_list(&mut argument, 0x1122, 3).unwrap();
        argument[12..16].copy_from_slice(&2_u32.to_le_bytes());
        argument[16..20].copy_from_slice(&SessionState::Closed.code().to_le_bytes());
        argument[20..24].copy_from_slice(&u32::from(Reason::Admin.code()).to_le_bytes());
        argument[24..].copy_from_slice(&9_u64.to_le_bytes());
        let (status, count) = read_list(&argument).unwrap();
        assert_eq!(status.state, SessionState::Closed);
        assert_eq!(status.reason, Some(Reason::Admin));
        assert_eq!((status.changes, count), (9, 2));
        argument[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read_list(&argument).is_err());
    }

    #[test]
    fn a_file_that_is_no_device_is_refused_with_a_hint() {
        let error = DevNode::open(Path::new("/nonexistent/sivshm")).unwrap_err();
        assert!(error.to_string().contains("load the sivshm module"));
        let error = DevNode::open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, Error::Open { .. }));
    }
}
