//! `sivshm policy check`.

use std::path::PathBuf;

use sivshm_policy::plan::Plan;

use crate::failure::Outcome;

/// Check a policy file
///
/// Prints one line that starts with "OK", or every error with its place in the file, the line
/// itself and a suggestion. The digest covers all that the policy decides: two files with equal
/// digests mean the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ sivshm policy check car.toml
  sivshm: the policy is refused
  car.toml:12:6: error: VM `ivi` has no service `scren`
      12 | to = [\"ivi/scren\"]
         |       ^^^^^^^^^^^
         = help: did you mean `screen`?
  car.toml: 1 error; nothing of this file is used

Exit codes: 0 the policy is good, 1 the file can't be read, 2 the policy is refused.")]
pub struct Args {
    /// The policy file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    crate::output::text(&summary(&super::load(&args.file)?))
}

fn summary(plan: &Plan) -> String {
    let services = plan.vms.iter().map(|vm| vm.services.len()).sum();
    let links = plan.vms.iter().map(|vm| vm.peers.len()).sum::<usize>() / 2;
    format!(
        "OK: {}, {}, {}, {}, {}, digest {}",
        count(plan.vms.len(), "VM"),
        count(services, "service"),
        count(plan.channels.len(), "channel"),
        count(plan.slices.len(), "slice"),
        count(links, "link"),
        plan.digest
    )
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_summed_up() {
        let text = include_str!("../../../../docs/examples/job.toml");
        let plan = sivshm_policy::compile("job.toml", text).unwrap();
        let summary = summary(&plan);
        let counts = "OK: 4 VMs, 4 services, 6 channels, 6 slices, 3 links, digest ";
        assert_eq!(
            summary.strip_prefix(counts).map(str::len),
            Some(64),
            "{summary}"
        );
    }
}
