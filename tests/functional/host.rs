//! The host side without any VM: host processes stand in for them (`sivshm run --attach`), the rest
//! is what an operator runs.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant, SystemTime};

    use anyhow::{Context as _, Result};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Pid, geteuid};
    use serde_json::Value;
    use sivshm_abi::identity::{SpiffeId, Subject};
    use sivshm_abi::name::{TrustDomain, VmName};
    use sivshm_ca::Authority;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::{Deployment, PLAIN_USER};
    use sivshm_tests::input;
    use sivshm_tests::job::Job;
    use sivshm_tests::process::{Process, output_of};
    use sivshm_tests::service::{self, vm};

    /// Longest time for anything here that is waited for.
    const LIMIT: Duration = Duration::from_secs(60);

    /// The byte that is counted.
    const BYTE: u8 = b'e';

    const SLICE_BYTES: usize = 256 * 1024;
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn job(workers: u16, mode: &str, input: &Path) -> Job {
        Job {
            workers,
            input: input.to_owned(),
            byte: BYTE,
            mode: mode.to_owned(),
            slice_size: format!("{}KiB", SLICE_BYTES / 1024),
        }
    }

    fn deployment(workers: u16, user: Option<u32>) -> Result<Deployment> {
        let policy = job(workers, "interrupt", Path::new("/dev/null")).policy();
        Deployment::new(&Artifacts::from_env()?, &policy, user)
    }

    /// A file of `bytes` that every user may read; its bytes are of no simple period.
    fn input(folder: &Path, bytes: usize) -> Result<PathBuf> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let path = folder.join(format!("{bytes}"));
        fs::write(
            &path,
            std::iter::repeat_with(next).take(bytes).collect::<Vec<_>>(),
        )?;
        Ok(path)
    }

    fn vms(status: &Value) -> &[Value] {
        status["vms"].as_array().map_or(&[], Vec::as_slice)
    }

    /// State of a channel at a VM's end.
    fn channel<'a>(status: &'a Value, of: &str, name: &str) -> &'a str {
        let found = &service::channel(status, of, name)["state"];
        found.as_str().unwrap_or("unknown")
    }

    /// Asks for the status until it is as wanted.
    fn wait_status(deployment: &Deployment, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        service::wait_status(deployment, "what is wanted", LIMIT, wanted)
    }

    /// Every process that the status names.
    fn processes(status: &Value) -> Vec<i32> {
        let of = |value: &Value| value.as_i64().and_then(|pid| i32::try_from(pid).ok());
        let devices = vms(status)
            .iter()
            .flat_map(|vm| [&vm["device_pid"], &vm["vmm_pid"]]);
        devices
            .chain([&status["supervisor"]])
            .filter_map(of)
            .collect()
    }

    fn assert_gone(processes: &[i32]) {
        assert!(!processes.is_empty());
        for process in processes {
            let state = kill(Pid::from_raw(*process), None);
            assert_eq!(state, Err(nix::Error::ESRCH), "process {process} is left");
        }
    }

    /// A program in place of a VM; one that is a service of the job has its name.
    fn program(deployment: &Deployment, vm: &str, words: &[&str]) -> Result<Process> {
        let mut command = deployment.run(vm);
        command.args(["--attach", "--guest-uid", "1000"]);
        let (program, arguments) = words.split_first().context("no program")?;
        if deployment.identity(vm, program).svid.exists() {
            command.args(["--service", program]);
        }
        command.arg("--");
        command
            .arg(deployment.artifacts().guest.join(program))
            .args(arguments);
        Process::start(vm, command)
    }

    /// Waits until a program has failed with exit code 1; what it said.
    fn failed(process: &mut Process) -> Result<String> {
        let status = process.finish(LIMIT)?;
        assert_eq!(status.code(), Some(1), "{}", process.tail());
        Ok(process.tail())
    }

    /// Jobs of every shape, one after the other on the same device processes.
    fn counts_are_right(mode: &str, user: Option<u32>) {
        let run = || -> Result<()> {
            let folder = tempfile::tempdir()?;
            let mut deployment = deployment(3, user)?;
            deployment.up()?;
            for bytes in [0, 1, 1000, 3 * SLICE_BYTES, 10 * SLICE_BYTES + 12_345] {
                let job = job(3, mode, &input(folder.path(), bytes)?);
                let result = job.on_host(&deployment, &mut |_| {})?.result;
                let right = input::count(&job.input, BYTE)?;
                let got = (result["bytes"].as_u64(), result["count"].as_u64());
                assert_eq!(got, (Some(right.0), Some(right.1)), "{bytes} bytes, {mode}");
                let rounds = result["workers"][0]["rounds"].as_u64();
                if bytes > 3 * SLICE_BYTES {
                    assert!(rounds > Some(1), "{bytes} bytes in {rounds:?} rounds");
                }
            }
            let processes = processes(&deployment.status()?);
            deployment.down()?;
            assert_gone(&processes);
            Ok(())
        };
        run().unwrap();
    }

    #[test]
    fn counts_are_right_with_interrupts() {
        counts_are_right("interrupt", None);
    }

    #[test]
    fn counts_are_right_with_polling() {
        counts_are_right("polling", None);
    }

    #[test]
    fn counts_are_right_in_development_mode() {
        if !geteuid().is_root() {
            eprintln!("skipped: not root, so every test here runs in development mode");
            return;
        }
        counts_are_right("interrupt", Some(PLAIN_USER));
        counts_are_right("polling", Some(PLAIN_USER));
    }

    #[test]
    fn thirty_one_workers_count_together() {
        let run = || -> Result<()> {
            let folder = tempfile::tempdir()?;
            let mut deployment = deployment(31, None)?;
            let started = Instant::now();
            deployment.up()?;
            let ready = started.elapsed();
            let job = job(31, "interrupt", &input(folder.path(), 40 * SLICE_BYTES)?);
            let result = job.on_host(&deployment, &mut |_| {})?.result;
            let (_, right) = input::count(&job.input, BYTE)?;
            assert_eq!(result["count"].as_u64(), Some(right));
            println!(
                "31 workers: up after {ready:?}, all after {:?}, of which the job took {} ms",
                started.elapsed(),
                result["elapsed_ms"]
            );
            deployment.down()
        };
        run().unwrap();
    }

    /// The device process of worker-1 is killed: its VMM is ended, its peers revoke, it is started
    /// again, and after another `run` everything works.
    #[test]
    fn a_killed_device_process_takes_its_vm_along_and_nobody_else() {
        let run = || -> Result<()> {
            let folder = tempfile::tempdir()?;
            let mut deployment = deployment(2, None)?;
            deployment.up()?;
            let job = job(2, "interrupt", &input(folder.path(), 1000)?);
            let mut vmm = program(&deployment, "worker-1", &["hostile", "vmm", "hold"])?;
            vmm.wait_event("holding", LIMIT)?;
            let status = deployment.status()?;
            let victim = vm(&status, "worker-1")["device_pid"]
                .as_i64()
                .context("down")?;
            kill(Pid::from_raw(i32::try_from(victim)?), Signal::SIGKILL)?;

            let ended = vmm.finish(LIMIT)?;
            assert!(!ended.success(), "the VMM outlived its device process");
            let again = |status: &Value| {
                let vm = vm(status, "worker-1");
                vm["restarts"] == 1 && vm["needs_restart"] == true && !vm["device"].is_null()
            };
            let status = wait_status(&deployment, again)?;
            for other in ["manager", "worker-2"] {
                assert_eq!(vm(&status, other)["restarts"], 0, "{other}");
                assert_eq!(vm(&status, other)["needs_restart"], false, "{other}");
            }
            let result = job.on_host(&deployment, &mut |_| {})?.result;
            let (_, right) = input::count(&job.input, BYTE)?;
            assert_eq!(result["count"].as_u64(), Some(right), "after the restart");
            let status = deployment.status()?;
            assert_eq!(vm(&status, "worker-1")["needs_restart"], false);
            deployment.down()
        };
        run().unwrap();
    }

    /// Revoked at its reader's VM and at its writer's, seen by the sessions at both ends.
    #[test]
    fn a_revoked_channel_ends_at_both_ends_and_stays_so() {
        let run = || -> Result<()> {
            let folder = tempfile::tempdir()?;
            let mut deployment = deployment(2, None)?;
            deployment.up()?;
            // Worker-2 has no program, so that the mapper waits for it.
            let path = input(folder.path(), 10 * SLICE_BYTES)?
                .display()
                .to_string();
            let arguments = ["mapper", "--workers", "2", "--byte", "1", "--input", &path];
            let mut mapper = program(&deployment, "manager", &arguments)?;
            let mut reducer = program(&deployment, "worker-1", &["reducer", "--index", "1"])?;
            wait_status(&deployment, |status| {
                channel(status, "manager", "result-1") == "granted"
                    && channel(status, "worker-1", "job-1") == "granted"
            })?;
            let revoke = |vm: &str, channel: &str| {
                output_of(deployment.command("revoke").args([vm, channel]))
            };
            revoke("worker-1", "job-1")?;
            let said = failed(&mut reducer)?;
            assert!(
                said.contains("revoked by the operator"),
                "the own end: {said}"
            );
            revoke("worker-2", "job-2")?;
            let said = failed(&mut mapper)?;
            assert!(
                said.contains("revoked by the operator"),
                "the peer's end: {said}"
            );
            let status = wait_status(&deployment, |status| {
                channel(status, "manager", "job-1") == "revoked"
            })?;
            for (vm, name) in [
                ("manager", "job-1"),
                ("worker-1", "job-1"),
                ("manager", "job-2"),
                ("worker-2", "job-2"),
            ] {
                assert_eq!(channel(&status, vm, name), "revoked", "{vm} {name}");
            }
            for (vm, name) in [("manager", "result-2"), ("worker-1", "result-1")] {
                assert_ne!(channel(&status, vm, name), "revoked", "{vm} {name}");
            }
            // No new session gets it either.
            let mut reducer = program(
                &deployment,
                "worker-1",
                &["reducer", "--index", "1", "--timeout", "1"],
            )?;
            failed(&mut reducer)?;
            deployment.down()
        };
        run().unwrap();
    }

    /// Runs `sivshm up` to its end: exit code and what it said.
    fn up_fails(deployment: &Deployment) -> Result<(Option<i32>, String)> {
        let output = deployment.command("up").output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!deployment.run_dir().exists(), "something is left: {said}");
        Ok((output.status.code(), said))
    }

    #[test]
    fn a_wrong_policy_is_refused_before_anything_starts() {
        let run = || -> Result<()> {
            let deployment = deployment(1, None)?;
            let policy = deployment.etc().join("policy.toml");
            let text = fs::read_to_string(&policy)?;
            fs::write(
                &policy,
                text.replace("\"manager/mapper\"", "\"manager/nobody\""),
            )?;
            let (code, said) = up_fails(&deployment)?;
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains("nobody"), "{said}");
            Ok(())
        };
        run().unwrap();
    }

    #[test]
    fn an_expired_svid_keeps_everything_down_and_is_named() {
        let run = || -> Result<()> {
            let deployment = deployment(1, None)?;
            let etc = deployment.etc();
            fs::remove_dir_all(etc.join("ca"))?;
            let domain = TrustDomain::new(deployment.domain())?;
            let now = SystemTime::now();
            let mut authority = Authority::init(&etc.join("ca"), &domain, now - 9 * DAY)?;
            for file in ["bundle.pem", "crl.pem"] {
                fs::copy(etc.join("ca").join(file), etc.join(file))?;
            }
            for (vm, issued) in [("manager", now), ("worker-1", now - 8 * DAY)] {
                let subject = Subject::Device(VmName::new(vm)?);
                let issued = authority.issue(&SpiffeId { domain, subject }, DAY, issued)?;
                let folder = etc.join("vm").join(vm);
                fs::write(folder.join("device.pem"), issued.chain_pem.as_bytes())?;
                fs::write(folder.join("device.key"), issued.key_pem.as_bytes())?;
            }
            let (code, said) = up_fails(&deployment)?;
            assert_eq!(code, Some(1), "{said}");
            assert!(
                said.contains("worker-1") && said.contains("expired"),
                "{said}"
            );
            Ok(())
        };
        run().unwrap();
    }

    #[test]
    fn sigterm_ends_everything_cleanly() {
        let run = || -> Result<()> {
            let mut deployment = deployment(1, None)?;
            deployment.up()?;
            let mut vmm = program(&deployment, "worker-1", &["hostile", "vmm", "hold"])?;
            vmm.wait_event("holding", LIMIT)?;
            let processes = processes(&deployment.status()?);
            assert_eq!(
                processes.len(),
                4,
                "supervisor, two device processes, a VMM"
            );
            let up = deployment.supervisor().context("not up")?;
            up.signal(Signal::SIGTERM)?;
            let status = up.finish(LIMIT)?;
            assert!(status.success(), "{status}");
            vmm.finish(LIMIT)?;
            assert_gone(&processes);
            assert!(!deployment.run_dir().exists());
            Ok(())
        };
        run().unwrap();
    }

    #[test]
    fn a_second_up_is_refused_and_harms_nothing() {
        let run = || -> Result<()> {
            let mut deployment = deployment(1, None)?;
            deployment.up()?;
            let output = deployment.command("up").output()?;
            assert_eq!(output.status.code(), Some(2));
            let status = deployment.status()?;
            assert!(vms(&status).iter().all(|vm| !vm["device"].is_null()));
            deployment.down()?;
            let output = deployment.command("status").output()?;
            assert_eq!(output.status.code(), Some(1), "nothing runs any more");
            Ok(())
        };
        run().unwrap();
    }
}
