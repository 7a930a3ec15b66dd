//! Root in a guest with SIVSHM's module loaded, and without lockdown: ways to the memory of a port or
//! a window past the module. The same ways work on a foreign ivshmem function of the same VM, which
//! the module leaves alone.

mod bars;
mod function;
mod locked;
mod module;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::attempt::{become_user, ended, errno_of, load, spawn, store};
use crate::device::Session;
use crate::guest_user::{RO, RW, SERVICE, Scene, scene, while_the_service_holds};
use crate::report::{Got, attack};

pub use self::bars::run as bars;
use self::function::{Function, write_to};
pub use self::locked::{Options as LockedOptions, run as locked};

/// Another driver, which can hold any function.
const OTHER_DRIVER: &str = "uio_pci_generic";

/// What to try.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// SIVSHM's module, to be loaded again after it was unloaded.
    #[arg(long, default_value = "/lib/sivshm.ko")]
    module: PathBuf,
}

/// Tries everything.
pub fn run(options: &Options) {
    let (ours, foreign): (Vec<_>, Vec<_>) = Function::all()
        .into_iter()
        .partition(|function| function.driver().as_deref() == Some("sivshm"));
    memory(&ours, &foreign);
    drivers(&ours, &foreign);
    removal(&ours, &foreign);
    let in_use = while_the_service_holds(|_| module::unload(module::OURS).into());
    moved_bar(&ours);
    let unused = module::unload(module::OURS).into();
    attack("unload-in-use", Got::Errno(Errno::EAGAIN), in_use, unused);
    let loaded = module::load(&options.module).into();
    let works = scene(|s| s.map(&s.writable()?, RW).map(|m| store(m.start, 1)));
    attack("service-after-reload", Got::Success, works, loaded);
}

/// What `way` gets on every function: the first thing that is not `wanted`, if there is one.
fn on_all(functions: &[Function], wanted: Got, way: impl Fn(&Function) -> nix::Result<()>) -> Got {
    let got = || functions.iter().map(|function| Got::from(way(function)));
    if functions.is_empty() {
        return Got::Absent;
    }
    got().find(|got| *got != wanted).unwrap_or(wanted)
}

/// A way to a function's registers or memory.
type Way = fn(&Function) -> nix::Result<()>;

fn memory(ours: &[Function], foreign: &[Function]) {
    let ways: [(&str, Way, Errno); 5] = [
        (
            "sysfs-registers",
            |f| f.map_resource("resource0"),
            Errno::EINVAL,
        ),
        (
            "sysfs-memory",
            |f| f.map_resource("resource2"),
            Errno::EINVAL,
        ),
        (
            "sysfs-memory-combining",
            |f| f.map_resource("resource2_wc"),
            Errno::EINVAL,
        ),
        ("dev-mem-registers", |f| f.map_physical(0), Errno::EPERM),
        ("dev-mem-memory", |f| f.map_physical(2), Errno::EPERM),
    ];
    for (name, way, wanted) in ways {
        let granted = on_all(foreign, Got::Success, way);
        let wanted = Got::Errno(wanted);
        attack(name, wanted, on_all(ours, wanted, way), granted);
    }
}

fn drivers(ours: &[Function], foreign: &[Function]) {
    let (absent, busy) = (Got::Errno(Errno::ENOENT), Got::Errno(Errno::EBUSY));

    let attached = on_all(foreign, Got::Success, |f| f.take(OTHER_DRIVER));
    let got = on_all(ours, busy, |f| f.take(OTHER_DRIVER));
    attack("take-by-another-driver", busy, got, attached);

    let detached = on_all(foreign, Got::Success, |f| f.unbind(OTHER_DRIVER));
    let got = on_all(ours, absent, |f| f.unbind("sivshm"));
    attack("unbind", absent, got, detached);
}

/// Removing a window and finding it again ends the sessions that used it, and binds it to the module.
fn removal(ours: &[Function], foreign: &[Function]) {
    let windows: Vec<_> = ours.iter().filter(|f| !f.is_port()).cloned().collect();
    let remove = || windows.iter().try_for_each(Function::remove);
    let kept = service_loads_after(|| Ok(()));
    let got = service_loads_after(remove);
    attack("use-after-removal", Got::Signal(Signal::SIGBUS), got, kept);

    let found = write_to("/sys/bus/pci/rescan", "1").into();
    let granted = on_all(foreign, Got::Success, |f| f.map_resource("resource2"));
    let refused = Got::Errno(Errno::EINVAL);
    let got = on_all(&windows, refused, |f| f.map_resource("resource2"));
    attack("map-after-rescan", refused, got, granted.and(found));
    let reads = scene(|s| s.map(&s.read_only()?, RO).map(|m| m.touch()));
    attack("service-after-rescan", Got::Success, reads, found);
}

/// Moving one window over another would alias two slices: the module ends every grant.
fn moved_bar(ours: &[Function]) {
    // The smaller one moves: its BAR can be set to the place of any larger one.
    let windows = || ours.iter().filter(|f| !f.is_port());
    let smallest = windows().min_by_key(|f| f.memory_bytes());
    let largest = windows().max_by_key(|f| f.memory_bytes());
    let (Some(one), Some(other)) = (smallest, largest) else {
        return;
    };
    // An answer of the device process makes the module look where its windows are.
    let look = || Session::open()?.wait_grants(1).map(drop);
    let kept = service_loads_after(look);
    let got = service_loads_after(|| {
        let place = one.bar()?;
        one.set_bar(other.bar()?)?;
        let looked = look();
        one.set_bar(place)?;
        looked
    });
    attack(
        "use-after-bar-was-moved",
        Got::Signal(Signal::SIGBUS),
        got,
        kept,
    );
}

/// What a process of the service gets that maps a window, lets root do something, and loads from the
/// window then.
fn service_loads_after(root: impl FnOnce() -> nix::Result<()>) -> Got {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else {
        return Got::Errno(Errno::EMFILE);
    };
    let service = spawn(|| {
        become_user(SERVICE)?;
        let s = Scene::open()?;
        let m = s.map(&s.read_only()?, RO)?;
        load(m.start);
        theirs.write_all(&[0]).map_err(errno_of)?;
        theirs.read_exact(&mut [0]).map_err(errno_of)?;
        load(m.start);
        Ok(())
    });
    drop(theirs);
    let done = ours.read_exact(&mut [0]).map_err(errno_of).and_then(|()| {
        root()?;
        ours.write_all(&[0]).map_err(errno_of)
    });
    // Not only closed: the service has a copy.
    let _ = ours.shutdown(Shutdown::Both);
    match (service, done) {
        (Ok(service), Ok(())) => ended(service),
        (Ok(service), Err(errno)) => {
            ended(service);
            Got::Errno(errno)
        }
        (Err(errno), _) => Got::Errno(errno),
    }
}
