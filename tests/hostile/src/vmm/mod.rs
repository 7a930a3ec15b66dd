//! A hostile VMM: a program that `sivshm run` starts under a VM's user with exactly the descriptors
//! that QEMU gets.

mod chatter;
mod collude;
mod doorbells;
mod memory;
mod port;
pub mod processes;
mod sockets;
mod windows;

use std::path::PathBuf;

use clap::Subcommand;

use crate::report::event;

/// What one hostile VMM does.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Holds what it was given until it is killed, and says so.
    Hold,
    /// Tries everything that one VMM can try by itself (`sivshm run --attach`).
    Alone {
        /// The domain's folder of sockets.
        #[arg(long)]
        run_dir: PathBuf,
        /// Its own VM.
        #[arg(long)]
        vm: String,
        /// Another VM.
        #[arg(long)]
        other: String,
        /// Process of the other VM's VMM.
        #[arg(long)]
        other_vmm: i32,
        /// Device process of the other VM.
        #[arg(long)]
        other_device: i32,
        /// Device process of its own VM.
        #[arg(long)]
        own_device: i32,
    },
    /// Tries what the filter of `sivshm run` is for; runs where QEMU would, with its arguments.
    Filtered {
        /// QEMU's arguments, one of which names the port.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Makes every doorbell blocking and keeps them all full, empty, or changing until it is killed.
    Storm {
        /// Which.
        kind: doorbells::Storm,
    },
    /// Gives all its descriptors to another VM's VMM, then holds them.
    Give {
        /// Where the other one listens.
        socket: PathBuf,
    },
    /// Takes all descriptors of another VM's VMM, tries to get more out of them, then holds them.
    Take {
        /// Where to listen.
        socket: PathBuf,
    },
}

/// Plays one role; those that hold something end by a signal.
pub fn run(role: Role) -> nix::Result<()> {
    match role {
        Role::Hold => {
            let windows = windows::inherited()?;
            let _port = port::Port::connect(&windows.port)?;
            let _listener = sockets::listen_abstract(std::process::id())?;
            event("holding");
            hold()
        }
        Role::Alone {
            run_dir,
            vm,
            other,
            other_vmm,
            other_device,
            own_device,
        } => {
            let windows = windows::inherited()?;
            memory::run(&windows)?;
            processes::run("other-vmm", other_vmm);
            processes::run("other-device", other_device);
            processes::run("own-device", own_device);
            sockets::run(&run_dir, &vm, &other);
            sockets::connect_abstract(other_vmm.unsigned_abs())?;
            let child = sockets::child_on_port(&windows.port);
            let port = port::Port::connect(&windows.port)?;
            memory::control(&port);
            sockets::port_is_taken(&windows.port, child);
            event("tried");
            hold()
        }
        Role::Filtered { arguments } => {
            let port = port::Port::connect(&port::path_in(&arguments)?)?;
            doorbells::filtered(&port);
            Ok(())
        }
        Role::Storm { kind } => {
            let windows = windows::inherited()?;
            let port = port::Port::connect(&windows.port)?;
            doorbells::storm(&port, kind)?;
            hold()
        }
        Role::Give { socket } => {
            let windows = windows::inherited()?;
            let port = port::Port::connect(&windows.port)?;
            collude::give(&socket, &windows, &port)?;
            event("gave");
            hold()
        }
        Role::Take { socket } => {
            let windows = windows::inherited()?;
            let taken = collude::take(&socket)?;
            collude::run(&windows, &taken)?;
            event("took");
            hold()
        }
    }
}

/// Keeps what this process holds until a signal ends it.
fn hold() -> ! {
    loop {
        nix::unistd::pause();
    }
}
