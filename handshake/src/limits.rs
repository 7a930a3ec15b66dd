//! Every bound of the peer handshake, with its unit and where it comes from.

use std::time::Duration;

use sivshm_abi::limits::MAX_WINDOWS;

use crate::wire::{HEADER_BYTES, Hello, ManifestEntry};

/// Longest time from the first byte to an established link.
///
/// A handshake costs under 1.5 ms of CPU on each side, so a device process that starts beside 255
/// peers on one core is through all of them in under a second; five times that leaves room for a
/// loaded host and still ends a silent peer before a person wonders.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most certificates that a party may present: its SVID and three intermediates. `sivshm-ca` makes
/// one intermediate; a site's own hierarchy above it adds at most two.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;

/// Longest certificate, in bytes. A P-256 SVID has about 700; 4 KiB leave room for long issuer
/// names and policies, and none for padding a handshake.
pub const MAX_CERTIFICATE_BYTES: usize = 4 * 1024;

/// Most roots in a trust bundle: two lives of a root overlap when it is rotated, for at most eight
/// sites' roots.
pub const MAX_TRUST_ANCHORS: usize = 16;

/// Most revocation lists: that of each root, and of one intermediate below each.
pub const MAX_CRLS: usize = 2 * MAX_TRUST_ANCHORS;

/// Most bytes accepted from a peer before it is authenticated: the longest chain, and as much as
/// one more certificate for the hellos, signature, alerts and record framing of TLS, doubled so
/// that the first message may follow in the same read.
pub const MAX_UNAUTHENTICATED_BYTES: usize =
    2 * (MAX_CHAIN_CERTIFICATES + 1) * MAX_CERTIFICATE_BYTES;

/// Most entries of a manifest: every window that a VM can have, and one doorbell.
pub const MAX_MANIFEST_ENTRIES: usize = MAX_WINDOWS + 1;

/// Longest payload of a message, in bytes: a full manifest with its 16-bit count.
pub const MAX_PAYLOAD_BYTES: usize = 2 + MAX_MANIFEST_ENTRIES * ManifestEntry::MAX_BYTES;

/// Most descriptors that ride on one message. The kernel's own bound is 253 (`SCM_MAX_FD`); this is
/// the power of two below it, and the size of a receiver's control buffer follows from it.
pub const MAX_RIGHTS_PER_MESSAGE: usize = 128;

const _: () = assert!(HEADER_BYTES + Hello::BYTES < MAX_CERTIFICATE_BYTES);
const _: () = assert!(MAX_RIGHTS_PER_MESSAGE <= u8::MAX as usize);
const _: () = assert!(MAX_MANIFEST_ENTRIES <= u16::MAX as usize);

/// Every limit with the name that `docs/peer-handshake.md` gives it.
pub const LIMITS: &[(&str, u64)] = &[
    ("certificates in a chain", MAX_CHAIN_CERTIFICATES as u64),
    ("bytes of a certificate", MAX_CERTIFICATE_BYTES as u64),
    ("trust anchors", MAX_TRUST_ANCHORS as u64),
    ("revocation lists", MAX_CRLS as u64),
    ("unauthenticated bytes", MAX_UNAUTHENTICATED_BYTES as u64),
    ("manifest entries", MAX_MANIFEST_ENTRIES as u64),
    ("bytes of a payload", MAX_PAYLOAD_BYTES as u64),
    ("descriptors on a message", MAX_RIGHTS_PER_MESSAGE as u64),
    ("seconds of a handshake", HANDSHAKE_TIMEOUT.as_secs()),
];
