//! The host back end of one VM (DESIGN section 5): `sivshm-device`.
#![forbid(unsafe_code)]

pub mod admin_wire;
pub mod args;
pub mod held;
pub mod ids;
pub mod launch_wire;
pub mod paths;
