//! `hello`: who speaks and on what terms.

use std::fmt;

use sivshm_abi::wire::{Malformed, Reader};

/// SHA-256 of the contract between two VMs. Displays as hexadecimal.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Contract(pub [u8; 32]);

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contract({self})")
    }
}

/// `hello`: who speaks and on what terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hello {
    /// [`super::PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// The dialer's number of this connection; 0 from the listener.
    pub connection: u64,
    /// Random identifier of this run of the sender.
    pub instance: [u8; 16],
    /// Random identifier of this boot of the host.
    pub host_boot: [u8; 16],
    /// Serial number of the sender's policy.
    pub policy_serial: u64,
    /// The contract between the two VMs, as the sender's policy has it.
    pub contract: Contract,
}

impl Hello {
    /// Bytes of the payload.
    pub const BYTES: usize = 2 + 8 + 16 + 16 + 8 + 32;

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.version.to_le_bytes());
        to.extend(self.connection.to_le_bytes());
        to.extend(self.instance);
        to.extend(self.host_boot);
        to.extend(self.policy_serial.to_le_bytes());
        to.extend(self.contract.0);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            version: from.u16("hello.version")?,
            connection: from.u64("hello.connection")?,
            instance: from.array("hello.instance")?,
            host_boot: from.array("hello.host_boot")?,
            policy_serial: from.u64("hello.policy_serial")?,
            contract: Contract(from.array("hello.contract")?),
        })
    }
}
