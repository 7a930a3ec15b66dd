//! What SIVSHM's tests, benchmarks and demo share: built artifacts, a deployment on this host, guest
//! images and a runner for VMs.
//!
//! Everything here drives the shipped binaries from outside, as an operator would. What it starts it
//! ends, also when a test fails: every handle ends its process when dropped.
#![forbid(unsafe_code)]

pub mod artifacts;
pub mod attack;
pub mod deployment;
pub mod descriptors;
pub mod document;
pub mod guest;
pub mod host;
pub mod input;
pub mod job;
pub mod process;
pub mod service;
pub mod siege;
pub mod tracer;
pub mod vm;
