//! Unix stream sockets: who is at the other end, and no descriptors from strangers (DESIGN
//! section 5). Every socket made here is non-blocking and close-on-exec from its first moment.
#![expect(unsafe_code, reason = "SO_PASSRIGHTS has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, connect as connect_to,
    getsockopt, listen as listen_on, socket, sockopt,
};

/// `SO_PASSRIGHTS` of Linux 6.16 and later (`include/uapi/asm-generic/socket.h`).
const SO_PASSRIGHTS: libc::c_int = 83;

/// Connections that may wait for the device process: one for each of 255 peers and one for a tool.
pub const BACKLOG: i32 = 256;

/// Longest path of a socket, in bytes: `sun_path` less its terminating zero.
pub const MAX_PATH_BYTES: usize = 107;

/// Who connected, or who listened when we connected (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerCredentials {
    /// Process at the other end, as seen from our PID namespace; 0 if it is not visible.
    pub pid: i32,
    /// Its effective user at that time.
    pub uid: u32,
    /// Its effective group at that time.
    pub gid: u32,
}

/// Whether a socket may receive descriptors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PassRights {
    /// A sender that tries gets `EPERM`.
    Refuse,
    /// Descriptors are received.
    Allow,
}

/// Whether the host could do what was asked of [`set_pass_rights`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PassRightsSupport {
    /// Done.
    Yes,
    /// The kernel is older than 6.16 and always passes descriptors on.
    No,
}

/// Makes a socket that is bound to nothing.
///
/// # Errors
/// The process has no descriptor left.
pub fn stream() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// Listens; peers see the credentials that the caller has now.
///
/// # Errors
/// The socket is not bound.
pub fn listen(listener: impl AsFd) -> io::Result<()> {
    Ok(listen_on(&listener, Backlog::new(BACKLOG)?)?)
}

/// Accepts one connection, if one waits. It has its listener's [`PassRights`].
///
/// # Errors
/// The process has no descriptor left.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_fd().as_raw_fd(), flags) {
        // SAFETY: accept4 has just made this descriptor, and nobody else knows its number.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects at once or not at all; the new socket refuses descriptors.
///
/// # Errors
/// `WouldBlock` if the listener's backlog is full, `NotFound` or `ConnectionRefused` if nobody
/// listens there; try again later.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let connection = stream()?;
    set_pass_rights(&connection, PassRights::Refuse)?;
    connect_to(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(connection)
}

/// Who is at the other end.
///
/// # Errors
/// The socket is not connected.
pub fn peer_credentials(connection: impl AsFd) -> io::Result<PeerCredentials> {
    let credentials = getsockopt(&connection, sockopt::PeerCredentials)?;
    Ok(PeerCredentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// Says whether a socket, and those accepted from it later, may receive descriptors.
///
/// # Errors
/// The descriptor is not a Unix socket.
pub fn set_pass_rights(socket: impl AsFd, rights: PassRights) -> io::Result<PassRightsSupport> {
    let value = libc::c_int::from(rights == PassRights::Allow);
    // SAFETY:
    // - `socket` is borrowed for the whole call, so the descriptor stays open;
    // - the option is read from `value`, a live c_int, and its true size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            C_INT_BYTES,
        )
    };
    match Errno::result(set) {
        Ok(_) => Ok(PassRightsSupport::Yes),
        Err(Errno::ENOPROTOOPT) => Ok(PassRightsSupport::No),
        Err(error) => Err(error.into()),
    }
}

/// Size of a C `int`, in bytes, as the socket calls want it.
const C_INT_BYTES: libc::socklen_t = 4;
const _: () = assert!(size_of::<libc::c_int>() == 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scm;
    use nix::sys::socket::bind;

    fn pair(rights: PassRights) -> (OwnedFd, OwnedFd, PassRightsSupport) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = stream().unwrap();
        let support = set_pass_rights(&listener, rights).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let dialer = connect(&path).unwrap();
        let accepted = accept(&listener).unwrap().unwrap();
        (dialer, accepted, support)
    }

    #[test]
    fn both_ends_know_each_other() {
        let (dialer, accepted, _) = pair(PassRights::Refuse);
        let me = PeerCredentials {
            pid: std::process::id().try_into().unwrap(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        assert_eq!(peer_credentials(&dialer).unwrap(), me);
        assert_eq!(peer_credentials(&accepted).unwrap(), me);
    }

    #[test]
    fn a_stranger_can_send_no_descriptor_even_before_accept() {
        let (dialer, accepted, support) = pair(PassRights::Refuse);
        if support == PassRightsSupport::No {
            eprintln!("skipped: SO_PASSRIGHTS needs Linux 6.16");
            return;
        }
        let gift = [accepted.as_fd()];
        let refused = scm::send(&dialer, b"x", &gift).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        set_pass_rights(&accepted, PassRights::Allow).unwrap();
        assert_eq!(scm::send(&dialer, b"x", &gift).unwrap(), 1);
    }
}
