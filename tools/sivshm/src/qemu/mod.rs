//! Everything about QEMU's command line: what SIVSHM adds to it and what the user may not.

pub mod attachment;
pub mod command;
pub mod kvm;
pub mod substitute;
