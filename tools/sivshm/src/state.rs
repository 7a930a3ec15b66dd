//! `state.json`: what the supervisor says about itself, for the other commands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::process::{Process, ProcessId};

/// Version of the file.
const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// The trust domain.
    pub trust_domain: String,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// Whether everything runs under one uid.
    pub development: bool,
    /// The policy file that `up` was given; its text at that time is in `policy.toml` here.
    pub policy: PathBuf,
    /// One line for each VM, in the plan's order.
    pub vms: Vec<VmState>,
}

/// What the supervisor knows about one VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    /// Its name.
    pub name: String,
    /// Its device process; none between an end and the restart.
    pub device: Option<ProcessId>,
    /// How often the device process was started again.
    pub restarts: u32,
    /// Its VMM, if `sivshm run` started one that still runs.
    pub vmm: Option<ProcessId>,
    /// Its VMM was ended because the device process was lost, or because its guest did not let go of
    /// what was taken from it; it must be run again.
    pub needs_restart: bool,
}

impl State {
    /// The state of a supervisor that has started nothing yet.
    pub fn new(
        trust_domain: String,
        supervisor: ProcessId,
        development: bool,
        policy: PathBuf,
    ) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            supervisor,
            development,
            policy,
            vms: Vec::new(),
        }
    }

    /// Reads the file; none if there is none.
    ///
    /// # Errors
    /// It can't be read, or another version of `sivshm` has written it.
    pub fn read(path: &Path) -> Outcome<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Failure::on("read", path))?,
        };
        let foreign = || Failure::Host(format!("{} is from another version", path.display()));
        let state: Self = serde_json::from_str(&text).map_err(|_| foreign())?;
        if state.version != VERSION {
            return Err(foreign());
        }
        Ok(Some(state))
    }

    /// Replaces the file as a whole, so that no reader sees a half-written one.
    ///
    /// # Errors
    /// The directory is gone or full.
    pub fn write(&self, path: &Path) -> Outcome {
        let next = path.with_extension("json.next");
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::Host(format!("can't write the state: {error}")))?;
        text.push('\n');
        fs::write(&next, text).map_err(Failure::on("write", &next))?;
        fs::rename(&next, path).map_err(Failure::on("replace", path))
    }

    /// The line of a VM.
    ///
    /// # Errors
    /// The policy has no such VM; says which there are.
    pub fn vm(&self, name: &str) -> Outcome<&VmState> {
        let found = self.vms.iter().find(|vm| vm.name == name);
        found.ok_or_else(|| {
            let names: Vec<_> = self.vms.iter().map(|vm| vm.name.as_str()).collect();
            Failure::Usage(format!(
                "the policy has no VM `{name}`; it has {}",
                names.join(", ")
            ))
        })
    }

    /// Device processes and VMMs of this file that still live.
    pub fn living(&self) -> Vec<Process> {
        self.vms
            .iter()
            .flat_map(|vm| [vm.vmm, vm.device])
            .flatten()
            .filter_map(Process::find)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let me = Process::open(std::process::id().cast_signed()).unwrap().id;
        let mut state = State::new("car.example".into(), me, true, "/etc/p.toml".into());
        state.vms.push(VmState {
            name: "ivi".into(),
            device: Some(me),
            restarts: 2,
            vmm: None,
            needs_restart: true,
        });
        state
    }

    #[test]
    fn the_state_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert!(State::read(&path).unwrap().is_none());
        state().write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), Some(state()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let newer = State {
            version: VERSION + 1,
            ..state()
        };
        newer.write(&path).unwrap();
        assert!(State::read(&path).is_err());
        fs::write(&path, "{}").unwrap();
        assert!(State::read(&path).is_err());
    }

    #[test]
    fn only_living_processes_are_living() {
        let mut state = state();
        assert_eq!(state.living().len(), 1);
        state.vms[0].device.as_mut().unwrap().started += 1;
        assert!(state.living().is_empty());
    }

    #[test]
    fn an_unknown_vm_is_answered_with_the_known_ones() {
        let error = state().vm("ivy").unwrap_err().to_string();
        assert!(error.contains("`ivy`") && error.contains("ivi"), "{error}");
    }
}
