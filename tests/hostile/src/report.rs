//! How a hostile program says what it got.

use std::fmt::Display;

use nix::errno::Errno;
use serde::Serialize;
use sivshm_abi::frame::Reason;
use sivshm_handshake::service::wire::RefusalReason;

/// What an attempt got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Got {
    /// It worked.
    Success,
    /// A system call failed with this.
    Errno(Errno),
    /// The process that tried was ended by this signal.
    Signal(nix::sys::signal::Signal),
    /// What it looked for was not there.
    Absent,
    /// Its session was closed for this reason.
    Closed(Reason),
    /// A channel was refused for this reason.
    Refused(RefusalReason),
}

impl Got {
    /// The first of both that did not work.
    pub fn and(self, other: Self) -> Self {
        if self == Self::Success { other } else { self }
    }
}

impl<T> From<nix::Result<T>> for Got {
    fn from(result: nix::Result<T>) -> Self {
        result.map_or_else(Self::Errno, |_| Self::Success)
    }
}

impl Display for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            // The name, as people and manual pages write it.
            Self::Errno(errno) => write!(f, "{errno:?}"),
            Self::Signal(signal) => f.write_str(signal.as_str()),
            Self::Absent => f.write_str("absent"),
            Self::Closed(reason) => write!(f, "closed: {}", reason.words()),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Attack {
        name: &'a str,
        wanted: String,
        got: String,
        granted: String,
    },
    Revoke {
        channel: &'a str,
    },
}

impl Event<'_> {
    fn print(&self) {
        // A party that can't print has nothing to say; its test then misses the event.
        println!("{}", serde_json::to_string(self).unwrap_or_default());
    }
}

/// Prints one attempt: `wanted` is what it has to get, `granted` what the same operation got on an
/// object that was granted.
pub fn attack(name: &str, wanted: Got, got: Got, granted: Got) {
    Event::Attack {
        name,
        wanted: wanted.to_string(),
        got: got.to_string(),
        granted: granted.to_string(),
    }
    .print();
}

/// Asks whoever reads this to revoke a channel.
pub fn please_revoke(channel: &str) {
    Event::Revoke { channel }.print();
}

/// Prints that something has happened.
pub fn event(name: &str) {
    println!("{}", serde_json::json!({ "event": name }));
}
