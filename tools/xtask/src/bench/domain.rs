//! A running trust domain, looked at from outside: pids, admin sockets, audit logs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sivshm_tests::deployment::Deployment;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::procfs::read;

/// Longest time until every link is established: 255 peers, and a dial that backed off.
const LINK_LIMIT: Duration = Duration::from_secs(60);

/// Time between two looks at an audit log: looking costs the device processes nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// The device processes by VM, as the supervisor's state names them; none that is being restarted.
pub fn device_pids(deployment: &Deployment) -> Result<BTreeMap<String, u64>> {
    let path = deployment.run_dir().join("state.json");
    let state: Value = serde_json::from_str(&read(&path.display().to_string())?)?;
    let vms = state.get("vms").and_then(Value::as_array);
    let device = |vm: &Value| {
        let pid = vm.pointer("/device/pid")?.as_u64()?;
        Some((vm.get("name")?.as_str()?.to_owned(), pid))
    };
    Ok(vms.into_iter().flatten().filter_map(device).collect())
}

/// What the device process of `vm` says about itself.
pub fn device_status(deployment: &Deployment, vm: &str) -> Result<Value> {
    ask(deployment, vm, &json!({ "command": "status" }))
}

/// What the device process of `vm` answers to an operator.
pub fn ask(deployment: &Deployment, vm: &str, request: &Value) -> Result<Value> {
    let path = deployment.run_dir().join(format!("admin/{vm}.sock"));
    let mut socket = UnixStream::connect(&path)
        .with_context(|| format!("can't connect to {}", path.display()))?;
    writeln!(socket, "{request}")?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// How many records the audit log of `vm` has.
pub fn records(deployment: &Deployment, vm: &str) -> Result<usize> {
    Ok(audit(deployment, vm)?.lines().count())
}

/// Waits until the audit log of `vm` says, after its first `skip` records, that links with `count`
/// peers were established; returns when that was, by peer.
pub fn await_links(
    deployment: &Deployment,
    vm: &str,
    skip: usize,
    count: usize,
) -> Result<BTreeMap<String, OffsetDateTime>> {
    let start = Instant::now();
    loop {
        let text = audit(deployment, vm)?;
        let links: BTreeMap<_, _> = text.lines().skip(skip).filter_map(link).collect();
        if links.len() >= count {
            return Ok(links);
        }
        if start.elapsed() > LINK_LIMIT {
            bail!(
                "{vm}: {} of {count} peers after {LINK_LIMIT:?}",
                links.len()
            );
        }
        std::thread::sleep(PAUSE);
    }
}

fn audit(deployment: &Deployment, vm: &str) -> Result<String> {
    let path = deployment.log_dir().join(format!("{vm}.audit.jsonl"));
    read(&path.display().to_string())
}

/// The VM and the time of a record that says that a link was established.
fn link(line: &str) -> Option<(String, OffsetDateTime)> {
    let record: Value = serde_json::from_str(line).ok()?;
    let is = |field: &str, value: &str| record.get(field).and_then(Value::as_str) == Some(value);
    let what = record.get("what")?.as_str()?;
    if !is("event", "peer") || !is("decision", "allow") || !what.starts_with("link ") {
        return None;
    }
    let vm = record.get("who")?.as_str()?.split('/').nth(4)?;
    let time = OffsetDateTime::parse(record.get("time")?.as_str()?, &Rfc3339).ok()?;
    Some((vm.to_owned(), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_links_count() {
        let record = |decision: &str| {
            format!(
                r#"{{"time":"2026-01-02T03:04:05.5Z","event":"peer","decision":"{decision}","who":"spiffe://job.example/vm/worker-1/device","what":"link as ring id 2 with 1 slices"}}"#
            )
        };
        let (vm, time) = link(&record("allow")).unwrap();
        assert_eq!((vm.as_str(), time.millisecond()), ("worker-1", 500));
        assert_eq!(link(&record("end")), None);
        assert_eq!(link("not a record"), None);
    }
}
