//! Two machines back to back, and everybody who is not one of them.

pub(crate) mod certificates;
mod chunking;
mod exchange;
mod impostors;
pub(crate) mod world;
