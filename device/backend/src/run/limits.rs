//! Bounds of the event loop that its partners can notice (`docs/port.md`, section 6), each with its
//! unit and where it comes from. Bounds of messages and queues are beside those.

use std::time::Duration;

use sivshm_abi::limits::{
    MAX_DATA_BYTES, MAX_FRAMES_PER_WAKE, MAX_GRANTS, MAX_PCI_WINDOWS, MAX_PEERS, MAX_SESSIONS,
    MAX_VECTORS, MAX_WINDOWS, SESSION_CREDIT_BYTES,
};
use sivshm_handshake::service::limits::{MAX_SERVICE_MESSAGE_BYTES, OPEN_LIFETIME, STEP_WITHIN};

use crate::vmm::port::FIRST_PEER;
use crate::{admin_wire, launch_wire};

/// Frames of the guest at once: four for each grant that a VM can have, which is more than a whole
/// restart of every service costs.
pub const FRAMES_AT_ONCE: u32 = 4096;

/// Frames of the guest in a second: two orders of magnitude above what starting and ending sessions
/// costs, and about one percent of a core.
pub const FRAMES_PER_SECOND: u32 = 4096;

/// `OPEN` frames at once for each service, for all processes that are none, and `HELLO` frames:
/// every session of a guest that has just started.
pub const OPENS_AT_ONCE: u32 = 64;

/// The same in a second: every service of a guest may restart in a loop, and each writes at most 62 MB
/// of audit an hour (`docs/audit.md`).
pub const OPENS_PER_SECOND: u32 = 16;

/// Frames that may wait for the guest before no more of its own are read: each `OPEN` that is
/// refused makes one, and each session has its credit under way in `DATA`. How many grants can wait
/// is bounded by the policy.
pub const MAX_WAITING_FRAMES: usize = MAX_SESSIONS * (2 + SESSION_CREDIT_BYTES / MAX_DATA_BYTES);

/// Sessions of one service at a time that have not proved who they are: the live one's successor, and
/// three restarts.
pub const MAX_UNPROVED: usize = 4;

/// Time for a session to prove who it is. TLS takes some milliseconds; an emulated guest on a loaded
/// host takes a second.
pub const PROOF_WITHIN: Duration = Duration::from_secs(30);

/// Wants and messages with signatures of a service, at once, apart from its pairings: as many as
/// four rounds of `want`, `open` and `confirm` have.
pub const COSTLY_AT_ONCE: u32 = 12;

/// The same for each of its pairings: two rounds, for a service that starts twice.
pub const COSTLY_PER_PAIRING: u32 = 6;

/// The same in a second: each costs up to four verifications, a quarter of a millisecond together,
/// so that a flood of one service takes under two percent of a core. An opening has three of the
/// writer's, and its records are the greater cost (`docs/audit.md`).
pub const COSTLY_PER_SECOND: u32 = 64;

/// Bytes that may wait for a session beyond its credit: TLS's own handshake with the longest chains,
/// and answers to wants that are refused.
pub const QUEUED_BYTES: usize = 64 * 1024;

/// The same for each pairing of its service: the longest message of the handshake.
pub const QUEUED_BYTES_PER_PAIRING: usize = MAX_SERVICE_MESSAGE_BYTES;

/// Time from an `open` that was passed on to its `accept`: it may wait for the reader as long as it
/// lives, and then the reader and its device process have a step each.
pub const OPENED_WITHIN: Duration = OPEN_LIFETIME
    .saturating_add(STEP_WITHIN)
    .saturating_add(STEP_WITHIN);

/// Time in which a guest has to acknowledge the end of a grant (DESIGN section 9).
pub const REVOKED_WITHIN: Duration = Duration::from_millis(100);

/// Time that a launch waits for peers to be established (DESIGN section 6).
pub const LAUNCH_WITHIN: Duration = Duration::from_secs(30);

/// Time for a tool to send its line and take its answer, which it does at once.
pub const LINE_WITHIN: Duration = Duration::from_secs(5);

/// Time until the first dial after a link was lost, or could not be made: less than a device
/// process needs to start.
pub const FIRST_BACK_OFF: Duration = Duration::from_millis(10);

/// Longest time from one dial to the next: what a person waits without wondering.
pub const LAST_BACK_OFF: Duration = Duration::from_secs(1);

/// Connections that a peer may make at once: as many as a dialer makes in its first second of
/// backing off, and one more.
pub const ARRIVALS_AT_ONCE: u32 = 8;

/// Time until a peer that has used those up may connect again: the dialer's own slowest rate.
pub const ARRIVAL_INTERVAL: Duration = LAST_BACK_OFF;

/// Ring ids that each peer may use up in one run, since none is used twice: a fair share of 65535.
pub const RING_IDS_PER_PEER: u16 = 256;

/// Time until descriptors are sent again when too many are on their way on this host: other
/// receivers have to take theirs first.
pub const RIGHTS_AGAIN: Duration = Duration::from_millis(10);

const _: () = assert!(OPENS_AT_ONCE as usize == MAX_SESSIONS);
const _: () =
    assert!(FIRST_PEER.0 as usize + MAX_PEERS * RING_IDS_PER_PEER as usize <= u16::MAX as usize);

/// Every limit with the name that `docs/port.md` gives it.
pub const LIMITS: &[(&str, u64)] = &[
    ("windows of a VM", MAX_WINDOWS as u64),
    ("windows that a VMM shows", MAX_PCI_WINDOWS as u64),
    ("vectors of a port", MAX_VECTORS as u64),
    ("sessions of a VM", MAX_SESSIONS as u64),
    ("grants of a VM", MAX_GRANTS as u64),
    ("frames for one wake-up", MAX_FRAMES_PER_WAKE as u64),
    ("frames of a guest at once", FRAMES_AT_ONCE as u64),
    ("frames of a guest in a second", FRAMES_PER_SECOND as u64),
    ("frames that wait for a guest", MAX_WAITING_FRAMES as u64),
    ("sessions of a service opened at once", OPENS_AT_ONCE as u64),
    (
        "sessions of a service opened in a second",
        OPENS_PER_SECOND as u64,
    ),
    (
        "sessions of a service that have proved nothing",
        MAX_UNPROVED as u64,
    ),
    ("seconds to prove a service", PROOF_WITHIN.as_secs()),
    (
        "costly messages of a service at once",
        COSTLY_AT_ONCE as u64,
    ),
    (
        "costly messages of a service at once for each pairing",
        COSTLY_PER_PAIRING as u64,
    ),
    (
        "costly messages of a service in a second",
        COSTLY_PER_SECOND as u64,
    ),
    ("bytes that wait for a session", QUEUED_BYTES as u64),
    (
        "bytes that wait for a session for each pairing",
        QUEUED_BYTES_PER_PAIRING as u64,
    ),
    ("seconds from open to accept", OPENED_WITHIN.as_secs()),
    (
        "seconds that a launch waits for peers",
        LAUNCH_WITHIN.as_secs(),
    ),
    ("seconds to send a request", LINE_WITHIN.as_secs()),
    (
        "bytes of a launch request",
        launch_wire::MAX_REQUEST_BYTES as u64,
    ),
    (
        "bytes of an admin request",
        admin_wire::MAX_REQUEST_BYTES as u64,
    ),
    (
        "bytes of a policy in a reload",
        admin_wire::MAX_RELOAD_POLICY_BYTES as u64,
    ),
    (
        "bytes of revocation lists in a reload",
        admin_wire::MAX_RELOAD_CRL_BYTES as u64,
    ),
    ("connections of a peer at once", ARRIVALS_AT_ONCE as u64),
    (
        "seconds to another connection of that peer",
        ARRIVAL_INTERVAL.as_secs(),
    ),
    ("seconds between dials, at most", LAST_BACK_OFF.as_secs()),
    ("ring ids of a peer in one run", RING_IDS_PER_PEER as u64),
];
