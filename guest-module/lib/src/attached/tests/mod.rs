//! The library against a device process that is a fixture, with real handshakes to services at the
//! other ends.

mod data;
mod host;
mod late;
mod mediator;
mod opening;
