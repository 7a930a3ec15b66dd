//! Every bound of the service handshake, with its unit and where it comes from.

use std::time::Duration;

use sivshm_abi::limits::{MAX_NAME_BYTES, MAX_TRUST_DOMAIN_BYTES, SESSION_CREDIT_BYTES};

use super::wire::{Accept, HEADER_BYTES, Open};

/// Bytes that TLS 1.3 puts around a record: header, content type and tag.
const TLS_RECORD_BYTES: usize = 5 + 1 + 16;

/// Longest message with its header, in bytes: what a session's credit carries in one TLS record, so
/// that a reader that is woken once finds it whole.
pub const MAX_SERVICE_MESSAGE_BYTES: usize = SESSION_CREDIT_BYTES - TLS_RECORD_BYTES;

/// Longest SPIFFE ID, in bytes: `spiffe://DOMAIN/vm/VM/svc/SERVICE`.
pub const MAX_SPIFFE_ID_BYTES: usize = 9 + MAX_TRUST_DOMAIN_BYTES + 4 + 5 + 2 * MAX_NAME_BYTES;

/// Longest ECDSA signature, in bytes: two integers of P-384 with their DER framing, 49 bytes each
/// with a leading zero.
pub const MAX_SIGNATURE_BYTES: usize = 2 + 2 * (2 + 49);

/// Longest SVID chain in a message, in bytes: what the longest of the other fields of an `open`
/// leave room for. A chain of two P-256 certificates has about 1500.
pub const MAX_CHAIN_BYTES: usize =
    MAX_SERVICE_MESSAGE_BYTES - HEADER_BYTES - Open::MAX_BYTES_WITHOUT_CHAIN;

/// How long an `open` may wait for the other end, and how long it is good for.
///
/// A guest boots in a few seconds and its services start in as many; ten times that is 30 s, and an
/// `open` that is copied is of no use after it.
pub const OPEN_LIFETIME: Duration = Duration::from_secs(30);

/// How far the clocks of two parties may differ: as far as the CA's certificates reach back.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How long each of `accept`, `confirm` and `agreed` may take to come.
///
/// A step costs under 1 ms of CPU; a TCG guest on a loaded host takes a second for it. Ten times
/// that still ends a silent end before a person wonders.
pub const STEP_WITHIN: Duration = Duration::from_secs(10);

/// How long `installed` may take to come, by the same measure as [`STEP_WITHIN`].
pub const INSTALL_WITHIN: Duration = Duration::from_secs(10);

/// First pause of a client whose attempt was refused; each further one doubles it.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two attempts of a client. An attempt that lasted longer is followed by the
/// next at once.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

const _: () = assert!(Accept::MAX_BYTES_WITHOUT_CHAIN < Open::MAX_BYTES_WITHOUT_CHAIN);
const _: () = assert!(MAX_SPIFFE_ID_BYTES <= u8::MAX as usize);
const _: () = assert!(MAX_SIGNATURE_BYTES <= u8::MAX as usize);
const _: () = assert!(MAX_SERVICE_MESSAGE_BYTES < crate::limits::MAX_PAYLOAD_BYTES);

/// Every limit with the name that `docs/service-handshake.md` gives it.
pub const LIMITS: &[(&str, u64)] = &[
    ("bytes of a message", MAX_SERVICE_MESSAGE_BYTES as u64),
    ("bytes of a chain", MAX_CHAIN_BYTES as u64),
    ("bytes of a SPIFFE ID", MAX_SPIFFE_ID_BYTES as u64),
    ("bytes of a signature", MAX_SIGNATURE_BYTES as u64),
    ("seconds of an open", OPEN_LIFETIME.as_secs()),
    ("seconds between clocks", MAX_CLOCK_SKEW.as_secs()),
    ("seconds of a step", STEP_WITHIN.as_secs()),
    ("seconds of an installation", INSTALL_WITHIN.as_secs()),
    ("milliseconds of the first pause", 100),
    ("seconds of the longest pause", LONGEST_PAUSE.as_secs()),
];
