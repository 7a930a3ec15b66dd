//! The library against a device process that is a fixture, with real handshakes to services at the
//! other ends.

mod data;
mod host;
mod mediator;
mod opening;
