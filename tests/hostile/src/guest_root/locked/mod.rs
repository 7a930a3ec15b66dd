//! Root in a guest that is shut as docs/guest.md says. Everything that root can try is tried twice:
//! before the guest is shut, on what is not SIVSHM's, where it works; and on SIVSHM's then.

mod kernel;
mod process;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::errno::Errno;

use crate::report::{Got, attack};

use self::kernel::{AFTER, BEFORE, Place};
use self::process::Holder;
use super::function::{Function, write_to};
use super::{OTHER_DRIVER, on_all};

/// What to try.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The script that shuts this guest.
    #[arg(long)]
    between: PathBuf,
    /// The service that is to hold a session, with its arguments.
    #[arg(last = true, required = true)]
    service: Vec<String>,
}

/// A way to a function's registers or memory.
type FunctionWay = fn(&Function) -> nix::Result<()>;

const FUNCTION_WAYS: [(&str, FunctionWay, Errno); 8] = [
    ("locked-unbind", unbind, Errno::ENOENT),
    ("locked-sysfs-registers", registers, Errno::EPERM),
    ("locked-sysfs-memory", memory, Errno::EPERM),
    ("locked-sysfs-memory-combining", combining, Errno::EPERM),
    (
        "locked-dev-mem-registers",
        |f| f.map_physical(0),
        Errno::EPERM,
    ),
    ("locked-dev-mem-memory", |f| f.map_physical(2), Errno::EPERM),
    ("locked-sysfs-config", |f| f.set_bar(f.bar()?), Errno::EPERM),
    (
        "locked-proc-config",
        |f| f.set_bar_by_proc(f.bar()?),
        Errno::EPERM,
    ),
];

/// What was tried, what it has to get once the guest is shut, and what it got.
type Tried = (&'static str, Got, Got);

/// Tries everything.
pub fn run(options: &Options) -> ExitCode {
    let (ours, foreign): (Vec<_>, Vec<_>) = Function::all()
        .into_iter()
        .partition(|function| function.driver().as_deref() == Some("sivshm"));
    let holder = match Holder::start(&options.service) {
        Ok(holder) => holder,
        Err(errno) => {
            eprintln!("the service holds nothing: {errno}");
            return ExitCode::FAILURE;
        }
    };
    let found = found_again(&foreign, Got::Success);
    let taken = on_all(&foreign, Got::Success, |f| f.take(OTHER_DRIVER));
    let before = tried(&foreign, &BEFORE, &holder, |_| Got::Success);
    kernel::leave_no_driver();
    let shut = Command::new("/bin/sh").arg(&options.between).status();
    if !shut.is_ok_and(|status| status.success()) {
        eprintln!("{} failed", options.between.display());
        return ExitCode::FAILURE;
    }
    let after = tried(&ours, &AFTER, &holder, Got::Errno);
    drop(holder);
    for ((name, _, granted), (_, wanted, got)) in before.into_iter().zip(after) {
        let granted = if name == "locked-unbind" {
            taken.and(granted)
        } else {
            granted
        };
        attack(name, wanted, got, granted);
    }
    let windows: Vec<_> = ours.into_iter().filter(|f| !f.is_port()).collect();
    let refused = Got::Errno(Errno::EPERM);
    let got = found_again(&windows, refused);
    attack("locked-remove-and-rescan", refused, got, found);
    let serves = Holder::start(&options.service).into();
    attack("locked-service", Got::Success, serves, found);
    ExitCode::SUCCESS
}

/// Goes every way once: to each function, to the kernel, to the process that holds a session.
fn tried(
    functions: &[Function],
    place: &Place,
    holder: &Holder,
    expected: fn(Errno) -> Got,
) -> Vec<Tried> {
    let mut tried = Vec::new();
    for (name, way, refused) in FUNCTION_WAYS {
        let wanted = expected(refused);
        tried.push((name, wanted, on_all(functions, wanted, way)));
    }
    for (name, way, refused) in process::WAYS {
        tried.push((name, expected(refused), way(holder).into()));
    }
    for (name, way, refused) in kernel::WAYS {
        tried.push((name, expected(refused), way(place).into()));
    }
    tried
}

fn registers(function: &Function) -> nix::Result<()> {
    function.map_resource("resource0")
}

fn memory(function: &Function) -> nix::Result<()> {
    function.map_resource("resource2")
}

fn combining(function: &Function) -> nix::Result<()> {
    function.map_resource("resource2_wc")
}

fn unbind(function: &Function) -> nix::Result<()> {
    function.unbind(&function.driver().ok_or(Errno::ENODEV)?)
}

/// What root gets of the memory of functions that it removes and has found again while no driver binds
/// by itself: Linux 7 leaves them without one then, until somebody asks for it.
fn found_again(functions: &[Function], wanted: Got) -> Got {
    let autoprobe = |on| write_to("/sys/bus/pci/drivers_autoprobe", on);
    let found = autoprobe("0")
        .and_then(|()| functions.iter().try_for_each(Function::remove))
        .and_then(|()| write_to("/sys/bus/pci/rescan", "1"));
    let got = on_all(functions, wanted, memory);
    let bound = functions
        .iter()
        .filter(|function| function.driver().is_none())
        .try_for_each(Function::probe);
    match found.and(autoprobe("1")).and(bound) {
        Ok(()) => got,
        Err(errno) => Got::Errno(errno),
    }
}
