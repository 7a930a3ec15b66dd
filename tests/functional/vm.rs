//! The main job and a C program in real guests.

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::time::Duration;

    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::{Deployment, PLAIN_USER};
    use sivshm_tests::guest::Image;
    use sivshm_tests::input;
    use sivshm_tests::job::{Afterwards, BOOT_LIMIT, Extras, Job, SERVICE_USER};
    use sivshm_tests::process::{Line, Process};
    use sivshm_tests::vm::Guest;

    /// Longest time for a guest to end by itself.
    const END_LIMIT: Duration = Duration::from_secs(60);

    /// Longest time for all leavings, under TCG on a loaded machine of two cores.
    const GOODBYES_LIMIT: Duration = Duration::from_secs(180);

    /// Runs the job in three VMs over a file that needs several rounds of a small slice.
    fn job(mode: &str, user: Option<u32>) {
        let artifacts = Artifacts::from_env().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text: Vec<u8> = (0..3_000_001_u32)
            .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
            .collect();
        file.write_all(&text).unwrap();
        open_to_all(file.path(), 0o644);
        let job = Job {
            workers: 2,
            input: file.path().to_owned(),
            byte: 0x65,
            mode: mode.to_owned(),
            slice_size: "256KiB".to_owned(),
        };
        let mut deployment = Deployment::new(&artifacts, &job.policy(), user).unwrap();
        deployment.up().unwrap();
        let extras = Extras {
            folder: folder.path(),
            afterwards: Afterwards::default(),
        };
        let mut outcome = job.in_vms(&deployment, &extras, &mut |_| {}).unwrap();
        for worker in &mut outcome.running {
            let (_, exit) = worker.wait_event("exit", END_LIMIT).unwrap();
            assert_eq!(exit["code"], 0, "{}", worker.tail());
            worker.finish(END_LIMIT).unwrap();
        }
        deployment.down().unwrap();
        let (bytes, count) = input::count(file.path(), job.byte).unwrap();
        assert_eq!(outcome.result["bytes"], bytes);
        assert_eq!(outcome.result["count"], count);
    }

    fn open_to_all(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn guests_count_a_file_by_interrupts() {
        job("interrupt", None);
    }

    #[test]
    fn guests_count_a_file_by_polling_in_development_mode() {
        if !nix::unistd::geteuid().is_root() {
            // Then the other tests are development mode already.
            println!("skipped: only root can start it as somebody else");
            return;
        }
        job("polling", Some(PLAIN_USER));
    }

    const ECHO_POLICY: &str = r#"
version = 1
trust_domain = "echo.example"
serial = 1
[[vm]]
name = "caller"
[[vm]]
name = "hill"
[[service]]
vm = "caller"
name = "say"
process = { uid = 1000 }
[[service]]
vm = "hill"
name = "echo"
process = { uid = 1000 }
[[channel]]
name = "there"
from = "caller/say"
to = ["hill/echo"]
kind = "region"
size = "64KiB"
[[channel]]
name = "back"
from = "hill/echo"
to = ["caller/say"]
kind = "region"
size = "64KiB"
"#;

    const RESTLESS_POLICY: &str = r#"
version = 1
trust_domain = "inn.example"
serial = 1
[[vm]]
name = "inn"
[[vm]]
name = "road"
[[service]]
vm = "inn"
name = "host"
process = { uid = 1000 }
[[service]]
vm = "road"
name = "guest"
process = { uid = 1000 }
[[channel]]
name = "region-in"
from = "road/guest"
to = ["inn/host"]
kind = "region"
size = "64KiB"
[[channel]]
name = "region-out"
from = "inn/host"
to = ["road/guest"]
kind = "region"
size = "64KiB"
[[channel]]
name = "ring-in"
from = "road/guest"
to = ["inn/host"]
kind = "ring"
slot = "8KiB"
size = "64KiB"
[[channel]]
name = "ring-out"
from = "inn/host"
to = ["road/guest"]
kind = "ring"
slot = "8KiB"
size = "64KiB"
"#;

    /// How often the service on the road leaves each of its channels. One of these closes meets an
    /// access almost surely, because the one that stays does little else than access.
    const LEAVINGS: &str = "12";

    /// A service in a guest reads and writes without pause, while the service at the other end closes
    /// every channel in the middle of that, again and again.
    #[test]
    fn a_service_in_a_guest_outlives_every_goodbye() {
        let artifacts = Artifacts::from_env().unwrap();
        let mut deployment = Deployment::new(&artifacts, RESTLESS_POLICY, None).unwrap();
        deployment.up().unwrap();
        let vm = artifacts.vm().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("inn.cpio");
        let program = deployment.artifacts().guest.join("restless");
        let channels = ["region-in", "region-out", "ring-in", "ring-out"];
        Image::new(vm)
            .and_then(|image| image.program(&program))
            .and_then(|image| image.identity(&deployment.identity("inn", "host"), SERVICE_USER))
            .and_then(|image| image.file(&vm.sivshm_ko, "/lib/sivshm.ko"))
            .and_then(|built| {
                let script = format!(
                    "insmod /lib/sivshm.ko && event loaded || finish 90
as_user {SERVICE_USER} /bin/restless --identity host --peer road/guest --openings {LEAVINGS} {}
finish $?",
                    channels.join(" ")
                );
                built.build(&script, &image)
            })
            .unwrap();
        let mut stays = Guest::new("inn", image).boot(&deployment).unwrap();
        let mut command = deployment.run("road");
        command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
        command.args(["--service", "guest", "--"]).arg(&program);
        command.args([
            "--identity",
            "guest",
            "--peer",
            "inn/host",
            "--leave-after",
            "5",
        ]);
        let mut leaves = Process::start("road", {
            command.args(channels);
            command
        })
        .unwrap();
        stays.wait_event("loaded", BOOT_LIMIT).unwrap();
        let code = stays.finish(GOODBYES_LIMIT).unwrap();
        let tails = format!("{}\n{}", stays.process.tail(), leaves.tail());
        assert_eq!(code, 0, "{tails}");
        let kept = (stays.process.lines().iter().filter_map(Line::event))
            .filter(|event| event["event"] == "kept" && event["what"].as_u64() > Some(0));
        assert_eq!(kept.count(), channels.len(), "{tails}");
        leaves.kill();
        deployment.down().unwrap();
    }

    /// A C program in a guest and one in a host process that stands in for a VM.
    #[test]
    fn c_programs_talk_between_a_guest_and_a_host_process() {
        let artifacts = Artifacts::from_env().unwrap();
        let mut deployment = Deployment::new(&artifacts, ECHO_POLICY, None).unwrap();
        deployment.up().unwrap();
        let vm = artifacts.vm().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("hill.cpio");
        let programs = &deployment.artifacts().guest;
        Image::new(vm)
            .and_then(|image| image.program(&programs.join("echo")))
            .and_then(|image| image.identity(&deployment.identity("hill", "echo"), SERVICE_USER))
            .and_then(|image| image.file(&vm.sivshm_ko, "/lib/sivshm.ko"))
            .and_then(|built| {
                let script = format!(
                    "insmod /lib/sivshm.ko && event loaded || finish 90\nas_user {SERVICE_USER} /bin/echo there back caller/say\nfinish $?"
                );
                built.build(&script, &image)
            })
            .unwrap();
        let mut hill = Guest::new("hill", image).boot(&deployment).unwrap();
        let mut command = deployment.run("caller");
        command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
        command.args(["--service", "say", "--"]);
        command
            .arg(programs.join("say"))
            .args(["there", "back", "hill/echo", "Hello, hill"]);
        let mut caller = Process::start("caller", command).unwrap();
        let (_, answer) = caller.wait_event("answer", BOOT_LIMIT).unwrap();
        assert_eq!(answer["text"], "Hello, hill");
        assert!(
            caller.finish(END_LIMIT).unwrap().success(),
            "{}",
            caller.tail()
        );
        let (_, echo) = hill.wait_event("echo", END_LIMIT).unwrap();
        assert_eq!(echo["messages"], 1);
        assert_eq!(hill.finish(END_LIMIT).unwrap(), 0);
        deployment.down().unwrap();
    }
}
