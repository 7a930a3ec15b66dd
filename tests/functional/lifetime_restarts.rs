//! Who is killed, stopped or leaves, while a channel is open and before, and how it opens again.

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::service::{SERVICE_LIMIT, next, pairing, vm, wait_status};

use crate::lifetime_service::{
    AB, CLEAN_WITHIN, OTHER_END, PEER_GONE, READER, Service, TWO, WRITER, nothing_is_granted, open,
    start, up, wait_pairing,
};

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
            let mut waiting = Service::start(&deployment, other.0, &[other.1, "--open-ms=2500"])?;
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
        let writer = "the other end's device process, and its service if that writes the channel";
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
