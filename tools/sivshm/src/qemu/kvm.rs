//! Whether a VM can have the processor's own virtualisation on this host.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

/// The kernel's interface to it.
const DEVICE: &str = "/dev/kvm";

/// KVM can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kvm {
    /// The group that a VMM must be in to open [`DEVICE`], if others can't.
    pub group: Option<u32>,
}

impl Kvm {
    /// Looks at this host: the processor can, the kernel offers it, and a VM's user (in development
    /// mode this one) can open it, by a group at least.
    pub fn find(development: bool) -> Option<Self> {
        if !virtualisation(&fs::read_to_string("/proc/cpuinfo").ok()?) {
            return None;
        }
        let device = Path::new(DEVICE);
        if development {
            access(device, AccessFlags::R_OK | AccessFlags::W_OK).ok()?;
            return Some(Self { group: None });
        }
        let metadata = device.metadata().ok()?;
        Self::of(metadata.mode(), metadata.gid())
    }

    /// What a device of this mode and group asks of a user that is not its owner.
    fn of(mode: u32, gid: u32) -> Option<Self> {
        match (mode & 0o006, mode & 0o060) {
            (0o006, _) => Some(Self { group: None }),
            // Root's own group would open far more than this device.
            (_, 0o060) if gid != 0 => Some(Self { group: Some(gid) }),
            _ => None,
        }
    }
}

/// Whether this processor can run guests by itself, from the text of `/proc/cpuinfo`. A kernel can
/// have [`DEVICE`] without it.
fn virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split(' ').any(|flag| matches!(flag, "vmx" | "svm")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_whole_flag() {
        assert!(virtualisation("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualisation("flags : svm\n"));
        assert!(!virtualisation(
            "flags : fpu\nbugs : vmx\nvmx flags : vnmi\n"
        ));
        assert!(!virtualisation("flags : svmx\n"));
    }

    #[test]
    fn a_vmm_gets_a_group_only_where_it_needs_one() {
        let kvm = |group| Some(Kvm { group });
        assert_eq!(Kvm::of(0o20666, 104), kvm(None));
        assert_eq!(Kvm::of(0o20660, 104), kvm(Some(104)));
        assert_eq!(Kvm::of(0o20660, 0), None);
        assert_eq!(Kvm::of(0o20600, 104), None);
    }
}
