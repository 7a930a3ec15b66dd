//! `sivshm run`: starts a VM's VMM with its windows and its port.

mod become_vmm;
mod files;
mod identity;
mod launch;

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};

use serde::Serialize;
use sivshm_abi::directory::PciPlace;
use sivshm_abi::limits::MAX_PCI_WINDOWS;
use sivshm_abi::name::{ServiceName, VmName};
use sivshm_device::launch_wire::VmmKind;
use sivshm_device::paths::SocketDir;
use sivshm_device::vmm::place::PORT;

use self::become_vmm::Vmm;
use self::files::Files;
use self::identity::{Identity, Numbers};
use self::launch::Launched;
use crate::failure::{Failure, Outcome};
use crate::layout::{Layout, Where, vm_name};
use crate::qemu::attachment::{ShownWindow, arguments};
use crate::qemu::command::{Accelerator, Users};
use crate::qemu::kvm::Kvm;
use crate::qemu::substitute::substitute;
use crate::up::DEVELOPMENT;
use crate::up::register::register;

/// Environment variable from which libsivshm learns what an attached program was given.
const ATTACH_VARIABLE: &str = "SIVSHM_ATTACH";

/// Run a VM's QEMU, or a host program in its place, with the VM's memory
///
/// Takes the VM's windows from its device process, adds to QEMU's arguments what shows them and the
/// port to the guest, becomes the VM's own user, leaves every privilege and turns into QEMU. Waits
/// up to 30 seconds for the device processes of all peers, and names the missing ones.
///
/// Added unless you choose them: `-machine q35`, and `-accel kvm -cpu host` where the processor can,
/// else `-accel tcg,thread=multi -cpu max`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm run ivi -- qemu-system-x86_64 -m 512 -nographic -nodefaults -serial stdio \\
      -drive file=ivi.qcow2,if=virtio

  sivshm run worker-1 --open-ro kernel=/boot/vmlinuz --open-ro initrd=initrd.gz \\
      --drive-ro input=/data/input -- qemu-system-x86_64 -m 256 -nographic -nodefaults \\
      -kernel '{kernel}' -initrd '{initrd}' -append 'console=ttyS0 input_bytes={input.bytes}'

  sivshm run worker-1 --attach --service reducer -- ./reducer
      a host process stands in for the VM and its service worker-1/reducer

Files in places that only root can reach are opened before root is left: `{NAME}` in an argument
becomes the path of the open file, `{NAME.bytes}` its exact length. QEMU runs as the VM's user
(`sivshm up` prints it), so that user must be allowed to open all others.

Exit codes: those of the program once it runs; before that 1 the host failed, 2 wrong usage, 3 the
device process or the supervisor refused.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// VM, as the policy names it
    vm: String,
    /// Run a host program that uses libsivshm instead of QEMU
    #[arg(long)]
    attach: bool,
    /// Service of the VM that the attached program is: pass on its SVID and key, which `sivshm-ca
    /// issue` has put to etc/sivshm/DOMAIN/vm/VM/svc, the trust bundle and the CRLs, opened for reading
    #[arg(long, value_name = "SERVICE", requires = "attach")]
    service: Option<ServiceName>,
    /// User id that the attached program states to its device process, in place of its own
    #[arg(long, value_name = "UID", requires = "attach")]
    guest_uid: Option<u32>,
    /// Open a file for reading and put its path for `{NAME}` in the arguments
    #[arg(long, value_name = "NAME=PATH")]
    open_ro: Vec<String>,
    /// Open a file and show it to the guest as a read-only virtio disk
    #[arg(long, value_name = "NAME=PATH", conflicts_with = "attach")]
    drive_ro: Vec<String>,
    /// Program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// What [`ATTACH_VARIABLE`] holds.
#[derive(Debug, Serialize)]
struct Attachment {
    port: String,
    windows: Vec<AttachedWindow>,
    guest_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Numbers>,
}

#[derive(Debug, Serialize)]
struct AttachedWindow {
    fd: i32,
    bytes: u64,
    access: &'static str,
}

/// Runs the command: returns only if it fails.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let state = layout.running()?;
    let name = vm_name(&args.vm)?;
    state.vm(&args.vm)?;
    if state.development {
        eprintln!("sivshm: {DEVELOPMENT}");
    }
    let Some((program, words)) = args.command.split_first() else {
        return Err(Failure::Usage("name the program to run".into()));
    };
    let files = Files::open(&args.open_ro, &args.drive_ro)?;
    let words: Vec<_> = words.iter().map(|w| substitute(w, files.named())).collect();
    // Before anything is asked of others.
    let service = args.service;
    let identity = service.map(|service| Identity::open(&layout, name, service));
    let identity = identity.transpose()?;
    let users = (!args.attach).then(|| Users::read(&words)).transpose()?;

    let kind = if args.attach {
        VmmKind::Attached
    } else {
        VmmKind::Qemu
    };
    // First of all: from here on this process ends when the VM's device process does.
    register(&layout.registrations(), &args.vm)?;
    let launched = launch::launch(&layout.paths.socket(SocketDir::Launch, name), kind, program)?;
    let port = port_path(&layout, name)?;
    let mut vmm = Vmm::new(program, &layout, name, state.development)?;
    match users {
        Some(users) => {
            let kvm = Kvm::find(state.development);
            let accelerator = users.accelerator(kvm.is_some());
            say_accelerator(accelerator);
            if users.needs_kvm(accelerator) {
                vmm.further_group(kvm.and_then(|kvm| kvm.group));
            }
            vmm.arguments(words);
            vmm.arguments(users.completion(accelerator).into_iter().map(str::to_owned));
            vmm.arguments(files.drives());
            vmm.arguments(arguments(&port, PORT, launched.vectors, &shown(&launched)?));
            vmm.filtered()?;
        }
        None => {
            vmm.arguments(words);
            let numbers = identity.as_ref().map(Identity::numbers);
            vmm.environment(
                ATTACH_VARIABLE,
                attachment(port, &launched, args.guest_uid, numbers)?,
            );
        }
    }
    let Launched {
        connection,
        windows,
        ..
    } = launched;
    let inherited: Vec<OwnedFd> = windows
        .into_iter()
        .map(|(_, fd)| fd)
        .chain(files.into_descriptors())
        .chain(identity.into_iter().flat_map(Identity::into_descriptors))
        .chain([connection])
        .collect();
    Err(vmm.become_it(inherited))
}

/// Path of the port's socket as text.
fn port_path(layout: &Layout, vm: VmName) -> Outcome<String> {
    let path = layout.paths.socket(SocketDir::Port, vm);
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::Usage(format!(
            "{} is not UTF-8, which QEMU's arguments must be",
            path.display()
        ))
    })
}

fn say_accelerator(accelerator: Accelerator) {
    match accelerator {
        Accelerator::Kvm => eprintln!("sivshm: using KVM"),
        Accelerator::Tcg => {
            eprintln!("sivshm: KVM is not usable on this host; using TCG, which is slow");
        }
        Accelerator::Users => {}
    }
}

/// The windows as QEMU is to show them.
fn shown(launched: &Launched) -> Outcome<Vec<ShownWindow>> {
    let mut places = BTreeSet::from([PORT]);
    launched
        .windows
        .iter()
        .map(|(window, fd)| {
            let place = window.place.map(|place| PciPlace {
                root: place.root,
                function: place.function,
            });
            let place = place.filter(|place| places.insert(*place));
            Ok(ShownWindow {
                path: format!("/proc/self/fd/{}", fd.as_raw_fd()),
                bytes: window.bytes,
                writable: window.writable,
                place: place.ok_or_else(|| too_many(launched.windows.len()))?,
            })
        })
        .collect()
}

/// The error of a VM with more windows than a guest can be shown.
pub fn too_many(windows: usize) -> Failure {
    Failure::Usage(format!(
        "the policy gives this VM {windows} windows, but a guest can be shown {MAX_PCI_WINDOWS}: \
         let channels share slices (same writer, same readers), or split the VM"
    ))
}

fn attachment(
    port: String,
    launched: &Launched,
    guest_uid: Option<u32>,
    identity: Option<Numbers>,
) -> Outcome<String> {
    let windows = launched.windows.iter().map(|(window, fd)| AttachedWindow {
        fd: fd.as_raw_fd(),
        bytes: window.bytes,
        access: if window.writable {
            "read_write"
        } else {
            "read_only"
        },
    });
    let attachment = Attachment {
        port,
        windows: windows.collect(),
        guest_uid,
        identity,
    };
    serde_json::to_string(&attachment)
        .map_err(|error| Failure::Host(format!("can't form {ATTACH_VARIABLE}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn only_an_attached_program_is_a_service() {
        let parse = |line: &str| Line::try_parse_from(line.split(' '));
        let line = parse("run ivi --attach --service camera -- ./camera").unwrap();
        assert_eq!(line.args.service.unwrap().as_str(), "camera");
        assert!(parse("run ivi --service camera -- qemu").is_err());
        assert!(parse("run ivi --attach --service ivi/camera -- ./camera").is_err());
    }

    #[test]
    fn a_program_that_is_no_service_is_told_what_it_was_always_told() {
        let launched = Launched {
            connection: std::fs::File::open("/dev/null").unwrap().into(),
            vectors: 1,
            windows: Vec::new(),
        };
        assert_eq!(
            attachment("/p".into(), &launched, Some(7), None).unwrap(),
            r#"{"port":"/p","windows":[],"guest_uid":7}"#
        );
    }
}
