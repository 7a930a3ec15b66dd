//! The hostile parties of SIVSHM's security tests, as one static program.
//!
//! Each subcommand plays one party and tries everything that party could try. It links the numbers of
//! `sivshm-abi` and no other code of the project. Every attempt prints one event with what it had to
//! get, what it got, and whether the same operation works on an object that was granted.
#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "a hostile program does what safe code would not; nobody relies on its staying alive"
)]

mod attempt;
mod device;
mod guest_user;
mod report;
mod rights;

use clap::{Parser, Subcommand};

/// Attack SIVSHM from where a hostile party stands.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    party: Party,
}

#[derive(Debug, Subcommand)]
enum Party {
    /// A process in a guest, as the user of its service. Starts as root, to become each user.
    GuestUser,
    /// What an attempt of `guest-user` executes to keep a descriptor over exec.
    MapDescriptor {
        /// The descriptor.
        number: i32,
        /// The offset to map at.
        offset: i64,
    },
}

fn main() -> std::process::ExitCode {
    match Cli::parse().party {
        Party::GuestUser => guest_user::run(),
        Party::MapDescriptor { number, offset } => {
            return match guest_user::map_descriptor(number, offset) {
                report::Got::Errno(errno) => (errno as u8).into(),
                _ => 0.into(),
            };
        }
    }
    0.into()
}
