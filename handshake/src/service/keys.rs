//! What only the two services know: the key schedule and the MACs.

use std::fmt;

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::fault::{Proof, ServiceFault};
use super::wire::{Accept, Confirm, Hash, Open, write_text};

const LABEL: &str = "sivshm-service/1 keys";
const PURPOSE_ACCEPT_MAC: u8 = 1;
const PURPOSE_CONFIRM_MAC: u8 = 2;
const PURPOSE_DATA: u8 = 3;

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
    accept: MacKey,
    pub(super) confirm: ConfirmKey,
    pub(super) channel: ChannelKeys,
}

impl Secrets {
    pub(super) fn derive(shared: &[u8], open: &Open, accept: &Accept) -> Option<Self> {
        let nonces = [open.body.nonce, accept.body.nonce].concat();
        let transcript = Hash::of(&[open.to_bytes(), accept.signed_bytes()].concat());
        let keys = Salt::new(HKDF_SHA256, &nonces).extract(shared);
        let expand = |purpose, to: &mut [u8]| {
            let info = info(&transcript, purpose, open.body.epoch);
            expand(&keys, &info, to)
        };
        let (mut accept, mut confirm) = (MacKey::default(), MacKey::default());
        let mut data = Zeroizing::new([0; 16 + 12]);
        expand(PURPOSE_ACCEPT_MAC, &mut *accept.0)?;
        expand(PURPOSE_CONFIRM_MAC, &mut *confirm.0)?;
        expand(PURPOSE_DATA, &mut *data)?;
        let (key, iv) = data.split_first_chunk()?;
        Some(Self {
            accept,
            confirm: ConfirmKey(confirm),
            channel: ChannelKeys {
                key: *key,
                iv: *iv.first_chunk()?,
            },
        })
    }

    /// The MAC of an `accept`, over its body and signature.
    pub(super) fn mac_accept(&self, accept: &Accept) -> [u8; 32] {
        self.accept.mac(&accept.maced_bytes())
    }

    pub(super) fn verify_accept(&self, accept: &Accept) -> Result<(), Proof> {
        self.accept.verify(&accept.maced_bytes(), &accept.mac)
    }
}

/// The key of the MAC of a `confirm`.
#[derive(Debug)]
pub(super) struct ConfirmKey(MacKey);

impl ConfirmKey {
    /// The MAC, over body and signature.
    pub(super) fn mac(&self, confirm: &Confirm) -> [u8; 32] {
        self.0.mac(&confirm.maced_bytes())
    }

    pub(super) fn verify(&self, confirm: &Confirm) -> Result<(), Proof> {
        self.0.verify(&confirm.maced_bytes(), &confirm.mac)
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

#[derive(Default)]
struct MacKey(Zeroizing<[u8; 32]>);

impl MacKey {
    fn mac(&self, bytes: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(HMAC_SHA256, &*self.0);
        // HMAC-SHA256 has 32 bytes, so the default is never taken.
        let tag = hmac::sign(&key, bytes);
        tag.as_ref().try_into().unwrap_or_default()
    }

    /// Compares in a time that does not depend on the bytes.
    fn verify(&self, bytes: &[u8], mac: &[u8; 32]) -> Result<(), Proof> {
        let key = hmac::Key::new(HMAC_SHA256, &*self.0);
        hmac::verify(&key, bytes, mac).map_err(|_| Proof::Mac)
    }
}

impl fmt::Debug for MacKey {
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
