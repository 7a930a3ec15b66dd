//! Layout of the control memory, the shared memory of a VM's port (DESIGN section 7,
//! `docs/port.md`).
//!
//! | bytes from | what | who writes |
//! |---|---|---|
//! | 0 | directory | device process |
//! | [`HOST_INDEXES`] | tail of host-to-guest, head of guest-to-host | device process |
//! | [`GUEST_INDEXES`] | tail of guest-to-host, head of host-to-guest | guest |
//! | [`HOST_TO_GUEST`] | bytes of the host-to-guest ring | device process |
//! | [`GUEST_TO_HOST`] | bytes of the guest-to-host ring | guest |
//!
//! The memory is one `ivshmem-doorbell` BAR, which QEMU maps writable as a whole: the last column
//! is a convention, both sides treat every byte as hostile, and each keeps its own indexes in
//! private memory. An index counts bytes from the start of the session between guest driver and
//! device process, modulo 2^32; a ring's length divides 2^32.

/// Bytes of the whole control memory: a power of two, as a PCI BAR must be.
pub const CONTROL_BYTES: u64 = 256 * 1024;

/// Bytes of the directory.
pub const DIRECTORY_BYTES: u64 = 32 * 1024;

/// Offset of the indexes that the host writes.
pub const HOST_INDEXES: u64 = DIRECTORY_BYTES;

/// Offset of the indexes that the guest writes.
pub const GUEST_INDEXES: u64 = HOST_INDEXES + 4096;

/// Offset of the tail (bytes produced) within an index page.
pub const TAIL: u64 = 0;

/// Offset of the head (bytes consumed) within an index page.
pub const HEAD: u64 = 64;

/// Bytes of each ring: room for three frames of the greatest length, as a power of two.
pub const RING_BYTES: u64 = 64 * 1024;

/// Offset of the host-to-guest ring's bytes.
pub const HOST_TO_GUEST: u64 = 64 * 1024;

/// Offset of the guest-to-host ring's bytes.
pub const GUEST_TO_HOST: u64 = HOST_TO_GUEST + RING_BYTES;

const _: () = assert!(CONTROL_BYTES.is_power_of_two() && RING_BYTES.is_power_of_two());
const _: () = assert!(GUEST_INDEXES + 4096 <= HOST_TO_GUEST);
const _: () = assert!(GUEST_TO_HOST + RING_BYTES <= CONTROL_BYTES);
const _: () = assert!(
    RING_BYTES >= 3 * (crate::limits::MAX_PAYLOAD_BYTES + crate::frame::FrameHeader::BYTES) as u64
);
