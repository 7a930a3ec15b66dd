//! Every bound that host and guest share, with its unit and where it comes from.

/// Size of a page, in bytes, on every architecture SIVSHM supports today.
pub const PAGE_BYTES: u64 = 4096;

/// Longest name of a VM, service or channel, in bytes.
///
/// Two names, a separator and a `.sock` suffix must fit a socket path (108 bytes) below a
/// relocated root, and names of 32 bytes are what people can read in a table.
pub const MAX_NAME_BYTES: usize = 32;

/// Longest trust domain, in bytes: one DNS label's length; SPIFFE itself allows 255.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 63;

/// Most VMs in one policy. Peer identifiers and vectors then fit a byte each with room to spare.
pub const MAX_VMS: usize = 256;

/// Most peers of one VM: every other VM of the largest policy.
pub const MAX_PEERS: usize = MAX_VMS - 1;

/// Most windows of one VM: one written and one read slice for each of [`MAX_PEERS`] peers, rounded
/// up to a power of two.
pub const MAX_WINDOWS: usize = 512;

/// Most windows that a VMM shows to its guest: eight root ports of eight functions, less the port
/// itself and one function kept free. The arrangement has been booted with exactly this number.
pub const MAX_PCI_WINDOWS: usize = 62;

/// Most vectors of one port: vector 0 for control and one for each peer.
pub const MAX_VECTORS: usize = 1 + MAX_PEERS;

/// Most sessions (open files of `/dev/sivshm`) of one VM at a time.
///
/// A service holds one session; sixteen services with three restarts in flight each are 64.
pub const MAX_SESSIONS: usize = 64;

/// Most grants of one VM at a time: four for each of [`MAX_PEERS`] peers (data and acknowledgement
/// line of one channel in each direction), rounded up to a power of two.
pub const MAX_GRANTS: usize = 1024;

/// Most readers of one channel. A writer's acknowledgement grants are numbered by a byte.
pub const MAX_READERS: usize = 255;

/// Longest payload of a control frame, in bytes: one TLS record of 16 KiB less its framing fits.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024;

/// Most handshake bytes that one `DATA` frame carries: a quarter of what a session may have under
/// way, so that several sessions share a ring fairly.
pub const MAX_DATA_BYTES: usize = 2048;

/// Handshake bytes that may be under way in each direction of a session before the receiver gives
/// credit (`RING`). The longest message of the service handshake and one of TLS's records around
/// it fit, so that a reader that is woken once finds a message whole.
pub const SESSION_CREDIT_BYTES: usize = 8 * 1024;

/// Most frames one side handles each time it is woken, before it looks at its other duties.
///
/// A full host-to-guest ring of the shortest frames holds 5461 of them; 256 of the shortest take
/// tens of microseconds, so a flood can't hold a loop for longer than that.
pub const MAX_FRAMES_PER_WAKE: usize = 256;

/// Offset space that one grant owns in the `mmap` offsets of `/dev/sivshm`, as a power of two:
/// 16 GiB, the largest slice that [`MAX_GRANTS`] grants leave room for in a signed 64-bit offset
/// with ample spare bits.
pub const GRANT_OFFSET_SHIFT: u32 = 34;

/// Largest slice, in bytes: what one grant's offset space can address.
pub const MAX_SLICE_BYTES: u64 = 1 << GRANT_OFFSET_SHIFT;

const _: () = assert!(MAX_DATA_BYTES <= MAX_PAYLOAD_BYTES);
const _: () = assert!(SESSION_CREDIT_BYTES.is_multiple_of(MAX_DATA_BYTES));
const _: () = assert!(MAX_GRANTS >= 4 * MAX_PEERS);
const _: () = assert!(MAX_WINDOWS >= 2 * MAX_PEERS);
const _: () = assert!((MAX_GRANTS as u64) << GRANT_OFFSET_SHIFT < 1 << 62);
