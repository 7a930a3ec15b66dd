//! Messages of the launch socket, `launch/VM.sock` (DESIGN section 6, `docs/port.md`).
//!
//! The launcher connects, sends one JSON line ([`LaunchRequest`]) and gets one JSON line
//! ([`LaunchAnswer`]). After a [`LaunchAnswer::Launched`] line come the windows' descriptors, in
//! the order of its table, at most [`RIGHTS_PER_MESSAGE`] of them with each byte (`\n`). The
//! connection then stays open, across exec, as the VMM's sign of life: when it closes, the VMM is
//! gone. The process that connected is the one that the port accepts.

use serde::{Deserialize, Serialize};

/// Version of these messages.
pub const LAUNCH_VERSION: u32 = 1;

/// Longest request line, in bytes, its newline included: the fields below with a program path of
/// `PATH_MAX` (4096) bytes, doubled for JSON's escapes.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Longest answer line, in bytes: 512 windows of at most 128 bytes of JSON each, and the head.
pub const MAX_ANSWER_BYTES: usize = 80 * 1024;

/// Most descriptors on one message: Linux's `SCM_MAX_FD`.
pub const RIGHTS_PER_MESSAGE: usize = 253;

/// What a launcher asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRequest {
    /// [`LAUNCH_VERSION`].
    pub version: u32,
    /// Who will use the windows.
    pub vmm: VmmKind,
    /// The program that the launcher will execute, for the audit log and `status`.
    pub program: String,
}

/// What stands behind the windows of a VM.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmKind {
    /// QEMU: at most [`sivshm_abi::limits::MAX_PCI_WINDOWS`] windows.
    Qemu,
    /// A host process that stands in for the VM (`sivshm run --attach`).
    Attached,
}

/// What the device process answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum LaunchAnswer {
    /// Every peer is established; the descriptors follow.
    Launched {
        /// The VM.
        vm: String,
        /// Vectors of the port.
        vectors: u16,
        /// The windows, by number; one descriptor follows for each.
        windows: Vec<LaunchWindow>,
    },
    /// Nothing follows but the end of the connection.
    Refused {
        /// Why, and what to do.
        reason: String,
        /// Peers that were not established in time.
        missing: Vec<String>,
    },
}

/// One line of the window table.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchWindow {
    /// Number of the slice in the plan.
    pub slice: u32,
    /// Size in bytes, a power of two.
    pub bytes: u64,
    /// Whether the descriptor, and the guest, may write.
    pub writable: bool,
    /// Where its PCI function is; none for windows that no function shows.
    pub place: Option<LaunchPlace>,
}

/// A place below a root port, as in [`sivshm_abi::directory::PciPlace`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlace {
    /// `slot << 3 | function` of the root port on the root bus.
    pub root: u8,
    /// `slot << 3 | function` below that root port.
    pub function: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::limits::MAX_WINDOWS;

    #[test]
    fn a_request_survives_its_line() {
        let line = r#"{"version":1,"vmm":"qemu","program":"/usr/bin/qemu-system-x86_64"}"#;
        let request: LaunchRequest = serde_json::from_str(line).unwrap();
        assert_eq!(request.vmm, VmmKind::Qemu);
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert!(serde_json::from_str::<LaunchRequest>(r#"{"version":1}"#).is_err());
    }

    #[test]
    fn the_longest_answer_fits_its_bound() {
        let window = LaunchWindow {
            slice: u32::MAX,
            bytes: u64::MAX,
            writable: false,
            place: Some(LaunchPlace {
                root: u8::MAX,
                function: u8::MAX,
            }),
        };
        let answer = LaunchAnswer::Launched {
            vm: "v".repeat(32),
            vectors: u16::MAX,
            windows: vec![window; MAX_WINDOWS],
        };
        assert!(serde_json::to_string(&answer).unwrap().len() < MAX_ANSWER_BYTES);
    }
}
