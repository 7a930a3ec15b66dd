//! What the user's own QEMU arguments say, and which of them can't be used.

use crate::failure::{Failure, Outcome};

/// Options that break what `sivshm run` sets up, with the reason.
const REFUSED: &[(&str, &str)] = &[
    (
        "daemonize",
        "the device process knows its VMM by pid, which would change",
    ),
    (
        "incoming",
        "a VM with channels can't be migrated: slices stay on their host",
    ),
    (
        "loadvm",
        "a VM with channels has no snapshots: peers' memory is not part of one",
    ),
    ("runas", "QEMU already runs as the VM's own user"),
    ("sandbox", "QEMU's sandbox is switched on already"),
];

/// How QEMU runs the guest's code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
    /// What the user asked for; not ours to change.
    Users,
}

/// The answers that the user's arguments give.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Users {
    machine: bool,
    accelerator: bool,
    kvm: bool,
    cpu: bool,
}

impl Users {
    /// Reads the user's QEMU arguments.
    ///
    /// # Errors
    /// One of them can't be used together with channels.
    pub fn read(arguments: &[String]) -> Outcome<Self> {
        let mut found = Self::default();
        for (at, argument) in arguments.iter().enumerate() {
            let Some(option) = argument.strip_prefix('-') else {
                continue;
            };
            let option = option.strip_prefix('-').unwrap_or(option);
            let value = arguments.get(at + 1).map_or("", String::as_str);
            if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == option) {
                return Err(Failure::Usage(format!(
                    "`-{option}` can't be used with `sivshm run`: {reason}; leave it out"
                )));
            }
            match option {
                "M" | "machine" => {
                    found.machine = true;
                    found.accelerator |= value.contains("accel=");
                    found.kvm |= value.contains("accel=kvm");
                }
                "accel" => {
                    found.accelerator = true;
                    found.kvm |= value.starts_with("kvm");
                }
                "enable-kvm" => (found.accelerator, found.kvm) = (true, true),
                "cpu" => found.cpu = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Which accelerator to use on a host where KVM is usable or not.
    pub fn accelerator(self, kvm_usable: bool) -> Accelerator {
        match (self.accelerator, kvm_usable) {
            (true, _) => Accelerator::Users,
            (false, true) => Accelerator::Kvm,
            (false, false) => Accelerator::Tcg,
        }
    }

    /// Whether QEMU will open `/dev/kvm` with this accelerator.
    pub fn needs_kvm(self, accelerator: Accelerator) -> bool {
        self.kvm || accelerator == Accelerator::Kvm
    }

    /// The arguments that complete the user's: a machine with PCI Express, an accelerator, a
    /// processor; each only if the user did not choose one.
    pub fn completion(self, accelerator: Accelerator) -> Vec<&'static str> {
        let mut added = Vec::new();
        if !self.machine {
            added.extend(["-machine", "q35"]);
        }
        let cpu = match accelerator {
            Accelerator::Kvm => {
                added.extend(["-accel", "kvm"]);
                Some("host")
            }
            Accelerator::Tcg => {
                added.extend(["-accel", "tcg,thread=multi"]);
                Some("max")
            }
            Accelerator::Users => None,
        };
        if let (Some(cpu), false) = (cpu, self.cpu) {
            added.extend(["-cpu", cpu]);
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(arguments: &[&str]) -> Users {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        Users::read(&arguments).unwrap()
    }

    #[test]
    fn a_bare_command_line_gets_machine_accelerator_and_processor() {
        let users = users(&["-m", "256"]);
        assert_eq!(
            users.completion(users.accelerator(false)),
            [
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max"
            ]
        );
        assert_eq!(
            users.completion(users.accelerator(true)),
            ["-machine", "q35", "-accel", "kvm", "-cpu", "host"]
        );
    }

    #[test]
    fn every_way_to_choose_an_accelerator_is_respected() {
        for (arguments, kvm) in [
            (&["-accel", "tcg"][..], false),
            (&["--accel", "kvm"], true),
            (&["-enable-kvm"], true),
            (&["-M", "q35,accel=kvm"], true),
            (&["-machine", "accel=tcg"], false),
        ] {
            let users = users(arguments);
            let chosen = users.accelerator(true);
            assert_eq!(chosen, Accelerator::Users, "{arguments:?}");
            assert_eq!(users.needs_kvm(chosen), kvm, "{arguments:?}");
            let added = users.completion(chosen);
            assert!(!added.contains(&"-accel") && !added.contains(&"-cpu"));
        }
    }

    #[test]
    fn a_chosen_processor_is_respected() {
        let users = users(&["-cpu", "qemu64", "-M", "q35"]);
        assert_eq!(
            users.completion(Accelerator::Tcg),
            ["-accel", "tcg,thread=multi"]
        );
    }

    #[test]
    fn options_that_break_a_launch_are_refused_with_the_reason() {
        for option in ["-daemonize", "--incoming", "-loadvm", "-runas", "-sandbox"] {
            let error = Users::read(&[option.to_owned()]).unwrap_err();
            assert!(matches!(error, Failure::Usage(_)), "{option}");
        }
    }
}
