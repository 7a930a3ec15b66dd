//! `accept`: the reader's signed answer to an `open`.

use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_abi::wire::{Malformed, Reader};

use super::field::{read_id, read_label, write_id, write_text};
use super::{Chain, Hash, Maced, Role, Signature};
use crate::service::limits::MAX_SPIFFE_ID_BYTES;

const LABEL: &str = "sivshm-service/1 accept";

/// What the reader signs. Its role is no field: who accepts reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptBody {
    /// [`super::Open::hash`] of the `open` that it accepts.
    pub open: Hash,
    /// The reader.
    pub reader: SpiffeId,
    /// The writer.
    pub writer: SpiffeId,
    /// [`Chain::hash`] of the reader's chain.
    pub chain: Hash,
    /// Random bytes.
    pub nonce: [u8; 32],
    /// X25519 public key, made for this `accept`.
    pub key: [u8; 32],
}

impl AcceptBody {
    const MAX_BYTES: usize = 1 + LABEL.len() + 2 * (1 + MAX_SPIFFE_ID_BYTES) + 1 + 4 * 32;

    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::MAX_BYTES);
        write_text(&mut to, LABEL);
        to.extend(self.open.0);
        write_id(&mut to, self.reader);
        write_id(&mut to, self.writer);
        to.push(Role::Reader.code());
        to.extend(self.chain.0);
        to.extend(self.nonce);
        to.extend(self.key);
        to
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        read_label(from, LABEL, "accept.label")?;
        let open = Hash(from.array("accept.open")?);
        let reader = read_id(from, "accept.reader")?;
        let writer = read_id(from, "accept.writer")?;
        Role::Reader.expect(from, "accept.role")?;
        Ok(Self {
            open,
            reader,
            writer,
            chain: Hash(from.array("accept.chain")?),
            nonce: from.array("accept.nonce")?,
            key: from.array("accept.key")?,
        })
    }
}

/// `accept`: the reader's signed answer to an `open`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accept {
    /// What is signed.
    pub body: AcceptBody,
    /// The reader's SVID.
    pub chain: Chain,
    /// Over the body.
    pub signature: Signature,
    /// Over body and signature, by a key that only the two services have.
    pub mac: [u8; 32],
}

impl Accept {
    /// Bytes of the longest `accept`, with its type and pairing, apart from its chain.
    pub(crate) const MAX_BYTES_WITHOUT_CHAIN: usize = ChannelName::FIELD_BYTES
        + 1
        + MAX_SPIFFE_ID_BYTES
        + AcceptBody::MAX_BYTES
        + Signature::MAX_BYTES
        + 32;

    /// Body, chain and signature: what the keys are derived from.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        let mut to = self.body.to_bytes();
        self.chain.write(&mut to);
        self.signature.write(&mut to);
        to
    }

    /// Body, chain, signature and MAC.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = self.signed_bytes();
        to.extend(self.mac);
        to
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.append(&mut self.to_bytes());
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            body: AcceptBody::read(from)?,
            chain: Chain::read(from)?,
            signature: Signature::read(from)?,
            mac: from.array("accept.mac")?,
        })
    }
}

impl Maced for Accept {
    fn maced_bytes(&self) -> Vec<u8> {
        let mut to = self.body.to_bytes();
        self.signature.write(&mut to);
        to
    }

    fn mac(&self) -> &[u8; 32] {
        &self.mac
    }
}
