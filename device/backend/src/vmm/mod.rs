//! The attachment of a virtual machine monitor (DESIGN section 6, `docs/port.md`).
//!
//! Everything that knows how a stock QEMU shows memory and doorbells is in this folder, so that
//! another attachment replaces this folder and nothing else.

pub mod directory;
pub mod place;
pub mod port;
