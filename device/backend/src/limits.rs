//! What a device process may use up, derived from its plan.

use sivshm_policy::plan::{Plan, Vm, VmIndex};
use sivshm_sys::sandbox::Limits;
use sivshm_sys::scm::MAX_RIGHTS;

/// Descriptors that every device process has: three standard ones, four listeners, epoll, control
/// memory, kick, vector 0, audit, fdinfo, signals and clock, and connections of a VMM, of launchers
/// and of operators. Rounded up to a power of two.
const FIXED_FILES: u64 = 128;

/// Heap of a device process without peers, in bytes: 4 MiB measured, with room for a policy of the
/// greatest size.
const FIXED_DATA: u64 = 32 * 1024 * 1024;

/// Heap for a reload, in bytes: 48 MiB measured for compiling a policy of the greatest size that a
/// reload takes, and 4 MiB for each line that operators may send at a time, of which there are eight.
const RELOAD_DATA: u64 = 80 * 1024 * 1024;

/// Heap for sessions and pairings, in bytes: TLS buffers of 16 KiB in each direction and a queue of
/// 64 KiB for each of 64 sessions, and for each of 512 pairings a message of 8 KiB that waits for its
/// session, one that waits for its link, and an `open` that waits for its reader. Rounded up.
const SESSION_DATA: u64 = 24 * 1024 * 1024;

/// Heap for one peer, in bytes: two connections at a time (an old one and its successor) with
/// TLS buffers of 16 KiB in each direction, a queue to send and a manifest.
const DATA_PER_PEER: u64 = 256 * 1024;

/// Address space beyond the heap, in bytes: program, libraries, stack and control memory.
const FIXED_ADDRESS_SPACE: u64 = 64 * 1024 * 1024;

/// The bounds for the device process of `vm`.
#[must_use]
pub fn of(plan: &Plan, me: VmIndex, vm: &Vm) -> Limits {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    // One open file for the writer and one for each reader.
    let own_slices: u64 = plan
        .slices
        .iter()
        .filter(|slice| slice.writer == me)
        .map(|slice| 1 + count(slice.readers.len()))
        .sum();
    // A vector of our own; twice, because a successor may come before its predecessor is gone: a
    // connection, a doorbell and the slices that the peer gives.
    let peers: u64 = vm
        .peers
        .iter()
        .map(|peer| 1 + 2 * (2 + count(peer.takes.len())))
        .sum();
    let data = FIXED_DATA + SESSION_DATA + RELOAD_DATA + DATA_PER_PEER * count(vm.peers.len());
    Limits {
        // And one message full of descriptors that nobody asked for, to be looked at and dropped.
        files: FIXED_FILES + own_slices + peers + count(MAX_RIGHTS),
        address_space: data + FIXED_ADDRESS_SPACE,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::VmName;

    const POLICY: &str = r#"
        version = 1
        trust_domain = "test.example"
        serial = 1
        vm = [{ name = "a" }, { name = "b" }]
        service = [
            { vm = "a", name = "s", process = { uid = 1000 } },
            { vm = "b", name = "s", process = { uid = 1000 } },
        ]
        channel = [
            { name = "c", from = "a/s", to = ["b/s"], kind = "region", size = "64KiB" },
        ]
    "#;

    /// In figures, so that one that is raised fails here.
    #[test]
    fn a_device_process_has_what_its_plan_needs_and_no_more() {
        let plan = sivshm_policy::compile("test", POLICY).unwrap();
        let (me, vm) = plan.vm(VmName::new("a").unwrap()).unwrap();
        let limits = of(&plan, me, vm);
        // Its slice and the reader's, the peer's vector, and twice a connection, a doorbell and a slice.
        assert_eq!(limits.files, 128 + 2 + 7 + 253);
        assert_eq!(limits.data, (136 << 20) + (256 << 10));
        assert_eq!(limits.address_space, limits.data + (64 << 20));
    }
}
