//! A guest driver's end of the control rings, just enough to make a device process answer.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use sivshm_abi::control::{
    CONTROL_BYTES, GUEST_INDEXES, GUEST_TO_HOST, HEAD, HOST_INDEXES, RING_BYTES, TAIL,
};
use sivshm_abi::directory::VERSION;
use sivshm_abi::frame::{Facts, FrameHeader, FrameType, Payload, SessionId};
use sivshm_abi::wire::Writer;

use crate::attempt::{load, store};
use crate::device::{Mapped, map};

/// A user that no service has: the device process answers its sessions with CLOSE.
const NOBODY: u32 = 65534;

/// Longest payload sent here.
const PAYLOAD_BYTES: usize = 64;

/// The mapped control memory and how far the ring to the host was written.
pub struct Chatter {
    memory: Mapped,
    tail: u32,
    sessions: u32,
}

impl Chatter {
    /// Says HELLO.
    pub fn start(memory: &OwnedFd) -> nix::Result<Self> {
        let bytes = usize::try_from(CONTROL_BYTES).map_err(|_| Errno::EOVERFLOW)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let mut this = Self {
            memory: map(memory.as_fd(), 0, bytes, access)?,
            tail: 0,
            sessions: 0,
        };
        let hello = Payload::Hello {
            version: VERSION,
            boot: [1; 16],
        };
        this.send(SessionId(0), FrameType::Hello, &hello)?;
        Ok(this)
    }

    /// Opens a session that will be refused, if there is room, and takes all answers away unread.
    pub fn ask(&mut self) -> nix::Result<()> {
        let taken = u32::from_le_bytes(self.get(HOST_INDEXES + HEAD));
        let waiting = u64::from(self.tail.wrapping_sub(taken));
        if waiting > RING_BYTES / 2 {
            return Ok(());
        }
        self.sessions += 1;
        let facts = Facts {
            pid: 1,
            uid: NOBODY,
            gid: NOBODY,
            exe_sha256: None,
        };
        let session = SessionId(self.sessions);
        self.send(session, FrameType::Open, &Payload::Open(facts))?;
        let answered = self.get(HOST_INDEXES + TAIL);
        self.put(GUEST_INDEXES + HEAD, &answered);
        Ok(())
    }

    fn send(
        &mut self,
        session: SessionId,
        kind: FrameType,
        payload: &Payload<'_>,
    ) -> nix::Result<()> {
        let mut space = [0; PAYLOAD_BYTES];
        let mut to = Writer::new(&mut space);
        payload.write(&mut to).map_err(|_| Errno::ENOSPC)?;
        let length = to.written();
        let header = FrameHeader {
            length: u32::try_from(length).map_err(|_| Errno::EOVERFLOW)?,
            kind,
            session,
        };
        let frame = [&header.to_bytes(), &space[..length]].concat();
        for byte in frame {
            let at = u64::from(self.tail) % RING_BYTES;
            self.put(GUEST_TO_HOST + at, &[byte]);
            self.tail = self.tail.wrapping_add(1);
        }
        self.put(GUEST_INDEXES + TAIL, &self.tail.to_le_bytes());
        Ok(())
    }

    fn get(&self, offset: u64) -> [u8; 4] {
        [0, 1, 2, 3].map(|byte| load(self.at(offset + byte)))
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            store(self.at(at), *byte);
        }
    }

    fn at(&self, offset: u64) -> std::ptr::NonNull<u8> {
        let offset = usize::try_from(offset).unwrap_or_default();
        // SAFETY: every offset used here is below `CONTROL_BYTES`, the length of the mapping.
        unsafe { self.memory.start.add(offset) }
    }
}
