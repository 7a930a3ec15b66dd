//! `sivshm`: what an operator does with SIVSHM (DESIGN section 15, `docs/operating.md`).
#![forbid(unsafe_code)]

mod ask;
mod compile;
mod doctor;
mod down;
mod failure;
mod layout;
mod lock;
mod log;
mod output;
mod policy;
mod process;
mod qemu;
mod qemu_args;
mod quote;
mod reload;
mod revoke;
mod run;
mod state;
mod status;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser;

/// Shared memory between virtual machines that don't trust each other
///
/// Every byte has one writer, every mapping follows from a policy, every party proves who it is.
#[derive(Debug, Parser)]
#[command(name = "sivshm", version, max_term_width = 100)]
#[command(after_help = "\
A first run:
  sivshm policy check car.toml
  sivshm up --policy car.toml --detach
  sivshm run ivi -- qemu-system-x86_64 -m 512 ...
  sivshm status
  sivshm down

Exit codes: 0 done, 1 the host failed, 2 wrong usage or policy, or the host lacks a feature,
3 a device process or the supervisor refused. SIVSHM_LOG=debug makes `up` say more.")]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Run(run::Args),
    QemuArgs(qemu_args::Args),
    Status(status::Args),
    Revoke(revoke::Args),
    Reload(reload::Args),
    Policy(policy::Args),
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    log::start();
    let outcome = match Command::parse() {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Run(args) => run::run(&args),
        Command::QemuArgs(args) => qemu_args::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Revoke(args) => revoke::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sivshm: {failure}");
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn a_program_and_its_options_need_no_quoting() {
        let line = "sivshm run ivi --open-ro k=/k -- qemu -m 256 -append {k}";
        assert!(matches!(
            Command::try_parse_from(line.split(' ')).unwrap(),
            Command::Run(_)
        ));
        assert!(Command::try_parse_from(["sivshm", "run", "ivi"]).is_err());
        let mixed = "sivshm run ivi --attach --drive-ro a=/b -- p";
        assert!(Command::try_parse_from(mixed.split(' ')).is_err());
    }

    #[test]
    fn a_reload_needs_no_argument() {
        for line in [
            "sivshm reload",
            "sivshm reload --json --policy p --domain d",
        ] {
            assert!(matches!(
                Command::try_parse_from(line.split(' ')).unwrap(),
                Command::Reload(_)
            ));
        }
        assert!(Command::try_parse_from(["sivshm", "reload", "ivi"]).is_err());
    }
}
