//! Developer tasks of SIVSHM: `cargo xtask TASK`. One file per task.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod debian;
mod demo;
mod host_kernel;
mod hosts;
mod kernels;
mod kmod;
mod model;
mod report;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run and test SIVSHM on a Debian or Ubuntu machine.
///
/// Every task says what the machine lacks and installs it with apt where it may (as root, or with a
/// sudo that asks for no password); elsewhere it prints the exact command and exits with code 2.
///
/// Exit codes: 0 success; 1 the task failed; 2 the machine lacks something or the usage is wrong.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Demo(demo::Args),
    Test(test::Args),
    Build(build::Args),
    Check(check::Args),
    Deny(check::DenyArgs),
    Bench(bench::Args),
    Kernels(kernels::Args),
    Model(model::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Check(args) => check::run(&args),
        Task::Deny(args) => check::deny(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Kernels(args) => kernels::run(&args),
        Task::Model(args) => model::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<setup::Missing>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
