//! `sivshm policy`: what a policy file means, before anything runs by it.

mod check;
mod report;
mod show;

use std::path::Path;

use sivshm_policy::LoadError;
use sivshm_policy::plan::Plan;

use crate::failure::{Failure, Outcome};

/// Check a policy file, or show what it means
///
/// A policy says which VMs and services there are and which channels connect them; everything that
/// it does not name is denied. `docs/policy.md` describes the language.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::Args),
    Show(show::Args),
}

/// Runs the command.
///
/// # Errors
/// The file can't be read, or the policy is refused.
pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Show(args) => show::run(args),
    }
}

/// Reads and compiles a policy file.
fn load(path: &Path) -> Outcome<Plan> {
    sivshm_policy::load(path).map_err(|error| match error {
        LoadError::Read { path, source } => Failure::on("read the policy", &path)(source),
        LoadError::Policy(errors) => Failure::Policy(format!("the policy is refused\n{errors}")),
    })
}
