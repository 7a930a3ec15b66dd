//! Messages of the admin socket, `admin/VM.sock`: one JSON line each way (`docs/port.md`).

use serde::{Deserialize, Serialize};

/// Longest request line, in bytes: a command and a name, with room for a person's spaces.
pub const MAX_REQUEST_BYTES: usize = 1024;

/// Longest answer line, in bytes: 255 peers, 1024 channels and 64 sessions of at most 256 bytes of
/// JSON each, rounded up to a power of two.
pub const MAX_ANSWER_BYTES: usize = 512 * 1024;

/// What an operator asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(
    tag = "command",
    rename_all = "snake_case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum AdminRequest {
    /// The state of this device process.
    Status {},
    /// End every grant of a channel, at both ends, for the life of the device processes.
    Revoke {
        /// Name of the channel.
        channel: String,
    },
}

/// What the device process answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminAnswer {
    /// To `status`.
    Status(Status),
    /// To `revoke`: the gate and the peers have been told.
    Revoked {
        /// The channel.
        channel: String,
        /// Live grants of this VM that ended by it.
        grants: u32,
    },
    /// The request was not carried out.
    Refused {
        /// Why.
        reason: String,
    },
}

/// State of one device process.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The VM.
    pub vm: String,
    /// The trust domain.
    pub trust_domain: String,
    /// Random identifier of this run of the device process, in hexadecimal.
    pub instance: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether it runs in development mode: one uid, a compromised VMM is not confined.
    pub development: bool,
    /// Serial number of the policy.
    pub policy_serial: u64,
    /// Digest of the policy's plan, in hexadecimal.
    pub policy_digest: String,
    /// The VMM that has been launched.
    pub vmm: Option<VmmStatus>,
    /// Live sessions of the guest.
    pub sessions: Vec<SessionStatus>,
    /// Channels of this VM, by name.
    pub channels: Vec<ChannelStatus>,
    /// Peers of this VM, by name.
    pub peers: Vec<PeerStatus>,
    /// Whether the guest has acknowledged every revocation within its bound.
    pub contained: bool,
}

/// The VMM behind a VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VmmStatus {
    /// Its process id.
    pub pid: i32,
    /// The program, as the launcher stated it.
    pub program: String,
    /// Whether it is connected to the port.
    pub port: bool,
    /// Whether the guest's driver has said `HELLO`.
    pub driver: bool,
}

/// A live session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionStatus {
    /// Its number.
    pub session: u32,
    /// The service that it is.
    pub service: String,
    /// Process id in the guest.
    pub pid: u32,
    /// Effective user in the guest.
    pub uid: u32,
    /// Live grants.
    pub grants: u32,
}

/// A channel of this VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// The writer, as `VM/SERVICE`.
    pub from: String,
    /// The readers, as `VM/SERVICE`.
    pub to: Vec<String>,
    /// What it is up to at this VM's end.
    pub state: ChannelState,
}

/// State of this VM's end of a channel.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelState {
    /// A peer at the other end is not established.
    WaitingForPeer,
    /// Peers are established; no session of this VM is the service.
    Ready,
    /// Granted to a session.
    Granted,
    /// Revoked by the operator.
    Revoked,
}

/// A peer of this VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PeerStatus {
    /// The VM.
    pub vm: String,
    /// Whether this side dials.
    pub dials: bool,
    /// Present once established.
    pub link: Option<LinkStatus>,
    /// Why the last connection ended or was refused, if it was.
    pub last_error: Option<String>,
}

/// An established link.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkStatus {
    /// Identifier by which the guest rings the peer.
    pub ring_id: u16,
    /// Microseconds from connection to establishment.
    pub handshake_us: u64,
    /// Milliseconds since establishment.
    pub age_ms: u64,
    /// Whether the VMM holds slices of an earlier run of the peer: end it and launch it again.
    pub needs_relaunch: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_documents_say() {
        for (line, request) in [
            (r#"{"command":"status"}"#, AdminRequest::Status {}),
            (
                r#"{"command":"revoke","channel":"job-1"}"#,
                AdminRequest::Revoke {
                    channel: "job-1".into(),
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<AdminRequest>(line).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        assert!(serde_json::from_str::<AdminRequest>(r#"{"command":"status","x":1}"#).is_err());
    }
}
