//! `sivshm up`: starts and keeps everything that runs on the host for one trust domain.

mod backoff;
mod detach;
mod device;
mod directories;
pub mod register;
mod supervisor;
mod watch;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use sivshm_abi::name::{TrustDomain, VmName};
use sivshm_device::ids::{FIRST_ID, IdMap};
use sivshm_policy::plan::Plan;
use sivshm_sys::features;

use self::device::Launcher;
pub use self::device::PATIENCE;
use self::supervisor::Supervisor;
use crate::compile::compile;
use crate::failure::{Failure, Outcome, absolute};
use crate::layout::{Layout, Where};
use crate::lock::{lock, try_lock};
use crate::process::Process;
use crate::state::State;
use crate::table::Table;

/// Said wherever VMs' processes share one user.
pub const DEVELOPMENT: &str = "development mode (not root): guests are confined just the same, \
     but a compromised VMM of this user is not";

/// Start the device processes of a policy's VMs and keep them running
///
/// Compiles the policy, checks the host's kernel, makes the directories, gives each VM its users,
/// starts one device process for each VM and waits until all answer. Then stays in the foreground
/// until Ctrl-C or SIGTERM and ends everything, the VMMs started by `sivshm run` included. SIGHUP
/// does what `sivshm reload` does.
///
/// A device process that dies is started again; its VM's VMM is ended, because memory can't be
/// resent into a running VMM, and `sivshm status` says that the VM needs a restart. The same happens
/// to a VM whose guest does not let go of what was taken from it, if the policy says
/// `uncontained = "end-vmm"`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm up                                   the only configured trust domain, until Ctrl-C
  sivshm up --policy car.toml --detach        in the background; `sivshm down` ends it
  sivshm up --root /tmp/try --policy p.toml   everything below /tmp/try

Files, below --root:
  etc/sivshm/DOMAIN/policy.toml      the policy, unless --policy names another one
  etc/sivshm/DOMAIN/bundle.pem       trust bundle
  etc/sivshm/DOMAIN/crl.pem          revocation list (see sivshm-ca)
  etc/sivshm/DOMAIN/vm/VM/device.*   SVID and key of each VM's device process (see sivshm-ca)
  run/sivshm/DOMAIN                  sockets and state; removed at the end
  var/log/sivshm/DOMAIN/VM.log       log of each device process

Exit codes: 0 ended as asked, 1 the host failed, 2 wrong usage or policy, or the host lacks a
feature, 3 a device process refused to run without its confinement.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// Policy file [default: etc/sivshm/DOMAIN/policy.toml below the root]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Return when everything is ready, and leave it running in the background
    #[arg(long)]
    detach: bool,
    /// Program of the device process [default: `sivshm-device` beside this program]
    #[arg(long, value_name = "FILE")]
    device_bin: Option<PathBuf>,
    /// First of the 30000 user and group ids that VMs are given, which they keep for ever
    #[arg(long, value_name = "UID", default_value_t = FIRST_ID, value_parser = clap::value_parser!(u32).range(1000..))]
    uid_base: u32,
    /// Print one JSON object when everything is ready
    #[arg(long)]
    json: bool,
    /// Set in the background process of --detach
    #[arg(long, hide = true)]
    detached: bool,
}

/// What `up` prints when everything is ready.
#[derive(Debug, Deserialize, Serialize)]
struct Ready {
    trust_domain: String,
    supervisor: i32,
    development: bool,
    ready_ms: u128,
    vms: Vec<ReadyVm>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ReadyVm {
    name: String,
    device_pid: i32,
    device_uid: u32,
    vmm_uid: u32,
    windows: usize,
    peers: usize,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let began = Instant::now();
    let policy = match &args.policy {
        Some(path) => absolute(path)?,
        None => args.at.layout()?.paths.policy(),
    };
    let (text, plan) = compile(&policy)?;
    if args
        .at
        .domain
        .is_some_and(|named| named != plan.trust_domain)
    {
        return Err(Failure::Usage(format!(
            "{} is the policy of trust domain {}",
            policy.display(),
            plan.trust_domain
        )));
    }
    features::check().map_err(|lacking| Failure::Unsupported(lacking.to_string()))?;
    let layout = Layout::new(&args.at.root, plan.trust_domain)?;
    if args.detach {
        let ready = detach::behind(&layout)?;
        return print(&ready, args.json);
    }
    let development = !geteuid().is_root();
    if development && !args.detached {
        eprintln!("sivshm: {DEVELOPMENT}");
    }
    if args.detached {
        detach::begin()?;
    }
    let program = device_program(args.device_bin.as_deref())?;

    let Some(_lock) = try_lock(&layout.lock())? else {
        return Err(Failure::Usage(format!(
            "trust domain {} is up already below {}; `sivshm status` shows it, `sivshm down` ends it",
            plan.trust_domain,
            layout.root.display()
        )));
    };
    refuse_leftovers(&layout)?;
    let vms: Vec<VmName> = plan.vms.iter().map(|vm| vm.name).collect();
    let ids = allocate(&layout, plan.trust_domain, &vms, args.uid_base, development)?;
    let device_gid = ids.domain(plan.trust_domain).map(|ids| ids.device_gid);
    directories::make(&layout, device_gid.filter(|_| !development))?;
    let in_use = layout.policy_in_use();
    fs::write(&in_use, text).map_err(Failure::on("write", &in_use))?;
    ids.store(&layout.ids_in_use()).map_err(host)?;

    let me = Process::open(std::process::id().cast_signed())
        .map_err(Failure::to("look at this process"))?;
    let domain = plan.trust_domain.to_string();
    let state = State::new(domain, me.id, development, policy);
    let supervisor = Supervisor::start(Launcher { program, layout }, &vms, state)?;
    let ready = Ready::of(&plan, &ids, supervisor.state(), began);
    print(&ready, args.json || args.detached)?;
    if args.detached {
        detach::let_go()?;
    }
    supervisor.serve()
}

/// Processes of a supervisor that was killed would serve their VMs beside the new ones.
fn refuse_leftovers(layout: &Layout) -> Outcome {
    let state = State::read(&layout.paths.supervisor_state())?;
    let living = state.as_ref().map(State::living).unwrap_or_default();
    if living.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{} processes of an earlier run still live, whose supervisor was killed; `sivshm down` \
         ends them",
        living.len()
    )))
}

/// Users and groups of all VMs, kept on disk unless there is one user only.
fn allocate(
    layout: &Layout,
    domain: TrustDomain,
    vms: &[VmName],
    first: u32,
    development: bool,
) -> Outcome<IdMap> {
    let vms = vms.iter().copied();
    if development {
        return Ok(IdMap::development(domain, vms));
    }
    let path = layout.paths.ids();
    let _lock = lock(&path.with_extension("lock"))?;
    let mut ids = IdMap::load(&path).map_err(host)?;
    ids.allocate(domain, vms, first).map_err(host)?;
    ids.store(&path).map_err(host)?;
    Ok(ids)
}

fn host(error: impl std::error::Error) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}"));
    Failure::Host(format!("{error}{}", cause.unwrap_or_default()))
}

/// The program of the device process.
fn device_program(named: Option<&Path>) -> Outcome<PathBuf> {
    let program = match named {
        Some(path) => absolute(path)?,
        None => env::current_exe()
            .map_err(Failure::to("find this program"))?
            .with_file_name("sivshm-device"),
    };
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::Usage(format!(
        "there is no device process program at {}; name it with --device-bin",
        program.display()
    )))
}

impl Ready {
    fn of(plan: &Plan, ids: &IdMap, state: &State, began: Instant) -> Self {
        let ids = ids.domain(plan.trust_domain);
        let vms = plan.vms.iter().zip(&state.vms).filter_map(|(vm, now)| {
            let ids = ids?.vm(vm.name)?;
            Some(ReadyVm {
                name: now.name.clone(),
                device_pid: now.device?.pid,
                device_uid: ids.device_uid,
                vmm_uid: ids.vmm_uid,
                windows: vm.windows.len(),
                peers: vm.peers.len(),
            })
        });
        Self {
            trust_domain: state.trust_domain.clone(),
            supervisor: state.supervisor.pid,
            development: state.development,
            ready_ms: began.elapsed().as_millis(),
            vms: vms.collect(),
        }
    }
}

fn print(ready: &Ready, json: bool) -> Outcome {
    if json {
        return crate::output::json(ready);
    }
    let mut table = Table::new([
        "VM",
        "device pid",
        "device uid",
        "VMM uid",
        "windows",
        "peers",
    ]);
    for vm in &ready.vms {
        table.row([
            vm.name.clone(),
            vm.device_pid.to_string(),
            vm.device_uid.to_string(),
            vm.vmm_uid.to_string(),
            vm.windows.to_string(),
            vm.peers.to_string(),
        ]);
    }
    crate::output::text(&format!(
        "{table}\n{}: {} device processes ready in {} ms (supervisor pid {})",
        ready.trust_domain,
        ready.vms.len(),
        ready.ready_ms,
        ready.supervisor
    ))
}
