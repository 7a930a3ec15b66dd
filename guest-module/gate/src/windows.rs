//! The port and the windows: which PCI function is which, and whether it still is (DESIGN
//! sections 6 and 10).

use sivshm_abi::control;
use sivshm_abi::directory::{DirectoryHead, PciPlace, VERSION, WindowEntry};
use sivshm_abi::frame::{Payload, Reason};
use sivshm_abi::limits::MAX_WINDOWS;
use sivshm_abi::wire::Reader;
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, Side};

use crate::complaint::Complaint;
use crate::errno::Errno;
use crate::{Gate, Link};

/// Number of a window in the directory's table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowNumber(pub u16);

/// The directory's table, and what was claimed of it.
#[derive(Debug)]
pub(crate) struct Windows([Line; MAX_WINDOWS]);

#[derive(Clone, Copy, Debug)]
struct Line {
    entry: Option<WindowEntry>,
    /// Where the function's memory was when it was claimed.
    claimed_at: Option<u64>,
}

impl Windows {
    const UNUSED: Line = Line {
        entry: None,
        claimed_at: None,
    };

    pub(crate) const fn new() -> Self {
        Self([Self::UNUSED; MAX_WINDOWS])
    }

    /// What the directory says about a window.
    pub(crate) fn entry(&self, number: WindowNumber) -> Option<&WindowEntry> {
        self.0.get(usize::from(number.0))?.entry.as_ref()
    }

    /// Whether a window's memory is there to be mapped.
    pub(crate) fn is_claimed(&self, number: WindowNumber) -> bool {
        (self.0.get(usize::from(number.0))).is_some_and(|line| line.claimed_at.is_some())
    }

    /// Whether every window is claimed that a PCI function shows.
    pub(crate) fn complete(&self) -> bool {
        (self.0.iter()).all(|line| {
            line.claimed_at.is_some() || line.entry.is_none_or(|entry| entry.place.is_none())
        })
    }
}

impl Gate {
    /// Binds the port whose memory is `control`, if it is one: its directory must have our magic.
    ///
    /// `boot` is random, from this binding of the port; it makes `HELLO` and the numbers of
    /// sessions differ from those of any driver before. Windows that are claimed stay claimed if
    /// the directory says the same about them. Effects are due afterwards.
    ///
    /// # Errors
    /// [`Errno::NoDevice`] if the memory is not a port's, [`Errno::Taken`] if there is a port
    /// already, [`Errno::BadDirectory`] if the directory is of another version or makes no sense.
    pub fn attach(&mut self, control: Shared, boot: [u8; 16]) -> Result<(), Errno> {
        if control.len() as u64 != control::CONTROL_BYTES
            || control.load_u64(0) != Ok(sivshm_abi::directory::MAGIC)
        {
            return Err(Errno::NoDevice);
        }
        if self.link.is_some() {
            return Err(Errno::Taken);
        }
        let mut space = [0; DirectoryHead::BYTES];
        let bad = |_| Errno::BadDirectory;
        control.copy_out(0, &mut space).map_err(bad)?;
        let head =
            DirectoryHead::read(&mut Reader::new(&space)).map_err(|_| Errno::BadDirectory)?;
        for (number, line) in self.windows.0.iter_mut().enumerate() {
            let mut entry = None;
            if number < usize::from(head.windows) {
                let mut space = [0; WindowEntry::BYTES];
                let offset = DirectoryHead::BYTES + number * WindowEntry::BYTES;
                control.copy_out(offset, &mut space).map_err(bad)?;
                let read = WindowEntry::read(&mut Reader::new(&space));
                entry = Some(read.map_err(|_| Errno::BadDirectory)?);
            }
            if line.entry != entry {
                *line = Line {
                    entry,
                    claimed_at: None,
                };
            }
        }
        let rings = ControlRings::new(control, Side::Guest).map_err(bad)?;
        self.sessions.start_numbers_at(&boot);
        self.due.hello = Some(Payload::Hello {
            version: VERSION,
            boot,
        });
        self.link = Some(Link { rings, head });
        Ok(())
    }

    /// Lets go of the port: every session and grant ends, and the control memory is not touched
    /// again. Effects are due afterwards.
    pub fn detach(&mut self) {
        self.sever(Reason::PeerGone);
    }

    /// What the directory says about this VM, while a port is bound.
    #[must_use]
    pub fn directory(&self) -> Option<&DirectoryHead> {
        self.link.as_ref().map(|link| &link.head)
    }

    /// Which window the PCI function at `place` with a memory of `bytes` bytes is.
    ///
    /// # Errors
    /// [`Errno::PortFirst`] without a port, [`Errno::NoDevice`] if the directory names no window
    /// of this size there, [`Errno::Taken`] if it is claimed.
    pub fn find(&self, place: PciPlace, bytes: u64) -> Result<WindowNumber, Errno> {
        self.link.as_ref().ok_or(Errno::PortFirst)?;
        let mut lines = (0..).map(WindowNumber).zip(&self.windows.0);
        let (number, line) = lines
            .find(|(_, line)| {
                (line.entry).is_some_and(|entry| (entry.place, entry.bytes) == (Some(place), bytes))
            })
            .ok_or(Errno::NoDevice)?;
        match line.claimed_at {
            Some(_) => Err(Errno::Taken),
            None => Ok(number),
        }
    }

    /// Claims a window, whose memory of `bytes` bytes is ready to be mapped; its BAR says
    /// `address`. Effects are due afterwards: sessions are announced once every window is claimed
    /// that a PCI function shows.
    ///
    /// # Errors
    /// [`Errno::NoDevice`] if the directory names no such window of this size, [`Errno::Taken`] if
    /// it is claimed.
    pub fn claim(&mut self, window: WindowNumber, bytes: u64, address: u64) -> Result<(), Errno> {
        let line = (self.windows.0.get_mut(usize::from(window.0))).ok_or(Errno::NoDevice)?;
        if line.entry.is_none_or(|entry| entry.bytes != bytes) {
            return Err(Errno::NoDevice);
        }
        if line.claimed_at.is_some() {
            return Err(Errno::Taken);
        }
        line.claimed_at = Some(address);
        Ok(())
    }

    /// Claims a window by its number alone: its memory came as a descriptor and has no BAR.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_number(&mut self, window: WindowNumber, bytes: u64) -> Result<(), Errno> {
        self.claim(window, bytes, 0)
    }

    /// Gives a window's memory up: sessions that hold a grant in it end. Effects are due.
    pub fn unclaim(&mut self, window: WindowNumber) {
        if let Some(line) = self.windows.0.get_mut(usize::from(window.0)) {
            line.claimed_at = None;
        }
        while let Some(session) = self.grants.holder_in(window) {
            self.end_session(session, Reason::Admin);
        }
    }

    /// Judges where a claimed window's memory is now. Call it for each before [`Self::receive`]: a
    /// BAR that was moved over another would alias two slices, so every grant ends if one moved.
    pub fn observe(&mut self, window: WindowNumber, address: u64) {
        let line = self.windows.0.get(usize::from(window.0));
        if line.is_some_and(|line| line.claimed_at.is_some_and(|at| at != address)) {
            self.give_up(Complaint::Moved(window));
        }
    }
}
