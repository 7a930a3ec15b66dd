//! `sivshm down`: ends what `sivshm up` started.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::failure::{Failure, Outcome};
use crate::layout::{Layout, Where};
use crate::lock::try_lock;
use crate::process::Process;
use crate::state::State;
use crate::up::PATIENCE;

/// How long the supervisor may take: the bounds of its VMMs and of its device processes, each with
/// the wait after a kill.
const TIMEOUT: Duration = Duration::from_secs(4 * PATIENCE.as_secs() + 1);

/// End everything that `sivshm up` started
///
/// Asks the supervisor to end, waits until it, its device processes and its VMMs are gone, and
/// checks that no process and no socket is left. If the supervisor was killed, ends what it left
/// behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 nothing is left, 1 nothing ran or something could not be ended, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let state = layout.running()?;
    match try_lock(&layout.lock())? {
        // Nobody holds the lock: the supervisor was killed.
        Some(_lock) => sweep(&layout, &state)?,
        None => stop(&state)?,
    }
    verify(&layout, &state)?;
    crate::output::text(&format!("{} is down", state.trust_domain))
}

/// Asks the supervisor to end everything.
fn stop(state: &State) -> Outcome {
    let pid = state.supervisor.pid;
    let supervisor = Process::find(state.supervisor).ok_or_else(|| {
        Failure::Host(format!(
            "the supervisor is not process {pid}, as its state file says; another one has just \
             started"
        ))
    })?;
    supervisor.signal(Signal::SIGTERM);
    if supervisor.wait(TIMEOUT) {
        return Ok(());
    }
    Err(Failure::Host(format!(
        "the supervisor (pid {pid}) does not end; its log says why"
    )))
}

/// Ends what a killed supervisor left behind: VMMs and device processes, then the run directory.
fn sweep(layout: &Layout, state: &State) -> Outcome {
    for process in state.living() {
        process.end(PATIENCE);
    }
    let run = layout.paths.run_dir();
    fs::remove_dir_all(run).map_err(Failure::on("remove", run))
}

/// Checks that nothing is left.
fn verify(layout: &Layout, state: &State) -> Outcome {
    let pids: Vec<_> = state
        .living()
        .iter()
        .map(|p| p.id.pid.to_string())
        .collect();
    if !pids.is_empty() {
        return Err(Failure::Host(format!(
            "these processes are left: {}",
            pids.join(", ")
        )));
    }
    let run = layout.paths.run_dir();
    if run.exists() {
        return Err(Failure::Host(format!("{} is left", run.display())));
    }
    Ok(())
}
