//! What `/dev/sivshm` takes and gives (DESIGN section 10, `docs/device-file.md`).
//!
//! Structures are plain little-endian bytes of fixed size; `guest-module/kmod/sivshm_uapi.h` is
//! the same table in C and a conformance test compares the two.
//!
//! - `read` and `write` move the bytes of the session's TLS connection with the device process.
//! - `poll` tells of a change since the last [`LIST`] by `POLLPRI`, of a peer that has rung since
//!   the last [`WAIT`] by `POLLRDBAND`, and of `read` and `write` as of any stream.
//! - `mmap`'s offset is `slot << GRANT_OFFSET_SHIFT` plus an offset within the grant; `slot` comes
//!   with [`LIST`].

use crate::grant::Grant;

/// Path of the device file.
pub const DEVICE_PATH: &str = "/dev/sivshm";

/// `ioctl` type byte of all numbers below.
pub const IOCTL_TYPE: u8 = 0xB7;

/// Version of this interface.
pub const UAPI_VERSION: u32 = 1;

/// `_IOR(type, 0, u32)`: version of the interface.
pub const VERSION: u8 = 0;
/// `_IOWR(type, 1, struct sivshm_list)`: state and grants of the session.
pub const LIST: u8 = 1;
/// `_IOW(type, 2, u32)`: ring the peer of the grant with this number.
pub const NOTIFY: u8 = 2;
/// `_IOWR(type, 3, struct sivshm_wait)`: wait until the peer of a grant has rung.
pub const WAIT: u8 = 3;
/// `_IOW(type, 4, struct sivshm_bind)`: signal an eventfd whenever the peer of a grant rings.
pub const BIND: u8 = 4;

/// `struct sivshm_list`: u64 address of the caller's array, u32 capacity in; u32 count out (of all
/// grants, even if more than capacity), u32 state, u32 reason, u64 change counter out.
pub const LIST_BYTES: usize = 32;
/// `struct sivshm_wait`: u32 grant, u32 timeout in milliseconds (`u32::MAX`: none), u64 count of
/// rings the caller has seen in, count now out.
pub const WAIT_BYTES: usize = 16;
/// `struct sivshm_bind`: u32 grant, i32 eventfd (-1 unbinds).
pub const BIND_BYTES: usize = 8;
/// `struct sivshm_grant`: u32 slot, u32 reserved, then the grant as on the control ring.
pub const GRANT_INFO_BYTES: usize = 8 + Grant::BYTES;

/// State of a session, as [`LIST`] reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionState {
    /// The device process has not answered yet.
    Opening,
    /// At least one grant has arrived.
    Active,
    /// The session has ended; the reason says why.
    Closed,
}

impl SessionState {
    /// The number in `struct sivshm_list`.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Opening => 0,
            Self::Active => 1,
            Self::Closed => 2,
        }
    }

    /// Reads the number; anything unknown is `Closed`, the state that grants nothing.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Opening,
            1 => Self::Active,
            _ => Self::Closed,
        }
    }
}
