//! `open`: the writer's signed offer to one reader.

use sivshm_abi::grant::{Generation, Kind};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::{ChannelName, TrustDomain};
use sivshm_abi::wire::{Malformed, Reader};

use super::field::{KIND_BYTES, read_id, read_kind, read_label, write_id, write_kind, write_text};
use super::pairing::read_channel;
use super::{Chain, Hash, Role, Signature};
use crate::service::limits::MAX_SPIFFE_ID_BYTES;
use crate::wire::Contract;

const LABEL: &str = "sivshm-service/1 open";
const VERSION: u16 = 1;

/// What the writer signs. Its role is no field: who opens writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenBody {
    /// The trust domain of both services.
    pub trust_domain: TrustDomain,
    /// The contract between the two VMs.
    pub contract: Contract,
    /// Serial number of the policy.
    pub serial: u64,
    /// The channel.
    pub channel: ChannelName,
    /// Its kind, geometry and integrity.
    pub kind: Kind,
    /// Generation of the slice that holds the channel's data.
    pub slice_generation: Generation,
    /// The pairing's epoch; never 0.
    pub epoch: u64,
    /// Random identifier of this boot of the host.
    pub host_boot: [u8; 16],
    /// The writer.
    pub writer: SpiffeId,
    /// The reader.
    pub reader: SpiffeId,
    /// [`Chain::hash`] of the writer's chain.
    pub chain: Hash,
    /// Random bytes.
    pub nonce: [u8; 32],
    /// X25519 public key, made for this `open`.
    pub key: [u8; 32],
    /// Second of Unix time at which the `open` ends.
    pub expiry: u64,
}

impl OpenBody {
    const MAX_BYTES: usize = 1
        + LABEL.len()
        + 2
        + TrustDomain::FIELD_BYTES
        + 32
        + 8
        + ChannelName::FIELD_BYTES
        + KIND_BYTES
        + 8
        + 8
        + 16
        + 2 * (1 + MAX_SPIFFE_ID_BYTES)
        + 1
        + 3 * 32
        + 8;

    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::MAX_BYTES);
        write_text(&mut to, LABEL);
        to.extend(VERSION.to_le_bytes());
        to.extend(self.trust_domain.to_field());
        to.extend(self.contract.0);
        to.extend(self.serial.to_le_bytes());
        to.extend(self.channel.to_field());
        write_kind(&mut to, self.kind);
        to.extend(self.slice_generation.0.to_le_bytes());
        to.extend(self.epoch.to_le_bytes());
        to.extend(self.host_boot);
        write_id(&mut to, self.writer);
        to.push(Role::Writer.code());
        write_id(&mut to, self.reader);
        to.extend(self.chain.0);
        to.extend(self.nonce);
        to.extend(self.key);
        to.extend(self.expiry.to_le_bytes());
        to
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        read_label(from, LABEL, "open.label")?;
        if from.u16("open.version")? != VERSION {
            return Err(Malformed::BadValue("open.version"));
        }
        let trust_domain = TrustDomain::from_field(&from.array("open.trust_domain")?)
            .map_err(|_| Malformed::BadValue("open.trust_domain"))?;
        let contract = Contract(from.array("open.contract")?);
        let serial = from.u64("open.serial")?;
        let channel = read_channel(from, "open.channel")?;
        let kind = read_kind(from, "open.kind")?;
        let slice_generation = Generation(from.u64("open.slice_generation")?);
        let epoch = from.u64("open.epoch")?;
        if epoch == 0 {
            return Err(Malformed::BadValue("open.epoch"));
        }
        let host_boot = from.array("open.host_boot")?;
        let writer = read_id(from, "open.writer")?;
        Role::Writer.expect(from, "open.role")?;
        Ok(Self {
            trust_domain,
            contract,
            serial,
            channel,
            kind,
            slice_generation,
            epoch,
            host_boot,
            writer,
            reader: read_id(from, "open.reader")?,
            chain: Hash(from.array("open.chain")?),
            nonce: from.array("open.nonce")?,
            key: from.array("open.key")?,
            expiry: from.u64("open.expiry")?,
        })
    }
}

/// `open`: the writer's signed offer to one reader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// What is signed.
    pub body: OpenBody,
    /// The writer's SVID.
    pub chain: Chain,
    /// Over the body.
    pub signature: Signature,
}

impl Open {
    /// Bytes of the longest `open`, with its type and pairing, apart from its chain.
    pub(crate) const MAX_BYTES_WITHOUT_CHAIN: usize = ChannelName::FIELD_BYTES
        + 1
        + MAX_SPIFFE_ID_BYTES
        + OpenBody::MAX_BYTES
        + Signature::MAX_BYTES;

    /// Body, chain and signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = self.body.to_bytes();
        self.chain.write(&mut to);
        self.signature.write(&mut to);
        to
    }

    /// SHA-256 of the whole.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.append(&mut self.to_bytes());
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            body: OpenBody::read(from)?,
            chain: Chain::read(from)?,
            signature: Signature::read(from)?,
        })
    }
}
