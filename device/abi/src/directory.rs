//! The directory: what the device process tells the guest about its port and windows (DESIGN
//! section 6, `docs/port.md`). Written by the host only; a guest learns geometry from nowhere else.

use crate::grant::{Access, Generation};
use crate::limits::{
    MAX_GRANTS, MAX_SESSIONS, MAX_SLICE_BYTES, MAX_VECTORS, MAX_WINDOWS, PAGE_BYTES,
};
use crate::name::VmName;
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// First eight bytes of the control memory: `SIVSHM1` and a zero.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SIVSHM1\0");

/// Version of this layout.
pub const VERSION: u32 = 1;

/// Place of a PCI function below a root port, as the VMM was told and as firmware can't change.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PciPlace {
    /// `slot << 3 | function` of the root port on the root bus.
    pub root: u8,
    /// `slot << 3 | function` of the function below that root port.
    pub function: u8,
}

/// Number of a slice in the policy's plan.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SliceId(pub u32);

/// One line of the window table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowEntry {
    /// Which slice it shows.
    pub slice: SliceId,
    /// Whether this VM is the slice's writer.
    pub access: Access,
    /// Where its function is; absent beyond [`crate::limits::MAX_PCI_WINDOWS`].
    pub place: Option<PciPlace>,
    /// Bytes; a power of two.
    pub bytes: u64,
    /// Generation of the slice.
    pub generation: Generation,
}

/// Everything before the window table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirectoryHead {
    /// The VM that this directory belongs to.
    pub vm: VmName,
    /// Random identifier of this run of the device process.
    pub instance: [u8; 16],
    /// Counts changes of the directory within this run.
    pub generation: u64,
    /// Vectors of the port.
    pub vectors: u16,
    /// Lines of the window table.
    pub windows: u16,
    /// Most sessions that this VM may have at a time.
    pub max_sessions: u16,
    /// Most grants that this VM may hold at a time.
    pub max_grants: u16,
}

impl DirectoryHead {
    /// Bytes of the head; the window table follows at once.
    pub const BYTES: usize = 128;

    /// Writes the head.
    ///
    /// # Errors
    /// [`NoSpace`] if the writer has less than [`Self::BYTES`] left.
    pub fn write(&self, to: &mut Writer<'_>) -> Result<(), NoSpace> {
        to.u64(MAGIC)?;
        to.u32(VERSION)?;
        to.u16(self.vectors)?;
        to.u16(self.windows)?;
        to.u16(self.max_sessions)?;
        to.u16(self.max_grants)?;
        to.u32(0)?;
        to.u64(self.generation)?;
        to.bytes(&self.instance)?;
        to.bytes(&self.vm.to_field())?;
        to.bytes(&[0; 48])
    }

    /// Reads the head.
    ///
    /// # Errors
    /// Another magic or version, or a number above this build's limits.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        if from.u64("directory.magic")? != MAGIC {
            return Err(Malformed::BadValue("directory.magic"));
        }
        if from.u32("directory.version")? != VERSION {
            return Err(Malformed::BadValue("directory.version"));
        }
        let vectors = from.u16("directory.vectors")?;
        let windows = from.u16("directory.windows")?;
        let max_sessions = from.u16("directory.max_sessions")?;
        let max_grants = from.u16("directory.max_grants")?;
        from.u32("directory.reserved")?;
        let generation = from.u64("directory.generation")?;
        let instance = from.array("directory.instance")?;
        let vm = VmName::from_field(&from.array("directory.vm")?)
            .map_err(|_| Malformed::BadValue("directory.vm"))?;
        from.bytes(48, "directory.reserved")?;
        let bounds = [
            (usize::from(vectors), MAX_VECTORS, "vectors"),
            (usize::from(windows), MAX_WINDOWS, "windows"),
            (usize::from(max_sessions), MAX_SESSIONS, "sessions"),
            (usize::from(max_grants), MAX_GRANTS, "grants"),
        ];
        for (got, max, what) in bounds {
            if got > max {
                return Err(Malformed::TooMany { what, max });
            }
        }
        if vectors == 0 {
            return Err(Malformed::BadValue("directory.vectors"));
        }
        Ok(Self {
            vm,
            instance,
            generation,
            vectors,
            windows,
            max_sessions,
            max_grants,
        })
    }
}

/// Place on the wire of a window that no PCI function shows.
const NO_PLACE: u8 = u8::MAX;

impl WindowEntry {
    /// Bytes of one line.
    pub const BYTES: usize = 48;

    /// Writes the line.
    ///
    /// # Errors
    /// [`NoSpace`] if the writer has less than [`Self::BYTES`] left.
    pub fn write(&self, to: &mut Writer<'_>) -> Result<(), NoSpace> {
        let place = self.place.unwrap_or(PciPlace {
            root: NO_PLACE,
            function: NO_PLACE,
        });
        to.u32(self.slice.0)?;
        to.u8(self.access.code())?;
        to.u8(place.root)?;
        to.u8(place.function)?;
        to.u8(0)?;
        to.u64(self.bytes)?;
        to.u64(self.generation.0)?;
        to.bytes(&[0; 24])
    }

    /// Reads one line.
    ///
    /// # Errors
    /// A value that no window has: an unknown access, a size that is no power of two or smaller
    /// than a page or larger than a slice can be.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let slice = SliceId(from.u32("window.slice")?);
        let access = Access::from_code(from.u8("window.access")?)?;
        let root = from.u8("window.root")?;
        let function = from.u8("window.function")?;
        from.u8("window.reserved")?;
        let bytes = from.u64("window.bytes")?;
        let generation = Generation(from.u64("window.generation")?);
        from.bytes(24, "window.reserved")?;
        if !bytes.is_power_of_two() || !(PAGE_BYTES..=MAX_SLICE_BYTES).contains(&bytes) {
            return Err(Malformed::BadValue("window.bytes"));
        }
        let place =
            (root != NO_PLACE || function != NO_PLACE).then_some(PciPlace { root, function });
        Ok(Self {
            slice,
            access,
            place,
            bytes,
            generation,
        })
    }
}

const _: () = assert!(
    (DirectoryHead::BYTES + MAX_WINDOWS * WindowEntry::BYTES) as u64
        <= crate::control::DIRECTORY_BYTES
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_line_survive_the_wire() {
        let head = DirectoryHead {
            vm: VmName::new("ivi").unwrap(),
            instance: [7; 16],
            generation: 3,
            vectors: 32,
            windows: 62,
            max_sessions: 64,
            max_grants: 1024,
        };
        let line = WindowEntry {
            slice: SliceId(5),
            access: Access::ReadOnly,
            place: Some(PciPlace {
                root: 0x80,
                function: 1,
            }),
            bytes: 1 << 24,
            generation: Generation(1),
        };
        let mut bytes = [0; DirectoryHead::BYTES + WindowEntry::BYTES];
        let mut writer = Writer::new(&mut bytes);
        head.write(&mut writer).unwrap();
        line.write(&mut writer).unwrap();
        assert_eq!(writer.written(), DirectoryHead::BYTES + WindowEntry::BYTES);
        let mut reader = Reader::new(&bytes);
        assert_eq!(DirectoryHead::read(&mut reader), Ok(head));
        assert_eq!(WindowEntry::read(&mut reader), Ok(line));
    }

    #[test]
    fn a_window_that_is_no_power_of_two_is_refused() {
        let mut bytes = [0; WindowEntry::BYTES];
        bytes[4] = 1;
        bytes[8] = 3;
        assert_eq!(
            WindowEntry::read(&mut Reader::new(&bytes)),
            Err(Malformed::BadValue("window.bytes"))
        );
    }
}
