//! `agreed`: the reader's word that it has verified the whole exchange.

use sivshm_abi::wire::{Malformed, Reader};

use super::field::{read_label, write_text};
use super::{Hash, Maced};

const LABEL: &str = "sivshm-service/1 agreed";

/// What the reader has agreed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AgreedBody {
    /// SHA-256 of the whole `confirm`.
    pub confirm: Hash,
}

impl AgreedBody {
    /// The bytes that the MAC is over.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::new();
        write_text(&mut to, LABEL);
        to.extend(self.confirm.0);
        to
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        read_label(from, LABEL, "agreed.label")?;
        Ok(Self {
            confirm: Hash(from.array("agreed.confirm")?),
        })
    }
}

/// `agreed`: the reader has verified the `confirm`. Without its MAC a device process could say so in
/// the reader's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Agreed {
    /// What the MAC is over.
    pub body: AgreedBody,
    /// Over the body, by a key that only the two services have.
    pub mac: [u8; 32],
}

impl Agreed {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.append(&mut self.body.to_bytes());
        to.extend(self.mac);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            body: AgreedBody::read(from)?,
            mac: from.array("agreed.mac")?,
        })
    }
}

impl Maced for Agreed {
    fn maced_bytes(&self) -> Vec<u8> {
        self.body.to_bytes()
    }

    fn mac(&self) -> &[u8; 32] {
        &self.mac
    }
}
