//! A hostile process, and root, in a guest with SIVSHM's kernel module (SECURITY.md; invariant
//! I4, and I5 for other VMs). `tests/hostile` has the attempts; this boots one guest for all of them.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use serde_json::Value;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, attacks};
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::guest::Image;
    use sivshm_tests::input;
    use sivshm_tests::job::{BOOT_LIMIT, Job, SERVICE_USER};
    use sivshm_tests::process::output_of;
    use sivshm_tests::siege;
    use sivshm_tests::vm::{FOREIGN_FUNCTIONS, Guest};

    /// The VM with the hostile guest, and the channel that its service writes.
    const HOSTILE: (&str, &str) = ("hostile", "back");

    /// The user of the other service of the hostile guest.
    const NEIGHBOUR_USER: u32 = 1001;

    /// The user of the service whose executable the policy names.
    const PINNED_USER: u32 = 1003;

    /// Longest time for all attempts of one kind, under TCG on a loaded machine of two cores.
    const ATTACK_LIMIT: Duration = Duration::from_secs(180);

    /// Seconds for which the guest floods if nobody tells it that it is enough.
    const FLOOD_SECONDS: u64 = ATTACK_LIMIT.as_secs();

    /// The hostile VM, whose service has a neighbour that it attacks, and the VM at the other end.
    const BESIDE: &str = r#"
[[vm]]
name = "hostile"
[[vm]]
name = "partner"
[[service]]
vm = "hostile"
name = "reducer"
process = { uid = 1000 }
[[service]]
vm = "hostile"
name = "neighbour"
process = { uid = 1001 }
[[service]]
vm = "hostile"
name = "pinned"
process = { uid = 1003, exe_sha256 = "EXECUTABLE" }
[[service]]
vm = "partner"
name = "partner"
process = { uid = 1000 }
[[channel]]
name = "there"
from = "partner/partner"
to = ["hostile/reducer"]
kind = "region"
size = "64KiB"
[[channel]]
name = "back"
from = "hostile/reducer"
to = ["partner/partner"]
kind = "region"
size = "64KiB"
[[channel]]
name = "beside"
from = "hostile/neighbour"
to = ["partner/partner"]
kind = "region"
size = "64KiB"
"#;

    /// What was found.
    struct Evidence {
        /// What the guest and its partner printed.
        transcript: String,
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
            // Shown by a test that fails.
            Ok(evidence) => evidence
                .as_ref()
                .inspect(|evidence| println!("{}", evidence.transcript)),
            Err(error) => panic!("{error:#}"),
        }
    }

    fn collect() -> Result<Option<Evidence>> {
        let artifacts = Artifacts::from_env()?;
        let Some(vm) = &artifacts.vm else {
            eprintln!("skipped: built without QEMU and a guest kernel");
            return Ok(None);
        };
        let others = job(1, &artifacts);
        let shell = std::fs::canonicalize("/bin/sh")?;
        let policy = others.policy() + &BESIDE.replace("EXECUTABLE", &digest(&shell)?);
        let mut deployment = Deployment::new(&artifacts, &policy, None)?;
        deployment.up()?;
        let before = devices(&deployment)?;
        let writes = [("there", "hostile/reducer")];
        let reads = [("back", "hostile/reducer"), ("beside", "hostile/neighbour")];
        let mut partner = siege::partner(&deployment, "partner", "partner", &writes, &reads)?;

        let script = format!(
            "insmod /lib/sivshm.ko && event loaded || finish 90
/bin/hostile guest-user --neighbour --silence --flood {FLOOD_SECONDS}
/bin/hostile guest-claims
/bin/hostile guest-root
/bin/hostile guest-revoked
finish 0"
        );
        let image = deployment.root().join("hostile.cpio");
        let image_of = Image::new(vm)?;
        papers(executables(image_of, &deployment, &shell)?, &deployment)?
            .program(&artifacts.guest.join("hostile"))?
            .identity(&deployment.identity(HOSTILE.0, "reducer"), SERVICE_USER)?
            .identity(&deployment.identity(HOSTILE.0, "neighbour"), NEIGHBOUR_USER)?
            .identity(&deployment.identity(HOSTILE.0, "pinned"), PINNED_USER)?
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
        guest.process.tell("enough")?;
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
        partner.kill();
        partner.finish(ATTACK_LIMIT)?;
        let after = devices(&deployment)?;
        deployment.down()?;
        Ok(Some(Evidence {
            transcript: guest.process.transcript() + &partner.transcript(),
            attacks: attacks(guest.process.lines()),
            counts: (count.context("the job has no count")?, expected),
            flooded: done < ended,
            devices: (before, after),
        }))
    }

    /// The SHA-256 of a file, as a policy names it.
    fn digest(file: &Path) -> Result<String> {
        let text = output_of(Command::new("sha256sum").arg(file))?;
        let digest = text.split_whitespace().next();
        Ok(digest.context("no digest")?.to_owned())
    }

    /// Adds a shell that the policy names, one that it does not, the libraries that both need, and one
    /// that neither does.
    fn executables<'a>(
        mut image: Image<'a>,
        deployment: &Deployment,
        shell: &Path,
    ) -> Result<Image<'a>> {
        let another = deployment.root().join("another");
        let mut bytes = std::fs::read(shell)?;
        bytes.push(0);
        std::fs::write(&another, bytes)?;
        std::fs::set_permissions(&another, std::fs::metadata(shell)?.permissions())?;
        let preloaded = deployment.root().join("preloaded.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/hostile/preload/preloaded.c");
        let mut cc = Command::new("cc");
        output_of(
            cc.args(["-shared", "-fPIC", "-o"])
                .arg(&preloaded)
                .arg(source),
        )?;
        for line in output_of(Command::new("ldd").arg(shell))?.lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(path) = path {
                image = image.file(Path::new(path), path)?;
            }
        }
        image
            .file(shell, "/bin/named")?
            .file(&another, "/bin/another")?
            .file(&preloaded, "/lib/preloaded.so")
    }

    /// Adds SVIDs and keys that are of no use there: of a service of another VM, of a service of this
    /// VM by an authority that only has the domain's name, and of this VM's device process.
    fn papers<'a>(mut image: Image<'a>, deployment: &Deployment) -> Result<Image<'a>> {
        let forged = siege::forged(deployment, HOSTILE.0, "reducer")?;
        let device = deployment.etc().join("vm").join(HOSTILE.0).join("device");
        for (name, path) in [
            (
                "another-vm",
                deployment.services_dir("worker-1").join("reducer"),
            ),
            ("another-authority", forged.svid),
            ("device", device),
        ] {
            for suffix in ["pem", "key"] {
                let to = format!("/etc/sivshm/{name}.{suffix}");
                image = image.file(&path.with_extension(suffix), &to)?;
            }
        }
        Ok(image)
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

    // One test for each attempt: it was made, was refused in exactly the way that is promised, and
    // the same operation works where it is granted.
    sivshm_tests::blocked! {
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
        read_by_a_child: "read-by-a-child"
        write_by_a_child: "write-by-a-child"
        poll_by_a_child: "poll-by-a-child"
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
        a_session_without_a_word: "no-word"
        // Who is no service, or another one.
        a_session_without_tls: "no-tls"
        a_session_without_an_svid: "no-svid"
        the_key_of_another_service: "key-of-another-service"
        the_svid_of_another_service: "svid-of-another-service"
        the_svid_of_another_user: "svid-of-another-user"
        an_svid_as_a_stranger: "svid-as-a-stranger"
        the_svid_of_another_vm: "svid-of-another-vm"
        an_svid_of_another_authority: "svid-of-another-authority"
        the_svid_of_the_device_process: "svid-of-the-device-process"
        an_svid_in_another_executable: "svid-in-another-executable"
        // The own key for what is another's.
        a_channel_of_another_vm_is_not_read: "read-another-vms-channel"
        a_channel_of_another_vm_is_not_written: "write-another-vms-channel"
        a_channel_of_a_neighbour_is_not_written: "write-a-neighbours-channel"
        the_wrong_end_of_a_channel: "write-what-is-read"
        a_channel_with_another_peer: "open-with-another-peer"
        // What the digest of an executable does not prove: these are let in.
        a_script_of_the_named_interpreter: "script-of-the-named-interpreter"
        a_library_in_the_named_executable: "preload-into-the-named-executable"
        a_debugger_of_the_named_executable: "ptrace-of-the-named-executable"
        // And what it does.
        a_script_of_another_interpreter: "script-of-another-interpreter"
        a_library_in_another_executable: "preload-into-another-executable"
        a_debugger_of_another_executable: "ptrace-of-another-executable"
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
