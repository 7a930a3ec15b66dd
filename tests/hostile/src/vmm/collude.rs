//! Two VMMs that help each other: one gives the other everything that it holds.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::memory::{read_only_slice, reopen_for_writing, written_memory};
use super::port::Port;
use super::processes;
use super::windows::Windows;
use crate::attempt::errno_of;
use crate::report::event;
use crate::rights;

/// What the other VMM gave.
#[derive(Debug)]
pub struct Taken {
    files: Vec<OwnedFd>,
    /// The other one's process.
    giver: i32,
}

/// Gives everything to whoever listens.
pub fn give(socket: &Path, windows: &Windows, port: &Port) -> nix::Result<()> {
    let socket = UnixStream::connect(socket).map_err(errno_of)?;
    let slices = windows.written.iter().chain(&windows.read);
    let files = slices.chain([&port.memory]).chain(&port.doorbells);
    files
        .into_iter()
        .try_for_each(|file| rights::send(&socket, file.as_fd()))
}

/// Takes everything that is given.
pub fn take(socket: &Path) -> nix::Result<Taken> {
    let listener = UnixListener::bind(socket).map_err(errno_of)?;
    // The giver is another user.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(socket, all).map_err(errno_of)?;
    event("listening");
    let (giver, _) = listener.accept().map_err(errno_of)?;
    let mut files = Vec::new();
    while let Ok(file) = rights::receive(&giver) {
        files.push(file);
    }
    Ok(Taken {
        files,
        giver: getsockopt(&giver, PeerCredentials)?.pid(),
    })
}

/// Tries to do with the other VM's descriptors what their sender could not do, and with the sender
/// what a stranger could not.
pub fn run(windows: &Windows, taken: &Taken) -> nix::Result<()> {
    let own = windows.own()?;
    read_only_slice("given-read-only-slice", taken.slice(OFlag::O_RDONLY)?, own);
    let written = taken.slice(OFlag::O_RDWR)?;
    written_memory("given-written-slice", written);
    reopen_for_writing("given-written-slice", written, own);
    processes::run("colluder", taken.giver);
    Ok(())
}

impl Taken {
    /// A slice among them that is open in this way.
    fn slice(&self, access: OFlag) -> nix::Result<BorrowedFd<'_>> {
        let is_slice = |file: &&OwnedFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let named =
                link.is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:sivshm-slice"));
            let flags = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
            named && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == access)
        };
        let slice = self.files.iter().find(is_slice).ok_or(Errno::ENODATA)?;
        Ok(slice.as_fd())
    }
}
