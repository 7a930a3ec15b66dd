//! Whole device processes with each other, and with guests that stand in for kernel and services.

mod devices;
mod guest;
mod lifetime;
mod limits;
mod pairings;
mod world;
