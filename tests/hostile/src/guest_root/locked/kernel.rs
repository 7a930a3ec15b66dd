//! Ways past a module through the kernel itself: other modules, its memory, its debugging, another
//! kernel, and the settings that refuse all this.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;

use crate::attempt::errno_of;
use crate::guest_root::function::write_to;
use crate::guest_root::module;

/// A driver that can hold any function.
const OTHER: (&CStr, &str) = (c"uio_pci_generic", "/lib/uio_pci_generic.ko");

/// A driver that gives functions to processes, behind a virtual IOMMU.
const VFIO: (&CStr, &str) = (c"vfio_pci", "/lib/vfio_pci.ko");

/// What a way is tried on.
#[derive(Debug)]
pub struct Place {
    /// A module to unload.
    loaded: &'static CStr,
    /// A setting to make 0.
    setting: &'static str,
    /// A level of lockdown to go to.
    level: &'static str,
}

/// Before the guest is shut: nothing that is SIVSHM's.
pub const BEFORE: Place = Place {
    loaded: OTHER.0,
    setting: "kernel/kptr_restrict",
    level: "integrity",
};

/// Then.
pub const AFTER: Place = Place {
    loaded: module::OURS,
    setting: "kernel/modules_disabled",
    level: "none",
};

type Way = fn(&Place) -> nix::Result<()>;

/// In this order: what is unloaded is loaded again, and lockdown is the last.
pub const WAYS: [(&str, Way, Errno); 13] = [
    ("locked-kcore", |_| kcore(), Errno::EPERM),
    ("locked-kprobe", |_| kprobe(), Errno::EPERM),
    ("locked-bpf", |_| bpf(), Errno::EINVAL),
    ("locked-msr", |_| msr(), Errno::EPERM),
    ("locked-ports", |_| ports(), Errno::EPERM),
    ("locked-kexec", |_| kexec(), Errno::EPERM),
    (
        "locked-unload",
        |place| module::unload(place.loaded),
        Errno::EPERM,
    ),
    ("locked-load", |_| load(OTHER), Errno::EPERM),
    (
        "locked-tear-out",
        |place| module::tear_out(place.loaded),
        Errno::EPERM,
    ),
    ("locked-load-vfio", |_| load(VFIO), Errno::EPERM),
    (
        "locked-allow-ptrace",
        |_| set("kernel/yama/ptrace_scope", "1"),
        Errno::EINVAL,
    ),
    (
        "locked-allow-modules",
        |place| set(place.setting, "0"),
        Errno::EINVAL,
    ),
    (
        "locked-lower-lockdown",
        |place| lockdown(place.level),
        Errno::EPERM,
    ),
];

/// Unloads what was loaded to be tried, as docs/guest.md asks for.
pub fn leave_no_driver() {
    for (name, _) in [OTHER, VFIO] {
        // Torn out already, or else the check of this guest finds it.
        let _ = module::unload(name);
    }
}

/// Loads a module that is not loaded.
fn load((name, file): (&CStr, &str)) -> nix::Result<()> {
    // Loaded with the guest, so that what it needs is there.
    let _ = module::unload(name);
    module::load(Path::new(file))
}

/// Reads the kernel's memory as a core file.
fn kcore() -> nix::Result<()> {
    let mut file = File::open("/proc/kcore").map_err(errno_of)?;
    file.read_exact(&mut [0; 4]).map_err(errno_of)
}

/// Has the kernel stop at a function and say what is in its memory there.
fn kprobe() -> nix::Result<()> {
    let events = OpenOptions::new()
        .append(true)
        .open("/sys/kernel/tracing/kprobe_events");
    let mut events = events.map_err(errno_of)?;
    let probe = |events: &mut File, line: &[u8]| events.write_all(line).map_err(errno_of);
    probe(&mut events, b"p:hostile do_nanosleep\n")?;
    probe(&mut events, b"-:hostile\n")
}

/// Loads a BPF program that reads the kernel's memory.
fn bpf() -> nix::Result<()> {
    const PROG_LOAD: i32 = 5;
    const KPROBE: u64 = 2;
    const PROBE_READ_KERNEL: u32 = 113;
    // An instruction is u8 code, u4 destination, u4 source, i16 offset, i32 immediate.
    let instruction = |code: u64, registers: u64, immediate: u32| {
        code | registers << 8 | u64::from(immediate) << 32
    };
    let program = [
        instruction(0xbf, 0xa1, 0),                        // r1 = stack
        instruction(0x07, 0x01, (-8_i32).cast_unsigned()), // r1 -= 8
        instruction(0xb7, 0x02, 8),                        // r2 = 8 bytes
        instruction(0xb7, 0x03, 0),                        // r3 = from address 0
        instruction(0x85, 0x00, PROBE_READ_KERNEL),
        instruction(0xb7, 0x00, 0), // r0 = 0
        instruction(0x95, 0x00, 0), // return r0
    ];
    let licence = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = KPROBE | (program.len() as u64) << 32;
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    // SAFETY: bpf reads the attributes, and from them as many instructions as they count and a licence
    // that ends with a zero; all of it lives for the whole call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    let program = i32::try_from(Errno::result(rc)?).map_err(|_| Errno::EBADF)?;
    drop(crate::device::adopt(program));
    Ok(())
}

/// Writes a register of the processor, as it is.
fn msr() -> nix::Result<()> {
    /// `IA32_SYSENTER_CS`, which a 64-bit kernel does not use.
    const REGISTER: u64 = 0x174;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open("/dev/cpu/0/msr");
    let file = file.map_err(errno_of)?;
    let mut value = [0; 8];
    file.read_exact_at(&mut value, REGISTER).map_err(errno_of)?;
    file.write_all_at(&value, REGISTER).map_err(errno_of)
}

/// Asks for the I/O ports that reach every function's configuration space.
fn ports() -> nix::Result<()> {
    const CONFIG_ADDRESS: u64 = 0xcf8;
    let permit = |on: i32| {
        // SAFETY: ioperm takes three integers; no instruction of this program uses a port.
        Errno::result(unsafe { libc::ioperm(CONFIG_ADDRESS, 8, on) }).map(drop)
    };
    permit(1)?;
    permit(0)
}

/// Prepares to start another kernel: no segment forgets the one prepared before.
fn kexec() -> nix::Result<()> {
    const ARCH_X86_64: u64 = 62 << 16;
    // SAFETY: no segments are read; nothing is started.
    let rc = unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, 0, ARCH_X86_64) };
    Errno::result(rc).map(drop)
}

fn set(setting: &str, value: &str) -> nix::Result<()> {
    write_to(Path::new("/proc/sys").join(setting), value)
}

fn lockdown(level: &str) -> nix::Result<()> {
    write_to("/sys/kernel/security/lockdown", level)
}
