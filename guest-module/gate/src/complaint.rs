//! What the other side did wrong, for the guest's log.

use core::fmt;

use sivshm_abi::frame::FrameType;
use sivshm_ring::frames::RingFault;

use crate::windows::WindowNumber;

/// Something that an honest device process or guest does not do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Complaint {
    /// The device process broke the control rings; the link is given up.
    Ring(RingFault),
    /// The device process sent a frame that only a guest sends.
    Unexpected(FrameType),
    /// A `GRANT` was not installed.
    Grant(GrantFault),
    /// The device process did not keep to a session's flow control; that session ends.
    Flow(FlowFault),
    /// A window's BAR is not where it was claimed: somebody in this guest moved it. All grants end.
    Moved(WindowNumber),
}

/// How the flow control of a session was broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlowFault {
    /// More `DATA` than its sender had credit for.
    Data,
    /// A `RING` with more credit than was used.
    Credit,
}

/// Why a `GRANT` was not installed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GrantFault {
    /// Its window is not in the directory.
    Window,
    /// Its range is empty, unaligned, or not inside its window.
    Range,
    /// It allows more than its window.
    Access,
    /// Its peer rings on a vector that the port does not have, or on the control vector.
    Vector,
    /// It is limited in time, which this version can't enforce.
    Expiry,
    /// A generation of this part of the channel at or above its own was revoked.
    Revoked,
    /// Its number, or this part of the channel, is in use.
    Duplicate,
    /// No place is left.
    Full,
}

impl Complaint {
    /// The complaint in words, without formatting: a kernel log takes them as they are.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ring(_) => "the device process broke the control rings: all grants end",
            Self::Unexpected(_) => "the device process sent a frame that only a guest sends",
            Self::Grant(fault) => fault.words(),
            Self::Flow(FlowFault::Data) => "more data than a session's credit: the session ends",
            Self::Flow(FlowFault::Credit) => "more credit than a session used: the session ends",
            Self::Moved(_) => "a window's BAR was moved: all grants end",
        }
    }
}

impl GrantFault {
    const fn words(self) -> &'static str {
        match self {
            Self::Window => "grant refused: its window is not in the directory",
            Self::Range => "grant refused: its range is not inside its window",
            Self::Access => "grant refused: it allows more than its window",
            Self::Vector => "grant refused: its vector is not one of a peer",
            Self::Expiry => "grant refused: an expiry can't be enforced here",
            Self::Revoked => "grant refused: its generation was revoked",
            Self::Duplicate => "grant refused: its number or channel part is in use",
            Self::Full => "grant refused: no place is left",
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
