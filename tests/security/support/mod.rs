//! An impostor, the place where it attacks, and what it takes to tell what came of it.
//!
//! The impostor is a whole device process's side of the peer handshake, written against
//! `docs/peer-handshake.md` and not with the state machine that it attacks. Everything that it says
//! and gives is a public field: untouched it is an honest peer, and each attack changes what the
//! attack is about and nothing else.

pub mod goods;
pub mod identity;
pub mod impostor;
pub mod liar;
pub mod scene;
pub mod service;
pub mod stage;
pub mod talk;
pub mod user;
pub mod victim;
