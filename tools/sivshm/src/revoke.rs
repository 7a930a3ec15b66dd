//! `sivshm revoke`: ends a channel now.

use serde::Serialize;
use sivshm_device::admin_wire::{AdminAnswer, AdminRequest, MAX_ANSWER_BYTES};
use sivshm_device::paths::SocketDir;

use crate::ask::{ANSWER_TIMEOUT, ask};
use crate::failure::{Failure, Outcome};
use crate::layout::{Where, vm_name};

/// End a channel at both of its ends
///
/// Tells the VM's device process to revoke every grant of the channel. Its guest's kernel module
/// unmaps the memory from the processes that hold it, the other VMs' device processes are told and
/// do the same, and no new grant is made until `sivshm down` and `up`. The audit logs of all of them
/// record it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sivshm revoke worker-3 job-3

Exit codes: 0 revoked, 1 nothing runs or the host failed, 2 wrong usage, 3 the device process
refused, for instance because the VM takes no part in the channel.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// VM at either end of the channel
    vm: String,
    /// Channel, as the policy names it
    channel: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Revoked {
    vm: String,
    channel: String,
    grants: u32,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let vm = vm_name(&args.vm)?;
    layout.running()?.vm(&args.vm)?;
    let who = || format!("the device process of {vm}");
    let request = AdminRequest::Revoke {
        channel: args.channel.clone(),
    };
    let path = layout.paths.socket(SocketDir::Admin, vm);
    match ask(&path, &request, MAX_ANSWER_BYTES, ANSWER_TIMEOUT) {
        Ok(AdminAnswer::Revoked { channel, grants }) if args.json => {
            crate::output::json(&Revoked {
                vm: args.vm.clone(),
                channel,
                grants,
            })
        }
        Ok(AdminAnswer::Revoked { channel, grants }) => crate::output::text(&format!(
            "{channel} is revoked: {grants} live grants of {vm} ended, its peers were told"
        )),
        Ok(AdminAnswer::Refused { reason }) => Err(Failure::Refused { who: who(), reason }),
        Ok(_) => Err(Failure::NoAnswer {
            who: who(),
            reason: "it answered another question".into(),
        }),
        Err(error) => Err(Failure::NoAnswer {
            who: who(),
            reason: error.to_string(),
        }),
    }
}
