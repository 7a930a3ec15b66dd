//! `cargo xtask test`: every test, from a bare machine.

use anyhow::Result;
use sivshm_tests::artifacts::ARTIFACTS_VARIABLE;

use crate::workspace::{cargo, shown, target};
use crate::{build, host_kernel};

/// Build everything and run every test: unit, property, conformance, functional and security
/// tests, and the models of the rings.
///
/// Arguments after `--` go to the test programs, as with `cargo test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run no test that boots a VM.
    #[arg(long)]
    no_vm: bool,
    /// For the test programs.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let mut artifacts = build::all(!args.no_vm)?;
    if let Some(vm) = &mut artifacts.vm {
        vm.host_kernel = Some(host_kernel::fetched()?);
        artifacts.write(&build::artifacts_file()?)?;
    }
    shown(
        cargo()?
            .args(["test", "--workspace", "--no-fail-fast", "--"])
            .args(&args.rest)
            .env(ARTIFACTS_VARIABLE, build::artifacts_file()?),
    )?;
    shown(
        cargo()?
            .args(["test", "--release", "-p", "sivshm-ring", "--test", "loom"])
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", target()?.join("loom")),
    )
}
