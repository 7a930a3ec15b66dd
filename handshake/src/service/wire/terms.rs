//! `terms`: what a device process's own plan says about a pairing.

use sivshm_abi::grant::{Generation, Kind};
use sivshm_abi::wire::{Malformed, Reader};

use super::Role;
use super::field::{read_kind, write_kind};
use crate::wire::Contract;

/// `terms`: what a device process's own plan says about a pairing, for its service to sign or to
/// compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Terms {
    /// The contract between the two VMs.
    pub contract: Contract,
    /// Serial number of the policy.
    pub serial: u64,
    /// The channel's kind, geometry and integrity.
    pub kind: Kind,
    /// Generation of the slice that holds the channel's data.
    pub slice_generation: Generation,
    /// Random identifier of this boot of the host.
    pub host_boot: [u8; 16],
    /// The end that the service has.
    pub role: Role,
    /// The reader's number among the channel's readers, from 0.
    pub reader: u8,
    /// Readers of the channel.
    pub readers: u8,
}

impl Terms {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.contract.0);
        to.extend(self.serial.to_le_bytes());
        write_kind(to, self.kind);
        to.extend(self.slice_generation.0.to_le_bytes());
        to.extend(self.host_boot);
        to.extend([self.role.code(), self.reader, self.readers]);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let terms = Self {
            contract: Contract(from.array("terms.contract")?),
            serial: from.u64("terms.serial")?,
            kind: read_kind(from, "terms.kind")?,
            slice_generation: Generation(from.u64("terms.slice_generation")?),
            host_boot: from.array("terms.host_boot")?,
            role: Role::from_code(from.u8("terms.role")?)?,
            reader: from.u8("terms.reader")?,
            readers: from.u8("terms.readers")?,
        };
        if terms.reader >= terms.readers {
            return Err(Malformed::BadValue("terms.reader"));
        }
        Ok(terms)
    }
}
