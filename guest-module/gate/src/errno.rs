//! Why the gate refuses, as the numbers that a program gets.

use core::fmt;

/// A refusal. Each has the one meaning given here (`docs/device-file.md`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Errno {
    /// `ENOENT`: the session holds no live grant of this number.
    NoGrant,
    /// `ENXIO`: the grant has no peer that could ring or be rung.
    NoPeer,
    /// `EAGAIN`: nothing has happened since the caller last looked, no bytes have come, or none can
    /// be taken.
    NotYet,
    /// `EACCES`: the range is not granted for this, or another address space opened the session.
    Denied,
    /// `EBUSY`: there is a port, or this window is claimed, already.
    Taken,
    /// `ENODEV`: no port is bound, or a PCI function is none of ours.
    NoDevice,
    /// `EINVAL`: a request that could never be granted, whoever asked.
    Invalid,
    /// `EPROTO`: the directory makes no sense.
    BadDirectory,
    /// `EUSERS`: too many sessions, of this user or of all.
    TooManySessions,
    /// `ESHUTDOWN`: the session has ended.
    Ended,
    /// `EPROBE_DEFER`: windows can be told apart only once the port is bound. Never seen by a
    /// program.
    PortFirst,
}

/// Every refusal with its number on Linux and its name, for the shim, the document and their test.
pub const ERRNOS: &[(Errno, i32, &str)] = &[
    (Errno::NoGrant, 2, "ENOENT"),
    (Errno::NoPeer, 6, "ENXIO"),
    (Errno::NotYet, 11, "EAGAIN"),
    (Errno::Denied, 13, "EACCES"),
    (Errno::Taken, 16, "EBUSY"),
    (Errno::NoDevice, 19, "ENODEV"),
    (Errno::Invalid, 22, "EINVAL"),
    (Errno::BadDirectory, 71, "EPROTO"),
    (Errno::TooManySessions, 87, "EUSERS"),
    (Errno::Ended, 108, "ESHUTDOWN"),
    (Errno::PortFirst, 517, "EPROBE_DEFER"),
];

impl Errno {
    /// The number on Linux, positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::NoGrant => 2,
            Self::NoPeer => 6,
            Self::NotYet => 11,
            Self::Denied => 13,
            Self::Taken => 16,
            Self::NoDevice => 19,
            Self::Invalid => 22,
            Self::BadDirectory => 71,
            Self::TooManySessions => 87,
            Self::Ended => 108,
            Self::PortFirst => 517,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoGrant => "the session holds no live grant of this number",
            Self::NoPeer => "the grant has no peer to ring",
            Self::NotYet => "not now: wait and ask again",
            Self::Denied => "not granted to this session and address space",
            Self::Taken => "the port or window is in use already",
            Self::NoDevice => "no port is bound, or the function is none of ours",
            Self::Invalid => "no such request could be granted",
            Self::BadDirectory => "the host's directory makes no sense",
            Self::TooManySessions => "too many sessions are open: close one",
            Self::Ended => "the session has ended: open a new one",
            Self::PortFirst => "the port must be bound first",
        })
    }
}

impl core::error::Error for Errno {}
