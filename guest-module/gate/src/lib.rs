//! The decision core of the SIVSHM guest (DESIGN section 10).
//!
//! The guest kernel module links this crate and asks it before it does anything: which PCI function
//! is which window, which process may map which range, whom a ring reaches, what leaves a page
//! table when. It carries handshake bytes between a process and the device process, too, and never
//! looks into them. The library links the very same code where a host process stands in for a VM.
//!
//! [`Gate`] holds fixed tables and no pointer into a process; it allocates nothing and keeps the
//! stack of each call small. What it can't do itself (page tables, wake-ups, registers) it returns
//! as an [`Effect`], which its shim carries out one at a time:
//!
//! ```text
//! vector 0 fires, or any call below returned:
//!     more = gate.receive()              only if vector 0 has fired
//!     while let Some(effect) = gate.next_effect() { carry out; after Unmap: gate.unmapped(slot) }
//!     call again at once if `more`, after a while if gate.frames_owed()
//! ```
//!
//! The other side of the control rings is treated as hostile (I5): whatever it sends, no call
//! panics, loops without bound or believes a range outside a window.
#![no_std]
#![forbid(unsafe_code)]

mod bells;
mod bits;
mod complaint;
mod control;
mod decide;
mod errno;
mod flow;
mod grants;
mod list;
mod revoked;
mod sessions;
mod stream;
#[cfg(test)]
mod tests;
mod windows;

use sivshm_abi::directory::DirectoryHead;
use sivshm_abi::frame::{LONGEST_PAYLOAD_BYTES, Payload, SessionId};
use sivshm_abi::grant::{RingId, Vector};
use sivshm_ring::frames::{ControlRings, Space};

use bells::Flag;

pub use bells::Bells;
pub use complaint::{Complaint, FlowFault, GrantFault};
pub use decide::{Caller, Placement, Wanted};
pub use errno::{ERRNOS, Errno};
pub use flow::Readiness;
pub use grants::Slot;
pub use list::Listing;
pub use sessions::{Files, Mm, Owner};
pub use windows::WindowNumber;

/// All state of one guest's gate. About 770 KiB, most of them for bytes that sessions have not read
/// yet: keep it in a static, or a box made by `Box::default`.
#[derive(Debug)]
pub struct Gate {
    link: Option<Link>,
    windows: windows::Windows,
    sessions: sessions::Sessions,
    grants: grants::Grants,
    revoked: revoked::Revoked,
    /// Bytes of the frame at hand.
    space: Space,
    due: Due,
}

/// The connection to the device process, from binding the port to losing it.
#[derive(Debug)]
struct Link {
    rings: ControlRings,
    head: DirectoryHead,
}

/// What is to be done as soon as somebody asks for the next effect.
#[derive(Debug)]
struct Due {
    /// The first frame, until it is sent.
    hello: Option<Payload<'static>>,
    /// An answer to a frame that concerns no slot. No further frame is received before it is sent.
    answer: Option<(SessionId, Payload<'static>)>,
    /// A frame did not fit the ring.
    retry: bool,
    /// Somebody may be waiting for what has changed.
    wake: bool,
    /// Somebody could not write for want of room in the ring.
    crowded: Flag,
    /// Frames were sent of which the device process does not know yet.
    ring: bool,
    /// What the other side did wrong last.
    complaint: Option<Complaint>,
}

/// What the gate's shim has to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Take the pages of this slot out of every page table, drop what is bound to it, then call
    /// [`Gate::unmapped`]. No decision admits the slot any more.
    Unmap(Slot),
    /// Wake everybody who waits or polls: a session's state or list of grants has changed.
    Wake,
    /// Write this to the port's doorbell register.
    Ring(Doorbell),
    /// Tell the guest's operator what went wrong.
    Report(Complaint),
}

/// What a write to the port's doorbell register holds: the target in bits 16 to 31, its vector in
/// bits 0 to 15.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doorbell {
    /// Whom to ring.
    pub target: RingId,
    /// Which of the target's vectors.
    pub vector: Vector,
}

impl Doorbell {
    /// Rings the device process: it looks at the guest-to-host ring.
    pub const CONTROL: Self = Self {
        target: RingId(0),
        vector: Vector(0),
    };

    /// The value to write.
    #[must_use]
    pub const fn value(self) -> u32 {
        (self.target.0 as u32) << 16 | self.vector.0 as u32
    }
}

impl Gate {
    /// A gate without a port: it refuses everything.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            link: None,
            windows: windows::Windows::new(),
            sessions: sessions::Sessions::new(),
            grants: grants::Grants::new(),
            revoked: revoked::Revoked::new(),
            space: [0; LONGEST_PAYLOAD_BYTES],
            due: Due {
                hello: None,
                answer: None,
                retry: false,
                wake: false,
                crowded: Flag::new(),
                ring: false,
                complaint: None,
            },
        }
    }
}

impl Default for Gate {
    /// Made at compile time: `Box::<Gate>::default()` needs one gate's size of stack, and no more.
    fn default() -> Self {
        const { Self::new() }
    }
}
