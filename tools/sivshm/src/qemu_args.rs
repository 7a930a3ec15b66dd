//! `sivshm qemu-args`: what `sivshm run` adds, for those who start QEMU otherwise.

use sivshm_abi::grant::Access;
use sivshm_device::paths::SocketDir;
use sivshm_device::vmm::place::{PORT, window};

use crate::compile::compile;
use crate::failure::{Failure, Outcome};
use crate::layout::{Where, vm_name};
use crate::qemu::attachment::{ShownWindow, arguments};
use crate::quote::shell;
use crate::run::too_many;

/// Print the QEMU arguments that show a VM's port and windows
///
/// For libvirt and others that start QEMU themselves. `@WINDOW0@`, `@WINDOW1@`, ... stand for the
/// descriptors of the windows, which only a launch hands out: whoever starts QEMU takes them from
/// launch/VM.sock, keeps that connection open in QEMU, and puts their numbers there. Machine q35.
///
/// A VMM that `sivshm run` did not start gets no ending with its device process, no user of its own
/// and no system call filter unless its starter sees to that; prefer `sivshm run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm qemu-args ivi            one argument on a line
  sivshm qemu-args ivi --shell    one line for a shell

Exit codes: 0 printed, 2 wrong usage or policy.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// VM, as the policy names it
    vm: String,
    /// Quote for a shell, all on one line
    #[arg(long)]
    shell: bool,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let in_use = layout.policy_in_use();
    let policy = if in_use.exists() {
        in_use
    } else {
        layout.paths.policy()
    };
    let (_, plan) = compile(&policy)?;
    let name = vm_name(&args.vm)?;
    let (_, vm) = plan
        .vm(name)
        .ok_or_else(|| Failure::Usage(format!("{} has no VM `{name}`", policy.display())))?;
    let windows = vm.windows.iter().enumerate().map(|(number, planned)| {
        Some(ShownWindow {
            path: format!("/proc/self/fd/@WINDOW{number}@"),
            bytes: plan.slice(planned.slice)?.bytes,
            writable: planned.access == Access::ReadWrite,
            place: window(number)?,
        })
    });
    let windows: Vec<_> = windows
        .collect::<Option<_>>()
        .ok_or_else(|| too_many(vm.windows.len()))?;
    // Vector 0 is the device process's, and each peer has one.
    let vectors = u16::try_from(1 + vm.peers.len()).unwrap_or(u16::MAX);
    let port = layout.paths.socket(SocketDir::Port, name);
    let words = arguments(&port.to_string_lossy(), PORT, vectors, &windows);
    let text = if args.shell {
        words
            .iter()
            .map(|word| shell(word))
            .collect::<Vec<_>>()
            .join(" ")
    } else {
        words.join("\n")
    };
    crate::output::text(&text)
}
