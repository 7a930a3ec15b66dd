//! The port as a VMM sees it: QEMU's ivshmem protocol from the client's end.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::attempt::errno_of;
use crate::device::adopt;

/// Peers of a worker: its manager.
const PEERS: usize = 1;

/// Messages of the set-up: version, own id, memory, the kick, each peer's doorbell, own vectors.
const MESSAGES: usize = 4 + PEERS + 1 + PEERS;

/// A connected port and everything that came over it.
#[derive(Debug)]
pub struct Port {
    /// Kept open: the device process forgets its VMM when this closes.
    _socket: UnixStream,
    /// The control memory.
    pub memory: OwnedFd,
    /// Every eventfd: the kick, the doorbells of peers, the VM's own vectors.
    pub doorbells: Vec<OwnedFd>,
}

impl Port {
    /// Connects as the launched process and takes the whole set-up.
    pub fn connect(path: &Path) -> nix::Result<Self> {
        let socket = UnixStream::connect(path).map_err(errno_of)?;
        let mut memory = None;
        let mut doorbells = Vec::new();
        for _ in 0..MESSAGES {
            let (message, right) = hear(&socket)?;
            match right {
                Some(right) if message == -1 => memory = Some(right),
                right => doorbells.extend(right),
            }
        }
        Ok(Self {
            _socket: socket,
            memory: memory.ok_or(Errno::ENODATA)?,
            doorbells,
        })
    }
}

/// One message and the descriptor on it; `ENOTCONN` if the other end hangs up instead.
pub fn hear(socket: &UnixStream) -> nix::Result<(i64, Option<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut data = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_WAITALL,
    )?;
    let right = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied().map(adopt),
        _ => None,
    });
    match message.bytes {
        8 => Ok((i64::from_le_bytes(bytes), right)),
        _ => Err(Errno::ENOTCONN),
    }
}

/// The port's path in QEMU's arguments.
pub fn path_in(arguments: &[String]) -> nix::Result<PathBuf> {
    let path = arguments.iter().find_map(|argument| {
        let options = argument.strip_prefix("socket,")?;
        let mut options = options.split(',');
        options.find_map(|option| option.strip_prefix("path="))
    });
    path.map(PathBuf::from).ok_or(Errno::ENODATA)
}
