//! `sivshm reload`: a newer policy and a newer revocation list for what runs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sivshm_device::admin_wire::{
    AdminAnswer, AdminRequest, MAX_ANSWER_BYTES, MAX_RELOAD_CRL_BYTES, MAX_RELOAD_POLICY_BYTES,
    Reloaded,
};
use sivshm_device::paths::SocketDir;

use crate::ask::ask;
use crate::compile::compile;
use crate::failure::{Failure, Outcome, absolute};
use crate::layout::{Layout, Where, vm_name};
use crate::state::State;
use crate::table::Table;

/// Longest wait for one device process: the longest policy takes it a second to compile, and 256 of
/// them may share a slow core with their guests.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Put a newer policy and revocation list in force without stopping anything
///
/// Reads the policy that `sivshm up` was given and etc/sivshm/DOMAIN/crl.pem as they are now,
/// checks them and hands them to every device process. A reload can only take something away:
///
/// - Channels that the policy has no more, or has in another form (an end, the process of an end,
///   the kind, the size), end for good: pages are unmapped in both guests, and when all channels
///   of a slice have ended, its memory is given back.
/// - Links, sessions and channels of parties whose SVID the revocation list names end at once, and
///   no such party is trusted any more.
/// - What the policy adds is named, and comes with the next `sivshm down` and `sivshm up`.
///
/// The new policy's serial number counts from then on: it must be at least the one in use, and is
/// counted up with every change. If the policy has errors, or it or a revocation list is older than
/// the one in use, nothing changes anywhere. A device process that is started again later starts with the new
/// policy.
///
/// SIGHUP to `sivshm up` does the same and logs what came of it.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  cp ca/crl.pem crl.pem && sivshm reload       in etc/sivshm/DOMAIN, after `sivshm-ca revoke`
  sivshm reload --policy next.toml             another policy file, this once
  sivshm reload --json | jq '.vms[] | select(.reloaded | not) | .vm'

Exit codes: 0 in force everywhere, 1 nothing runs, or a device process did not answer, 2 wrong usage
or policy, 3 a device process refused."
)]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// Policy file [default: the one that `sivshm up` was given]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of a reload.
#[derive(Debug, Serialize)]
pub struct Report {
    trust_domain: String,
    policy_serial: u64,
    vms: Vec<VmReport>,
}

#[derive(Debug, Serialize)]
struct VmReport {
    vm: String,
    #[serde(flatten)]
    outcome: VmOutcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum VmOutcome {
    /// It is in force there.
    Reloaded(Reloaded),
    /// It is not, and why.
    Refused(String),
    /// What happened instead of an answer.
    Silent(String),
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let state = layout.running()?;
    let policy = match &args.policy {
        Some(path) => absolute(path)?,
        None => state.policy.clone(),
    };
    let report = reload(&layout, &state, &policy)?;
    if args.json {
        crate::output::json(&report)?;
    } else {
        crate::output::text(&report.as_text())?;
    }
    report.outcome()
}

/// Reads, checks and sends to every device process.
///
/// # Errors
/// The policy or the revocation list can't be in force; nothing has changed then. That some device
/// process did not take them is in the report.
pub fn reload(layout: &Layout, state: &State, policy: &Path) -> Outcome<Report> {
    let (policy, policy_serial) = newer_policy(layout, policy)?;
    let crl = revocation_list(&layout.paths.crl())?;
    let request = AdminRequest::Reload { policy, crl };
    let mut vms: Vec<VmReport> = Vec::new();
    for vm in &state.vms {
        let report = VmReport::of(layout, &vm.name, &request)?;
        let first = !vms.iter().any(VmReport::took);
        match &report.outcome {
            // All judge the same two texts: what the first one refuses is in force nowhere.
            VmOutcome::Refused(reason) if first => {
                return Err(Failure::Refused {
                    who: format!("the device process of {}", vm.name),
                    reason: format!("{reason}; nothing was changed anywhere"),
                });
            }
            VmOutcome::Reloaded(_) if first => keep(layout, &request)?,
            _ => {}
        }
        vms.push(report);
    }
    Ok(Report {
        trust_domain: state.trust_domain.clone(),
        policy_serial,
        vms,
    })
}

/// The newer policy's text and serial number, judged as every device process will.
fn newer_policy(layout: &Layout, path: &Path) -> Outcome<(String, u64)> {
    let (text, newer) = compile(path)?;
    if text.len() > MAX_RELOAD_POLICY_BYTES {
        return Err(Failure::Policy(format!(
            "{} has more than {MAX_RELOAD_POLICY_BYTES} bytes: it needs `sivshm down` and `sivshm up`",
            path.display()
        )));
    }
    let (_, running) = compile(&layout.policy_in_use())?;
    let last = layout.narrowed();
    let judged = if last.exists() {
        let (_, last) = compile(&last)?;
        running
            .narrowed_by(&last)
            .and_then(|last| last.followed_by(&newer))
    } else {
        Ok(())
    };
    judged
        .and_then(|()| running.narrowed_by(&newer))
        .map_err(|error| Failure::Policy(format!("{}: {error}", path.display())))?;
    Ok((text, newer.serial))
}

/// The revocation list's text; its signatures, times and numbers are the device processes' to judge,
/// who know which one is in force.
fn revocation_list(path: &Path) -> Outcome<String> {
    let on = || Failure::on("read the revocation list", path);
    let mut text = String::new();
    let file = File::open(path).map_err(on())?;
    let most = MAX_RELOAD_CRL_BYTES as u64;
    file.take(most + 1)
        .read_to_string(&mut text)
        .map_err(on())?;
    if text.len() > MAX_RELOAD_CRL_BYTES {
        return Err(Failure::Host(format!(
            "{} has more than {most} bytes: it needs `sivshm down` and `sivshm up`",
            path.display()
        )));
    }
    Ok(text)
}

/// Keeps the policy for device processes that are started again.
fn keep(layout: &Layout, request: &AdminRequest) -> Outcome {
    let AdminRequest::Reload { policy, .. } = request else {
        return Ok(());
    };
    let path = layout.narrowed();
    let next = path.with_extension("toml.next");
    fs::write(&next, policy).map_err(Failure::on("write", &next))?;
    fs::rename(&next, &path).map_err(Failure::on("replace", &path))
}

impl VmReport {
    fn of(layout: &Layout, vm: &str, request: &AdminRequest) -> Outcome<Self> {
        let path = layout.paths.socket(SocketDir::Admin, vm_name(vm)?);
        let answer = ask(&path, request, MAX_ANSWER_BYTES, RELOAD_TIMEOUT);
        let outcome = match answer {
            Ok(AdminAnswer::Reloaded(reloaded)) => VmOutcome::Reloaded(reloaded),
            Ok(AdminAnswer::Refused { reason }) => VmOutcome::Refused(reason),
            Ok(_) => VmOutcome::Silent("it answered another question".into()),
            Err(error) => VmOutcome::Silent(error.to_string()),
        };
        Ok(Self {
            vm: vm.to_owned(),
            outcome,
        })
    }

    fn took(&self) -> bool {
        self.reloaded().is_some()
    }

    fn reloaded(&self) -> Option<&Reloaded> {
        match &self.outcome {
            VmOutcome::Reloaded(reloaded) => Some(reloaded),
            VmOutcome::Refused(_) | VmOutcome::Silent(_) => None,
        }
    }

    fn cells(&self) -> [String; 5] {
        let vm = self.vm.clone();
        let nothing = |note| {
            let dash = || "-".to_owned();
            [vm.clone(), dash(), dash(), dash(), note]
        };
        let reloaded = match &self.outcome {
            VmOutcome::Reloaded(reloaded) => reloaded,
            VmOutcome::Refused(reason) => return nothing(format!("refused: {reason}")),
            VmOutcome::Silent(error) => return nothing(format!("no answer: {error}")),
        };
        let notes = match reloaded.ended.as_slice() {
            [] => String::new(),
            ended => format!("ended for good: {}", ended.join(", ")),
        };
        [
            vm.clone(),
            reloaded.links.to_string(),
            reloaded.sessions.to_string(),
            reloaded.pairings.to_string(),
            notes,
        ]
    }
}

impl Report {
    /// For a person; also what the supervisor logs.
    pub fn as_text(&self) -> String {
        let mut table = Table::new(["VM", "links", "sessions", "pairings", "notes"]);
        for vm in &self.vms {
            table.row(vm.cells());
        }
        let reloaded = self.vms.iter().filter_map(VmReport::reloaded);
        // Every device process sees the same policy, so they say the same.
        let more: BTreeSet<_> = reloaded.clone().flat_map(|r| &r.needs_restart).collect();
        let more = more
            .iter()
            .map(|words| format!("\nonly after a restart (`sivshm down` and `up`): {words}"));
        format!(
            "what has ended:\n{table}\n{}: policy serial {} is in force at {} of {} device processes{}",
            self.trust_domain,
            self.policy_serial,
            reloaded.count(),
            self.vms.len(),
            more.collect::<String>()
        )
    }

    /// Whether all have taken it.
    ///
    /// # Errors
    /// Names who has not.
    pub fn outcome(&self) -> Outcome {
        let mut silent = Vec::new();
        for vm in &self.vms {
            match &vm.outcome {
                VmOutcome::Reloaded(_) => {}
                VmOutcome::Silent(_) => silent.push(vm.vm.as_str()),
                VmOutcome::Refused(reason) => {
                    return Err(Failure::Refused {
                        who: format!("the device process of {}", vm.vm),
                        reason: reason.clone(),
                    });
                }
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        Err(Failure::NoAnswer {
            who: format!("the device processes of {}", silent.join(", ")),
            reason: "those that are started again take the policy then".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::TrustDomain;

    const POLICY: &str = "version = 1\ntrust_domain = \"car.example\"\nserial = 1\n\
                          [[vm]]\nname = \"ivi\"\n";

    fn layout(root: &Path) -> Layout {
        let layout = Layout::new(root, TrustDomain::new("car.example").unwrap()).unwrap();
        fs::create_dir_all(layout.paths.run_dir()).unwrap();
        fs::write(layout.policy_in_use(), POLICY).unwrap();
        layout
    }

    fn with_serial(serial: u64) -> String {
        POLICY.replace("serial = 1", &format!("serial = {serial}"))
    }

    fn judged(layout: &Layout, text: &str) -> Outcome<u64> {
        let path = layout.root.join("new.toml");
        fs::write(&path, text).unwrap();
        newer_policy(layout, &path).map(|(_, serial)| serial)
    }

    #[test]
    fn a_serial_counts_from_the_last_reload() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        assert_eq!(judged(&layout, POLICY).unwrap(), 1);
        assert_eq!(judged(&layout, &with_serial(3)).unwrap(), 3);
        fs::write(layout.narrowed(), with_serial(3)).unwrap();
        assert_eq!(judged(&layout, &with_serial(3)).unwrap(), 3);
        assert!(matches!(
            judged(&layout, &with_serial(2)),
            Err(Failure::Policy(_))
        ));
    }

    #[test]
    fn a_policy_that_is_wrong_or_too_long_is_refused_before_anything_is_sent() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let long = format!("{}#{}", with_serial(2), "x".repeat(MAX_RELOAD_POLICY_BYTES));
        for text in ["nonsense".to_owned(), long] {
            assert!(matches!(judged(&layout, &text), Err(Failure::Policy(_))));
        }
    }

    #[test]
    fn a_revocation_list_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = revocation_list(&root.path().join("crl.pem")).unwrap_err();
        assert!(error.to_string().contains("crl.pem"), "{error}");
    }

    #[test]
    fn a_reload_says_what_it_ended_and_what_it_could_not_add() {
        let reloaded = Reloaded {
            policy_serial: 8,
            ended: vec!["picture-1".into()],
            needs_restart: vec!["channel `sound` is new".into()],
            links: 0,
            sessions: 1,
            pairings: 2,
        };
        let mut report = Report {
            trust_domain: "car.example".into(),
            policy_serial: 8,
            vms: vec![VmReport {
                vm: "ivi".into(),
                outcome: VmOutcome::Reloaded(reloaded),
            }],
        };
        let text = report.as_text();
        assert!(
            text.contains("ivi  0      1         2         ended for good: picture-1"),
            "{text}"
        );
        assert!(text.contains("1 of 1 device processes"), "{text}");
        assert!(text.ends_with("channel `sound` is new"), "{text}");
        report.outcome().unwrap();
        report.vms.push(VmReport {
            vm: "camera-1".into(),
            outcome: VmOutcome::Silent("gone".into()),
        });
        assert!(
            report
                .outcome()
                .unwrap_err()
                .to_string()
                .contains("camera-1")
        );
    }
}
