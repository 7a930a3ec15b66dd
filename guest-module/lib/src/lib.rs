//! libsivshm: channels of shared memory between services in different VMs (DESIGN section 11).
//!
//! A program opens a [`Session`] and takes its end of a channel by the channel's name; what it gets
//! follows from the policy and from what its kernel attests about it, not from anything it says.
//!
//! ```no_run
//! use std::time::Duration;
//! use sivshm::{Session, Wait};
//!
//! # fn main() -> Result<(), sivshm::Error> {
//! let session = Session::open()?;
//! let timeout = Duration::from_secs(10);
//! let mut jobs = session.region_reader("job-1", Wait::Interrupt, timeout)?;
//! let message = jobs.wait(timeout)?;
//! let mut bytes = vec![0; message.length];
//! jobs.copy_out(message, 0, &mut bytes)?;
//! jobs.acknowledge(message)?;
//! # Ok(())
//! # }
//! ```
//!
//! The same program runs in a guest, over `/dev/sivshm`, and in a host process that stands in for
//! a VM (`sivshm run VM --attach`), where the environment says what was granted and the guest's
//! gate runs in-process.
//!
//! # What a peer can do
//!
//! Bytes of a channel come from a VM that is not trusted. Its counts and lengths are judged before
//! they are used ([`Error::Peer`]), and a peer may stop at any time, so that every wait has a
//! timeout. What the bytes *mean* is for the program to check, after it has copied them out.
//!
//! # When a grant ends
//!
//! Every call that waits, and every call on a region, first asks whether the channel's grants
//! still stand, and fails with [`Error::Revoked`] if not. A grant may end between that question and
//! the access: in a guest the kernel then answers the access with `SIGBUS`, in this process and in
//! no other. A program that must survive this handles the signal or keeps the channel in a child.
//! In an attached process the pages are replaced by empty ones instead.

mod attached;
mod backend;
pub mod capi;
mod devnode;
mod end;
mod error;
mod mapping;
mod region;
mod ring;
mod session;
mod wait;

pub use error::Error;
pub use region::{RegionReader, RegionWriter};
pub use ring::{Consumer, Loan, Producer};
pub use session::Session;
pub use sivshm_ring::line::Fault;
pub use sivshm_ring::region::Message;
pub use sivshm_ring::slots::Received;
pub use wait::Wait;
