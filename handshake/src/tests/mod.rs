//! Two machines back to back, and everybody who is not one of them.

mod certificates;
mod chunking;
mod exchange;
mod impostors;
mod world;
