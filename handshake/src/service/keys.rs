//! What only the two services know: the key schedule and the MACs.

use std::fmt;
use std::marker::PhantomData;

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::fault::{Proof, ServiceFault};
use super::wire::{Accept, Agreed, Confirm, Hash, Maced, Open, write_text};

const LABEL: &str = "sivshm-service/1 keys";
const PURPOSE_ACCEPT_MAC: u8 = 1;
const PURPOSE_CONFIRM_MAC: u8 = 2;
const PURPOSE_AGREED_MAC: u8 = 3;
const PURPOSE_DATA: u8 = 4;

/// Fresh random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], ServiceFault> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| ServiceFault::Crypto)?;
    Ok(bytes)
}

/// An X25519 key pair for one exchange.
#[derive(Debug)]
pub(super) struct Ephemeral {
    private: EphemeralPrivateKey,
    public: [u8; 32],
}

impl Ephemeral {
    pub(super) fn new() -> Result<Self, ServiceFault> {
        let crypto = |_| ServiceFault::Crypto;
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new());
        let private = private.map_err(crypto)?;
        let public = private.compute_public_key().map_err(crypto)?;
        let public = public.as_ref().try_into();
        Ok(Self {
            private,
            public: public.map_err(|_| ServiceFault::Crypto)?,
        })
    }

    pub(super) const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Agrees with the other side's key and derives the secrets of the exchange; the MAC of `accept`
    /// plays no part. A key of small order, whose secret would be zero, is refused.
    pub(super) fn agree(
        self,
        theirs: [u8; 32],
        open: &Open,
        accept: &Accept,
    ) -> Result<Secrets, Proof> {
        let theirs = UnparsedPublicKey::new(&X25519, theirs);
        agree_ephemeral(self.private, &theirs, |shared| {
            Secrets::derive(shared, open, accept)
        })
        .map_err(|_| Proof::Key)?
        .ok_or(Proof::Key)
    }
}

/// The secrets of one exchange.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) accept: MacKey<Accept>,
    pub(super) confirm: MacKey<Confirm>,
    pub(super) agreed: MacKey<Agreed>,
    pub(super) channel: ChannelKeys,
}

impl Secrets {
    pub(super) fn derive(shared: &[u8], open: &Open, accept: &Accept) -> Option<Self> {
        let nonces = [open.body.nonce, accept.body.nonce].concat();
        let transcript = Hash::of(&[open.to_bytes(), accept.signed_bytes()].concat());
        let keys = Salt::new(HKDF_SHA256, &nonces).extract(shared);
        let info = |purpose| info(&transcript, purpose, open.body.epoch);
        let mut data = Zeroizing::new([0; 16 + 12]);
        expand(&keys, &info(PURPOSE_DATA), &mut *data)?;
        let (key, iv) = data.split_first_chunk()?;
        Some(Self {
            accept: MacKey::derive(&keys, &info(PURPOSE_ACCEPT_MAC))?,
            confirm: MacKey::derive(&keys, &info(PURPOSE_CONFIRM_MAC))?,
            agreed: MacKey::derive(&keys, &info(PURPOSE_AGREED_MAC))?,
            channel: ChannelKeys {
                key: *key,
                iv: *iv.first_chunk()?,
            },
        })
    }
}

fn info(transcript: &Hash, purpose: u8, epoch: u64) -> Vec<u8> {
    let mut info = Vec::new();
    write_text(&mut info, LABEL);
    info.extend(transcript.0);
    info.push(purpose);
    info.extend(epoch.to_le_bytes());
    info
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(keys: &Prk, info: &[u8], to: &mut [u8]) -> Option<()> {
    let info = [info];
    let output = keys.expand(&info, Length(to.len())).ok()?;
    output.fill(to).ok()
}

/// The key of the MAC of one message.
pub(super) struct MacKey<M> {
    key: Zeroizing<[u8; 32]>,
    of: PhantomData<fn(&M)>,
}

impl<M: Maced> MacKey<M> {
    fn derive(keys: &Prk, info: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        expand(keys, info, &mut *key)?;
        let of = PhantomData;
        Some(Self { key, of })
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(HMAC_SHA256, &*self.key)
    }

    /// The MAC that the message is to have; the one that it has plays no part.
    pub(super) fn mac(&self, message: &M) -> [u8; 32] {
        // HMAC-SHA256 has 32 bytes, so the default is never taken.
        let tag = hmac::sign(&self.key(), &message.maced_bytes());
        tag.as_ref().try_into().unwrap_or_default()
    }

    /// Compares in a time that does not depend on the bytes.
    pub(super) fn verify(&self, message: &M) -> Result<(), Proof> {
        let verified = hmac::verify(&self.key(), &message.maced_bytes(), message.mac());
        verified.map_err(|_| Proof::Mac)
    }
}

impl<M> fmt::Debug for MacKey<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

/// The keys of a channel's data from its writer to its one reader, for one epoch: AES-128-GCM's key
/// and the vector that nonces are made from. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ChannelKeys {
    key: [u8; 16],
    iv: [u8; 12],
}

impl ChannelKeys {
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// The vector that nonces are made from.
    #[must_use]
    pub const fn iv(&self) -> &[u8; 12] {
        &self.iv
    }
}

impl fmt::Debug for ChannelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelKeys")
    }
}
