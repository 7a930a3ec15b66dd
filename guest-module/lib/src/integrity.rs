//! Integrity of a ring's slots: what a seal covers, and what it proves (DESIGN section 11,
//! `docs/channels.md` section 6).
//!
//! [`Sender`] and [`Receiver`] are [`crate::Producer`] and [`crate::Consumer`] less their session:
//! rings over memory that the caller has mapped, for benchmarks and for programs with their own way
//! to share memory and to sleep.

mod cipher;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use sha2::{Digest as _, Sha256};
use sivshm_abi::channel::slot::TAG_BYTES;
use sivshm_abi::grant::Integrity;
use sivshm_abi::name::ChannelName;
use sivshm_ring::slots::{Header, IntegrityFault, Seal};

use cipher::Cipher;

pub use cipher::Keys;
pub use receiver::Receiver;
pub use sender::{Loan, Sender};

/// Bytes of identifier, number and length: the part of a slot's header that seals cover.
const COVERED_BYTES: usize = 20;

/// Why a ring with `aead` can't be used, or not any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyFault {
    /// The opening of the channel brought no key.
    #[error("the channel was opened without a key for its data")]
    Missing,
    /// The key may have sealed a slot of the same number before, or has sealed as much as it may.
    #[error("the channel's key is used up: open the channel again")]
    Spent,
}

/// What makes and proves the seals of one channel in one epoch.
#[derive(Debug)]
pub struct Suite {
    identifier: u64,
    /// `aead`.
    cipher: Option<Cipher>,
}

impl Suite {
    /// The suite of a channel, none for [`Integrity::None`]. `keys` are needed for `aead` alone.
    ///
    /// # Errors
    /// [`KeyFault::Missing`] if keys are needed and there are none.
    pub fn new(
        integrity: Integrity,
        channel: ChannelName,
        epoch: u64,
        keys: Option<Keys<'_>>,
    ) -> Result<Option<Self>, KeyFault> {
        let cipher = match integrity {
            Integrity::None => return Ok(None),
            Integrity::Crc32c => None,
            Integrity::Aead => {
                let cipher = keys.as_ref().and_then(Cipher::new);
                Some(cipher.ok_or(KeyFault::Missing)?)
            }
        };
        Ok(Some(Self {
            identifier: identifier(channel, epoch),
            cipher,
        }))
    }

    /// Seals a payload for the slot with this number, and encrypts it if that is the suite.
    ///
    /// # Errors
    /// [`KeyFault::Spent`]
    fn seal(&mut self, number: u64, payload: &mut [u8]) -> Result<Seal, KeyFault> {
        let covered = covered(self.identifier, number, length(payload));
        let Some(cipher) = &mut self.cipher else {
            return Ok(self.seal_plain(number, payload));
        };
        Ok(Seal {
            crc: crc32c::crc32c(&covered),
            identifier: self.identifier,
            tag: cipher.seal(number, &covered, payload)?,
        })
    }

    /// As [`Self::seal`], by CRC-32C alone.
    fn seal_plain(&self, number: u64, payload: &[u8]) -> Seal {
        let covered = covered(self.identifier, number, length(payload));
        Seal {
            crc: crc32c::crc32c_append(crc32c::crc32c(&covered), payload),
            identifier: self.identifier,
            tag: [0; TAG_BYTES],
        }
    }

    /// Proves a slot's seal and decrypts its payload.
    ///
    /// # Errors
    /// [`IntegrityFault::Corruption`], [`IntegrityFault::Masquerading`]; the payload is of no use
    /// then.
    fn open(&self, header: &Header, payload: &mut [u8]) -> Result<(), IntegrityFault> {
        let Seal {
            crc,
            identifier,
            tag,
        } = header.seal;
        let covered = covered(identifier, header.number, header.length);
        let sum = crc32c::crc32c(&covered);
        let sum = match self.cipher {
            None => crc32c::crc32c_append(sum, payload),
            Some(_) => sum,
        };
        if sum != crc {
            return Err(IntegrityFault::Corruption);
        }
        if identifier != self.identifier {
            return Err(IntegrityFault::Masquerading);
        }
        match &self.cipher {
            None => Ok(()),
            Some(cipher) => cipher.open(header.number, &covered, tag, payload),
        }
    }
}

/// Tells slots of this channel and epoch from all others: the first eight bytes of the SHA-256 of
/// both.
fn identifier(channel: ChannelName, epoch: u64) -> u64 {
    let digest = Sha256::new()
        .chain_update(channel.to_field())
        .chain_update(epoch.to_le_bytes())
        .finalize();
    let first = digest.first_chunk();
    u64::from_le_bytes(first.copied().unwrap_or_default())
}

fn covered(identifier: u64, number: u64, length: u32) -> [u8; COVERED_BYTES] {
    let mut covered = [0; COVERED_BYTES];
    let fields = (identifier.to_le_bytes().into_iter())
        .chain(number.to_le_bytes())
        .chain(length.to_le_bytes());
    for (to, byte) in covered.iter_mut().zip(fields) {
        *to = byte;
    }
    covered
}

/// Bytes of a payload, of which a slot has fewer than 2^32.
fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}
