//! Root in a guest that is shut as docs/guest.md says (SECURITY.md; invariant I4): the settings of
//! `guest-module/settings` are applied as they are shipped, `sivshm doctor --guest` finds nothing
//! missing, and every way past the module is refused. `tests/hostile` has the ways.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    use anyhow::Result;
    use serde_json::Value;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, attacks};
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::guest::Image;
    use sivshm_tests::job::{BOOT_LIMIT, SERVICE_USER};
    use sivshm_tests::process::Process;
    use sivshm_tests::vm::{FOREIGN_FUNCTIONS, Guest};

    /// The VM whose root is shut out.
    const LOCKED: &str = "ivi";

    /// It reads a channel of a VM that a host process stands in for.
    const POLICY: &str = r#"
version = 1
trust_domain = "car.example"
serial = 1
vm = [{ name = "camera" }, { name = "ivi" }]
service = [
    { vm = "camera", name = "lens", process = { uid = 1000 } },
    { vm = "ivi", name = "screen", process = { uid = 1000 } },
]
[[channel]]
name = "picture"
from = "camera/lens"
to = ["ivi/screen"]
kind = "region"
size = "64KiB"
"#;

    /// Longest time for all attempts, under TCG on a loaded machine of two cores.
    const ATTACK_LIMIT: Duration = Duration::from_secs(180);

    /// What a guest has besides the module: drivers that could take a function, and registers of the
    /// processor as files. All are what root tries with.
    const MODULES: [&str; 3] = ["uio_pci_generic", "vfio_pci", "msr"];

    /// Shuts the guest as its start-up does with systemd, and says how it is then.
    const SHUT: &str = "set -e
sysctl -q -p /lib/60-sivshm.conf
sh /lib/sivshm-lockdown
sivshm doctor --guest --json
";

    struct Evidence {
        /// What the guest printed.
        transcript: String,
        attacks: Vec<Attack>,
        /// What the doctor found before and after the guest was shut.
        doctor: Vec<Value>,
        code: i64,
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
        let mut deployment = Deployment::new(&artifacts, POLICY, None)?;
        deployment.up()?;
        let mut writer = deployment.run("camera");
        writer.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
        writer.args(["--service", "lens", "--"]);
        writer.arg(deployment.artifacts().guest.join("honest"));
        writer.args(["--identity", "lens", "--writes", "picture=ivi/screen"]);
        let _writer = Process::start("camera", writer)?;

        let script = "insmod /lib/sivshm.ko && event loaded || finish 90
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
sivshm doctor --guest --json && finish 91
/bin/hostile guest-locked --between /lib/shut -- \
    /bin/honest --identity screen --reads picture=camera/lens || finish 92
finish 0";
        let shut = deployment.root().join("shut");
        std::fs::write(&shut, SHUT)?;
        let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-module/settings");
        let image = deployment.root().join("locked.cpio");
        let mut builder = Image::new(vm)?
            .program(&artifacts.guest.join("hostile"))?
            .program(&deployment.artifacts().guest.join("honest"))?
            .identity(&deployment.identity(LOCKED, "screen"), SERVICE_USER)?
            .program(&artifacts.guest.join("sivshm"))?
            .file(&vm.sivshm_ko, "/lib/sivshm.ko")?
            .file(&shut, "/lib/shut")?
            .file(&settings.join("sivshm-lockdown"), "/lib/sivshm-lockdown")?
            .file(
                &settings.join("sysctl.d/60-sivshm.conf"),
                "/lib/60-sivshm.conf",
            )?;
        for module in MODULES {
            builder = builder.kernel_module(module)?;
        }
        builder.build(script, &image)?;
        let mut guest = Guest::new(LOCKED, image);
        guest.qemu_args = FOREIGN_FUNCTIONS.map(str::to_owned).to_vec();
        let mut guest = guest.boot(&deployment)?;
        guest.wait_event("loaded", BOOT_LIMIT)?;
        let code = guest.finish(ATTACK_LIMIT)?;
        deployment.down()?;
        let lines = guest.process.lines().iter();
        let objects = lines.filter_map(|line| serde_json::from_str::<Value>(&line.text).ok());
        Ok(Some(Evidence {
            transcript: guest.process.transcript(),
            attacks: attacks(guest.process.lines()),
            doctor: objects
                .filter(|object| object.get("checks").is_some())
                .collect(),
            code,
        }))
    }

    /// Names of the checks that came to a verdict.
    fn named(report: &Value, verdict: &str) -> Vec<String> {
        let checks = report.get("checks").and_then(Value::as_array);
        let of = checks
            .into_iter()
            .flatten()
            .filter(|check| check.get("verdict").and_then(Value::as_str) == Some(verdict));
        let names = of.filter_map(|check| check.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn the_settings_are_taken_and_every_way_is_tried() {
        let Some(evidence) = evidence() else { return };
        assert_eq!(evidence.code, 0, "see the console");
    }

    #[test]
    fn the_doctor_says_what_is_missing_and_when_nothing_is() {
        let Some(evidence) = evidence() else { return };
        let [before, after] = evidence.doctor.as_slice() else {
            panic!("reports of the doctor: {:?}", evidence.doctor);
        };
        let missing = ["lockdown", "modules_disabled", "ptrace_scope", "drivers"];
        assert_eq!(named(before, "missing"), missing);
        assert_eq!(named(after, "missing"), [""; 0]);
        assert_eq!(after.get("good"), Some(&Value::Bool(true)));
    }

    // One test for each way: it was tried, was refused in exactly the way that is promised, and works
    // on something else before the guest is shut.
    sivshm_tests::blocked! {
        // The functions.
        unbind: "locked-unbind"
        sysfs_registers: "locked-sysfs-registers"
        sysfs_memory: "locked-sysfs-memory"
        sysfs_memory_combining: "locked-sysfs-memory-combining"
        dev_mem_registers: "locked-dev-mem-registers"
        dev_mem_memory: "locked-dev-mem-memory"
        sysfs_config: "locked-sysfs-config"
        proc_config: "locked-proc-config"
        remove_and_rescan: "locked-remove-and-rescan"
        // A process that holds a session.
        ptrace: "locked-ptrace"
        proc_mem: "locked-proc-mem"
        process_vm_readv: "locked-process-vm-readv"
        pidfd_getfd: "locked-pidfd-getfd"
        // The kernel.
        kcore: "locked-kcore"
        kprobe: "locked-kprobe"
        bpf: "locked-bpf"
        msr: "locked-msr"
        ports: "locked-ports"
        kexec: "locked-kexec"
        unload: "locked-unload"
        load: "locked-load"
        tear_out: "locked-tear-out"
        load_vfio: "locked-load-vfio"
        allow_ptrace: "locked-allow-ptrace"
        allow_modules: "locked-allow-modules"
        lower_lockdown: "locked-lower-lockdown"
        // And what is granted still is.
        service: "locked-service"
    }

    #[test]
    fn every_way_has_a_test() {
        let Some(evidence) = evidence() else { return };
        let text = include_str!("guest_root_lockdown.rs");
        for attack in &evidence.attacks {
            let named = format!(": \"{}\"", attack.name);
            assert!(text.contains(&named), "{} has no test", attack.name);
        }
    }
}
