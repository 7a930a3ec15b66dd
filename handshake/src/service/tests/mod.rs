//! Two services and the device processes between them, and everybody who is not one of them.

mod accepts;
mod agreeds;
mod bytes;
mod change;
mod confirms;
mod exchange;
mod lifetime;
mod opens;
mod replays;
mod sessions;
mod vectors;
mod wishes;
mod world;
