//! Views onto memory that a hostile peer can write, and the rings built on them.
//!
//! [`Shared`] is the only way to touch such memory: every access is bounds-checked, no reference
//! to its bytes ever exists, and a word that a peer can write is loaded once into a local and then
//! judged (DESIGN section 11, invariant I5). On top of it are
//!
//! - [`frames`]: the control rings between a guest's gate and its device process (section 7);
//! - [`slots`] and [`region`]: the two kinds of channel (section 11, `docs/channels.md`);
//! - [`wake`]: how either end of a channel sleeps without missing the other.
//!
//! The crate allocates nothing and needs neither `std` nor floating point, because the guest
//! kernel module links it. With `--cfg loom` the memory is a model: `tests/loom.rs` then checks the
//! very code of [`slots`] and [`wake`] under every interleaving.
#![no_std]

#[cfg(any(test, loom))]
extern crate std;

pub mod frames;
pub mod line;
#[cfg(test)]
mod memory;
pub mod region;
mod shared;
pub mod slots;
#[cfg_attr(loom, path = "model.rs")]
mod sync;
#[cfg(test)]
mod tests;
pub mod wake;

pub use shared::{OutOfBounds, Shared, Word32, Word64};
#[cfg(loom)]
pub use sync::Model;
