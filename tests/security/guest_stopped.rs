//! A guest that is stopped while something is taken from it, and one that somebody wants to save
//! (SECURITY.md; DESIGN section 9). Real VMMs; the guests' services mean no harm.

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, ensure};
    use nix::sys::signal::Signal;
    use serde_json::{Value, json};
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::guest::Image;
    use sivshm_tests::job::{BOOT_LIMIT, SERVICE_USER};
    use sivshm_tests::process::{Process, output_of};
    use sivshm_tests::service;
    use sivshm_tests::siege;
    use sivshm_tests::vm::{Guest, Vm};

    /// Longest time for a writer to learn that its reader's channel is revoked, for the operator to see
    /// that a guest is not contained, and for a supervisor to end a VMM. The guest is stopped all that
    /// time, so that nobody can have waited for it.
    const NOTICED_WITHIN: Duration = Duration::from_secs(60);

    /// The channels from the partner to the two guests.
    const CHANNELS: [(&str, &str); 2] =
        [("to-shown", "shown/reader"), ("to-ended", "ended/reader")];

    const POLICY: &str = r#"
version = 1
trust_domain = "stop.example"
serial = 1
vm = [{ name = "shown" }, { name = "ended", uncontained = "end-vmm" }, { name = "partner" }]
service = [
    { vm = "shown", name = "reader", process = { uid = 1000 } },
    { vm = "ended", name = "reader", process = { uid = 1000 } },
    { vm = "partner", name = "writer", process = { uid = 1000 } },
]
channel = [
    { name = "to-shown", from = "partner/writer", to = ["shown/reader"], kind = "region", size = "64KiB" },
    { name = "to-ended", from = "partner/writer", to = ["ended/reader"], kind = "region", size = "64KiB" },
]
"#;

    /// None, with a reason printed, without VMs.
    fn deployment() -> Result<Option<Deployment>> {
        let artifacts = Artifacts::from_env()?;
        if artifacts.vm.is_none() {
            eprintln!("skipped: built without QEMU and a guest kernel");
            return Ok(None);
        }
        let mut deployment = Deployment::new(&artifacts, POLICY, None)?;
        deployment.up()?;
        Ok(Some(deployment))
    }

    /// Boots a guest whose service reads its channel.
    fn boot(deployment: &Deployment, (channel, service): (&str, &str)) -> Result<Vm> {
        let (vm, service) = service.split_once('/').context("VM/SERVICE")?;
        let artifacts = deployment.artifacts();
        let script = format!(
            "insmod /lib/sivshm.ko && event loaded || finish 90
as_user {SERVICE_USER} /bin/partner --identity {service} --reads {channel}=partner/writer
finish $?"
        );
        let image = deployment.root().join(format!("{vm}.cpio"));
        Image::new(artifacts.vm()?)?
            .program(&artifacts.guest.join("partner"))?
            .identity(&deployment.identity(vm, service), SERVICE_USER)?
            .file(&artifacts.vm()?.sivshm_ko, "/lib/sivshm.ko")?
            .build(&script, &image)?;
        Guest::new(vm, image).boot(deployment)
    }

    /// Waits for what a process says about a channel.
    fn wait_channel(
        process: &mut Process,
        event: &str,
        channel: &str,
        limit: Duration,
    ) -> Result<Value> {
        process.wait_for(&format!("`{event}` of {channel}"), limit, |line| {
            let found = line.event()?;
            let it = found.get("event")? == event && found.get("channel")? == channel;
            it.then_some(found)
        })
    }

    /// Looks at the status until a VM's entry is as wanted.
    fn wait_status(
        deployment: &Deployment,
        vm: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let entry = |status: &Value| service::vm(status, vm).clone();
        let wanted = |status: &Value| wanted(&entry(status));
        let status = service::wait_status(deployment, vm, NOTICED_WITHIN, wanted)?;
        Ok(entry(&status))
    }

    fn contained(entry: &Value) -> Option<bool> {
        entry.pointer("/device/contained").and_then(Value::as_bool)
    }

    /// Stops a guest's VMM and takes its channel away. The writer learns it at once, whatever the
    /// guest does.
    fn revoke_stopped(
        deployment: &Deployment,
        guest: &Vm,
        partner: &mut Process,
        channel: &str,
    ) -> Result<()> {
        guest.process.signal(Signal::SIGSTOP)?;
        output_of(deployment.command("revoke").args(["partner", channel]))?;
        let ended = wait_channel(partner, "ended", channel, NOTICED_WITHIN)?;
        let why = ended["what"].as_str().unwrap_or_default();
        assert!(why.contains("revoked by the operator"), "{why}");
        Ok(())
    }

    fn stopped_guests(deployment: &mut Deployment) -> Result<()> {
        let mut partner = siege::partner(deployment, "partner", "writer", &CHANNELS, &[])?;
        let [shown, ended] = CHANNELS;
        let mut guests = [boot(deployment, shown)?, boot(deployment, ended)?];
        for ((channel, _), guest) in CHANNELS.into_iter().zip(&mut guests) {
            wait_channel(&mut partner, "opened", channel, BOOT_LIMIT)?;
            wait_channel(&mut guest.process, "opened", channel, BOOT_LIMIT)?;
        }

        // Shown: it is seen, and is over when the guest goes on.
        let [guest, doomed] = &mut guests;
        revoke_stopped(deployment, guest, &mut partner, shown.0)?;
        wait_status(deployment, "shown", |entry| contained(entry) == Some(false))?;
        // The writer's VM lets go.
        wait_status(deployment, "partner", |entry| {
            contained(entry) == Some(true)
        })?;
        guest.process.signal(Signal::SIGCONT)?;
        wait_status(deployment, "shown", |entry| contained(entry) == Some(true))?;
        wait_channel(&mut guest.process, "ended", shown.0, NOTICED_WITHIN)?;

        // Ended: nothing of the guest is left that could keep the memory.
        revoke_stopped(deployment, doomed, &mut partner, ended.0)?;
        let status = doomed.process.finish(NOTICED_WITHIN)?;
        assert!(!status.success(), "the VMM ended by itself");
        wait_status(deployment, "ended", |entry| contained(entry) == Some(true))?;
        deployment.down()
    }

    #[test]
    fn a_stopped_guest_keeps_nobody_waiting_and_is_seen_or_ended() {
        let Some(mut deployment) = deployment().unwrap() else {
            return;
        };
        stopped_guests(&mut deployment).unwrap();
    }

    /// QEMU's machine protocol.
    struct Monitor(BufReader<UnixStream>);

    impl Monitor {
        fn connect(socket: &Path) -> Result<Self> {
            let deadline = Instant::now() + NOTICED_WITHIN;
            let stream = loop {
                match UnixStream::connect(socket) {
                    Ok(stream) => break stream,
                    Err(error) => ensure!(Instant::now() < deadline, "no monitor: {error}"),
                }
            };
            stream.set_read_timeout(Some(NOTICED_WITHIN))?;
            let mut this = Self(BufReader::new(stream));
            this.line()?;
            this.ask(&json!({ "execute": "qmp_capabilities" }))?;
            Ok(this)
        }

        fn line(&mut self) -> Result<Value> {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        }

        /// What it answers, between its events.
        fn ask(&mut self, command: &Value) -> Result<Value> {
            writeln!(self.0.get_mut(), "{command}")?;
            loop {
                let line = self.line()?;
                if line.get("event").is_none() {
                    return Ok(line);
                }
            }
        }

        fn migrate(&mut self) -> Result<Value> {
            let to = json!({ "uri": "exec:cat > /dev/null" });
            self.ask(&json!({ "execute": "migrate", "arguments": to }))
        }

        fn save(&mut self) -> Result<Value> {
            let line = json!({ "command-line": "savevm kept" });
            self.ask(&json!({ "execute": "human-monitor-command", "arguments": line }))
        }
    }

    /// Arguments of a VMM whose guest never runs and that listens on a socket.
    fn monitored(socket: &Path) -> Vec<String> {
        let qmp = format!("unix:{},server=on,wait=off", socket.display());
        ["-S", "-qmp", &qmp].map(str::to_owned).to_vec()
    }

    fn saving(deployment: &mut Deployment) -> Result<()> {
        let folder = tempfile::tempdir()?;
        // The VMM makes its socket there, as a user of its own.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let vm = deployment.artifacts().vm()?.clone();

        let socket = folder.path().join("shown.qmp");
        let mut guest = Guest::new("shown", vm.kernel.clone());
        guest.qemu_args = monitored(&socket);
        let mut guest = guest.boot(deployment)?;
        let mut monitor = Monitor::connect(&socket)?;
        let refused = monitor.migrate()?;
        assert_eq!(refused["error"]["class"], "GenericError", "{refused}");
        let why = refused["error"]["desc"].as_str().unwrap_or_default();
        assert!(why.contains("ivshmem"), "{why}");
        let saved = monitor.save()?;
        let why = saved["return"].as_str().unwrap_or_default();
        assert!(why.contains("ivshmem"), "{saved}");
        guest.process.kill();

        // The same VMM without a port.
        let socket = folder.path().join("plain.qmp");
        let mut command = Command::new(&vm.qemu);
        command.args([
            "-M",
            "q35",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        command.args(monitored(&socket));
        let mut plain = Process::start("plain", command)?;
        let begun = Monitor::connect(&socket)?.migrate()?;
        assert_eq!(begun["return"], json!({}), "{begun}");
        plain.kill();
        deployment.down()
    }

    #[test]
    fn a_vm_with_channels_is_neither_saved_nor_migrated() {
        let Some(mut deployment) = deployment().unwrap() else {
            return;
        };
        saving(&mut deployment).unwrap();
    }
}
