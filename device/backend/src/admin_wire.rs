//! Messages of the admin socket, `admin/VM.sock`: one JSON line each way, and events for who watches
//! (`docs/port.md`).

use serde::{Deserialize, Serialize};

/// Longest policy that a running device process takes, in bytes: 13000 channels, which take 48 MiB
/// and a second to compile. A longer one needs a restart.
pub const MAX_RELOAD_POLICY_BYTES: usize = 1024 * 1024;

/// Longest CRL that a running device process takes, in bytes: 19000 SVIDs of 54 bytes of PEM each.
pub const MAX_RELOAD_CRL_BYTES: usize = 1024 * 1024;

/// Longest request line, in bytes: a policy and a CRL as JSON, where a quote, a backslash or the end
/// of a line takes two bytes, and the words around them.
pub const MAX_REQUEST_BYTES: usize = 2 * (MAX_RELOAD_POLICY_BYTES + MAX_RELOAD_CRL_BYTES) + 1024;

/// Longest answer line, in bytes: 255 peers, 1024 channels and 64 sessions of at most 256 bytes of
/// JSON each, and 1024 pairings of 128, rounded up to a power of two.
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
    /// Narrow what is shared to what a newer policy and a newer CRL allow.
    Reload {
        /// Text of the policy.
        policy: String,
        /// The CRL, PEM.
        crl: String,
    },
    /// Say from now on what the supervisor has to know: an [`AdminEvent`] a line, until either side
    /// closes.
    Watch {},
}

/// What the device process answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminAnswer {
    /// To `status`.
    Status(Box<Status>),
    /// To `revoke`: the gate and the peers have been told.
    Revoked {
        /// The channel.
        channel: String,
        /// Live grants of this VM that ended by it.
        grants: u32,
    },
    /// To `reload`: the policy and the CRL are in force.
    Reloaded(Reloaded),
    /// To `watch`: events follow.
    Watching {},
    /// The request was not carried out.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a reload has changed at one device process.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// Serial number of the policy now in force.
    pub policy_serial: u64,
    /// Channels of this VM that have ended for good, because the policy has them no more.
    pub ended: Vec<String>,
    /// What the policy says and only a restart brings about, in words.
    pub needs_restart: Vec<String>,
    /// Links with peers that ended.
    pub links: u32,
    /// Sessions of the guest that ended.
    pub sessions: u32,
    /// Pairings that ended.
    pub pairings: u32,
}

/// What who watches is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminEvent {
    /// The guest has not acknowledged in time that what was taken from it is gone.
    Uncontained(Uncontained),
}

/// A guest that keeps what was taken from it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Uncontained {
    /// Its VM.
    pub vm: String,
    /// Whether the policy wants its VMM to be ended.
    pub end_vmm: bool,
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
    /// Serial number of the policy in force.
    pub policy_serial: u64,
    /// Digest of the plan of the policy in force, in hexadecimal.
    pub policy_digest: String,
    /// When the SVID of this device process ends, RFC 3339.
    pub svid_not_after: String,
    /// The CRL in force.
    pub crl: CrlStatus,
    /// Why nothing is shared any more until it is started again, if that is so.
    pub out_of_service: Option<String>,
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

/// A list of SVIDs that are not to be trusted any more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CrlStatus {
    /// When there must be a newer one, RFC 3339: from then on nobody new is trusted.
    pub next_update: String,
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
    /// Whether it has proved so with its SVID.
    pub proved: bool,
    /// When that SVID ends, RFC 3339.
    pub svid_not_after: Option<String>,
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
    /// Its pairings that this VM has a part in: of a channel that it writes one for each reader.
    pub pairings: Vec<PairingStatus>,
}

/// The writer and one reader of a channel.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PairingStatus {
    /// The reader, as `VM/SERVICE`.
    pub reader: String,
    /// How far they are.
    pub state: PairingState,
    /// Of an open pairing: what tells it from those before, in hexadecimal.
    pub epoch: Option<String>,
    /// Of an open pairing: microseconds from the `open` to its grants here.
    pub handshake_us: Option<u64>,
}

/// How far a pairing is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PairingState {
    /// No service of this VM wants it.
    Idle,
    /// This VM's service wants it; the other one does not yet.
    Wanted,
    /// The two are proving to each other who they are.
    Opening,
    /// Both have, and both have their grants.
    Open,
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
    /// Ended by a newer policy.
    Ended,
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
            (
                r#"{"command":"reload","policy":"a\n","crl":"b"}"#,
                AdminRequest::Reload {
                    policy: "a\n".into(),
                    crl: "b".into(),
                },
            ),
            (r#"{"command":"watch"}"#, AdminRequest::Watch {}),
        ] {
            assert_eq!(serde_json::from_str::<AdminRequest>(line).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        assert!(serde_json::from_str::<AdminRequest>(r#"{"command":"status","x":1}"#).is_err());
    }

    #[test]
    fn events_are_what_the_documents_say() {
        let event = AdminEvent::Uncontained(Uncontained {
            vm: "ivi".into(),
            end_vmm: true,
        });
        let line = r#"{"uncontained":{"vm":"ivi","end_vmm":true}}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }

    /// The longest policy and CRL, each of its bytes escaped, with the words around them.
    #[test]
    fn the_longest_reload_is_within_its_bound() {
        let request = AdminRequest::Reload {
            policy: "\n".repeat(MAX_RELOAD_POLICY_BYTES),
            crl: "\n".repeat(MAX_RELOAD_CRL_BYTES),
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.len() < MAX_REQUEST_BYTES);
    }
}
