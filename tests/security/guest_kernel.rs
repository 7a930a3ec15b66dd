//! A hostile guest kernel (SECURITY.md; invariants I1 and I5): one worker's guest loads a module
//! that does what it likes with the VM's port and windows, and disturbs nobody else.
//! `tests/hostile/kmod` has the attacks.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::sync::OnceLock;
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use serde_json::Value;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, assert_blocked, attacks};
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::guest::Image;
    use sivshm_tests::input;
    use sivshm_tests::job::{BOOT_LIMIT, Job, SERVICE_USER};
    use sivshm_tests::process::Process;
    use sivshm_tests::siege;
    use sivshm_tests::vm::{Guest, Vm};

    /// Environment variable with the seed of the module's noise, to repeat what a console says.
    const SEED_VARIABLE: &str = "SIVSHM_SEED";

    /// Workers of the policy; the last one's guest is hostile, the one before runs in a VM as well.
    const WORKERS: u16 = 3;
    const HOSTILE: &str = "worker-3";
    const HONEST: (&str, u16) = ("worker-2", 2);

    /// The slice that the manager writes for the hostile VM, by its place among those it writes.
    const MANAGERS_SLICE: usize = 2;

    /// Longest time for the attacks of one boot, under TCG on a loaded machine of two cores.
    const ATTACK_LIMIT: Duration = Duration::from_secs(180);

    /// What the hostile kernel does after the job with the honest workers has begun, by boot: most
    /// make the device process stop reading, so each is the last of a boot.
    const BOOTS: [&[&str]; 5] = [
        &[
            "doorbells",
            "windows",
            "strays",
            "bytes",
            LASTING,
            "garbage",
        ],
        &["hellos", "doorbells"],
        &["types", "doorbells"],
        &["lengths", "doorbells"],
        &["indexes", "doorbells"],
    ];

    /// Is repeated until the job with the honest workers is done.
    const LASTING: &str = "opens";

    /// The last boot: a process of the hostile guest opens its service's channels honestly, and the
    /// manager believes it, and so writes the slice that it reads.
    const LIES: &[&str] = &["twins"];

    /// What was found.
    struct Evidence {
        /// What the guests printed, and the mapper that believed everybody.
        transcript: String,
        boots: Vec<Boot>,
        /// How the mapper ended that worked with the hostile worker too.
        deceived: ExitStatus,
        /// Digests of the slices that the manager writes, before and after, by the manager.
        slices: (Vec<Value>, Vec<Value>),
        /// Pids, instances and links of the device processes, before and after.
        devices: (Value, Value),
        /// Why the hostile VM's device process stopped to read frames, as its audit log says.
        recorded: BTreeSet<String>,
    }

    struct Boot {
        transcript: String,
        /// What the guest's kernel did.
        verbs: &'static [&'static str],
        attacks: Vec<Attack>,
        /// Names of other events.
        events: Vec<String>,
        /// Device processes that did not answer.
        silent: Vec<Value>,
        /// The count of the job with the honest workers, and the right one.
        counts: (Option<u64>, u64),
        /// Whether the attacks went on when the job was done.
        overlapped: bool,
        /// The guest's exit code.
        code: i64,
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
        if artifacts.vm.is_none() {
            eprintln!("skipped: built without QEMU and a guest kernel");
            return Ok(None);
        }
        let policy = job(WORKERS, &artifacts).policy();
        let mut deployment = Deployment::new(&artifacts, &policy, None)?;
        deployment.up()?;
        let mut honest = honest(&deployment)?;
        honest.wait_event("loaded", BOOT_LIMIT)?;

        let filled = managers_slices(&deployment, "fill")?;
        let devices_before = devices(&deployment)?;
        let mut boots = Vec::new();
        for verbs in BOOTS {
            let guest = hostile(&deployment, "", verbs)?;
            boots.push(beside(&deployment, guest, verbs)?);
        }
        let slices = (filled, managers_slices(&deployment, "look")?);
        let lie = "insmod /lib/sivshm.ko && /bin/hostile guest-becomes &&
/bin/hostile guest-lies && rmmod sivshm || finish 92";
        let guest = hostile(&deployment, lie, LIES)?;
        let (mapper, deceived) = believe(&deployment)?;
        boots.push(beside(&deployment, guest, LIES)?);
        let devices_after = devices(&deployment)?;
        let recorded = recorded(&deployment)?;
        honest.process.kill();
        deployment.down()?;
        let guests = boots.iter().map(|boot| boot.transcript.as_str());
        Ok(Some(Evidence {
            transcript: guests.chain([mapper.as_str()]).collect(),
            boots,
            deceived,
            slices,
            devices: (devices_before, devices_after),
            recorded,
        }))
    }

    /// Boots the honest worker, whose reducer serves one mapper after the other.
    fn honest(deployment: &Deployment) -> Result<Vm> {
        let artifacts = deployment.artifacts();
        let (vm, number) = HONEST;
        let script = format!(
            "insmod /lib/sivshm.ko && event loaded || finish 90
while :; do as_user {SERVICE_USER} /bin/reducer --index {number} --timeout 600; done"
        );
        let image = deployment.root().join("honest.cpio");
        Image::new(artifacts.vm()?)?
            .program(&artifacts.guest.join("reducer"))?
            .identity(&deployment.identity(vm, "reducer"), SERVICE_USER)?
            .file(&artifacts.vm()?.sivshm_ko, "/lib/sivshm.ko")?
            .build(&script, &image)?;
        Guest::new(vm, image).boot(deployment)
    }

    /// Boots the hostile worker: root stores through sysfs first, then does what `before` says, then
    /// the module does its worst.
    fn hostile(deployment: &Deployment, before: &str, verbs: &[&str]) -> Result<Vm> {
        let artifacts = deployment.artifacts();
        let seed = std::env::var(SEED_VARIABLE).map(|seed| format!("seed={seed}"));
        let seed = seed.unwrap_or_default();
        let mut script = format!(
            "event attacking
/bin/hostile guest-bars
{before}
insmod /lib/sivshm_hostile.ko {seed} || finish 90
event seed-$(cat /sys/module/sivshm_hostile/parameters/seed)\n"
        );
        for verb in verbs {
            writeln!(
                script,
                "while :; do
    echo {verb} > /proc/sivshm_hostile && cat /proc/sivshm_hostile || finish 91
    [ {verb} = {LASTING} ] && ! read -r -t 0 || break
done"
            )?;
        }
        script.push_str("event attacked\nfinish 0");
        let image = deployment.root().join("hostile.cpio");
        // Whoever owns a guest can make an authority that says what it likes.
        let forged = siege::forged(deployment, "worker-1", "reducer")?;
        Image::new(artifacts.vm()?)?
            .program(&artifacts.guest.join("hostile"))?
            .file(&forged.svid, "/etc/sivshm/forged.pem")?
            .file(&forged.key, "/etc/sivshm/forged.key")?
            .identity(&deployment.identity(HOSTILE, "reducer"), SERVICE_USER)?
            .file(&artifacts.vm()?.sivshm_ko, "/lib/sivshm.ko")?
            .file(&artifacts.vm()?.hostile_ko, "/lib/sivshm_hostile.ko")?
            .build(&script, &image)?;
        let mut guest = Guest::new(HOSTILE, image).boot(deployment)?;
        guest.wait_event("attacking", BOOT_LIMIT)?;
        Ok(guest)
    }

    /// Has the others work beside a hostile guest, until that has done its worst.
    fn beside(
        deployment: &Deployment,
        mut guest: Vm,
        verbs: &'static [&'static str],
    ) -> Result<Boot> {
        let artifacts = deployment.artifacts();
        let silent = silent(&deployment.status()?);
        let honest = job(HONEST.1, artifacts);
        let count = honest_job(deployment, &honest)?;
        let done = guest.process.age();
        if verbs.contains(&LASTING) {
            guest.process.tell("enough")?;
        }
        let (ended, _) = guest.wait_event("attacked", ATTACK_LIMIT)?;
        let code = guest.finish(ATTACK_LIMIT)?;
        let (_, expected) = input::count(&honest.input, honest.byte)?;
        let events = guest.process.lines().iter().filter_map(|line| {
            let event = line.event()?;
            Some(event.get("event")?.as_str()?.to_owned())
        });
        Ok(Boot {
            transcript: guest.process.transcript(),
            verbs,
            events: events.collect(),
            attacks: attacks(guest.process.lines()),
            silent,
            counts: (count, expected),
            overlapped: done < ended,
            code,
        })
    }

    /// Runs the job with the honest workers: one in its VM, one in a host process.
    fn honest_job(deployment: &Deployment, job: &Job) -> Result<Option<u64>> {
        let mut reducer = Process::start("worker-1", job.reducer(deployment, 1))?;
        let mut mapper = Process::start("manager", job.mapper(deployment))?;
        let (_, result) = mapper.wait_event("result", ATTACK_LIMIT)?;
        mapper.finish(ATTACK_LIMIT)?;
        reducer.finish(ATTACK_LIMIT)?;
        Ok(result.get("count").and_then(Value::as_u64))
    }

    /// Runs a mapper that takes the hostile worker for one of its own, and says how it ended.
    fn believe(deployment: &Deployment) -> Result<(String, ExitStatus)> {
        let all = job(WORKERS, deployment.artifacts());
        let _reducer = Process::start("worker-1", all.reducer(deployment, 1))?;
        let mut command = all.mapper(deployment);
        // It ends with the lies, whatever it was told.
        command.args(["--timeout", "120"]);
        let mut mapper = Process::start("manager", command)?;
        let status = mapper.finish(ATTACK_LIMIT)?;
        Ok((mapper.transcript(), status))
    }

    /// Digests of the slices that the manager writes, as a process of the manager sees them.
    fn managers_slices(deployment: &Deployment, action: &str) -> Result<Vec<Value>> {
        let mut command = deployment.run("manager");
        command.args(["--attach", "--"]);
        command.arg(deployment.artifacts().guest.join("hostile"));
        command.args(["slices", action]);
        let mut process = Process::start("manager", command)?;
        let (_, event) = process.wait_event("slices", ATTACK_LIMIT)?;
        process.finish(ATTACK_LIMIT)?;
        let digests = event.get("digests").and_then(Value::as_array);
        digests.cloned().context("no digests")
    }

    fn vms(status: &Value) -> impl Iterator<Item = &Value> {
        let vms = status.get("vms").and_then(Value::as_array);
        vms.into_iter().flatten()
    }

    /// The VMs whose device process did not answer.
    fn silent(status: &Value) -> Vec<Value> {
        let unanswered = vms(status).filter(|vm| vm.get("device").is_none_or(Value::is_null));
        unanswered.cloned().collect()
    }

    /// What each device process is and the ids of its links, which change when a link is made anew.
    fn devices(deployment: &Deployment) -> Result<Value> {
        let identity = |vm: &Value| {
            let peers = vm.pointer("/device/peers").and_then(Value::as_array);
            let links = peers.into_iter().flatten();
            let links: Vec<_> = links
                .map(|peer| serde_json::json!([peer.get("vm"), peer.pointer("/link/ring_id")]))
                .collect();
            let instance = vm.pointer("/device/instance");
            serde_json::json!([vm.get("name"), vm.get("device_pid"), instance, links])
        };
        Ok(vms(&deployment.status()?).map(identity).collect())
    }

    /// Why the hostile VM's device process ended what its guest's driver had begun.
    fn recorded(deployment: &Deployment) -> Result<BTreeSet<String>> {
        let log = deployment.log_dir().join(format!("{HOSTILE}.audit.jsonl"));
        let lines = std::fs::read_to_string(&log)?;
        let ended = lines.lines().filter_map(|line| {
            let record: Value = serde_json::from_str(line).ok()?;
            let is =
                |field: &str, value: &str| record.get(field).and_then(Value::as_str) == Some(value);
            let reason = record.get("reason").and_then(Value::as_str)?;
            (is("event", "driver") && is("decision", "end")).then(|| reason.to_owned())
        });
        Ok(ended.collect())
    }

    #[test]
    fn every_attack_was_made_to_its_end() {
        let Some(evidence) = evidence() else { return };
        for boot in &evidence.boots {
            let verbs = boot.verbs;
            assert_eq!(boot.code, 0, "{verbs:?} ended early: {:?}", boot.events);
        }
        let counts = |name: &str| {
            let all = evidence.boots.iter().flat_map(|boot| &boot.events);
            all.filter(|event| *event == name).count()
        };
        assert_eq!(counts("stopped"), 6);
        assert_eq!(counts("rang"), 5);
        assert_eq!(counts("poured"), 1);
        assert_eq!(counts("lied"), 1);
    }

    #[test]
    fn i1_a_guest_kernel_can_not_store_to_a_read_only_window() {
        let Some(evidence) = evidence() else { return };
        let [first, ..] = evidence.boots.as_slice() else {
            panic!("no boot");
        };
        assert_blocked(&first.attacks, "kernel-store-to-read-only-window");
        assert_eq!(
            evidence.slices.0.get(MANAGERS_SLICE),
            evidence.slices.1.get(MANAGERS_SLICE),
            "the bytes that the manager sees have changed"
        );
    }

    #[test]
    fn i1_root_without_the_module_can_not_store_to_a_read_only_window() {
        let Some(evidence) = evidence() else { return };
        for boot in &evidence.boots {
            assert_blocked(&boot.attacks, "direct-store-to-read-only-window");
        }
    }

    #[test]
    fn i4_whoever_owns_a_guest_can_not_become_another_vms_service() {
        let Some(evidence) = evidence() else { return };
        let Some(last) = evidence.boots.last() else {
            panic!("no boot");
        };
        for attack in [
            "own-key-to-read-for-another-vm",
            "own-key-to-write-for-another-vm",
            "own-key-with-another-worker",
            "forged-svid-of-another-vm",
        ] {
            assert_blocked(&last.attacks, attack);
        }
    }

    #[test]
    fn i5_no_device_process_is_disturbed() {
        let Some(evidence) = evidence() else { return };
        for boot in &evidence.boots {
            let verbs = boot.verbs;
            let silent = &boot.silent;
            assert!(silent.is_empty(), "{verbs:?}: no answer from {silent:?}");
        }
        let (before, after) = &evidence.devices;
        assert_eq!(before, after, "a device process or a link is another one");
    }

    #[test]
    fn i7_why_frames_are_read_no_more_is_recorded() {
        let Some(evidence) = evidence() else { return };
        for reason in [
            "HELLO too often",
            "OPEN with the number of a live session",
            "a frame that can't be read",
            "a ring index that is out of range",
        ] {
            let found = evidence.recorded.contains(reason);
            assert!(found, "no record of {reason}: {:?}", evidence.recorded);
        }
    }

    #[test]
    fn i5_the_job_of_the_others_goes_on() {
        let Some(evidence) = evidence() else { return };
        for boot in &evidence.boots {
            let verbs = boot.verbs;
            let (count, expected) = boot.counts;
            assert_eq!(count, Some(expected), "beside {verbs:?}");
        }
        assert!(
            evidence.boots.iter().any(|boot| boot.overlapped),
            "no attack outlasted the job"
        );
    }

    #[test]
    fn i5_lies_in_a_channel_end_its_use_and_no_process() {
        let Some(evidence) = evidence() else { return };
        let how = evidence.deceived;
        assert_eq!(how.signal(), None, "the mapper was ended by a signal");
        assert_eq!(how.code(), Some(1), "the mapper has to say what is wrong");
    }
}
