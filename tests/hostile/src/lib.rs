//! What the programs of SIVSHM's security tests have in common, the hostile ones and the honest.
#![forbid(unsafe_code)]

pub mod end;
pub mod gullible;
pub mod papers;
