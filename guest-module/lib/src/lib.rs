//! libsivshm: channels of shared memory between services in different VMs (DESIGN sections 9 and
//! 11).
//!
//! A program loads the [`Identity`] of its service, opens a [`Session`] with it, and opens its ends
//! of channels by name, saying whom it expects at the other end. A channel opens when both services
//! have proved to each other who they are, both device processes have found that the policy allows
//! it, and both gates have been told.
//!
//! ```no_run
//! use std::time::Duration;
//! use sivshm::{Identity, Open, Session};
//!
//! # fn main() -> Result<(), sivshm::Error> {
//! let identity = Identity::named("reducer")?;
//! let session = Session::open(&identity)?;
//! let timeout = Duration::from_secs(10);
//! let options = Open::new().peer("manager/mapper").timeout(timeout);
//! let mut jobs = session.region_reader("job-1", &options)?;
//! let message = jobs.wait(timeout)?;
//! let mut bytes = vec![0; message.length];
//! jobs.copy_out(message, 0, &mut bytes)?;
//! jobs.acknowledge(message)?;
//! # Ok(())
//! # }
//! ```
//!
//! The same program runs in a guest, over `/dev/sivshm`, and in a host process that stands in for a
//! VM (`sivshm run VM --attach --service NAME`), where the environment says what was granted and
//! the guest's gate runs in-process.
//!
//! # Who says what to whom
//!
//! A thread of the session ("sivshm-control") does all of it: TLS with this VM's device process,
//! and through that the signed `open`, `accept` and `confirm` with each peer's service. It sleeps
//! unless something has come. The key stays in this process. A device process says which ranges an
//! end consists of, but is not believed about who is at the other end: that is the peer's
//! signature, and only grants of the epoch that both services have signed are used.
//!
//! # What a peer can do
//!
//! Bytes of a channel come from a VM that is not trusted. Its counts and lengths are judged before
//! they are used ([`Error::Peer`]), and a peer may stop at any time, so that every wait has a
//! timeout. What the bytes *mean* is for the program to check, after it has copied them out.
//!
//! # When a channel ends
//!
//! A channel ends when either service closes it, leaves or restarts, when an SVID that it stands on
//! ends or is withdrawn, when the operator or a newer policy takes it away, or when a VM is gone.
//! From then on every call that waits, and every call on a region, fails with [`Error::Revoked`]
//! and the reason. Unless this service or the policy has ended it, the session shakes hands again
//! by itself as soon as the other end is back: `renew` on the end waits for that and takes up the
//! new epoch. With several readers, a writer's end ends with the first of them, and its renewal
//! goes on in the same epoch.
//!
//! A grant may end between the question whether it stands and the access. The access then finds empty
//! pages, nothing of which is taken for data, and the next question has the answer. In an attached
//! process the library puts them there by itself. In a guest the kernel takes the pages of the grant
//! away and answers the access with `SIGBUS`.
//!
//! # `SIGBUS`
//!
//! So in a guest the library takes this signal for the whole process when it first maps a grant: for
//! an address in a mapping of its own it puts empty pages there and has the access repeated; every other
//! signal goes to whoever had it before, as if the library were not there. It needs no room on the
//! stack of a thread that has another for signals (`SA_ONSTACK`), and keeps `errno`. What a program
//! has to know:
//!
//! - A handler that is installed before the first channel is opened needs nothing. One that is
//!   installed later must keep the action that `sigaction` gives back and call its handler, with all
//!   three arguments, for every address that it does not know.
//! - A thread that blocks `SIGBUS` and uses an end dies with its process: nobody can handle a fault
//!   there.
//! - Once a channel was open, the library can't be unloaded (`dlclose`).
//! - In a process that locks all memory (`mlockall` with `MCL_FUTURE`) the empty pages take as much of
//!   it as the mapping is long.
//! - A forked child inherits the handler and no mapping.

mod attached;
mod backend;
pub mod capi;
mod channel;
mod control;
mod desk;
mod devnode;
mod doorbell;
mod end;
mod error;
mod found;
mod identity;
pub mod integrity;
mod mapping;
mod open;
mod region;
mod ring;
mod session;
#[cfg(test)]
mod tests;
mod wait;

pub use channel::Channel;
pub use error::{BadPeers, Error, Party};
pub use identity::Identity;
pub use integrity::Loan;
pub use open::{Cancel, Open};
pub use region::{RegionReader, RegionWriter};
pub use ring::{Consumer, Producer};
pub use session::Session;
pub use sivshm_abi::frame::Reason;
pub use sivshm_abi::grant::Integrity;
pub use sivshm_abi::identity::SpiffeId;
pub use sivshm_handshake::service::ServiceFault;
pub use sivshm_handshake::service::wire::{RefusalReason, Role, ServiceRefusal};
pub use sivshm_ring::line::Fault;
pub use sivshm_ring::region::Message;
pub use sivshm_ring::slots::{IntegrityFault, Received};
pub use wait::Wait;
