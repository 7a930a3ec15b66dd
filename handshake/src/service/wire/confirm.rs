//! `confirm`: the writer's signature over the whole exchange.

use sivshm_abi::wire::{Malformed, Reader};

use super::field::{read_label, write_text};
use super::{Hash, Maced, Signature};

const LABEL: &str = "sivshm-service/1 confirm";

/// What the writer signs at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfirmBody {
    /// SHA-256 of the whole `open` and the whole `accept`.
    pub exchange: Hash,
}

impl ConfirmBody {
    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::new();
        write_text(&mut to, LABEL);
        to.extend(self.exchange.0);
        to
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        read_label(from, LABEL, "confirm.label")?;
        Ok(Self {
            exchange: Hash(from.array("confirm.exchange")?),
        })
    }
}

/// `confirm`: the writer's signature over the whole exchange. Without it an old `open` would do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Confirm {
    /// What is signed.
    pub body: ConfirmBody,
    /// Over the body.
    pub signature: Signature,
    /// Over body and signature, by a key that only the two services have.
    pub mac: [u8; 32],
}

impl Confirm {
    /// Body, signature and MAC.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = self.maced_bytes();
        to.extend(self.mac);
        to
    }

    /// SHA-256 of the whole, which `agreed` and `installed` name.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.append(&mut self.to_bytes());
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            body: ConfirmBody::read(from)?,
            signature: Signature::read(from)?,
            mac: from.array("confirm.mac")?,
        })
    }
}

impl Maced for Confirm {
    fn maced_bytes(&self) -> Vec<u8> {
        let mut to = self.body.to_bytes();
        self.signature.write(&mut to);
        to
    }

    fn mac(&self) -> &[u8; 32] {
        &self.mac
    }
}
