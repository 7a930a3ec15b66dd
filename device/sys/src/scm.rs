//! Sending and receiving descriptors (`SCM_RIGHTS`, DESIGN section 8).
//!
//! Only these functions read a socket on which descriptors travel: a plain `read` would drop them.
#![expect(
    unsafe_code,
    reason = "the safe wrapper of recvmsg leaks the descriptors of a truncated message"
)]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Most descriptors in one message: the kernel's own bound (`SCM_MAX_FD`).
pub const MAX_RIGHTS: usize = 253;

/// Space for the control message of [`MAX_RIGHTS`] descriptors, in 8-byte words: 16 bytes of header
/// and 4 bytes for each descriptor.
const CONTROL_WORDS: usize = 2 + (MAX_RIGHTS * 4).div_ceil(8);

/// What one `recvmsg` brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the buffer that were filled; 0 means that the other end has closed.
    pub bytes: usize,
    /// Descriptors, in the order of sending; close-on-exec.
    pub rights: Vec<OwnedFd>,
    /// Whether the kernel dropped descriptors; the connection can't be trusted any more then.
    pub truncated: bool,
}

/// Sends bytes, with descriptors on their first byte. Returns how many bytes were taken: at least
/// one, and if not all, then the rest goes on without the descriptors.
///
/// # Errors
/// `WouldBlock` if the socket is full; `EPERM` if the other end refuses descriptors;
/// `ETOOMANYREFS` if too many are on their way; `InvalidInput` for descriptors without a byte.
pub fn send(socket: impl AsFd, bytes: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() && !rights.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let numbers: Vec<_> = rights.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = if rights.is_empty() { &[][..] } else { &control };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_fd().as_raw_fd();
    Ok(sendmsg::<()>(
        socket,
        &[IoSlice::new(bytes)],
        control,
        flags,
        None,
    )?)
}

/// Receives bytes and the descriptors that ride on them, without waiting.
///
/// # Errors
/// `WouldBlock` if nothing is there; `ConnectionReset` and the like if the other end is gone.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is a plain C struct for which all zeroes (null pointers, no lengths) is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY:
    // - `socket` is borrowed for the whole call, so the descriptor stays open;
    // - `part` covers exactly `buffer`, and `message` names the true size of `control`; both
    //   outlive the call and nothing else refers to them.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let bytes = Errno::result(got)?;
    Ok(Received {
        bytes: usize::try_from(bytes).map_err(io::Error::other)?,
        rights: rights_of(&message),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Takes ownership of every descriptor that the kernel installed for `message`.
fn rights_of(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut rights = Vec::new();
    // SAFETY: `message` comes from a successful recvmsg and its control buffer is still alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the control buffer,
    // which is aligned for it (8-byte words).
    while let Some(control) = unsafe { header.as_ref() } {
        if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN computes a number from a number.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let len = control.cmsg_len.saturating_sub(before);
            // SAFETY:
            // - `header` is not null, so CMSG_DATA stays inside the control buffer;
            // - the kernel wrote `cmsg_len` bytes from `header`, of which `len` from there.
            let numbers = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(header), len) };
            let (numbers, _) = numbers.as_chunks();
            rights.extend(numbers.iter().map(|number| {
                // SAFETY: the kernel has just installed this descriptor for us, so nobody else
                // owns it, and each is looked at once.
                unsafe { OwnedFd::from_raw_fd(libc::c_int::from_ne_bytes(*number)) }
            }));
        }
        // SAFETY: as CMSG_FIRSTHDR above; `header` is the header just looked at.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap()
    }

    #[test]
    fn bytes_and_descriptors_arrive_in_order() {
        let (a, b) = pair();
        let doorbells = [(); 2].map(|()| crate::eventfd::create().unwrap());
        crate::eventfd::ring(&doorbells[1]).unwrap();
        let rights = [doorbells[0].as_fd(), doorbells[1].as_fd()];
        assert_eq!(send(&a, b"ab", &rights).unwrap(), 2);
        let mut buffer = [0; 8];
        let received = receive(&b, &mut buffer).unwrap();
        assert_eq!((received.bytes, received.truncated), (2, false));
        let counts: Vec<_> = received
            .rights
            .iter()
            .map(|fd| crate::eventfd::drain(fd).unwrap())
            .collect();
        assert_eq!(counts, [0, 1]);
    }

    #[test]
    fn the_most_descriptors_fit_and_none_is_left_open() {
        let (a, b) = pair();
        let doorbell = crate::eventfd::create().unwrap();
        let rights = [doorbell.as_fd(); MAX_RIGHTS];
        send(&a, b"x", &rights).unwrap();
        let received = receive(&b, &mut [0; 1]).unwrap();
        assert_eq!(received.rights.len(), MAX_RIGHTS);
        assert!(!received.truncated);
    }

    #[test]
    fn nothing_there_and_other_end_gone_are_told_apart() {
        let (a, b) = pair();
        let waits = receive(&b, &mut [0; 1]).unwrap_err();
        assert_eq!(waits.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(&b, &mut [0; 1]).unwrap().bytes, 0);
    }

    #[test]
    fn descriptors_need_a_byte_to_ride_on() {
        let (a, b) = pair();
        let refused = send(&a, b"", &[b.as_fd()]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
