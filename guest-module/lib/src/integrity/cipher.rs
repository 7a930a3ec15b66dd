//! The `aead` suite: AES-128-GCM with one key for one direction of one channel in one epoch.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sivshm_abi::channel::slot::TAG_BYTES;
use sivshm_ring::slots::IntegrityFault;

use super::{COVERED_BYTES, KeyFault};

/// Bytes of a nonce.
const NONCE_BYTES: usize = 12;

/// First byte of the nonces of data from a writer to its reader, the one direction there is.
const WRITER_TO_READER: u8 = 1;

/// Blocks of 16 bytes that one key may encrypt: 256 TiB, a day and more at the speed of memory.
///
/// Whoever sees `n` blocks tells them from noise with a probability of at most `n^2 / 2^129`: 2^-41.
const MAX_BLOCKS: u64 = 1 << 44;

/// The keys that the two services of a channel agreed on in an epoch.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// Key of AES-128.
    pub key: &'a [u8; 16],
    /// What nonces are made from.
    pub iv: &'a [u8; NONCE_BYTES],
}

/// A key in use.
#[derive(Debug)]
pub(super) struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_BYTES],
    /// Number of the last slot that was sealed.
    sealed: u64,
    /// Blocks that may still be encrypted.
    blocks: u64,
}

impl Cipher {
    pub(super) fn new(keys: &Keys<'_>) -> Option<Self> {
        let key = UnboundKey::new(&AES_128_GCM, keys.key).ok()?;
        Some(Self {
            key: LessSafeKey::new(key),
            iv: *keys.iv,
            sealed: 0,
            blocks: MAX_BLOCKS,
        })
    }

    /// Encrypts a payload and gives the tag.
    ///
    /// # Errors
    /// [`KeyFault::Spent`] unless `number` is above all before.
    pub(super) fn seal(
        &mut self,
        number: u64,
        covered: &[u8; COVERED_BYTES],
        payload: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], KeyFault> {
        let blocks = u64::try_from(payload.len().div_ceil(16)).map_err(|_| KeyFault::Spent)?;
        // One more encrypts the tag.
        let left = self.blocks.checked_sub(blocks.saturating_add(1));
        let (Some(left), true) = (left, number > self.sealed) else {
            return Err(KeyFault::Spent);
        };
        (self.sealed, self.blocks) = (number, left);
        let sealed =
            self.key
                .seal_in_place_separate_tag(self.nonce(number), Aad::from(covered), payload);
        let tag = sealed.map_err(|_| KeyFault::Spent)?;
        tag.as_ref().try_into().map_err(|_| KeyFault::Spent)
    }

    /// Proves the tag and decrypts the payload.
    ///
    /// # Errors
    /// [`IntegrityFault::Corruption`]
    pub(super) fn open(
        &self,
        number: u64,
        covered: &[u8; COVERED_BYTES],
        tag: [u8; TAG_BYTES],
        payload: &mut [u8],
    ) -> Result<(), IntegrityFault> {
        let (nonce, aad) = (self.nonce(number), Aad::from(covered));
        (self.key)
            .open_in_place_separate_tag(nonce, aad, tag.into(), payload, 0..)
            .map(|_| ())
            .map_err(|_| IntegrityFault::Corruption)
    }

    /// The nonce of a slot: direction, three zeros and number, added to the vector bit by bit.
    fn nonce(&self, number: u64) -> Nonce {
        let plain = [WRITER_TO_READER, 0, 0, 0].into_iter();
        let mut nonce = self.iv;
        for (to, byte) in nonce.iter_mut().zip(plain.chain(number.to_le_bytes())) {
            *to ^= byte;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys<'_> = Keys {
        key: &[7; 16],
        iv: &[9; NONCE_BYTES],
    };
    const COVERED: [u8; COVERED_BYTES] = [0; COVERED_BYTES];

    #[test]
    fn no_number_is_sealed_twice() {
        let mut cipher = Cipher::new(&KEYS).unwrap();
        for (number, fresh) in [(0, false), (2, true), (2, false), (1, false), (3, true)] {
            let sealed = cipher.seal(number, &COVERED, &mut [1; 5]);
            assert_eq!(sealed.is_ok(), fresh, "{number}");
        }
        assert!(cipher.seal(u64::MAX, &COVERED, &mut []).is_ok());
        assert!(matches!(
            cipher.seal(u64::MAX, &COVERED, &mut []),
            Err(KeyFault::Spent)
        ));
    }

    #[test]
    fn a_key_ends() {
        let mut cipher = Cipher::new(&KEYS).unwrap();
        cipher.blocks = 3;
        let mut payload = [1; 33];
        assert!(matches!(
            cipher.seal(1, &COVERED, &mut payload),
            Err(KeyFault::Spent)
        ));
        assert_eq!(payload, [1; 33]);
        assert!(cipher.seal(1, &COVERED, &mut payload[..32]).is_ok());
        assert!(cipher.seal(2, &COVERED, &mut []).is_err());
    }

    #[test]
    fn nonces_differ_in_every_byte_of_the_number() {
        let cipher = Cipher::new(&KEYS).unwrap();
        let nonces: std::collections::BTreeSet<_> = (0..64)
            .map(|bit| *cipher.nonce(1 << bit).as_ref())
            .collect();
        assert_eq!(nonces.len(), 64);
        let one = [8, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9];
        assert_eq!(cipher.nonce(1).as_ref(), &one);
    }
}
