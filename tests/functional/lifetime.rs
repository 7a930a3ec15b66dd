//! How what two services share ends, from the operator's hand to `kill -9`, and how it begins again:
//! real device processes, with a service's program in place of each VM.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::time::{Duration, SystemTime};

    use anyhow::{Context as _, Result};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use serde_json::Value;
    use sivshm_abi::identity::{SpiffeId, Subject};
    use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
    use sivshm_ca::Authority;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::process::{Process, output_of};
    use sivshm_tests::service::{
        Attached, SERVICE_LIMIT, channel, grants, next, pairing, vm, wait_status,
    };

    /// Longest time until the device processes show that something has ended.
    const CLEAN_WITHIN: Duration = Duration::from_secs(10);

    const HOUR: Duration = Duration::from_secs(60 * 60);

    const ADMIN: &str = "revoked by the operator";
    const PEER_GONE: &str = "the peer is gone";
    const EXPIRED: &str = "an SVID has ended; renew it";
    const WITHDRAWN: &str = "an SVID is on the revocation list";
    const POLICY: &str = "the policy in force does not have the channel any more";
    const OTHER_END: &str = "the service at the other end closed the channel";

    /// The channel that ends.
    const AB: (&str, &str) = (
        "--writes=ab=beta/app",
        "
[[channel]]
name = \"ab\"
from = \"alpha/app\"
to = [\"beta/app\"]
kind = \"region\"
size = \"8KiB\"
",
    );

    /// The writer's other channel, which does not.
    const AG: (&str, &str) = (
        "--writes=ag=gamma/app",
        "
[[channel]]
name = \"ag\"
from = \"alpha/app\"
to = [\"gamma/app\"]
kind = \"region\"
size = \"8KiB\"
",
    );

    /// A channel with three readers.
    const FAN: (&str, &str) = (
        "--writes=fan=beta/app,gamma/app,delta/app",
        "
[[channel]]
name = \"fan\"
from = \"alpha/app\"
to = [\"beta/app\", \"gamma/app\", \"delta/app\"]
kind = \"region\"
size = \"8KiB\"
",
    );

    fn policy(serial: u32, vms: &[&str], channels: &[&str]) -> String {
        let mut text = format!("version = 1\ntrust_domain = \"life.example\"\nserial = {serial}\n");
        for vm in vms {
            text += &format!(
                "[[vm]]\nname = \"{vm}\"\n[[service]]\nvm = \"{vm}\"\nname = \"app\"\n\
                 process = {{ uid = 1000 }}\n"
            );
        }
        text + &channels.concat()
    }

    fn up(vms: &[&str], channels: &[&str]) -> Result<Deployment> {
        let artifacts = Artifacts::from_env()?;
        let mut deployment = Deployment::new(&artifacts, &policy(1, vms, channels), None)?;
        deployment.up()?;
        Ok(deployment)
    }

    /// A service's running program, and how far its events of each channel have been looked at.
    struct Service {
        process: Process,
        seen: BTreeMap<String, usize>,
    }

    impl Service {
        fn start(deployment: &Deployment, vm: &str, arguments: &[&str]) -> Result<Self> {
            let process = Attached::new(vm, "app").start(deployment, arguments)?;
            let seen = BTreeMap::new();
            Ok(Self { process, seen })
        }

        fn next(&mut self, name: &str, channel: &str) -> Result<Value> {
            let seen = self.seen.entry(channel.to_owned()).or_default();
            next(&mut self.process, seen, name, channel)
        }

        fn opened(&mut self, channel: &str) -> Result<String> {
            let what = self.next("opened", channel)?;
            Ok(what["epoch"].as_str().context("an epoch")?.to_owned())
        }

        /// The channel ends and is of no use to this service any more.
        fn ended_for_good(&mut self, channel: &str, reason: &str) -> Result<()> {
            assert_eq!(self.next("ended", channel)?["reason"], reason);
            let failed = self.next("failed", channel)?;
            assert_eq!(failed["kind"], "revoked", "{failed}");
            assert_eq!(failed["reason"], reason);
            Ok(())
        }

        /// The channel ends, and the session with it: whichever the service sees first, it is for
        /// this reason.
        fn session_ended(&mut self, channel: &str, reason: &str) -> Result<()> {
            let failed = self.next("failed", channel)?;
            let kind = failed["kind"].as_str();
            assert!(matches!(kind, Some("ended" | "revoked")), "{failed}");
            assert_eq!(failed["reason"], reason);
            Ok(())
        }

        /// The channel ends, and the service goes on wanting it.
        fn ended(&mut self, channel: &str, reason: &str) -> Result<()> {
            assert_eq!(self.next("ended", channel)?["reason"], reason);
            Ok(())
        }

        /// Data of the channel comes, or is taken, from now on.
        fn flows(&mut self, channel: &str) -> Result<()> {
            let now = self.process.age();
            self.process
                .wait_for(&format!("data of {channel}"), SERVICE_LIMIT, |line| {
                    let event = line.event().filter(|_| line.at > now)?;
                    (event["event"] == "data" && event["channel"] == channel).then_some(())
                })
        }

        /// Asserts that the channel has opened once and never ended, and still is of use.
        fn undisturbed(&mut self, channel: &str) -> Result<()> {
            self.flows(channel)?;
            let events = self.process.lines().iter().filter_map(|line| line.event());
            let events = events.filter(|event| event["channel"] == channel);
            let changes: Vec<_> = events.filter(|event| event["event"] != "data").collect();
            assert_eq!(changes.len(), 1, "{changes:?}");
            Ok(())
        }
    }

    /// The writer with both channels, and both readers, all open.
    fn three(deployment: &Deployment) -> Result<[Service; 3]> {
        let mut alpha = Service::start(deployment, "alpha", &[AB.0, AG.0])?;
        let mut beta = Service::start(deployment, "beta", &["--reads=ab=alpha/app"])?;
        let mut gamma = Service::start(deployment, "gamma", &["--reads=ag=alpha/app"])?;
        assert_eq!(alpha.opened("ab")?, beta.opened("ab")?);
        assert_eq!(alpha.opened("ag")?, gamma.opened("ag")?);
        Ok([alpha, beta, gamma])
    }

    const THREE: [&str; 3] = ["alpha", "beta", "gamma"];

    /// Only the grants of `ag` are left, the writer's two and the reader's two.
    fn only_ag_is_granted(deployment: &Deployment) -> Result<Value> {
        wait_status(deployment, "the grants of `ag` alone", CLEAN_WITHIN, |s| {
            THREE.map(|vm| grants(s, vm)) == [Some(2), Some(0), Some(2)]
        })
    }

    /// Both ends of the channel are in this state.
    fn wait_channel(deployment: &Deployment, state: &str) -> Result<Value> {
        wait_status(deployment, state, CLEAN_WITHIN, |status| {
            TWO.iter()
                .all(|vm| channel(status, vm, "ab")["state"] == state)
        })
    }

    #[test]
    fn the_operator_revokes_a_channel() {
        let run = || -> Result<()> {
            let mut deployment = up(&THREE, &[AB.1, AG.1])?;
            let [mut alpha, mut beta, mut gamma] = three(&deployment)?;
            // By the reader's VM; the writer's is told.
            output_of(deployment.command("revoke").args(["beta", "ab"]))?;
            alpha.ended_for_good("ab", ADMIN)?;
            beta.ended_for_good("ab", ADMIN)?;
            only_ag_is_granted(&deployment)?;
            wait_channel(&deployment, "revoked")?;
            alpha.undisturbed("ag")?;
            gamma.undisturbed("ag")?;
            // A new session gets the reason, and nothing else.
            drop(beta);
            let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
            let failed = beta.next("failed", "ab")?;
            assert_eq!(
                (&failed["kind"], &failed["reason"]),
                (&"revoked".into(), &ADMIN.into())
            );
            deployment.down()
        };
        run().unwrap();
    }

    #[test]
    fn a_service_is_put_on_the_revocation_list() {
        let run = || -> Result<()> {
            let mut deployment = up(&THREE, &[AB.1, AG.1])?;
            let [mut alpha, mut beta, mut gamma] = three(&deployment)?;
            let etc = deployment.etc();
            let ca = || {
                let mut ca =
                    std::process::Command::new(deployment.artifacts().bin.join("sivshm-ca"));
                ca.current_dir(&etc);
                ca
            };
            let id = format!("spiffe://{}/vm/beta/svc/app", deployment.domain());
            output_of(ca().args(["revoke", "--dir", "ca", "--id", &id]))?;
            fs::copy(etc.join("ca/crl.pem"), etc.join("crl.pem"))?;
            output_of(&mut deployment.command("reload"))?;
            alpha.ended_for_good("ab", WITHDRAWN)?;
            beta.session_ended("ab", WITHDRAWN)?;
            only_ag_is_granted(&deployment)?;
            alpha.undisturbed("ag")?;
            gamma.undisturbed("ag")?;
            drop((alpha, beta));
            // With the SVID of before it does not even try; with a new one all is well.
            let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
            let failed = beta.next("failed", "")?;
            assert_eq!(failed["kind"], "identity", "{failed}");
            assert!(
                failed["reason"].to_string().contains("revocation list"),
                "{failed}"
            );
            assert!(beta.process.finish(SERVICE_LIMIT)?.success());
            let out = deployment.services_dir("beta");
            let issue = ["issue", "--dir", "ca", "service", "beta", "app", "--out"];
            output_of(ca().args(issue).arg(out))?;
            let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
            let mut alpha = Service::start(&deployment, "alpha", &[AB.0])?;
            assert_eq!(alpha.opened("ab")?, beta.opened("ab")?);
            beta.flows("ab")?;
            deployment.down()
        };
        run().unwrap();
    }

    /// Puts another CA in the deployment's place, which reaches back, and gives every party a new
    /// SVID.
    fn backdate(deployment: &Deployment) -> Result<Authority> {
        let etc = deployment.etc();
        fs::remove_dir_all(etc.join("ca"))?;
        let domain = TrustDomain::new(deployment.domain())?;
        let began = SystemTime::now() - 2 * HOUR;
        let mut ca = Authority::init(&etc.join("ca"), &domain, began)?;
        for name in ["bundle.pem", "crl.pem"] {
            fs::copy(etc.join("ca").join(name), etc.join(name))?;
        }
        for vm in deployment.vms() {
            let subject = Subject::Device(VmName::new(vm)?);
            let issued = ca.issue(&SpiffeId { domain, subject }, 24 * HOUR, began)?;
            let folder = etc.join("vm").join(vm);
            fs::write(folder.join("device.pem"), issued.chain_pem.as_bytes())?;
            fs::write(folder.join("device.key"), issued.key_pem.as_bytes())?;
            issue(deployment, &mut ca, vm, 24 * HOUR, began)?;
        }
        Ok(ca)
    }

    fn issue(
        deployment: &Deployment,
        ca: &mut Authority,
        vm: &str,
        life: Duration,
        began: SystemTime,
    ) -> Result<()> {
        let domain = TrustDomain::new(deployment.domain())?;
        let subject = Subject::Service(VmName::new(vm)?, ServiceName::new("app")?);
        let issued = ca.issue(&SpiffeId { domain, subject }, life, began)?;
        let identity = deployment.identity(vm, "app");
        fs::write(&identity.svid, issued.chain_pem.as_bytes())?;
        fs::write(&identity.key, issued.key_pem.as_bytes())?;
        Ok(())
    }

    #[test]
    fn the_svid_of_a_service_runs_out() {
        /// Life that the SVID has left: enough to start and to open.
        const LEFT: Duration = Duration::from_secs(8);
        /// Longest time from an SVID's last second to the end: that second, and one more.
        const PROMPT: Duration = Duration::from_secs(2);
        let run = || -> Result<()> {
            let artifacts = Artifacts::from_env()?;
            let text = policy(1, &THREE, &[AB.1, AG.1]);
            let mut deployment = Deployment::new(&artifacts, &text, None)?;
            let mut ca = backdate(&deployment)?;
            deployment.up()?;
            let last = SystemTime::now() + LEFT;
            issue(&deployment, &mut ca, "beta", HOUR, last - HOUR)?;
            let [mut alpha, mut beta, mut gamma] = three(&deployment)?;
            beta.flows("ab")?;
            beta.session_ended("ab", EXPIRED)?;
            let now = SystemTime::now();
            alpha.ended_for_good("ab", EXPIRED)?;
            // A certificate's times are whole seconds.
            let early = last.duration_since(now).unwrap_or_default();
            assert!(early < Duration::from_secs(1), "{early:?} early");
            let late = now.duration_since(last).unwrap_or_default();
            assert!(late <= PROMPT, "{late:?} late");
            only_ag_is_granted(&deployment)?;
            alpha.undisturbed("ag")?;
            gamma.undisturbed("ag")?;
            drop((alpha, beta));
            let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
            let failed = beta.next("failed", "")?;
            assert_eq!(failed["kind"], "identity", "{failed}");
            assert!(
                failed["reason"].to_string().contains("has expired"),
                "{failed}"
            );
            assert!(beta.process.finish(SERVICE_LIMIT)?.success());
            issue(&deployment, &mut ca, "beta", HOUR, SystemTime::now())?;
            let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
            let mut alpha = Service::start(&deployment, "alpha", &[AB.0])?;
            assert_eq!(alpha.opened("ab")?, beta.opened("ab")?);
            deployment.down()
        };
        run().unwrap();
    }

    #[test]
    fn a_newer_policy_has_the_channel_no_more() {
        let run = || -> Result<()> {
            let mut deployment = up(&THREE, &[AB.1, AG.1])?;
            let [mut alpha, mut beta, mut gamma] = three(&deployment)?;
            let newer = policy(2, &THREE, &[AG.1]);
            fs::write(deployment.etc().join("policy.toml"), newer)?;
            let up = deployment.supervisor().context("it is up")?;
            up.signal(Signal::SIGHUP)?;
            alpha.ended_for_good("ab", POLICY)?;
            beta.ended_for_good("ab", POLICY)?;
            only_ag_is_granted(&deployment)?;
            wait_channel(&deployment, "ended")?;
            alpha.undisturbed("ag")?;
            gamma.undisturbed("ag")?;
            // What is left can be opened by the new serial.
            drop(gamma);
            let mut gamma = Service::start(&deployment, "gamma", &["--reads=ag=alpha/app"])?;
            gamma.opened("ag")?;
            gamma.flows("ag")?;
            deployment.down()
        };
        run().unwrap();
    }

    const TWO: [&str; 2] = ["alpha", "beta"];

    /// The two ends of a channel: the VM and what its program does.
    const WRITER: (&str, &str) = ("alpha", AB.0);
    const READER: (&str, &str) = ("beta", "--reads=ab=alpha/app");

    fn start(deployment: &Deployment, (vm, what): (&str, &str)) -> Result<Service> {
        Service::start(deployment, vm, &[what])
    }

    /// Both, open and in use.
    fn open(
        deployment: &Deployment,
        one: (&str, &str),
        other: (&str, &str),
    ) -> Result<[Service; 2]> {
        let mut one = start(deployment, one)?;
        let mut other = start(deployment, other)?;
        assert_eq!(one.opened("ab")?, other.opened("ab")?);
        one.flows("ab")?;
        other.flows("ab")?;
        Ok([one, other])
    }

    fn nothing_is_granted(deployment: &Deployment) -> Result<Value> {
        wait_status(deployment, "no grant", CLEAN_WITHIN, |status| {
            TWO.map(|vm| grants(status, vm)) == [Some(0); 2]
        })
    }

    fn wait_pairing(deployment: &Deployment, vm: &str, state: &str) -> Result<Value> {
        wait_status(deployment, state, CLEAN_WITHIN, |status| {
            pairing(status, vm, "ab", None)["state"] == state
        })
    }

    /// Services are killed, at each end, while the channel is open and before the other end has
    /// opened it.
    #[test]
    fn a_killed_service_leaves_nothing_and_the_other_end_renews() {
        let run = || -> Result<()> {
            let mut deployment = up(&TWO, &[AB.1])?;
            for (victim, other) in [(WRITER, READER), (READER, WRITER)] {
                let mut waiting = start(&deployment, victim)?;
                let state = match victim == WRITER {
                    true => "opening",
                    false => "wanted",
                };
                wait_pairing(&deployment, victim.0, state)?;
                waiting.process.kill();
                wait_pairing(&deployment, victim.0, "idle")?;
                nothing_is_granted(&deployment)?;

                let [mut killed, mut left] = open(&deployment, victim, other)?;
                killed.process.kill();
                left.ended("ab", OTHER_END)?;
                nothing_is_granted(&deployment)?;
                let before = killed.epoch()?;
                let mut again = start(&deployment, victim)?;
                let epoch = again.opened("ab")?;
                assert_eq!(left.opened("ab")?, epoch, "the other end renews");
                assert_ne!(epoch, before, "an epoch of its own");
                left.flows("ab")?;
                again.flows("ab")?;
            }
            deployment.down()
        };
        run().unwrap();
    }

    /// The service leaves by itself: the same.
    #[test]
    fn a_service_that_is_stopped_and_started_is_met_again() {
        let run = || -> Result<()> {
            let mut deployment = up(&TWO, &[AB.1])?;
            let [mut writer, mut reader] = open(&deployment, WRITER, READER)?;
            for _ in 0..3 {
                let before = reader.epoch()?;
                reader.process.signal(Signal::SIGTERM)?;
                reader.process.finish(SERVICE_LIMIT)?;
                writer.ended("ab", OTHER_END)?;
                reader = start(&deployment, READER)?;
                let epoch = reader.opened("ab")?;
                assert_eq!(writer.opened("ab")?, epoch);
                assert_ne!(epoch, before);
                reader.flows("ab")?;
            }
            deployment.down()
        };
        run().unwrap();
    }

    impl Service {
        /// The epoch that was opened first.
        fn epoch(&mut self) -> Result<String> {
            let mut from = 0;
            let what = next(&mut self.process, &mut from, "opened", "ab")?;
            Ok(what["epoch"].as_str().context("an epoch")?.to_owned())
        }
    }

    /// Kills a VM's device process, which takes the VM's program along, and waits until another one
    /// has taken its place.
    fn kill_device(deployment: &Deployment, name: &str) -> Result<()> {
        let status = deployment.status()?;
        let of = |status: &Value| vm(status, name)["device_pid"].as_i64();
        let before = of(&status).context("it is down")?;
        kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
        wait_status(
            deployment,
            "another device process",
            CLEAN_WITHIN,
            |status| {
                of(status).is_some_and(|pid| pid != before) && !vm(status, name)["device"].is_null()
            },
        )?;
        Ok(())
    }

    /// Device processes are killed, at each end, while the channel is open and before the other end
    /// has opened it.
    #[test]
    fn a_killed_device_process_leaves_nothing_and_the_channel_opens_again() {
        let run = || -> Result<()> {
            let mut deployment = up(&TWO, &[AB.1])?;
            for (victim, other) in [(WRITER, READER), (READER, WRITER)] {
                // The victim's service is alone.
                let mut waiting = start(&deployment, victim)?;
                waiting.next("session", "")?;
                kill_device(&deployment, victim.0)?;
                waiting.process.finish(SERVICE_LIMIT)?;
                nothing_is_granted(&deployment)?;

                let [mut killed, mut left] = open(&deployment, victim, other)?;
                kill_device(&deployment, victim.0)?;
                killed.process.finish(SERVICE_LIMIT)?;
                left.ended("ab", PEER_GONE)?;
                nothing_is_granted(&deployment)?;
                drop(left);

                // The other one's is alone, and says what it has waited for.
                let mut waiting =
                    Service::start(&deployment, other.0, &[other.1, "--open-ms=2500"])?;
                waiting.next("session", "")?;
                kill_device(&deployment, victim.0)?;
                let failed = waiting.next("failed", "ab")?;
                assert_eq!(failed["kind"], "timeout", "{failed}");
                let waited_for = failed["reason"].to_string();
                assert!(
                    waited_for.contains("the other end's device process"),
                    "{failed}"
                );
                drop(waiting);
                nothing_is_granted(&deployment)?;
                open(&deployment, victim, other)?;
            }
            deployment.down()
        };
        run().unwrap();
    }

    /// A service whose process, or whose whole VM, does not run any more.
    #[test]
    fn who_waits_for_a_stopped_service_is_told_what_for() {
        let run = || -> Result<()> {
            let mut deployment = up(&TWO, &[AB.1])?;
            let short = ["--wait-ms=300", "--open-ms=300"];
            let reader = "the other end's service, which has to open the channel too";
            let writer =
                "the other end's device process, and its service if that writes the channel";
            for ((vm, what), other_end) in [(WRITER, reader), (READER, writer)] {
                let mut alone = Service::start(&deployment, vm, &[what, short[1]])?;
                let failed = alone.next("failed", "ab")?;
                assert_eq!(failed["kind"], "timeout", "{failed}");
                assert_eq!(failed["reason"], other_end);
            }

            let mut writer = Service::start(&deployment, "alpha", &[AB.0, short[0]])?;
            let mut reader = start(&deployment, READER)?;
            reader.flows("ab")?;
            reader.process.signal(Signal::SIGSTOP)?;
            let late = writer.next("late", "ab")?;
            assert_eq!(
                late["says"],
                "timed out waiting for a reader's acknowledgement"
            );
            reader.process.signal(Signal::SIGCONT)?;
            writer.flows("ab")?;
            drop((writer, reader));

            let mut reader = Service::start(&deployment, "beta", &[READER.1, short[0]])?;
            let mut writer = start(&deployment, WRITER)?;
            writer.flows("ab")?;
            writer.process.signal(Signal::SIGSTOP)?;
            let late = reader.next("late", "ab")?;
            assert_eq!(late["says"], "timed out waiting for a message");
            writer.process.signal(Signal::SIGCONT)?;
            reader.flows("ab")?;
            deployment.down()
        };
        run().unwrap();
    }

    /// Each reader of three is accepted by itself, and one of them starts again.
    #[test]
    fn three_readers_come_and_go_each_by_itself() {
        let run = || -> Result<()> {
            let readers = ["beta", "gamma", "delta"];
            let mut deployment = up(&["alpha", "beta", "gamma", "delta"], &[FAN.1])?;
            let state = |status: &Value, reader: &str| {
                let reader = format!("{reader}/app");
                pairing(status, "alpha", "fan", Some(&reader))["state"].clone()
            };
            let reads = ["--reads=fan=alpha/app"];
            let mut alpha = Service::start(&deployment, "alpha", &[FAN.0])?;
            let mut services = Vec::new();
            for (at, reader) in readers.iter().enumerate() {
                services.push(Service::start(&deployment, reader, &reads)?);
                wait_status(&deployment, "one more reader", CLEAN_WITHIN, |status| {
                    let open = readers.map(|reader| state(status, reader) == "open");
                    let wanted = [0, 1, 2].map(|reader| reader <= at);
                    open == wanted
                })?;
            }
            let epoch = alpha.opened("fan")?;
            for service in &mut services {
                assert_eq!(service.opened("fan")?, epoch);
                service.flows("fan")?;
            }
            let mut gamma = services.remove(1);
            gamma.process.kill();
            alpha.ended("fan", OTHER_END)?;
            let mut gamma = Service::start(&deployment, "gamma", &reads)?;
            assert_eq!(gamma.opened("fan")?, epoch, "the epoch of those who stayed");
            assert_eq!(alpha.opened("fan")?, epoch);
            gamma.flows("fan")?;
            alpha.flows("fan")?;
            for stayed in &mut services {
                stayed.undisturbed("fan")?;
            }
            deployment.down()
        };
        run().unwrap();
    }
}
