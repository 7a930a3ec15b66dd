//! The hostile parties of SIVSHM's security tests, as one static program.
//!
//! Each subcommand plays one party and tries everything that party could try. It links the numbers of
//! `sivshm-abi` and, because nothing is granted without, the service's side of the handshake, and no
//! other code of the project. Every attempt prints one event with what it had to
//! get, what it got, and whether the same operation works on an object that was granted.
#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "a hostile program does what safe code would not; nobody relies on its staying alive"
)]

mod attempt;
mod claim;
mod device;
mod guest_root;
mod guest_user;
mod peer;
mod report;
mod rights;
mod service;
mod slices;
mod vmm;

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
    GuestUser(guest_user::Options),
    /// The same, after the operator has revoked the channel that it asks for. Tried last.
    GuestRevoked,
    /// Processes in a guest that are no service, or not the one that they say. Starts as root.
    GuestClaims,
    /// Somebody who owns a guest, and wants to be what another VM is.
    GuestBecomes,
    /// Somebody who owns a guest, and with it the channels of its service.
    GuestLies,
    /// Root in a guest with the module loaded.
    GuestRoot(guest_root::Options),
    /// Root in a guest with the module loaded, before and after it is shut out of it.
    GuestLocked(guest_root::LockedOptions),
    /// Root in a guest without the module.
    GuestBars,
    /// A writer's view of its slices, in a host process that stands in for its VM.
    Slices {
        /// What to do.
        action: slices::Action,
    },
    /// What an attempt of `guest-user` executes to keep a descriptor over exec.
    MapDescriptor {
        /// The descriptor.
        number: i32,
        /// The offset to map at.
        offset: i64,
    },
    /// A VMM, started by `sivshm run`.
    Vmm {
        #[command(subcommand)]
        role: vmm::Role,
    },
    /// A process of the host under the user of a device process, without its key.
    Peer {
        /// What it is called in its attempts.
        name: String,
        /// The socket of the device process that is to take it for a peer.
        socket: std::path::PathBuf,
    },
    /// A process of the host under the user of a device process.
    DeviceUser {
        /// The device process.
        device: i32,
    },
}

fn main() -> std::process::ExitCode {
    attempt::take_signals_as_they_are();
    match Cli::parse().party {
        Party::GuestUser(options) => guest_user::run(options),
        Party::GuestRevoked => guest_user::until_revoked(),
        Party::GuestClaims => guest_user::claim(),
        Party::GuestBecomes => guest_user::become_another(),
        Party::GuestLies => guest_user::lie(),
        Party::GuestRoot(options) => guest_root::run(&options),
        Party::GuestLocked(options) => return guest_root::locked(&options),
        Party::GuestBars => guest_root::bars(),
        Party::Slices { action } => {
            if let Err(errno) = slices::run(action) {
                eprintln!("the slices can't be seen: {errno}");
                return (errno as u8).into();
            }
        }
        Party::MapDescriptor { number, offset } => {
            return match guest_user::map_descriptor(number, offset) {
                report::Got::Errno(errno) => (errno as u8).into(),
                _ => 0.into(),
            };
        }
        Party::Vmm { role } => {
            if let Err(errno) = vmm::run(role) {
                eprintln!("a hostile VMM could not go on: {errno}");
                return (errno as u8).into();
            }
        }
        Party::Peer { name, socket } => peer::run(&name, &socket),
        // The same user may signal it: that is all that a user means here.
        Party::DeviceUser { device } => {
            vmm::processes::run_without("device-of-the-same-user", device, &["kill"]);
        }
    }
    0.into()
}
