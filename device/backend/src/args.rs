//! `args -> Config`: what the process was told (DESIGN section 5).

use std::path::PathBuf;

use clap::Parser;
use nix::unistd::geteuid;
use sivshm_abi::name::{BadName, VmName};

/// The host back end of one VM.
#[derive(Debug, Parser)]
#[command(name = "sivshm-device", version)]
pub struct Args {
    /// VM to serve, as the policy names it
    #[arg(long, value_parser = vm_name)]
    vm: VmName,
    /// Policy file
    #[arg(long)]
    policy: PathBuf,
    /// Newer policy that narrows what the first one shares, as `sivshm reload` has put it in force
    #[arg(long)]
    narrowed: Option<PathBuf>,
    /// Directory below which run/, etc/ and var/ lie
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// File of the users and groups given to VMs
    #[arg(long)]
    ids: PathBuf,
}

fn vm_name(text: &str) -> Result<VmName, BadName> {
    VmName::new(text)
}

/// Whether VMs have users of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Started by root: each device process and each VMM is a user of its own.
    Production,
    /// Started by anybody else: one user for all. Guests are confined just the same, but a
    /// compromised VMM of that user is not (I2).
    Development,
}

impl Mode {
    /// The mode of the current process.
    #[must_use]
    pub fn of_process() -> Self {
        if geteuid().is_root() {
            Self::Production
        } else {
            Self::Development
        }
    }
}

/// The first step of the start-up chain.
#[derive(Clone, Debug)]
pub struct Config {
    /// VM to serve.
    pub vm: VmName,
    /// Policy file: what memory there is, and who may share it at most.
    pub policy: PathBuf,
    /// A newer policy that takes from the first one.
    pub narrowed: Option<PathBuf>,
    /// Directory below which everything lies.
    pub root: PathBuf,
    /// File of users and groups.
    pub ids: PathBuf,
    /// Whether VMs have users of their own.
    pub mode: Mode,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let Args {
            vm,
            policy,
            narrowed,
            root,
            ids,
        } = args;
        Self {
            vm,
            policy,
            narrowed,
            root,
            ids,
            mode: Mode::of_process(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arguments_reach_the_config() {
        let line = "sivshm-device --vm ivi --policy p --narrowed n --root r --ids i";
        let config = Config::from(Args::try_parse_from(line.split(' ')).unwrap());
        assert_eq!(config.vm, VmName::new("ivi").unwrap());
        assert_eq!(config.policy, PathBuf::from("p"));
        assert_eq!(config.narrowed, Some(PathBuf::from("n")));
        assert_eq!(config.root, PathBuf::from("r"));
        assert_eq!(config.ids, PathBuf::from("i"));
    }

    #[test]
    fn a_vm_that_is_no_name_is_refused() {
        let line = "sivshm-device --vm a/b --policy p --ids i";
        assert!(Args::try_parse_from(line.split(' ')).is_err());
    }
}
