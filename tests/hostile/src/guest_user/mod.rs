//! A hostile process in a guest, as the user of a service: it holds that service's grants and wants
//! more.

mod descriptors;
mod executables;
mod floods;
mod lies;
mod lifetime;
mod mapping;
mod memory;
mod proofs;
mod protection;
mod revocation;
mod rings;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

use crate::attempt::{attempt_as, become_user, ended, errno_of, spawn, store};
use crate::device::{Granted, Mapped, Session, find, map};
use crate::report::Got;
use crate::service::obtain;

pub use descriptors::map_descriptor;
pub use lies::run as lie;
pub use proofs::{become_another, run as claim};
pub use revocation::run as until_revoked;

pub(crate) const PAGE: usize = 4096;
pub(crate) const RO: i32 = libc::PROT_READ;
pub(crate) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The user that services run as.
pub(crate) const SERVICE: u32 = 1000;

/// The user of a second service, where the policy has one.
pub(crate) const NEIGHBOUR: u32 = 1001;

/// The user that no service of any policy matches.
const STRANGER: u32 = 1002;

/// The user of a service whose executable the policy names, where it has one.
const PINNED: u32 = 1003;

/// Grants that a reducer holds: data and acknowledgement line of two channels.
const GRANTS: usize = 4;

/// What to try.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// The policy gives user 1001 of this VM a service of its own.
    #[arg(long)]
    neighbour: bool,
    /// How long to flood, in seconds, unless somebody says a line on the standard input before.
    #[arg(long, default_value_t = 1)]
    flood: u64,
    /// Say nothing in a session until it is ended, half a minute.
    #[arg(long)]
    silence: bool,
}

/// A session that holds its service's grants.
pub(crate) struct Scene {
    pub(crate) session: Session,
    granted: Vec<Granted>,
}

impl Scene {
    /// Opens a session as the current user.
    pub(crate) fn open() -> nix::Result<Self> {
        Self::open_with(GRANTS)
    }

    fn open_with(grants: usize) -> nix::Result<Self> {
        let session = Session::open()?;
        let granted = obtain(&session, grants)?;
        if granted.len() < grants {
            Err(Errno::ENODATA)
        } else {
            Ok(Self { session, granted })
        }
    }

    /// The channel that this service reads.
    pub(crate) fn read_only(&self) -> nix::Result<Granted> {
        find(&self.granted, true, false).ok_or(Errno::ENODATA)
    }

    /// The channel that this service writes.
    pub(crate) fn writable(&self) -> nix::Result<Granted> {
        find(&self.granted, true, true).ok_or(Errno::ENODATA)
    }

    /// The acknowledgement line that this service writes: one page, with a peer to ring.
    fn line(&self) -> nix::Result<Granted> {
        find(&self.granted, false, true).ok_or(Errno::ENODATA)
    }

    /// Whether a grant of this number is this session's.
    fn holds(&self, id: u32) -> bool {
        self.granted.iter().any(|g| g.grant.id.0 == id)
    }

    /// Maps the first page of a grant.
    pub(crate) fn map(&self, granted: &Granted, prot: i32) -> nix::Result<Mapped> {
        map(self.session.0.as_fd(), granted.offset(0), PAGE, prot)
    }
}

/// Runs `body` with a fresh session of the service, in a child.
pub(crate) fn scene(body: impl FnOnce(Scene) -> nix::Result<()>) -> Got {
    attempt_as(SERVICE, || body(Scene::open()?))
}

/// A grant that another session holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    slot: u32,
    id: u32,
}

/// Runs `body` while the service holds a session with the grant that `body` gets.
pub(crate) fn while_the_service_holds(body: impl FnOnce(Held) -> Got) -> Got {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else {
        return Got::Errno(Errno::EMFILE);
    };
    let service = spawn(|| {
        become_user(SERVICE)?;
        let s = Scene::open()?;
        let line = s.line()?;
        let mut message = line.slot.to_le_bytes().to_vec();
        message.extend(line.grant.id.0.to_le_bytes());
        theirs.write_all(&message).map_err(errno_of)?;
        // Held until the other end closes.
        theirs.read(&mut [0]).map(drop).map_err(errno_of)
    });
    // Else a service that failed would leave this end waiting.
    drop(theirs);
    let (mut slot, mut id) = ([0; 4], [0; 4]);
    let told = (ours.read_exact(&mut slot)).and_then(|()| ours.read_exact(&mut id));
    let got = match told {
        Ok(()) => body(Held {
            slot: u32::from_le_bytes(slot),
            id: u32::from_le_bytes(id),
        }),
        Err(error) => Got::Errno(errno_of(error)),
    };
    // Not only closed: the service has a copy.
    let _ = ours.shutdown(Shutdown::Both);
    if let Ok(service) = service {
        ended(service);
    }
    got
}

/// Runs `body` as another user with a session of its own, while the service holds a session with the
/// grant that it gets.
fn beside_the_service(uid: u32, body: impl FnOnce(&Session, Held) -> nix::Result<()>) -> Got {
    while_the_service_holds(|held| {
        attempt_as(uid, || {
            let own = Session::open()?;
            obtain(&own, 1)?;
            body(&own, held)
        })
    })
}

/// Tries everything.
pub fn run(options: Options) {
    // What the service may do: the other half of every attempt.
    let writes = scene(|s| s.map(&s.writable()?, RW).map(|m| store(m.start, 1)));
    let reads = scene(|s| s.map(&s.read_only()?, RO).map(|m| m.touch()));
    let silent = options.silence.then(proofs::begin_silence);
    mapping::run(writes, options.neighbour);
    protection::run(writes, reads);
    lifetime::run(writes);
    descriptors::run();
    memory::run(writes);
    rings::run(options.neighbour);
    floods::run(options);
    if let Some(silent) = silent {
        proofs::end_silence(silent, writes);
    }
}
