//! The arguments that show a VM's port and windows to its guest (DESIGN section 6).

use std::collections::BTreeMap;

use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::directory::PciPlace;

/// Least 64-bit prefetchable space that a root port reserves, in bytes.
///
/// Firmware places a reservation of 4 GiB above 4 GiB, because nothing that large fits below; below
/// it, firmware marks the range uncached. Address space only: it costs no memory.
const LEAST_RESERVE_BYTES: u64 = 4 << 30;

/// First chassis number of our root ports. Chassis and slot must be unique in a machine, and people
/// number their own from 0 or 1.
const FIRST_CHASSIS: u8 = 160;

/// What QEMU's own sandbox denies, beside the filter that `sivshm run` installs.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// One window as QEMU is to show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ShownWindow {
    /// Path under which QEMU opens the slice.
    pub path: String,
    /// Size in bytes, a power of two.
    pub bytes: u64,
    /// Whether the guest may write.
    pub writable: bool,
    /// Where its PCI function is.
    pub place: PciPlace,
}

/// The arguments for a port at socket `port` with `vectors` vectors and these windows.
///
/// `port_place` is where the guest finds the port.
pub fn arguments(
    port: &str,
    port_place: PciPlace,
    vectors: u16,
    windows: &[ShownWindow],
) -> Vec<String> {
    let mut roots = BTreeMap::from([(port_place.root, CONTROL_BYTES)]);
    for window in windows {
        let bytes = roots.entry(window.place.root).or_default();
        *bytes = bytes.saturating_add(window.bytes);
    }
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    for (root, bytes) in roots {
        add("-device", root_port(root, bytes));
    }
    let escaped = escape(port);
    add("-chardev", format!("socket,id=sivshm-port,path={escaped}"));
    let at = function(port_place);
    add(
        "-device",
        format!("ivshmem-doorbell,chardev=sivshm-port,vectors={vectors},{at}"),
    );
    for (number, window) in windows.iter().enumerate() {
        let ShownWindow {
            path,
            bytes,
            writable,
            place,
        } = window;
        let readonly = if *writable { "off" } else { "on" };
        let path = escape(path);
        add(
            "-object",
            format!(
                "memory-backend-file,id=sivshm-w{number},size={bytes},mem-path={path},share=on,\
                 readonly={readonly}"
            ),
        );
        let at = function(*place);
        add(
            "-device",
            format!("ivshmem-plain,memdev=sivshm-w{number},{at}"),
        );
    }
    add("-sandbox", SANDBOX.to_owned());
    arguments
}

/// A root port that reserves space for BARs of `bytes` in sum.
fn root_port(root: u8, bytes: u64) -> String {
    let reserve = bytes
        .checked_next_power_of_two()
        .unwrap_or(bytes)
        .max(LEAST_RESERVE_BYTES);
    let (slot, function) = (root >> 3, root & 7);
    let chassis = FIRST_CHASSIS.saturating_add(function);
    format!(
        "pcie-root-port,id={},bus=pcie.0,addr=0x{slot:x}.0x{function:x},multifunction=on,\
         chassis={chassis},pref64-reserve={reserve}",
        root_name(root)
    )
}

fn root_name(root: u8) -> String {
    format!("sivshm-root-{root:02x}")
}

fn function(place: PciPlace) -> String {
    let (slot, function) = (place.function >> 3, place.function & 7);
    let bus = root_name(place.root);
    format!("bus={bus},addr=0x{slot:x}.0x{function:x},multifunction=on")
}

/// Doubles commas, which end a value in QEMU's option syntax.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: u8, function: u8) -> PciPlace {
        PciPlace { root, function }
    }

    fn window(fd: u32, bytes: u64, writable: bool, place: PciPlace) -> ShownWindow {
        ShownWindow {
            path: format!("/proc/self/fd/{fd}"),
            bytes,
            writable,
            place,
        }
    }

    #[test]
    fn a_vm_with_two_windows() {
        let windows = [
            window(5, 16 << 20, true, place(0x80, 1)),
            window(6, 4096, false, place(0x80, 2)),
        ];
        let got = arguments("/run/sivshm/d/port/a.sock", place(0x80, 0), 2, &windows);
        let expected = [
            "-device",
            "pcie-root-port,id=sivshm-root-80,bus=pcie.0,addr=0x10.0x0,multifunction=on,\
             chassis=160,pref64-reserve=4294967296",
            "-chardev",
            "socket,id=sivshm-port,path=/run/sivshm/d/port/a.sock",
            "-device",
            "ivshmem-doorbell,chardev=sivshm-port,vectors=2,bus=sivshm-root-80,addr=0x0.0x0,\
             multifunction=on",
            "-object",
            "memory-backend-file,id=sivshm-w0,size=16777216,mem-path=/proc/self/fd/5,share=on,\
             readonly=off",
            "-device",
            "ivshmem-plain,memdev=sivshm-w0,bus=sivshm-root-80,addr=0x0.0x1,multifunction=on",
            "-object",
            "memory-backend-file,id=sivshm-w1,size=4096,mem-path=/proc/self/fd/6,share=on,\
             readonly=on",
            "-device",
            "ivshmem-plain,memdev=sivshm-w1,bus=sivshm-root-80,addr=0x0.0x2,multifunction=on",
            "-sandbox",
            SANDBOX,
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_second_root_port_appears_once_and_has_a_chassis_of_its_own() {
        let windows = [
            window(5, 4096, true, place(0x80, 7)),
            window(6, 4096, true, place(0x81, 0)),
            window(7, 4096, true, place(0x81, 1)),
        ];
        let got = arguments("p", place(0x80, 0), 1, &windows);
        let roots: Vec<_> = got
            .iter()
            .filter(|a| a.starts_with("pcie-root-port"))
            .collect();
        assert_eq!(roots.len(), 2);
        assert!(roots[1].contains("addr=0x10.0x1") && roots[1].contains("chassis=161"));
    }

    #[test]
    fn a_root_port_reserves_more_than_its_windows_need() {
        let windows = [
            window(5, 8 << 30, true, place(0x80, 1)),
            window(6, 4096, true, place(0x80, 2)),
        ];
        let got = arguments("p", place(0x80, 0), 1, &windows);
        assert!(got[1].ends_with(&format!("pref64-reserve={}", 16_u64 << 30)));
    }

    #[test]
    fn a_comma_in_a_path_stays_in_the_path() {
        let got = arguments("/a,b/port.sock", place(0x80, 0), 1, &[]);
        assert!(got.contains(&"socket,id=sivshm-port,path=/a,,b/port.sock".to_owned()));
    }
}
