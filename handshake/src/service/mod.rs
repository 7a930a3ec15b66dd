//! The service handshake: how two services come to share a channel, and how the device processes
//! between them see to it (DESIGN section 9, `docs/service-handshake.md`).
//!
//! ```text
//! service A (writer)        device A          device B        service B (reader)
//!   ServiceClient  <-TLS-> ServiceSession   ServiceSession <-TLS-> ServiceClient
//!      want, terms             |                  |             want, terms
//!      open ---------- check_open ------- check_open ---------------> open
//!      accept <-- CheckedOpen::accept -- CheckedOpen::accept -------- accept
//!      confirm -- CheckedAccept::confirm - CheckedAccept::confirm --> confirm
//!                          Agreement          Agreement
//!      agreed <------------------ agreed --- agreed <------------- agreed
//!                              installed --- installed ----------> installed
//! ```
//!
//! A device process grants for an [`Agreement`] only, and there is no other way to have one than
//! through all three checks.

mod check;
mod client;
mod fault;
mod keys;
pub mod limits;
mod line;
mod session;
mod sign;
#[cfg(test)]
mod tests;
pub mod wire;

pub use check::{Agreement, CheckedAccept, CheckedOpen, OpenTerms, check_open};
pub use client::{ClientEvent, Opened, ServiceClient, Stage, Want};
pub use fault::{Proof, ServiceFault, Term};
pub use keys::ChannelKeys;
pub use session::{ServiceSession, SessionEvent, VerifiedService};

/// The application protocol (ALPN) between a service and its device process.
pub const ALPN: &[u8] = b"sivshm-service/1";
