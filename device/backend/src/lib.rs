//! The host back end of one VM (DESIGN section 5): `sivshm-device`.
//!
//! Start-up is a chain of steps, each of which consumes the last: [`args::Args`] ->
//! [`args::Config`] -> [`opened::Opened`] -> [`confined::Confined`] -> [`run::run`].
#![forbid(unsafe_code)]

pub mod admin_wire;
pub mod args;
pub mod audit;
mod boot;
mod clock;
pub mod confined;
pub mod held;
pub mod ids;
pub mod launch_wire;
mod limits;
mod listeners;
pub mod opened;
pub mod paths;
pub mod run;
pub mod slices;
pub mod vmm;
