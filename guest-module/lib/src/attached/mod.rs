//! A host process that stands in for a VM (`sivshm run VM --attach`, DESIGN section 15).
//!
//! What a guest kernel does is done in-process: the same gate decides, the control thread carries
//! out what it asks for, and what the process may map are the descriptors that it inherited. I4 is
//! not provided: nothing keeps this process from mapping a window whole.

mod bell;
mod control;
mod environment;
mod facts;
mod port;
#[cfg(test)]
mod tests;

use sivshm_abi::grant::{Grant, GrantId};
use sivshm_abi::limits::GRANT_OFFSET_SHIFT;
use sivshm_gate::{Errno, Slot, Wanted};
use std::io;
use std::os::fd::AsFd as _;

use crate::backend::{Awaited, Backend, Bell, Granted, Status};
use crate::error::Error;
use crate::mapping::Mapping;
use bell::Ears;
use control::Control;
use environment::Environment;

pub(crate) use environment::identity;

/// Environment variable that says what an attached process was given: JSON of
/// [`environment::Environment`].
pub(crate) const ATTACH_VARIABLE: &str = "SIVSHM_ATTACH";

/// The session of an attached process. There is one at a time: it holds the VM's only port.
#[derive(Debug)]
pub(crate) struct Attached {
    control: Control,
}

impl Attached {
    /// Connects to the port that `text` names, claims its windows, and opens the session.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub(crate) fn open(text: &str) -> Result<Self, Error> {
        let refused = |hint| {
            move |source| Error::Open {
                place: ATTACH_VARIABLE.to_owned(),
                hint,
                source,
            }
        };
        let environment = Environment::parse(text)
            .map_err(refused("start this program by `sivshm run --attach`"))?;
        let facts = facts::of_this_process(environment.guest_uid)
            .map_err(refused("this process could not look at itself"))?;
        let port = port::connect(&environment.port).map_err(refused(
            "the device process must be up, and one session is open at a time",
        ))?;
        let control = Control::new(port, environment.windows, facts).map_err(refused(
            "the device process gave another VM's port or windows",
        ))?;
        Ok(Self { control })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.control.close();
    }
}

impl Backend for Attached {
    fn status(&self) -> Result<Status, Error> {
        let mut state = self.control.lock();
        let listing = (state.list()).map_err(refusal("ask for this session's state"))?;
        Ok(status(&listing))
    }

    fn list(&self) -> Result<(Status, Vec<Granted>), Error> {
        let mut state = self.control.lock();
        let failed = refusal("list this session's grants");
        let listing = state.list().map_err(&failed)?;
        let caller = state.caller();
        let mut granted = Vec::new();
        let mut from = 0;
        while let Some((slot, grant)) = state.gate.next_grant(caller, from).map_err(&failed)? {
            granted.push(Granted {
                slot: slot.0,
                grant: *grant,
            });
            from = slot.place() + 1;
        }
        Ok((status(&listing), granted))
    }

    fn read(&self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        let mut state = self.control.lock();
        let caller = state.caller();
        let outcome = state.gate.read(caller, to);
        // Credit is due for what was read.
        self.control.carry_out(&mut state);
        match outcome {
            Ok(count) => Ok(Some(count)),
            Err(Errno::NotYet) => Ok(None),
            Err(Errno::Ended) => Ok(Some(0)),
            Err(errno) => Err(refusal("read from the device process")(errno)),
        }
    }

    fn write(&self, from: &[u8]) -> Result<usize, Error> {
        let mut state = self.control.lock();
        let caller = state.caller();
        let outcome = state.gate.write(caller, from);
        self.control.carry_out(&mut state);
        match outcome {
            Ok(count) => Ok(count),
            // That the session has closed is what the next read says.
            Err(Errno::NotYet | Errno::Ended) => Ok(0),
            Err(errno) => Err(refusal("write to the device process")(errno)),
        }
    }

    fn sleep(&self, awaited: Awaited) -> Result<(), Error> {
        (self.control.sleep(awaited)).map_err(Error::host("wait for the device process"))
    }

    fn wake(&self) {
        self.control.wake();
    }

    fn map(&self, granted: &Granted) -> Result<Mapping, Error> {
        let Granted { slot, grant } = granted;
        let mut state = self.control.lock();
        let wanted = Wanted {
            write: grant.access.writable(),
            exec: false,
            shared: true,
        };
        let offset = u64::from(*slot) << GRANT_OFFSET_SHIFT;
        let placement = (state.gate)
            .map(state.caller(), offset, grant.length, wanted)
            .map_err(refusal("map a granted range"))?;
        let file = (state.windows.get(usize::from(placement.window.0)))
            .ok_or_else(|| refusal("map a granted range")(Errno::Denied))?;
        let mapping = Mapping::new(file.as_fd(), placement.offset, grant.length, grant.access)
            .map_err(Error::host("map a granted range"))?;
        state.remember(Slot(*slot), &mapping);
        Ok(mapping)
    }

    fn ring(&self, grant: GrantId) -> Result<(), Error> {
        let state = self.control.lock();
        let doorbell = (state.gate)
            .notify(state.caller(), grant)
            .map_err(refusal("ring the peer"))?;
        state
            .ring(doorbell.target)
            .map_err(Error::host("ring the peer"))
    }

    fn bell(&self, grant: &Grant) -> Result<Box<dyn Bell>, Error> {
        let failed = Error::host("listen for the peer");
        let state = self.control.lock();
        let (_, vector) = (state.gate)
            .bell_of(state.caller(), grant.id)
            .map_err(refusal("listen for the peer"))?;
        let vector = (state.vectors.get(usize::from(vector.0)))
            .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let ears = Ears::new(&[vector, &self.control.changed]).map_err(&failed)?;
        Ok(Box::new(ears))
    }
}

fn status(listing: &sivshm_gate::Listing) -> Status {
    Status {
        state: listing.state,
        reason: listing.reason,
        changes: listing.changes,
    }
}

/// The error of a call that the gate refuses.
fn refusal(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| match errno {
        Errno::NoGrant | Errno::Ended => Error::Revoked(None),
        errno => Error::host(doing)(io::Error::from_raw_os_error(errno.code())),
    }
}
