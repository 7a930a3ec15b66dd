//! How what two services share is ended: by the operator, a revocation list, a policy, or an SVID's
//! last second.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use sivshm_ca::Authority;
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::process::output_of;
use sivshm_tests::service::{SERVICE_LIMIT, channel, grants, wait_status};

use crate::lifetime_service::{AB, CLEAN_WITHIN, READER, Service, TWO, policy, start, up};

pub const HOUR: Duration = Duration::from_secs(60 * 60);

const ADMIN: &str = "revoked by the operator";
pub const EXPIRED: &str = "an SVID has ended; renew it";
const WITHDRAWN: &str = "an SVID is on the revocation list";
const POLICY: &str = "the policy in force does not have the channel any more";

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
        let mut beta = start(&deployment, READER)?;
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
            let mut ca = std::process::Command::new(deployment.artifacts().bin.join("sivshm-ca"));
            ca.current_dir(&etc);
            ca
        };
        let id = format!("spiffe://{}/vm/beta/svc/app", deployment.domain());
        output_of(ca().args(["revoke", "--dir", "ca", "--id", &id]))?;
        fs::copy(etc.join("ca/crl.pem"), etc.join("crl.pem"))?;
        output_of(&mut deployment.command("reload"))?;
        alpha.ended("ab", WITHDRAWN)?;
        beta.session_ended("ab", WITHDRAWN)?;
        only_ag_is_granted(&deployment)?;
        alpha.undisturbed("ag")?;
        gamma.undisturbed("ag")?;
        drop(beta);
        // With the SVID of before it does not even try; with a new one all is well.
        does_not_try(&deployment, "revocation list")?;
        let out = deployment.services_dir("beta");
        let issue = ["issue", "--dir", "ca", "service", "beta", "app", "--out"];
        output_of(ca().args(issue).arg(out))?;
        let mut beta = start(&deployment, READER)?;
        // The writer has been there all the time.
        assert_eq!(alpha.opened("ab")?, beta.opened("ab")?);
        beta.flows("ab")?;
        deployment.down()
    };
    run().unwrap();
}

/// Beta's service starts with an SVID that it does not even show.
fn does_not_try(deployment: &Deployment, reason: &str) -> Result<()> {
    let mut beta = start(deployment, READER)?;
    let failed = beta.next("failed", "")?;
    assert_eq!(failed["kind"], "identity", "{failed}");
    assert!(failed["reason"].to_string().contains(reason), "{failed}");
    assert!(beta.process.finish(SERVICE_LIMIT)?.success());
    Ok(())
}

/// Puts another CA in the deployment's place, which reaches back so far, and gives every party a new
/// SVID.
pub fn backdate(deployment: &Deployment, reach: Duration) -> Result<Authority> {
    let etc = deployment.etc();
    fs::remove_dir_all(etc.join("ca"))?;
    let domain = TrustDomain::new(deployment.domain())?;
    let began = SystemTime::now() - reach;
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

/// Gives a VM's service another SVID.
pub fn issue(
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
    /// Life that the SVID has left: enough to start and to open, on a loaded machine.
    const LEFT: Duration = Duration::from_secs(15);
    /// Longest time from an SVID's last second to the end, which is that second on a machine that has
    /// nothing else to do.
    const PROMPT: Duration = Duration::from_secs(10);
    let run = || -> Result<()> {
        let artifacts = Artifacts::from_env()?;
        let text = policy(1, &THREE, &[AB.1, AG.1]);
        let mut deployment = Deployment::new(&artifacts, &text, None)?;
        let mut ca = backdate(&deployment, 2 * HOUR)?;
        deployment.up()?;
        let last = SystemTime::now() + LEFT;
        issue(&deployment, &mut ca, "beta", HOUR, last - HOUR)?;
        let [mut alpha, mut beta, mut gamma] = three(&deployment)?;
        beta.flows("ab")?;
        beta.session_ended("ab", EXPIRED)?;
        let now = SystemTime::now();
        alpha.ended("ab", EXPIRED)?;
        // A certificate's times are whole seconds.
        let early = last.duration_since(now).unwrap_or_default();
        assert!(early < Duration::from_secs(1), "{early:?} early");
        let late = now.duration_since(last).unwrap_or_default();
        assert!(late <= PROMPT, "{late:?} late");
        only_ag_is_granted(&deployment)?;
        alpha.undisturbed("ag")?;
        gamma.undisturbed("ag")?;
        drop(beta);
        does_not_try(&deployment, "has expired")?;
        issue(&deployment, &mut ca, "beta", HOUR, SystemTime::now())?;
        let mut beta = start(&deployment, READER)?;
        // The writer has been there all the time.
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
