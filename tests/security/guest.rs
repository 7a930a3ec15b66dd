//! A hostile process, and root, in a guest with SIVSHM's kernel module (SECURITY.md; invariant
//! I4, and I5 for other VMs). `tests/hostile` has the attempts; this boots one guest for all of them.

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use serde_json::Value;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, assert_blocked, attacks};
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::guest::Image;
    use sivshm_tests::input;
    use sivshm_tests::job::{BOOT_LIMIT, Job};
    use sivshm_tests::process::{Line, output_of};
    use sivshm_tests::vm::{FOREIGN_FUNCTIONS, Guest, Vm};

    /// The VM with the hostile guest, and the channel that its service writes.
    const HOSTILE: (&str, &str) = ("worker-2", "result-2");

    /// Longest time for all attempts of one kind, under TCG on a loaded machine of two cores.
    const ATTACK_LIMIT: Duration = Duration::from_secs(180);

    /// Seconds for which the guest floods: enough for the others to do a job meanwhile.
    const FLOOD_SECONDS: u64 = 8;

    /// A second service in the hostile guest, which is attacked by the first and may not suffer.
    const NEIGHBOUR: &str = r#"
[[service]]
vm = "worker-2"
name = "neighbour"
process = { uid = 1001 }
[[channel]]
name = "beside"
from = "worker-2/neighbour"
to = ["manager/mapper"]
kind = "region"
size = "64KiB"
"#;

    /// What was found.
    struct Evidence {
        attacks: Vec<Attack>,
        /// The count that the others' job had while the guest flooded, and the right one.
        counts: (u64, u64),
        /// Whether the guest still flooded when the job was done.
        flooded: bool,
        /// Pids and instances of the device processes, before and after.
        devices: (Value, Value),
    }

    fn job(workers: u16, artifacts: &Artifacts) -> Job {
        Job {
            workers,
            // Programs of this deployment: every user can read them.
            input: artifacts.bin.join("sivshm-device"),
            byte: b'e',
            mode: "interrupt".to_owned(),
            slice_size: "1MiB".to_owned(),
        }
    }

    /// Runs everything, once; none without VMs.
    fn evidence() -> Option<&'static Evidence> {
        static EVIDENCE: OnceLock<Result<Option<Evidence>>> = OnceLock::new();
        match EVIDENCE.get_or_init(collect) {
            Ok(evidence) => evidence.as_ref(),
            Err(error) => panic!("{error:#}"),
        }
    }

    fn collect() -> Result<Option<Evidence>> {
        let artifacts = Artifacts::from_env()?;
        let Some(vm) = &artifacts.vm else {
            eprintln!("skipped: built without QEMU and a guest kernel");
            return Ok(None);
        };
        let policy = job(2, &artifacts).policy() + NEIGHBOUR;
        let mut deployment = Deployment::new(&artifacts, &policy, None)?;
        deployment.up()?;
        let before = devices(&deployment)?;

        let script = format!(
            "insmod /lib/sivshm.ko && event loaded || finish 90
/bin/hostile guest-user --neighbour --flood {FLOOD_SECONDS}
/bin/hostile guest-root
/bin/hostile guest-revoked
finish 0"
        );
        let image = deployment.root().join("hostile.cpio");
        Image::new(vm)?
            .program(&artifacts.guest.join("hostile"))?
            .file(&vm.sivshm_ko, "/lib/sivshm.ko")?
            .kernel_module("uio_pci_generic")?
            .build(&script, &image)?;
        let mut guest = Guest::new(HOSTILE.0, image);
        guest.qemu_args = FOREIGN_FUNCTIONS.map(str::to_owned).to_vec();
        let mut guest = guest.boot(&deployment)?;
        guest.wait_event("loaded", BOOT_LIMIT)?;

        guest.wait_event("flood-started", ATTACK_LIMIT)?;
        let others = job(1, deployment.artifacts());
        let outcome = others.on_host(&deployment, &mut |_| ())?;
        let done = guest.process.age();
        let (ended, _) = guest.wait_event("flood-ended", ATTACK_LIMIT)?;
        let (_, expected) = input::count(&others.input, others.byte)?;
        let count = outcome.result.get("count").and_then(Value::as_u64);

        let (_, asked) = guest.wait_event("revoke", ATTACK_LIMIT)?;
        assert_eq!(
            asked.get("channel").and_then(Value::as_str),
            Some(HOSTILE.1)
        );
        output_of(deployment.command("revoke").args([HOSTILE.0, HOSTILE.1]))?;
        guest.finish(ATTACK_LIMIT)?;
        report(&guest);
        let after = devices(&deployment)?;
        deployment.down()?;
        Ok(Some(Evidence {
            attacks: attacks(guest.process.lines()),
            counts: (count.context("the job has no count")?, expected),
            flooded: done < ended,
            devices: (before, after),
        }))
    }

    /// What each device process is: the same as long as it has not been restarted.
    fn devices(deployment: &Deployment) -> Result<Value> {
        let status = deployment.status()?;
        let vms = status.get("vms").and_then(Value::as_array);
        let vms = vms.context("the status lists no VMs")?;
        let identity = |vm: &Value| {
            let instance = vm.pointer("/device/instance");
            serde_json::json!([vm.get("name"), vm.get("device_pid"), instance])
        };
        Ok(vms.iter().map(identity).collect())
    }

    /// Shows the console of a run, for whoever asks the test programs for their output.
    fn report(guest: &Vm) {
        for Line { at, text } in guest.process.lines() {
            println!("{:8.3} {text}", at.as_secs_f64());
        }
    }

    /// One test for each attempt: it was made, was refused in exactly the way that is promised, and
    /// the same operation works where it is granted.
    macro_rules! blocked {
        ($($test:ident: $attack:literal)*) => {$(
            #[test]
            fn $test() {
                if let Some(evidence) = evidence() {
                    assert_blocked(&evidence.attacks, $attack);
                }
            }
        )*}
    }

    blocked! {
        // A process of the service's user, and of others.
        mmap_without_a_grant: "mmap-without-grant"
        mmap_beyond_a_grant: "mmap-beyond-grant"
        mmap_behind_a_grant: "mmap-behind-grant"
        mmap_of_another_sessions_grant: "mmap-of-another-session"
        mmap_as_a_stranger: "mmap-as-a-stranger"
        mmap_executable: "mmap-executable"
        mmap_private: "mmap-private"
        mmap_of_a_read_only_grant_for_writing: "mmap-read-only-for-writing"
        store_through_a_read_only_grant: "store-through-read-only"
        mprotect_of_a_read_only_grant: "mprotect-to-write"
        mprotect_to_execute: "mprotect-to-execute"
        mremap_to_grow: "mremap-to-grow"
        mremap_to_move: "mremap-to-move"
        madvise_to_be_inherited: "madvise-to-fork"
        madvise_to_be_dumped: "madvise-to-dump"
        use_after_close: "use-after-close"
        mapping_inherited_by_a_child: "mapping-inherited-by-fork"
        close_by_a_child_ends_nothing: "close-by-a-child"
        descriptor_inherited_by_a_child: "descriptor-inherited-by-fork"
        descriptor_stolen_from_a_process: "descriptor-stolen-by-pidfd"
        descriptor_passed_over_a_socket: "descriptor-passed-by-rights"
        descriptor_kept_over_exec: "descriptor-kept-over-exec"
        read_of_proc_mem: "read-proc-mem"
        write_of_proc_mem: "write-proc-mem"
        process_vm_readv: "process-vm-readv"
        process_vm_writev: "process-vm-writev"
        ptrace_peek: "ptrace-peek"
        core_dump: "core-dump"
        notify_without_a_grant: "notify-without-grant"
        notify_with_another_sessions_grant: "notify-with-another-session's-grant"
        notify_as_a_stranger: "notify-as-a-stranger"
        hold_all_sessions: "hold-all-sessions"
        a_hoarder_leaves_a_service_its_session: "open-beside-a-hoarder"
        a_flood_leaves_a_neighbour_its_session: "open-during-a-flood"
        a_flood_leaves_a_session_its_grants: "session-during-a-flood"
        a_flood_leaves_nothing_behind: "open-after-a-flood"
        // Root.
        sysfs_registers: "sysfs-registers"
        sysfs_memory: "sysfs-memory"
        sysfs_memory_combining: "sysfs-memory-combining"
        dev_mem_registers: "dev-mem-registers"
        dev_mem_memory: "dev-mem-memory"
        take_by_another_driver: "take-by-another-driver"
        unbind: "unbind"
        use_after_removal_of_the_function: "use-after-removal"
        map_after_rescan: "map-after-rescan"
        service_works_after_rescan: "service-after-rescan"
        use_after_a_bar_was_moved: "use-after-bar-was-moved"
        unload_with_an_open_session: "unload-in-use"
        service_works_after_reload: "service-after-reload"
        // After the operator's revocation.
        use_after_revocation: "use-after-revocation"
        mmap_after_revocation: "mmap-after-revocation"
        notify_after_revocation: "notify-after-revocation"
        reopen_after_revocation: "reopen-after-revocation"
    }

    #[test]
    fn a_flood_disturbs_no_other_vm() {
        let Some(evidence) = evidence() else { return };
        let (count, expected) = evidence.counts;
        assert_eq!(count, expected, "the others' job counted wrong");
        assert!(evidence.flooded, "the flood ended before the others' job");
        let (before, after) = &evidence.devices;
        assert_eq!(before, after, "a device process was restarted");
    }

    #[test]
    fn every_attempt_has_a_test() {
        let Some(evidence) = evidence() else { return };
        let text = include_str!("guest.rs");
        for attack in &evidence.attacks {
            let named = format!(": \"{}\"", attack.name);
            assert!(text.contains(&named), "{} has no test", attack.name);
        }
    }
}
