//! What a guest has to be like (docs/guest.md), as any of its users sees it below `/sys`, `/proc` and
//! `/dev`.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Check, Verdict};

/// Mode of the device file: anybody may open it, and gets what the service that it is was granted.
const DEVICE_MODE: u32 = 0o666;

/// Drivers that hand a whole PCI function to a process, whatever another driver claims of it.
const BY_PASSES: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// Below this address, firmware may mark memory of devices as uncached.
const FOUR_GIB: u64 = 1 << 32;

/// Line of a function's `resource` file with the BAR that is shared memory.
const MEMORY_BAR: usize = 2;

/// Looks at everything. `top` is `/`, except in tests.
pub fn checks(top: &Path) -> Vec<Check> {
    let functions = functions(top);
    vec![
        module(top),
        port(&functions),
        device(top),
        lockdown(top),
        modules_disabled(top),
        ptrace_scope(top),
        drivers(top),
        user_namespaces(top),
        memory_type(&functions),
    ]
}

fn module(top: &Path) -> Check {
    let loaded = top.join("sys/module/sivshm").is_dir();
    let found = if loaded { "loaded" } else { "not loaded" };
    let advice = "run `modprobe sivshm`, and install modules-load.d/sivshm.conf";
    Check::new("module", loaded, found, (Verdict::Missing, advice))
}

fn port(functions: &[PathBuf]) -> Check {
    let found = format!("{} functions", functions.len());
    let advice = "the module has found no port: start this VM by `sivshm run`, and see `dmesg`";
    let bound = !functions.is_empty();
    Check::new("functions", bound, found, (Verdict::Missing, advice))
}

fn device(top: &Path) -> Check {
    let advice =
        "/dev/sivshm has to be a device of mode 0666: look for a rule of udev that changes it";
    let (good, found) = match fs::metadata(top.join("dev/sivshm")) {
        Ok(file) => {
            let mode = file.permissions().mode() & 0o7777;
            let device = file.file_type().is_char_device();
            let what = if device { "device" } else { "no device" };
            (
                device && mode == DEVICE_MODE,
                format!("{what}, mode {mode:04o}"),
            )
        }
        Err(error) => (false, error.to_string()),
    };
    Check::new("device file", good, found, (Verdict::Missing, advice))
}

fn lockdown(top: &Path) -> Check {
    let text = read(top, "sys/kernel/security/lockdown");
    // The level in force stands in brackets.
    let level = text.as_deref().and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0)
    });
    let advice = "install and start sivshm-lockdown.service; if the file is missing, mount securityfs \
                  and boot with `lockdown` among `lsm=`";
    let found = level.unwrap_or("not there");
    let good = level == Some("confidentiality");
    Check::new("lockdown", good, found, (Verdict::Missing, advice))
}

fn modules_disabled(top: &Path) -> Check {
    let advice = "start sivshm-lockdown.service: until then root can unload the module";
    number(
        top,
        "modules_disabled",
        "proc/sys/kernel/modules_disabled",
        1,
        (Verdict::Missing, advice),
    )
}

fn ptrace_scope(top: &Path) -> Check {
    let advice = "install sysctl.d/60-sivshm.conf: until then root runs code in processes that hold \
                  grants, and reads their keys";
    number(
        top,
        "ptrace_scope",
        "proc/sys/kernel/yama/ptrace_scope",
        3,
        (Verdict::Missing, advice),
    )
}

fn drivers(top: &Path) -> Check {
    let present = BY_PASSES
        .into_iter()
        .filter(|name| top.join("sys/bus/pci/drivers").join(name).is_dir())
        .collect::<Vec<_>>();
    let advice = "root can have such a driver take a function from the module: unload it before \
                  sivshm-lockdown.service, or use a kernel that has it not built in";
    let found = if present.is_empty() {
        "none that hands functions to processes".to_owned()
    } else {
        present.join(", ")
    };
    let none = present.is_empty();
    Check::new("drivers", none, found, (Verdict::Missing, advice))
}

fn user_namespaces(top: &Path) -> Check {
    let advice = "if no program of this guest needs them, set user.max_user_namespaces = 0: in one, a \
                  process can pass for another executable of the same user";
    number(
        top,
        "user namespaces",
        "proc/sys/user/max_user_namespaces",
        0,
        (Verdict::Hint, advice),
    )
}

fn memory_type(functions: &[PathBuf]) -> Check {
    let starts = functions.iter().filter_map(|function| {
        let table = fs::read_to_string(function.join("resource")).ok()?;
        let start = table.lines().nth(MEMORY_BAR)?.split(' ').next()?;
        u64::from_str_radix(start.trim_start_matches("0x"), 16).ok()
    });
    let low = starts.filter(|start| *start < FOUR_GIB).count();
    let found = if low == 0 {
        "above 4 GiB".to_owned()
    } else {
        format!("{low} functions below 4 GiB")
    };
    let advice = "their memory may be uncached and slow; `dmesg` says so if it is. Give the root ports \
                  of this VM a pref64-reserve, as `sivshm qemu-args` does";
    Check::new("memory", low == 0, found, (Verdict::Hint, advice))
}

/// A check that a file holds a number.
fn number(
    top: &Path,
    name: &'static str,
    path: &str,
    wanted: u32,
    otherwise: (Verdict, &'static str),
) -> Check {
    let text = read(top, path);
    let good = text.as_deref().and_then(|text| text.parse().ok()) == Some(wanted);
    let found = text.unwrap_or_else(|| "not there".to_owned());
    Check::new(name, good, found, otherwise)
}

/// The text of a file, without the end of its line.
fn read(top: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(top.join(path)).ok()?;
    Some(text.trim_end().to_owned())
}

/// The PCI functions that the module has bound.
fn functions(top: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(top.join("sys/bus/pci/drivers/sivshm"));
    let links = entries.into_iter().flatten().flatten();
    links
        .filter(|entry| entry.file_name().to_string_lossy().contains(':'))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// Files of a guest that is as it has to be, but for its device file.
    const GOOD: [(&str, &str); 6] = [
        ("sys/module/sivshm/refcnt", "0"),
        (
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
        ),
        ("proc/sys/kernel/modules_disabled", "1\n"),
        ("proc/sys/kernel/yama/ptrace_scope", "3\n"),
        ("proc/sys/user/max_user_namespaces", "0\n"),
        (
            "sys/bus/pci/drivers/sivshm/0000:01:00.0/resource",
            "0x00000000fe000000 0x00000000fe0000ff 0x0000000000040200\n0x0 0x0 0x0\n\
             0x0000000800000000 0x00000008000fffff 0x000000000014220c\n",
        ),
    ];

    fn guest(files: &[(&str, &str)]) -> TempDir {
        let top = TempDir::new().unwrap();
        for (path, text) in files {
            put(&top, path, text);
        }
        top
    }

    fn put(top: &TempDir, path: &str, text: &str) {
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Names of the checks that came to a verdict.
    fn named(top: &TempDir, verdict: Verdict) -> Vec<&'static str> {
        let checks = checks(top.path());
        let of = checks.iter().filter(|check| check.verdict == verdict);
        of.map(|check| check.name).collect()
    }

    #[test]
    fn the_checks_are_the_documented_ones() {
        let page = include_str!("../../../../docs/guest.md");
        let (_, table) = page.split_once("| check | missing means |\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let documented: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let top = guest(&[]);
        let checks = checks(top.path());
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(documented, names);
    }

    #[test]
    fn a_good_guest_is_good() {
        let top = guest(&GOOD);
        // A test can't make a device.
        assert_eq!(named(&top, Verdict::Missing), ["device file"]);
        assert!(named(&top, Verdict::Hint).is_empty());
    }

    #[test]
    fn an_empty_guest_misses_everything() {
        let top = guest(&[]);
        let missing = [
            "module",
            "functions",
            "device file",
            "lockdown",
            "modules_disabled",
            "ptrace_scope",
        ];
        assert_eq!(named(&top, Verdict::Missing), missing);
        assert_eq!(named(&top, Verdict::Hint), ["user namespaces"]);
    }

    #[test]
    fn each_setting_is_looked_at() {
        for (path, text, name) in [
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality",
                "lockdown",
            ),
            ("proc/sys/kernel/modules_disabled", "0", "modules_disabled"),
            ("proc/sys/kernel/yama/ptrace_scope", "2", "ptrace_scope"),
            ("sys/bus/pci/drivers/vfio-pci/bind", "", "drivers"),
        ] {
            let top = guest(&GOOD);
            put(&top, path, text);
            assert!(named(&top, Verdict::Missing).contains(&name), "{name}");
        }
    }

    #[test]
    fn memory_below_4_gib_is_a_hint() {
        let top = guest(&GOOD);
        put(
            &top,
            "sys/bus/pci/drivers/sivshm/0000:01:00.1/resource",
            "0x0 0x0 0x0\n0x0 0x0 0x0\n0x00000000c0000000 0x00000000c00fffff 0x42208\n",
        );
        assert_eq!(named(&top, Verdict::Hint), ["memory"]);
    }

    #[test]
    fn a_file_that_is_no_device_is_told_apart() {
        let top = guest(&GOOD);
        put(&top, "dev/sivshm", "");
        let checks = checks(top.path());
        let device = checks.iter().find(|check| check.name == "device file");
        assert!(device.unwrap().found.starts_with("no device"));
    }
}
