//! What a host gets to hear whose kernel is too old. The test boots one: on Debian 12 the guests' kernel
//! is 6.1.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Output};
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::host::{self, OwnHost};

    /// First kernel that device processes run on.
    const LEAST: [u32; 2] = [6, 12];

    /// Longest time for a host to start and to run its test, emulated, on a loaded machine.
    const HOST_LIMIT: Duration = Duration::from_secs(300);

    const POLICY: &str = "
version = 1
trust_domain = \"old.example\"
serial = 1
[[vm]]
name = \"a\"
";

    /// The release of this kernel.
    fn release() -> Result<String> {
        Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned())
    }

    /// Whoever said no blames the host, and says what its kernel is and lacks.
    fn assert_refused(said: &Output, code: i32, blame: &str) -> Result<()> {
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(code), "{text}");
        for part in [
            blame,
            &release()?,
            "Linux 6.12",
            "Landlock with ABI 6",
            "sealed against execution",
        ] {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        Ok(())
    }

    #[test]
    #[ignore = "for a kernel that is too old: the test below runs it on one"]
    fn an_old_kernel_is_refused_by_its_name_and_what_it_lacks() {
        assert!(host::is_own());
        let run = || -> Result<()> {
            let deployment = Deployment::new(&Artifacts::from_env()?, POLICY, None)?;
            assert_refused(&deployment.command("up").output()?, 2, "this host can't")?;
            assert!(!deployment.run_dir().exists(), "something was started");
            // Nor does a device process run by itself.
            let device = deployment.artifacts().bin.join("sivshm-device");
            let policy = deployment.etc().join("policy.toml");
            let ids = deployment.root().join("ids.json");
            let mut command = Command::new(device);
            command.args(["--vm", "a", "--policy"]).arg(policy);
            command.arg("--root").arg(deployment.root());
            assert_refused(&command.arg("--ids").arg(ids).output()?, 1, "host: ")
        };
        run().unwrap();
    }

    #[test]
    fn a_host_of_its_own_is_too_old() {
        let run = || -> Result<()> {
            let artifacts = Artifacts::from_env()?;
            let Some(vm) = &artifacts.vm else {
                eprintln!("skipped: built without QEMU and a guest kernel");
                return Ok(());
            };
            let version = vm.modules.file_name().and_then(|name| name.to_str());
            let numbers = version.context("a version")?.split('.');
            let version: Vec<u32> = numbers.map_while(|number| number.parse().ok()).collect();
            if version >= LEAST.to_vec() {
                eprintln!("skipped: the guests' kernel is new enough for a host");
                return Ok(());
            }
            let arguments = ["--ignored", "--nocapture"];
            let host = OwnHost::new(&artifacts, &["probe"])?;
            let printed = host
                .test(&std::env::current_exe()?, &arguments)?
                .run(&vm.kernel, HOST_LIMIT)?;
            assert!(printed.contains("test result: ok. 1 passed"), "{printed}");
            Ok(())
        };
        run().unwrap();
    }
}
