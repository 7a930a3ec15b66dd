//! Sessions that libsivshm would not hold: whoever owns a VM speaks its control rings by itself, opens
//! as many sessions as it likes, says of each which process it is, and proves itself by whatever it
//! has. Runs in place of a VM.
#![expect(
    unsafe_code,
    reason = "a hostile program does what safe code would not; nobody relies on its staying alive"
)]

mod claim;
mod flood;
mod line;
mod member;

use clap::{Parser, Subcommand};
use nix::errno::Errno;
use sivshm_abi::frame::Facts;
use sivshm_hostile::end::End;

/// Open sessions and prove what can be proved.
#[derive(Debug, Parser)]
struct Args {
    /// The user that the processes say they have
    #[arg(long)]
    user: u32,
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Prove one session by the papers that were passed, whatever they are.
    Claim {
        /// Shows no papers at all.
        #[arg(long)]
        nothing: bool,
    },
    /// Prove one session, then another one of the same service, and open a channel in the first.
    Race {
        /// The channel to write and the service that reads it.
        writes: End,
    },
    /// Begin to open a channel and give it up, without end.
    Wants {
        /// The channel to write and the service that reads it.
        writes: End,
    },
    /// Open sessions and prove none, without end.
    Sessions,
}

fn main() -> nix::Result<()> {
    let args = Args::parse();
    let facts = Facts {
        pid: std::process::id(),
        uid: args.user,
        gid: args.user,
        exe_sha256: None,
    };
    let inherited = line::inherited()?;
    let mut line = line::Line::connect(&inherited)?;
    match args.deed {
        Deed::Claim { nothing } => {
            let papers = match nothing {
                true => None,
                false => Some(claim::read(&inherited)?),
            };
            claim::claim(&mut line, facts, papers.as_ref())
        }
        Deed::Race { writes } => member::race(&mut line, facts, &inherited, &writes),
        Deed::Wants { writes } => match flood::wants(&mut line, facts, &inherited, &writes)? {},
        Deed::Sessions => match flood::sessions(&mut line, facts, &inherited)? {},
    }
}

/// The error number of a system call that failed, or of what can't be.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
