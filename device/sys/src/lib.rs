//! Every system call of the SIVSHM host side, behind safe wrappers.
//!
//! The device process and the operator's tools make no system call except through this crate or
//! through `nix`, `caps`, `landlock`, `seccompiler` and the standard library. Unsafe code is here
//! only where none of those has a wrapper: [`eventfd`] (`preadv2`), [`map`], [`scm`] (descriptors
//! of a truncated message must be closed, not leaked), [`socket`] (`SO_PASSRIGHTS`), [`tick`],
//! [`pidfd`] and two steps of [`sandbox`] (`close_range`, the bounding set).
//!
//! - Objects that are shared: [`memfd`], [`map`], [`eventfd`], [`facts`] (what a received
//!   descriptor really is, DESIGN section 8).
//! - Talking: [`socket`], [`scm`].
//! - [`tick`]: not waiting where a sender of descriptors wants us to.
//! - Becoming less: [`sandbox`] (DESIGN section 5), [`exec`] (DESIGN section 6, the VMM).
//! - [`pidfd`]: ending and awaiting another process without a race.
//! - [`features`]: what the kernel must offer for all of that.

pub mod clock;
pub mod eventfd;
pub mod exec;
pub mod facts;
pub mod features;
pub mod map;
pub mod memfd;
pub mod pidfd;
pub mod sandbox;
pub mod scm;
pub mod socket;
pub mod tick;
