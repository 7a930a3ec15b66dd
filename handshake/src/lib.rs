//! The peer handshake: how two device processes come to trust each other and exchange memory and
//! doorbells (DESIGN section 8, `docs/peer-handshake.md`).
//!
//! Everything here is sans-IO: no socket, no descriptor, no clock. The caller moves bytes and
//! descriptors, looks at the kernel's facts about both, and passes the time in.
//!
//! ```text
//! Credentials::load ──> PeerHandshake::dial | accept ──> receive ... admit ... receive
//!                                                          │
//!      Send, CheckPeer, AllowRights, SendRights, DenyRights, Established, Revoke, Service, Bye
//! ```
//!
//! Driving a machine looks the same on both sides:
//!
//! ```no_run
//! # use std::time::{Instant, SystemTime};
//! # use sivshm_abi::name::VmName;
//! # use sivshm_handshake::*;
//! # type Fd = std::rc::Rc<std::os::fd::OwnedFd>;
//! # struct Socket;
//! # impl Socket {
//! #     fn recvmsg(&self) -> (Vec<u8>, Vec<Arrived<Fd>>) { unimplemented!() }
//! #     fn send(&self, bytes: Vec<u8>, rights: Vec<Fd>) {}
//! #     fn pass_rights(&self, allow: bool) {}
//! #     fn peer_uid(&self) -> PeerUid { unimplemented!() }
//! # }
//! # fn planned_uid(vm: VmName) -> Option<PeerUid> { None }
//! # fn grant(peer: &VerifiedPeer) -> LinkTerms<Fd> { unimplemented!() }
//! fn drive(socket: &Socket, credentials: &Credentials) -> Result<Established<Fd>, Refusal> {
//!     let mut machine = PeerHandshake::accept(credentials, SystemTime::now(), Instant::now())?;
//!     loop {
//!         let (bytes, rights) = socket.recvmsg();
//!         let mut todo = machine.receive(&bytes, rights)?;
//!         while !todo.is_empty() {
//!             for action in std::mem::take(&mut todo) {
//!                 match action {
//!                     Action::Send(bytes) => socket.send(bytes, Vec::new()),
//!                     Action::SendRights { bytes, rights } => socket.send(bytes, rights),
//!                     Action::AllowRights { .. } => socket.pass_rights(true),
//!                     Action::DenyRights => socket.pass_rights(false),
//!                     Action::CheckPeer { vm } => {
//!                         todo = machine.admit(socket.peer_uid(), planned_uid(vm), grant)?;
//!                     }
//!                     Action::Established(link) => return Ok(link),
//!                     Action::Revoke(_) | Action::Service(_) | Action::Bye => {}
//!                 }
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! On a refusal the machine has dropped every descriptor it held; what it still has to say to the
//! peer is in [`PeerHandshake::last_words`].
#![forbid(unsafe_code)]

mod credentials;
mod edition;
mod identity;
mod known;
pub mod limits;
mod link;
mod peer;
mod refusal;
pub mod service;
mod step;
mod terms;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod verifier;
pub mod wire;

pub use credentials::{CredentialError, Credentials};
pub use edition::{EditionFault, Mark};
pub use identity::{IdentityFault, Other, Party};
pub use link::LinkId;
pub use peer::{Action, Established, PeerHandshake};
pub use refusal::{Blame, REFUSAL_CODES, Refusal, RefusalCode, Step};
pub use step::{AdmissionFault, HelloFault, ManifestFault, RightsFault, VerifiedPeer};
pub use terms::{
    Arrived, EventfdFacts, Expected, LinkTerms, MemfdFacts, ObjectFacts, Outgoing, PeerUid,
    REQUIRED_SEALS, Received, SLICE_MODE,
};
pub use tls::{ALPN, TlsFault};
