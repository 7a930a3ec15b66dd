//! Grants: who may do what to which byte range of which window (DESIGN sections 2, 7, 9).

use crate::name::{ChannelName, VmName};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// What a grant or a window lets its holder do to memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// Load only.
    ReadOnly,
    /// Load and store; exactly one VM has this for any byte (I1).
    ReadWrite,
}

impl Access {
    /// The value on the wire: 1 read-only, 2 read-write.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::ReadOnly => 1,
            Self::ReadWrite => 2,
        }
    }

    /// Reads the value on the wire.
    ///
    /// # Errors
    /// Any other value.
    pub const fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::ReadOnly),
            2 => Ok(Self::ReadWrite),
            _ => Err(Malformed::BadValue("access")),
        }
    }

    /// Whether stores are allowed.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::ReadWrite)
    }
}

/// What protects the slots of a ring beyond the one writer of every byte (DESIGN section 11).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Integrity {
    /// Nothing: the bytes come from the writer's VM.
    #[default]
    None,
    /// A counter, an identifier and CRC-32C: the communication faults of AUTOSAR E2E are detected.
    Crc32c,
    /// AES-128-GCM with the keys of the service handshake: the bytes come from the service, and
    /// nobody between the two reads them.
    Aead,
}

/// Every integrity suite with its number and the word of the policy.
pub const INTEGRITIES: &[(Integrity, u8, &str)] = &[
    (Integrity::None, 0, "none"),
    (Integrity::Crc32c, 1, "crc32c"),
    (Integrity::Aead, 2, "aead"),
];

impl Integrity {
    /// The value on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Crc32c => 1,
            Self::Aead => 2,
        }
    }

    /// Reads the value on the wire.
    ///
    /// # Errors
    /// Any other value.
    pub const fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Crc32c),
            2 => Ok(Self::Aead),
            _ => Err(Malformed::BadValue("integrity")),
        }
    }

    /// The word of the policy.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crc32c => "crc32c",
            Self::Aead => "aead",
        }
    }
}

/// How a channel's bytes are organised (DESIGN section 11, `docs/channels.md`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Raw bytes with a sequence number and a length.
    Region,
    /// Slots of a fixed size in a ring.
    Ring {
        /// Bytes of payload in each slot.
        slot_bytes: u32,
        /// Whether a full ring makes the producer overwrite the oldest slot instead of wait.
        overwrite: bool,
        /// What protects each slot.
        integrity: Integrity,
    },
}

/// Which part of a channel a grant covers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Part {
    /// The channel's range in the writer's slice.
    Data,
    /// The acknowledgement line of reader number `.0` (in the policy's order), in that reader's
    /// slice.
    Ack(u8),
}

/// Number of a grant, chosen by the device process, unique within one of its runs and never 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GrantId(pub u32);

/// Monotonic number of a grant; a gate refuses one at or below the last it has seen revoked for
/// the same channel part.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Generation(pub u64);

/// Identifier of a ringable peer on one port. 0 is the VM's own device process; an identifier is
/// never used again after its peer has left (QEMU aborts if it is).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RingId(pub u16);

/// MSI-X vector of a port: 0 is control, `1 + i` is peer `i` of the plan.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vector(pub u16);

/// The peer at the other end of a granted part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GrantPeer {
    /// The VM.
    pub vm: VmName,
    /// How to ring it.
    pub ring: RingId,
    /// The own vector on which it rings back.
    pub vector: Vector,
}

/// One granted range, as the `GRANT` frame carries it.
///
/// A writer of a channel with `n` readers holds one `Data` grant (read-write, no peer) and `n`
/// `Ack` grants (read-only, each with its reader as peer). A reader holds one `Data` grant
/// (read-only) and its own `Ack` grant (read-write), both with the writer as peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// Its generation.
    pub generation: Generation,
    /// The channel.
    pub channel: ChannelName,
    /// The channel's kind and geometry.
    pub kind: Kind,
    /// Which part of the channel.
    pub part: Part,
    /// Readers of the channel, so that a session knows when it has all parts of its end.
    pub readers: u8,
    /// What the holder may do.
    pub access: Access,
    /// Number of the window in the directory's table.
    pub window: u16,
    /// First byte within the window; a multiple of the page size.
    pub offset: u64,
    /// Bytes; a multiple of the page size.
    pub length: u64,
    /// One pairing of the channel's two ends; differs after either end has restarted.
    pub epoch: u64,
    /// Second of Unix time at which the grant ends; 0 for a grant that ends with its session.
    pub expiry: u64,
    /// The other end of this part; none for a writer's `Data`.
    pub peer: Option<GrantPeer>,
}

/// Ring identifier on the wire of a grant without a peer.
const NO_PEER: u16 = u16::MAX;
const KIND_REGION: u8 = 1;
const KIND_RING: u8 = 2;
const PART_DATA: u8 = 0;
const PART_ACK: u8 = 1;

impl Grant {
    /// Bytes of a grant on the wire.
    pub const BYTES: usize = 136;

    /// Appends the grant.
    ///
    /// # Errors
    /// [`NoSpace`] if the writer has less than [`Self::BYTES`] left.
    pub fn write(&self, to: &mut Writer<'_>) -> Result<(), NoSpace> {
        let (kind, slot_bytes, overwrite, integrity) = match self.kind {
            Kind::Region => (KIND_REGION, 0, 0, Integrity::None),
            Kind::Ring {
                slot_bytes,
                overwrite,
                integrity,
            } => (KIND_RING, slot_bytes, u8::from(overwrite), integrity),
        };
        let (part, reader) = match self.part {
            Part::Data => (PART_DATA, 0),
            Part::Ack(reader) => (PART_ACK, reader),
        };
        let (ring, vector, vm) = match self.peer {
            Some(peer) => (peer.ring.0, peer.vector.0, peer.vm.to_field()),
            None => (NO_PEER, 0, [0; VmName::FIELD_BYTES]),
        };
        to.u32(self.id.0)?;
        to.u8(kind)?;
        to.u8(overwrite)?;
        to.u8(part)?;
        to.u8(reader)?;
        to.u8(self.readers)?;
        to.u8(self.access.code())?;
        to.u16(self.window)?;
        to.u32(slot_bytes)?;
        to.u64(self.generation.0)?;
        to.u64(self.offset)?;
        to.u64(self.length)?;
        to.u64(self.epoch)?;
        to.u64(self.expiry)?;
        to.bytes(&self.channel.to_field())?;
        to.bytes(&vm)?;
        to.u16(ring)?;
        to.u16(vector)?;
        to.u8(integrity.code())?;
        to.bytes(&[0; 11])
    }

    /// Reads a grant.
    ///
    /// # Errors
    /// A value that no valid grant has. Whether the range lies inside its window is the gate's
    /// decision, which knows the windows.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = GrantId(from.u32("grant.id")?);
        let kind = from.u8("grant.kind")?;
        let overwrite = from.u8("grant.overwrite")?;
        let part = from.u8("grant.part")?;
        let reader = from.u8("grant.reader")?;
        let readers = from.u8("grant.readers")?;
        let access = Access::from_code(from.u8("grant.access")?)?;
        let window = from.u16("grant.window")?;
        let slot_bytes = from.u32("grant.slot_bytes")?;
        let part = match (part, reader) {
            (PART_DATA, 0) => Part::Data,
            (PART_ACK, reader) if reader < readers => Part::Ack(reader),
            _ => return Err(Malformed::BadValue("grant.part")),
        };
        let generation = Generation(from.u64("grant.generation")?);
        let offset = from.u64("grant.offset")?;
        let length = from.u64("grant.length")?;
        let epoch = from.u64("grant.epoch")?;
        let expiry = from.u64("grant.expiry")?;
        let channel = ChannelName::from_field(&from.array("grant.channel")?)
            .map_err(|_| Malformed::BadValue("grant.channel"))?;
        let vm: [u8; VmName::FIELD_BYTES] = from.array("grant.peer")?;
        let ring = from.u16("grant.ring")?;
        let vector = from.u16("grant.vector")?;
        let integrity = Integrity::from_code(from.u8("grant.integrity")?)?;
        let kind = match (kind, slot_bytes, overwrite, integrity) {
            (KIND_REGION, 0, 0, Integrity::None) => Kind::Region,
            (KIND_RING, 1.., 0 | 1, _) => Kind::Ring {
                slot_bytes,
                overwrite: overwrite == 1,
                integrity,
            },
            _ => return Err(Malformed::BadValue("grant.kind")),
        };
        if from.array::<11>("grant.reserved")? != [0; 11] {
            return Err(Malformed::BadValue("grant.reserved"));
        }
        let peer = if ring == NO_PEER {
            if vector != 0 || vm.iter().any(|byte| *byte != 0) {
                return Err(Malformed::BadValue("grant.peer"));
            }
            None
        } else {
            let vm = VmName::from_field(&vm).map_err(|_| Malformed::BadValue("grant.peer"))?;
            Some(GrantPeer {
                vm,
                ring: RingId(ring),
                vector: Vector(vector),
            })
        };
        if id.0 == 0 || readers == 0 {
            return Err(Malformed::BadValue("grant.id"));
        }
        Ok(Self {
            id,
            generation,
            channel,
            kind,
            part,
            readers,
            access,
            window,
            offset,
            length,
            epoch,
            expiry,
            peer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            id: GrantId(7),
            generation: Generation(9),
            channel: ChannelName::new("job-1").unwrap(),
            kind: Kind::Ring {
                slot_bytes: 4096,
                overwrite: false,
                integrity: Integrity::Aead,
            },
            part: Part::Ack(1),
            readers: 2,
            access: Access::ReadOnly,
            window: 3,
            offset: 4096,
            length: 8192,
            epoch: 11,
            expiry: 0,
            peer: Some(GrantPeer {
                vm: VmName::new("worker-1").unwrap(),
                ring: RingId(2),
                vector: Vector(1),
            }),
        }
    }

    fn bytes(grant: &Grant) -> [u8; Grant::BYTES] {
        let mut bytes = [0; Grant::BYTES];
        let mut writer = Writer::new(&mut bytes);
        grant.write(&mut writer).unwrap();
        assert_eq!(writer.written(), Grant::BYTES);
        bytes
    }

    #[test]
    fn a_grant_survives_the_wire() {
        for grant in [
            grant(),
            Grant {
                part: Part::Data,
                peer: None,
                kind: Kind::Region,
                ..grant()
            },
        ] {
            let bytes = bytes(&grant);
            let mut reader = Reader::new(&bytes);
            assert_eq!(Grant::read(&mut reader), Ok(grant));
            assert_eq!(reader.finish("grant"), Ok(()));
        }
    }

    #[test]
    fn a_reader_beyond_the_channels_readers_is_refused() {
        let bytes = bytes(&Grant {
            part: Part::Ack(2),
            ..grant()
        });
        assert_eq!(
            Grant::read(&mut Reader::new(&bytes)),
            Err(Malformed::BadValue("grant.part"))
        );
    }
}
