//! The service handshake, attacked live by what is not the job's service, or is not any more: one
//! program of libsivshm in place of the first worker's VM, which opens the same channels when it has
//! the right user, SVID and wishes.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{SIEGE_LIMIT, partner};
use crate::attack::Attack;
use crate::deployment::Deployment;
use crate::process::output_of;
use crate::service::{Attached, next};

/// What the policy of a job has in addition: a service beside the first worker's, whose SVID and
/// user are tried. It shares nothing with anybody.
pub const NEIGHBOUR: &str = r#"
[[service]]
vm = "worker-1"
name = "neighbour"
process = { uid = 1001 }
"#;

/// The user of that service.
const NEIGHBOUR_USER: u32 = 1001;

/// A user that is no service.
const STRANGER: u32 = 1002;

/// Who is attacked, and by whom.
const MAPPER: (&str, &str) = ("manager", "mapper");
const REDUCER: (&str, &str) = ("worker-1", "reducer");

/// The reducer's own channels.
const BOTH: [&str; 4] = [
    "--reads",
    "job-1=manager/mapper",
    "--writes",
    "result-1=manager/mapper",
];

/// What opens has got this.
const SUCCESS: &str = "success";

/// Longest wait for a channel, in milliseconds; a refusal comes at once.
const OPEN_MS: &str = "20000";

/// One attempt: its name, as whom, wanting what, and what has to come of it.
type Attempt<'a> = (&'a str, Attached<'a>, &'a [&'a str], &'a str);

/// Tries everything, the manager's mapper being there all the time. At its end the operator has
/// revoked channel `job-1`, and an SVID of the first worker's reducer, which has got another one.
///
/// # Errors
/// If an attempt can't be made.
pub fn as_service(deployment: &Deployment) -> Result<Vec<Attack>> {
    let reducer = format!("{}/{}", REDUCER.0, REDUCER.1);
    let (job, result) = (("job-1", reducer.as_str()), ("result-1", reducer.as_str()));
    let _mapper = partner(deployment, MAPPER.0, MAPPER.1, &[job], &[result])?;
    let mut found = refused(deployment)?;
    found.push(older_policy(deployment)?);
    found.extend(taken_back(deployment)?);
    Ok(found)
}

/// What is never opened.
fn refused(deployment: &Deployment) -> Result<Vec<Attack>> {
    // Somebody has carried the mapper's SVID and its key into the worker.
    let [theirs, here] = [MAPPER.0, REDUCER.0].map(|vm| deployment.services_dir(vm));
    for file in ["mapper.pem", "mapper.key"] {
        fs::copy(theirs.join(file), here.join(file))?;
    }
    let own = Attached::new(REDUCER.0, REDUCER.1);
    let user = |user| Attached { user, ..own };
    let svid = |service| Attached { service, ..own };
    let attempts: [Attempt<'_>; 7] = [
        (
            "user-that-is-no-service",
            user(STRANGER),
            &BOTH,
            "ended: the policy names no service of this VM that this process matches",
        ),
        (
            "user-of-another-service",
            user(NEIGHBOUR_USER),
            &BOTH,
            "handshake: host: the peer ended TLS with the alert CertificateUnknown",
        ),
        (
            "svid-of-another-service",
            svid("neighbour"),
            &BOTH,
            "handshake: host: the peer ended TLS with the alert CertificateUnknown",
        ),
        (
            "svid-of-another-vm",
            svid("mapper"),
            &["--reads", "job-1=worker-1/reducer"],
            "handshake: peer: its SVID is that of the device process of VM `worker-1`, not of the device process of VM `manager`",
        ),
        (
            "peer-that-is-not-at-the-other-end",
            own,
            &["--reads", "job-1=manager/other"],
            "refused by OwnDevice: the other end's service is not the one wanted",
        ),
        (
            "channel-of-another-vm",
            own,
            &["--reads", "job-2=manager/mapper"],
            "refused by OwnDevice: the policy has no such channel for this service",
        ),
        (
            "channel-without-the-integrity-required",
            own,
            &["--reads", "job-1=manager/mapper", "--integrity", "aead"],
            "refused by OwnDevice: the channel is not protected as required",
        ),
    ];
    let granted = attempt(deployment, own, &BOTH)?;
    let attack = |(name, who, wishes, wanted): &Attempt<'_>| {
        let got = attempt(deployment, *who, wishes)?;
        Ok(attack(name, wanted, got, &granted))
    };
    attempts.iter().map(attack).collect()
}

/// Going back to a policy that was narrowed since.
fn older_policy(deployment: &Deployment) -> Result<Attack> {
    let present = deployment.etc().join("policy.toml");
    let older = deployment.root().join("older.toml");
    let text = fs::read_to_string(&present)?;
    fs::write(&older, text.replace("serial = 1", "serial = 0"))?;
    let reload = |policy| {
        let mut command = deployment.command("reload");
        said_by(command.arg("--policy").arg(policy))
    };
    Ok(attack(
        "policy-that-is-older",
        "the policy has serial 0, and 1 is in use already: a serial never goes down",
        reload(&older)?,
        &reload(&present)?,
    ))
}

/// What was open when the operator took it back.
fn taken_back(deployment: &Deployment) -> Result<[Attack; 3]> {
    let own = Attached::new(REDUCER.0, REDUCER.1);
    let mut live = own.start(deployment, &BOTH)?;
    let mut seen = 0;
    for channel in ["job-1", "result-1"] {
        // They come in any order.
        next(&mut live, &mut 0, "opened", channel)?;
    }
    output_of(deployment.command("revoke").args([REDUCER.0, "job-1"]))?;
    let ended = next(&mut live, &mut seen, "ended", "job-1")?;
    let forever = next(&mut live, &mut seen, "failed", "job-1")?;
    next(&mut live, &mut seen, "data", "result-1")?;
    let by_operator = |name, event: &str, what: &Value| {
        let wanted = format!("{event}: revoked by the operator");
        attack(name, &wanted, words(event, what), SUCCESS)
    };
    let revoked = [
        by_operator("channel-that-is-revoked", "ended", &ended),
        by_operator("channel-that-was-revoked", "revoked", &forever),
    ];

    let (ca, etc) = (deployment.etc().join("ca"), deployment.etc());
    let tool = |subcommand: &str| {
        let mut tool = Command::new(deployment.artifacts().bin.join("sivshm-ca"));
        tool.args([subcommand, "--dir"]).arg(&ca);
        tool
    };
    let id = format!(
        "spiffe://{}/vm/{}/svc/{}",
        deployment.domain(),
        REDUCER.0,
        REDUCER.1
    );
    output_of(tool("revoke").args(["--id", &id]))?;
    fs::copy(ca.join("crl.pem"), etc.join("crl.pem"))?;
    output_of(&mut deployment.command("reload"))?;
    let withdrawn = next(&mut live, &mut seen, "failed", "result-1")?;
    live.finish(SIEGE_LIMIT)?;
    // Another SVID of the same service is as good as the first one was.
    let issue = ["service", REDUCER.0, REDUCER.1, "--out"];
    output_of(
        tool("issue")
            .args(issue)
            .arg(deployment.services_dir(REDUCER.0)),
    )?;
    let granted = attempt(deployment, own, &BOTH[2..])?;
    let [first, second] = revoked;
    Ok([
        first,
        second,
        attack(
            "svid-that-is-revoked",
            "ended: an SVID is on the revocation list",
            words("failed", &withdrawn),
            &granted,
        ),
    ])
}

fn attack(name: &str, wanted: &str, got: String, granted: &str) -> Attack {
    Attack {
        name: name.to_owned(),
        wanted: wanted.to_owned(),
        got,
        granted: granted.to_owned(),
    }
}

/// Opens channels, and gives what came of that.
fn attempt(deployment: &Deployment, who: Attached<'_>, wishes: &[&str]) -> Result<String> {
    let channels = wishes.iter().filter(|word| word.contains('=')).count();
    let wishes: Vec<_> = wishes
        .iter()
        .copied()
        .chain(["--open-ms", OPEN_MS])
        .collect();
    let mut process = who.start(deployment, &wishes)?;
    let mut opened = 0;
    process.wait_for("end of the attempt", SIEGE_LIMIT, |line| {
        let event = line.event()?;
        match event.get("event")?.as_str()? {
            "failed" => return Some(words("failed", event.get("what")?)),
            "opened" => opened += 1,
            _ => {}
        }
        (opened == channels).then(|| SUCCESS.to_owned())
    })
}

/// What an event of the program says: `ended: ...`, `refused by OwnDevice: ...`; of what TLS said
/// without what that means.
fn words(event: &str, what: &Value) -> String {
    let text = |field| what.get(field).and_then(Value::as_str);
    let by = text("by").map(|by| format!(" by {by}")).unwrap_or_default();
    let (kind, reason) = (text("kind").unwrap_or(event), text("reason"));
    let reason = reason.and_then(|reason| reason.split(": it refused").next());
    format!("{kind}{by}: {}", reason.unwrap_or_default())
}

/// What an operator's command says if it is refused.
fn said_by(command: &mut Command) -> Result<String> {
    let output = command.output().context("can't start sivshm")?;
    if output.status.success() {
        return Ok(SUCCESS.to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().rsplit_once(".toml: ").map(|(_, said)| said);
    Ok(said.unwrap_or_default().to_owned())
}
