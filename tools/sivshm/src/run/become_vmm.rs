//! The last steps before the VMM: a process with what the VM was granted, and nothing else
//! (DESIGN section 6).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use sivshm_abi::name::VmName;
use sivshm_device::ids::{IdMap, VmIds};
use sivshm_sys::exec::{become_user, inherit_only, scope_only_landlock, vmm_filter};
use sivshm_sys::sandbox::Filter;

use crate::failure::{Failure, Outcome};
use crate::layout::Layout;

/// A VMM that is about to be.
#[derive(Debug)]
pub struct Vmm {
    program: String,
    command: Command,
    /// The user and group to become; none in development mode.
    user: Option<VmIds>,
    further_group: Option<u32>,
    filter: Option<Filter>,
}

impl Vmm {
    /// A VMM of `vm` without arguments, as the user that `up` gave it.
    ///
    /// # Errors
    /// The users of this run are not known.
    pub fn new(program: &str, layout: &Layout, vm: VmName, development: bool) -> Outcome<Self> {
        let ids =
            IdMap::load(&layout.ids_in_use()).map_err(|error| Failure::Host(error.to_string()))?;
        let user = ids.domain(layout.domain()).and_then(|ids| ids.vm(vm));
        let user = user.ok_or_else(|| Failure::Host(format!("{vm} was given no user")))?;
        Ok(Self {
            program: program.to_owned(),
            command: Command::new(program),
            user: (!development).then_some(user),
            further_group: None,
            filter: None,
        })
    }

    /// Appends arguments.
    pub fn arguments(&mut self, arguments: impl IntoIterator<Item = String>) {
        self.command.args(arguments);
    }

    /// Sets a variable of its environment.
    pub fn environment(&mut self, name: &str, value: String) {
        self.command.env(name, value);
    }

    /// Has it be in a group beside its own.
    pub fn further_group(&mut self, gid: Option<u32>) {
        self.further_group = gid;
    }

    /// Has QEMU's descriptors filtered: it can't make a doorbell that it shares blocking.
    ///
    /// # Errors
    /// None that a released build has.
    pub fn filtered(&mut self) -> Outcome {
        let filter = vmm_filter().map_err(|error| Failure::Host(error.to_string()))?;
        self.filter = Some(filter);
        Ok(())
    }

    /// Becomes it, with these descriptors and standard input, output and error. Returns only what
    /// kept it from that; this process is in no defined state then and must end.
    pub fn become_it(mut self, inherited: Vec<OwnedFd>) -> Failure {
        match self.give_up_everything_else(&inherited) {
            Ok(()) => {}
            Err(error) => return error,
        }
        let error = self.command.exec();
        let hint = match (error.kind(), self.user) {
            (io::ErrorKind::PermissionDenied, Some(user)) => {
                format!(" (the VM's user {} must be able to reach it)", user.vmm_uid)
            }
            _ => String::new(),
        };
        Failure::Io {
            what: format!("execute {}{hint}", self.program),
            source: error,
        }
    }

    fn give_up_everything_else(&mut self, inherited: &[OwnedFd]) -> Outcome {
        inherit_only(inherited.iter().map(OwnedFd::as_fd))
            .map_err(Failure::to("pass the VM's descriptors on and no other"))?;
        let confine = |error: &dyn std::error::Error| {
            Failure::Host(format!("can't confine the VMM: {error}"))
        };
        // Forbids new privileges too.
        scope_only_landlock().map_err(|error| confine(&error))?;
        if let Some(user) = self.user {
            become_user(user.vmm_uid, user.vmm_gid, self.further_group.as_slice())
                .map_err(|error| confine(&error))?;
            // Root's home and the like are of no use to another user.
            for name in ["HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR"] {
                self.command.env_remove(name);
            }
        }
        if let Some(filter) = &self.filter {
            filter.install().map_err(|error| confine(&error))?;
        }
        Ok(())
    }
}
