//! What a SIVSHM host and its guests agree on, byte for byte.
//!
//! This crate is the one home of every number that crosses a trust boundary between the device
//! process of a VM, the guest kernel module and the guest library: names, the directory page, the
//! frames of the control rings, grants, the layout of channels inside slices and the `ioctl`s of
//! `/dev/sivshm`. It is `no_std`, allocates nothing and contains no unsafe code, because the guest
//! kernel module links it.
//!
//! Normative texts: `docs/port.md` (port, windows, directory, control memory),
//! `docs/control-frames.md` (frames) and `docs/channels.md` (layout inside slices). All integers
//! are little-endian.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod channel;
pub mod control;
pub mod directory;
pub mod frame;
pub mod grant;
pub mod identity;
pub mod limits;
pub mod name;
pub mod uapi;
pub mod wire;
