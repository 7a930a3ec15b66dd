//! The port and the control rings, from the guest's end.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::Instant;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::Deserialize;
use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::directory::VERSION;
use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, Reason, SessionId};
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, SendError, Side, Space};

use crate::errno_of;

/// The VM's own id on the port, the memory's, and the device process's.
const OWN: i64 = 1;
const MEMORY: i64 = -1;
const HOST: i64 = 0;

/// Messages before the first that may be an own vector: version, own id and memory.
const PREAMBLE: usize = 3;

/// What the launcher says.
#[derive(Debug, Deserialize)]
pub struct Inherited {
    port: PathBuf,
    identity: Numbers,
}

/// Descriptors of a service's papers.
#[derive(Debug, Deserialize)]
struct Numbers {
    svid: i32,
    key: i32,
    bundle: i32,
}

/// Reads what this process inherited.
pub fn inherited() -> nix::Result<Inherited> {
    let text = std::env::var("SIVSHM_ATTACH").map_err(|_| Errno::ENODATA)?;
    serde_json::from_str(&text).map_err(|_| Errno::EBADMSG)
}

impl Inherited {
    /// SVID, key and bundle.
    pub fn papers(&self) -> nix::Result<[Vec<u8>; 3]> {
        let Numbers { svid, key, bundle } = self.identity;
        Ok([read(svid)?, read(key)?, read(bundle)?])
    }
}

/// The bytes of an inherited file, which stays open.
fn read(number: i32) -> nix::Result<Vec<u8>> {
    // SAFETY: the launcher passed the descriptor, and nobody else here owns it; it is not closed.
    let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(number) });
    let length = file.metadata().map_err(|error| errno_of(&error))?.len();
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EFBIG)?];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| errno_of(&error))?;
    Ok(bytes)
}

/// What a session is told.
#[derive(Debug)]
pub enum Heard {
    /// Bytes of TLS.
    Data(Vec<u8>),
    /// So many more bytes may be sent.
    Credit(usize),
    /// It has ended.
    Closed(Reason),
}

/// A connected port.
pub struct Line {
    rings: ControlRings,
    space: Box<Space>,
    kick: File,
    bell: File,
    sessions: u32,
    /// Kept open: the device process forgets its VMM when this closes.
    _socket: UnixStream,
}

impl Line {
    /// Connects to the port and says HELLO.
    pub fn connect(inherited: &Inherited) -> nix::Result<Self> {
        let socket = UnixStream::connect(&inherited.port).map_err(|error| errno_of(&error))?;
        let (mut memory, mut kick, mut bell) = (None, None, None);
        let mut heard = 0;
        while bell.is_none() {
            let (message, right) = hear(&socket)?;
            heard += 1;
            match message {
                MEMORY => memory = right,
                HOST if heard > PREAMBLE => kick = right,
                OWN if heard > PREAMBLE => bell = right,
                _ => {}
            }
        }
        let memory = map(&memory.ok_or(Errno::ENODATA)?)?;
        let rings = ControlRings::new(memory, Side::Guest).map_err(|_| Errno::EOVERFLOW)?;
        let mut line = Self {
            rings,
            space: Box::new([0; LONGEST_PAYLOAD_BYTES]),
            kick: kick.ok_or(Errno::ENODATA)?.into(),
            bell: bell.ok_or(Errno::ENODATA)?.into(),
            sessions: 0,
            _socket: socket,
        };
        let boot = [1; 16];
        let version = VERSION;
        line.send(SessionId(0), &Payload::Hello { version, boot })?;
        Ok(line)
    }

    /// Opens another session.
    pub fn open(&mut self, facts: Facts) -> nix::Result<SessionId> {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.send(session, &Payload::Open(facts))?;
        Ok(session)
    }

    /// Sends a frame, once there is room.
    pub fn send(&mut self, session: SessionId, payload: &Payload<'_>) -> nix::Result<()> {
        loop {
            match self.rings.send(session, payload) {
                Ok(()) => break,
                Err(SendError::Full) => std::thread::yield_now(),
                Err(SendError::Fault(_)) => return Err(Errno::EPROTO),
            }
        }
        // A bell that is full has been rung.
        let _ = self.kick.write(&1_u64.to_ne_bytes());
        Ok(())
    }

    /// The next thing that a session is told; none if nothing comes until then. What is taken back is
    /// let go of, and credit is given back, at once.
    pub fn hear(&mut self, until: Instant) -> nix::Result<Option<(SessionId, Heard)>> {
        loop {
            let heard = self
                .rings
                .receive(&mut self.space)
                .map_err(|_| Errno::EPROTO)?;
            let (session, heard, answer) = match heard {
                Some((session, Payload::Data(bytes))) => {
                    let credit = u32::try_from(bytes.len()).map_err(|_| Errno::EOVERFLOW)?;
                    let data = Heard::Data(bytes.to_vec());
                    (session, Some(data), Some(Payload::Ring { credit }))
                }
                Some((session, Payload::Ring { credit })) => {
                    let credit = usize::try_from(credit).map_err(|_| Errno::EOVERFLOW)?;
                    (session, Some(Heard::Credit(credit)), None)
                }
                Some((session, Payload::Close(reason))) => {
                    let close = Payload::Close(Reason::Closed);
                    (session, Some(Heard::Closed(reason)), Some(close))
                }
                Some((
                    session,
                    Payload::Revoke {
                        grant, generation, ..
                    },
                )) => {
                    let revoked = Payload::Revoked { grant, generation };
                    (session, None, Some(revoked))
                }
                Some((session, _)) => (session, None, None),
                None => {
                    if !self.rest(until)? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            if let Some(answer) = answer {
                self.send(session, &answer)?;
            }
            if let Some(heard) = heard {
                return Ok(Some((session, heard)));
            }
        }
    }

    /// Sleeps until the device process rings; false if it does not until then.
    fn rest(&mut self, until: Instant) -> nix::Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout)? == 0 {
            return Ok(false);
        }
        // What the count is does not matter.
        let _ = self.bell.read(&mut [0; 8]);
        Ok(true)
    }
}

/// One message of the port and the descriptor on it.
fn hear(socket: &UnixStream) -> nix::Result<(i64, Option<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_WAITALL,
    )?;
    let right = message.cmsgs()?.find_map(|part| match part {
        // SAFETY: the kernel has just installed the number for this process, and nobody else knows it.
        ControlMessageOwned::ScmRights(numbers) => numbers
            .first()
            .map(|number| unsafe { OwnedFd::from_raw_fd(*number) }),
        _ => None,
    });
    match message.bytes {
        8 => Ok((i64::from_le_bytes(bytes), right)),
        _ => Err(Errno::ENOTCONN),
    }
}

/// Maps the whole control memory, for good.
fn map(file: &OwnedFd) -> nix::Result<Shared> {
    let length = usize::try_from(CONTROL_BYTES).map_err(|_| Errno::EOVERFLOW)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let fd = file.as_raw_fd();
    // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            access,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
    // SAFETY: the mapping of this length is never undone, and no reference to it is made.
    Ok(unsafe { Shared::new(start, length) })
}
