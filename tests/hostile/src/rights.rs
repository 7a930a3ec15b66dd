//! Descriptors over a Unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::device::adopt;

/// Sends one descriptor with one byte.
pub fn send(socket: &UnixStream, file: BorrowedFd<'_>) -> nix::Result<()> {
    let rights = [file.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"f")],
        &message,
        MsgFlags::empty(),
        None,
    )
    .map(drop)
}

/// Receives one descriptor.
pub fn receive(socket: &UnixStream) -> nix::Result<OwnedFd> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            return numbers.first().copied().map(adopt).ok_or(Errno::EBADMSG);
        }
    }
    Err(Errno::EBADMSG)
}
