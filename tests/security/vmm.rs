//! A hostile VMM: what a program gets that runs where QEMU would, with a VM's user and descriptors
//! (SECURITY.md; invariants I1, I2 and I5).
//!
//! One deployment is started once for all tests here; everything has ended before the first of them
//! looks at what was found.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, bail};
    use nix::unistd::geteuid;
    use serde_json::Value;
    use sivshm_abi::grant::Access;
    use sivshm_abi::name::VmName;
    use sivshm_policy::plan::Plan;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, assert_blocked, attacks};
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::descriptors::{self, Object};
    use sivshm_tests::input;
    use sivshm_tests::job::Job;
    use sivshm_tests::process::{Process, output_of};
    use sivshm_tests::siege::{self, hostile};

    /// Longest time for one hostile program to try everything.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Bytes of the honest job: some rounds of each worker's slice.
    const INPUT_BYTES: usize = 3_000_000;

    /// Slices that a process holds: number and whether read-only.
    type Held = BTreeSet<(u32, bool)>;

    /// What was found.
    struct Evidence {
        attacks: Vec<Attack>,
        /// Slices of worker-1's VMM and of worker-2's, beside what the policy gives them.
        alone: [Sight; 2],
        /// The same while each holds all that the other could give.
        colluding: [Sight; 2],
        storm: Storm,
    }

    /// What a process holds and what it was to hold.
    struct Sight {
        held: Held,
        granted: Held,
    }

    /// What others noticed of storms on some VMs' doorbells.
    struct Storm {
        /// Device processes that did not answer.
        silent: Vec<String>,
        /// For each storm what came of revoking a channel at its own device process.
        revoked: Vec<(&'static str, Result<String>)>,
        /// The count that the other workers found, and the right one.
        job: Result<(u64, u64)>,
    }

    /// What was found; none, with the reason printed, where nothing can be tried.
    fn evidence() -> Option<&'static Evidence> {
        static EVIDENCE: OnceLock<Option<Result<Evidence>>> = OnceLock::new();
        let evidence = EVIDENCE.get_or_init(|| {
            if !geteuid().is_root() {
                eprintln!(
                    "skipped: without root all VMs share one user (development mode), so a \
                     compromised VMM is not confined and I2 is not promised"
                );
                return None;
            }
            Some(collect())
        });
        match evidence.as_ref()? {
            Ok(evidence) => Some(evidence),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn collect() -> Result<Evidence> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let job = job(folder.path())?;
        let plan = sivshm_policy::compile("job", &job.policy())?;
        let mut deployment = Deployment::new(&Artifacts::from_env()?, &job.policy(), None)?;
        deployment.up()?;
        let mut attacks = Vec::new();
        let alone = alone(&deployment, &plan, &mut attacks)?;
        let colluding = collude(&deployment, &plan, folder.path(), &mut attacks)?;
        filtered(&deployment, &mut attacks)?;
        let storm = storm(&deployment, &job)?;
        deployment.down()?;
        Ok(Evidence {
            attacks,
            alone,
            colluding,
            storm,
        })
    }

    fn job(folder: &Path) -> Result<Job> {
        let input = folder.join("input");
        let bytes: Vec<u8> = (0_u32..)
            .map(|n| n.to_le_bytes()[0])
            .take(INPUT_BYTES)
            .collect();
        std::fs::write(&input, bytes)?;
        Ok(Job {
            workers: 5,
            input,
            byte: 0x42,
            mode: "interrupt".to_owned(),
            slice_size: "256KiB".to_owned(),
        })
    }

    /// Worker-1's VMM is hostile, worker-2's is there.
    fn alone(
        deployment: &Deployment,
        plan: &Plan,
        attacks: &mut Vec<Attack>,
    ) -> Result<[Sight; 2]> {
        let [hostile, other] = siege::as_vmm(deployment, "worker-1", "worker-2")?;
        attacks.extend(self::attacks(hostile.lines()));
        let sights = [
            Sight::of(&hostile, plan, &["worker-1"])?,
            Sight::of(&other, plan, &["worker-2"])?,
        ];
        end(deployment, [hostile, other])?;
        Ok(sights)
    }

    /// The VMMs of worker-1 and worker-2 help each other.
    fn collude(
        deployment: &Deployment,
        plan: &Plan,
        folder: &Path,
        attacks: &mut Vec<Attack>,
    ) -> Result<[Sight; 2]> {
        let socket = folder.join("collusion").display().to_string();
        let mut taker = hostile(deployment, "worker-2", &["take", &socket])?;
        taker.wait_event("listening", LIMIT)?;
        let mut giver = hostile(deployment, "worker-1", &["give", &socket])?;
        giver.wait_event("gave", LIMIT)?;
        taker.wait_event("took", LIMIT)?;
        attacks.extend(self::attacks(taker.lines()));
        let sights = [
            Sight::of(&giver, plan, &["worker-1"])?,
            Sight::of(&taker, plan, &["worker-1", "worker-2"])?,
        ];
        end(deployment, [giver, taker])?;
        Ok(sights)
    }

    /// A program in QEMU's place, under the filter that QEMU gets.
    fn filtered(deployment: &Deployment, attacks: &mut Vec<Attack>) -> Result<()> {
        let mut command = deployment.run("worker-1");
        command
            .arg("--")
            .arg(deployment.artifacts().guest.join("hostile"));
        command.args(["vmm", "filtered"]);
        let mut hostile = Process::start("worker-1", command)?;
        let status = hostile.finish(LIMIT)?;
        if !status.success() {
            bail!("a program in QEMU's place: {status}\n{}", hostile.tail());
        }
        attacks.extend(self::attacks(hostile.lines()));
        end(deployment, [hostile])
    }

    /// The VMMs of three workers make their doorbells blocking and keep them empty, full, or both in
    /// turns, while the others work and the operator cuts the three off.
    fn storm(deployment: &Deployment, job: &Job) -> Result<Storm> {
        let storms = [("3", "empty"), ("4", "full"), ("5", "changing")];
        let start = |(number, kind)| {
            let vm = format!("worker-{number}");
            hostile(deployment, &vm, &["storm", kind])
        };
        let mut hostile = storms.into_iter().map(start).collect::<Result<Vec<_>>>()?;
        for process in &mut hostile {
            process.wait_event("storming", LIMIT)?;
        }
        let honest = Job {
            workers: 2,
            ..job.clone()
        };
        let count = || -> Result<(u64, u64)> {
            let outcome = honest.on_host(deployment, &mut |_| {})?;
            let found = outcome.result.get("count").and_then(Value::as_u64);
            let (_, right) = input::count(&job.input, job.byte)?;
            Ok((found.context("the mapper's result has no count")?, right))
        };
        let job = count();
        // Whoever is going to be caught has been by now.
        for process in &mut hostile {
            process.wait_event("asked", LIMIT)?;
        }
        let silent = silent(&deployment.status()?);
        let mut revoked = Vec::new();
        for (number, kind) in storms {
            let mut command = deployment.command("revoke");
            command.args([format!("worker-{number}"), format!("job-{number}")]);
            revoked.push((kind, output_of(&mut command)));
        }
        drop(hostile);
        Ok(Storm {
            silent,
            revoked,
            job,
        })
    }

    /// Ends VMMs, and waits until their VMs can be run again.
    fn end<const N: usize>(deployment: &Deployment, processes: [Process; N]) -> Result<()> {
        drop(processes);
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let status = deployment.status()?;
            let gone = |vm: &Value| vm["vmm_pid"].is_null() && vm["device"]["vmm"].is_null();
            if vms(&status)?.iter().all(gone) {
                return Ok(());
            }
        }
        bail!("VMMs that were killed are still there for SIVSHM")
    }

    fn vms(status: &Value) -> Result<&Vec<Value>> {
        status["vms"].as_array().context("the status has no VMs")
    }

    /// VMs whose device process does not answer.
    fn silent(status: &Value) -> Vec<String> {
        let vms = status["vms"].as_array().into_iter().flatten();
        let silent = vms.filter(|vm| vm["device"].is_null());
        silent.map(|vm| vm["name"].to_string()).collect()
    }

    impl Sight {
        /// Looks at a process that holds what the policy gives to `vms`.
        fn of(process: &Process, plan: &Plan, vms: &[&str]) -> Result<Self> {
            let held = descriptors::of(process.id())?;
            let held = held
                .iter()
                .filter_map(|descriptor| match descriptor.object {
                    Object::Slice(number) => Some((number, descriptor.read_only)),
                    _ => None,
                });
            let mut granted = Held::new();
            for vm in vms {
                let (_, vm) = plan.vm(VmName::new(vm)?).context("no such VM")?;
                let read_only = |access| access == Access::ReadOnly;
                let windows = vm.windows.iter();
                granted.extend(windows.map(|window| (window.slice.0, read_only(window.access))));
            }
            Ok(Self {
                held: held.collect(),
                granted,
            })
        }

        fn assert_exact(&self) {
            assert_eq!(self.held, self.granted, "held, and granted by the policy");
            assert!(!self.held.is_empty());
        }
    }

    fn assert_attack(name: &str) {
        if let Some(evidence) = evidence() {
            assert_blocked(&evidence.attacks, name);
        }
    }

    /// One test for each attempt, and the list of all of them.
    macro_rules! attempts {
        ($($test:ident: $attempt:literal,)+) => {
            $(#[test] fn $test() { assert_attack($attempt) })+
            const TESTED: &[&str] = &[$($attempt),+];
        };
    }

    attempts! {
        i2_a_vmm_inherits_no_stray_descriptor: "stray-descriptor",
        i2_read_only_slice_reopen_for_writing: "read-only-slice-reopen-for-writing",
        i2_read_only_slice_map_for_writing: "read-only-slice-map-for-writing",
        i2_read_only_slice_protect_for_writing: "read-only-slice-protect-for-writing",
        i2_read_only_slice_write: "read-only-slice-write",
        i2_read_only_slice_punch_hole: "read-only-slice-punch-hole",
        i2_read_only_slice_grow: "read-only-slice-grow",
        i2_read_only_slice_shrink: "read-only-slice-shrink",
        i2_read_only_slice_change_mode: "read-only-slice-change-mode",
        i2_read_only_slice_change_group: "read-only-slice-change-group",
        i2_read_only_slice_add_seal: "read-only-slice-add-seal",
        i2_read_only_slice_lease: "read-only-slice-lease",
        i2_given_read_only_slice_reopen_for_writing: "given-read-only-slice-reopen-for-writing",
        i2_given_read_only_slice_map_for_writing: "given-read-only-slice-map-for-writing",
        i2_given_read_only_slice_protect_for_writing: "given-read-only-slice-protect-for-writing",
        i2_given_read_only_slice_write: "given-read-only-slice-write",
        i2_given_read_only_slice_punch_hole: "given-read-only-slice-punch-hole",
        i2_given_read_only_slice_grow: "given-read-only-slice-grow",
        i2_given_read_only_slice_shrink: "given-read-only-slice-shrink",
        i2_given_read_only_slice_change_mode: "given-read-only-slice-change-mode",
        i2_given_read_only_slice_change_group: "given-read-only-slice-change-group",
        i2_given_read_only_slice_add_seal: "given-read-only-slice-add-seal",
        i2_given_read_only_slice_lease: "given-read-only-slice-lease",
        i2_own_slice_grow: "own-slice-grow",
        i2_own_slice_shrink: "own-slice-shrink",
        i2_own_slice_change_mode: "own-slice-change-mode",
        i2_own_slice_change_group: "own-slice-change-group",
        i2_own_slice_add_seal: "own-slice-add-seal",
        i2_own_slice_lease: "own-slice-lease",
        i5_control_memory_grow: "control-memory-grow",
        i5_control_memory_shrink: "control-memory-shrink",
        i5_control_memory_change_mode: "control-memory-change-mode",
        i5_control_memory_change_group: "control-memory-change-group",
        i5_control_memory_add_seal: "control-memory-add-seal",
        i5_control_memory_lease: "control-memory-lease",
        i1_given_written_slice_grow: "given-written-slice-grow",
        i1_given_written_slice_shrink: "given-written-slice-shrink",
        i1_given_written_slice_change_mode: "given-written-slice-change-mode",
        i1_given_written_slice_change_group: "given-written-slice-change-group",
        i1_given_written_slice_add_seal: "given-written-slice-add-seal",
        i1_given_written_slice_lease: "given-written-slice-lease",
        i1_given_written_slice_reopen_for_writing: "given-written-slice-reopen-for-writing",
        i2_trace_of_other_vmm: "trace-of-other-vmm",
        i2_copy_memory_of_other_vmm: "copy-memory-of-other-vmm",
        i2_open_memory_of_other_vmm: "open-memory-of-other-vmm",
        i2_list_descriptors_of_other_vmm: "list-descriptors-of-other-vmm",
        i2_open_descriptor_of_other_vmm: "open-descriptor-of-other-vmm",
        i2_enter_root_of_other_vmm: "enter-root-of-other-vmm",
        i2_take_descriptor_of_other_vmm: "take-descriptor-of-other-vmm",
        i2_kill_of_other_vmm: "kill-of-other-vmm",
        i2_trace_of_other_device: "trace-of-other-device",
        i2_copy_memory_of_other_device: "copy-memory-of-other-device",
        i2_open_memory_of_other_device: "open-memory-of-other-device",
        i2_list_descriptors_of_other_device: "list-descriptors-of-other-device",
        i2_open_descriptor_of_other_device: "open-descriptor-of-other-device",
        i2_enter_root_of_other_device: "enter-root-of-other-device",
        i2_take_descriptor_of_other_device: "take-descriptor-of-other-device",
        i2_kill_of_other_device: "kill-of-other-device",
        i2_trace_of_own_device: "trace-of-own-device",
        i2_copy_memory_of_own_device: "copy-memory-of-own-device",
        i2_open_memory_of_own_device: "open-memory-of-own-device",
        i2_list_descriptors_of_own_device: "list-descriptors-of-own-device",
        i2_open_descriptor_of_own_device: "open-descriptor-of-own-device",
        i2_enter_root_of_own_device: "enter-root-of-own-device",
        i2_take_descriptor_of_own_device: "take-descriptor-of-own-device",
        i2_kill_of_own_device: "kill-of-own-device",
        i2_trace_of_colluder: "trace-of-colluder",
        i2_copy_memory_of_colluder: "copy-memory-of-colluder",
        i2_open_memory_of_colluder: "open-memory-of-colluder",
        i2_list_descriptors_of_colluder: "list-descriptors-of-colluder",
        i2_open_descriptor_of_colluder: "open-descriptor-of-colluder",
        i2_enter_root_of_colluder: "enter-root-of-colluder",
        i2_take_descriptor_of_colluder: "take-descriptor-of-colluder",
        i2_kill_of_colluder: "kill-of-colluder",
        connect_to_another_port: "connect-to-another-port",
        connect_to_own_peer: "connect-to-own-peer",
        connect_to_another_peer: "connect-to-another-peer",
        connect_to_own_launch: "connect-to-own-launch",
        connect_to_another_launch: "connect-to-another-launch",
        connect_to_own_admin: "connect-to-own-admin",
        connect_to_another_admin: "connect-to-another-admin",
        connect_to_supervisor: "connect-to-supervisor",
        connect_to_abstract_socket: "connect-to-abstract-socket",
        port_twice: "port-twice",
        port_from_another_process: "port-from-another-process",
        i5_filtered_set_flags: "filtered-set-flags",
        i5_filtered_fionbio: "filtered-fionbio",
        i5_filtered_x32_call: "filtered-x32-call",
    }

    #[test]
    fn every_attempt_has_its_test() {
        if let Some(evidence) = evidence() {
            let made: BTreeSet<_> = evidence.attacks.iter().map(|a| a.name.as_str()).collect();
            assert_eq!(made, TESTED.iter().copied().collect());
            assert_eq!(
                evidence.attacks.len(),
                TESTED.len(),
                "a name was used twice"
            );
        }
    }

    #[test]
    fn i2_a_vmm_holds_the_slices_of_its_windows_and_no_other() {
        if let Some(evidence) = evidence() {
            evidence.alone.iter().for_each(Sight::assert_exact);
        }
    }

    /// Whoever may read a slice can show it to others; but not make them writers of what it only
    /// reads, nor readers of what neither was granted.
    #[test]
    fn i2_colluding_vmms_hold_no_more_than_both_were_granted() {
        if let Some(evidence) = evidence() {
            evidence.colluding.iter().for_each(Sight::assert_exact);
        }
    }

    #[test]
    fn i5_a_storm_of_doorbells_stalls_no_device_process() {
        if let Some(evidence) = evidence() {
            let silent = &evidence.storm.silent;
            assert!(silent.is_empty(), "no answer: {silent:?}");
        }
    }

    #[test]
    fn i5_a_storm_of_doorbells_keeps_no_operator_from_cutting_its_vm_off() {
        if let Some(evidence) = evidence() {
            for (kind, revoked) in &evidence.storm.revoked {
                assert!(revoked.is_ok(), "{kind}: {revoked:?}");
            }
        }
    }

    #[test]
    fn i5_a_storm_of_doorbells_stalls_no_other_vm() {
        if let Some(evidence) = evidence() {
            match &evidence.storm.job {
                Ok((found, right)) => assert_eq!(found, right),
                Err(error) => panic!("the others' job failed: {error:?}"),
            }
        }
    }
}
