//! A service's program in place of its VM, and what the tests of lifetimes share.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::process::Process;
use sivshm_tests::service::{Attached, SERVICE_LIMIT, grants, next, pairing, wait_status};

/// Longest time until the device processes show that something has ended.
pub const CLEAN_WITHIN: Duration = Duration::from_secs(10);

pub const PEER_GONE: &str = "the peer is gone";
pub const OTHER_END: &str = "the service at the other end closed the channel";

/// A channel with one reader.
pub const AB: (&str, &str) = (
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

pub fn policy(serial: u32, vms: &[&str], channels: &[&str]) -> String {
    let mut text = format!("version = 1\ntrust_domain = \"life.example\"\nserial = {serial}\n");
    for vm in vms {
        text += &format!(
            "[[vm]]\nname = \"{vm}\"\n[[service]]\nvm = \"{vm}\"\nname = \"app\"\n\
             process = {{ uid = 1000 }}\n"
        );
    }
    text + &channels.concat()
}

pub fn up(vms: &[&str], channels: &[&str]) -> Result<Deployment> {
    let artifacts = Artifacts::from_env()?;
    let mut deployment = Deployment::new(&artifacts, &policy(1, vms, channels), None)?;
    deployment.up()?;
    Ok(deployment)
}

/// A service's running program, and how far its events of each channel have been looked at.
pub struct Service {
    pub process: Process,
    seen: BTreeMap<String, usize>,
}

impl Service {
    pub fn start(deployment: &Deployment, vm: &str, arguments: &[&str]) -> Result<Self> {
        let process = Attached::new(vm, "app").start(deployment, arguments)?;
        let seen = BTreeMap::new();
        Ok(Self { process, seen })
    }

    pub fn next(&mut self, name: &str, channel: &str) -> Result<Value> {
        let seen = self.seen.entry(channel.to_owned()).or_default();
        next(&mut self.process, seen, name, channel)
    }

    pub fn opened(&mut self, channel: &str) -> Result<String> {
        let what = self.next("opened", channel)?;
        Ok(what["epoch"].as_str().context("an epoch")?.to_owned())
    }

    /// The channel ends and is of no use to this service any more.
    pub fn ended_for_good(&mut self, channel: &str, reason: &str) -> Result<()> {
        assert_eq!(self.next("ended", channel)?["reason"], reason);
        let failed = self.next("failed", channel)?;
        assert_eq!(failed["kind"], "revoked", "{failed}");
        assert_eq!(failed["reason"], reason);
        Ok(())
    }

    /// The channel ends, and the session with it: whichever the service sees first, it is for
    /// this reason.
    pub fn session_ended(&mut self, channel: &str, reason: &str) -> Result<()> {
        let failed = self.next("failed", channel)?;
        let kind = failed["kind"].as_str();
        assert!(matches!(kind, Some("ended" | "revoked")), "{failed}");
        assert_eq!(failed["reason"], reason);
        Ok(())
    }

    /// The channel ends, and the service goes on wanting it.
    pub fn ended(&mut self, channel: &str, reason: &str) -> Result<()> {
        assert_eq!(self.next("ended", channel)?["reason"], reason);
        Ok(())
    }

    /// Data of the channel comes, or is taken, from now on.
    pub fn flows(&mut self, channel: &str) -> Result<()> {
        let now = self.process.age();
        self.process
            .wait_for(&format!("data of {channel}"), SERVICE_LIMIT, |line| {
                let event = line.event().filter(|_| line.at > now)?;
                (event["event"] == "data" && event["channel"] == channel).then_some(())
            })
    }

    /// Asserts that the channel has opened once and never ended, and still is of use.
    pub fn undisturbed(&mut self, channel: &str) -> Result<()> {
        self.flows(channel)?;
        let events = self.process.lines().iter().filter_map(|line| line.event());
        let events = events.filter(|event| event["channel"] == channel);
        let changes: Vec<_> = events.filter(|event| event["event"] != "data").collect();
        assert_eq!(changes.len(), 1, "{changes:?}");
        Ok(())
    }
}

pub const TWO: [&str; 2] = ["alpha", "beta"];

/// The two ends of a channel: the VM and what its program does.
pub const WRITER: (&str, &str) = ("alpha", AB.0);
pub const READER: (&str, &str) = ("beta", "--reads=ab=alpha/app");

pub fn start(deployment: &Deployment, (vm, what): (&str, &str)) -> Result<Service> {
    Service::start(deployment, vm, &[what])
}

/// Both, open and in use.
pub fn open(
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

pub fn nothing_is_granted(deployment: &Deployment) -> Result<Value> {
    wait_status(deployment, "no grant", CLEAN_WITHIN, |status| {
        TWO.map(|vm| grants(status, vm)) == [Some(0); 2]
    })
}

pub fn wait_pairing(deployment: &Deployment, vm: &str, state: &str) -> Result<Value> {
    wait_status(deployment, state, CLEAN_WITHIN, |status| {
        pairing(status, vm, "ab", None)["state"] == state
    })
}
