//! Root in a guest without SIVSHM's module: nothing in the guest keeps it from any BAR. What it can't
//! do is the host's doing.

use sivshm_abi::directory::{DirectoryHead, WindowEntry};
use sivshm_abi::wire::Reader;

use nix::errno::Errno;

use crate::attempt::{load, store};
use crate::device::Mapped;
use crate::report::{Got, attack};

use super::function::Function;

/// Distance of the bytes that are stored: one in each page.
const STEP: usize = crate::guest_user::PAGE;

/// Stores to every page of every window, as the directory names them.
pub fn run() {
    let (mut writable, mut read_only) = (Got::Absent, Got::Absent);
    match windows() {
        Ok(windows) => {
            for (entry, memory) in windows {
                let kept = stores(&memory);
                if entry.access.writable() {
                    writable = kept;
                } else if read_only == Got::Absent {
                    read_only = kept;
                }
            }
        }
        Err(errno) => writable = Got::Errno(errno),
    }
    attack(
        "direct-store-to-read-only-window",
        Got::Absent,
        read_only,
        writable,
    );
}

/// The windows of this VM, mapped whole.
fn windows() -> nix::Result<Vec<(WindowEntry, Mapped)>> {
    let functions = Function::all();
    let port = functions.first().ok_or(Errno::ENODEV)?;
    let control = port.resource("resource2", port.memory_bytes())?;
    let head = DirectoryHead::read(&mut Reader::new(&bytes(&control, 0, DirectoryHead::BYTES)))
        .map_err(|_| Errno::EPROTO)?;
    let mut windows = Vec::new();
    for number in 0..usize::from(head.windows) {
        let at = DirectoryHead::BYTES + number * WindowEntry::BYTES;
        let entry = WindowEntry::read(&mut Reader::new(&bytes(&control, at, WindowEntry::BYTES)))
            .map_err(|_| Errno::EPROTO)?;
        let function = functions
            .iter()
            .find(|function| function.place() == entry.place)
            .ok_or(Errno::ENODEV)?;
        windows.push((
            entry,
            function.resource("resource2", function.memory_bytes())?,
        ));
    }
    Ok(windows)
}

fn bytes(memory: &Mapped, from: usize, length: usize) -> Vec<u8> {
    // SAFETY: the directory lies within the control memory, which is mapped whole.
    (from..from + length)
        .map(|at| load(unsafe { memory.start.add(at) }))
        .collect()
}

/// Whether a store to any page of a window changes what a load finds there.
fn stores(memory: &Mapped) -> Got {
    let changed = (0..memory.length).step_by(STEP).any(|at| {
        // SAFETY: `at` is below the length of the mapping.
        let place = unsafe { memory.start.add(at) };
        let before = load(place);
        store(place, !before);
        load(place) != before
    });
    if changed { Got::Success } else { Got::Absent }
}
