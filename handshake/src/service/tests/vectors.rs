//! The test vectors of `docs/service-handshake.md`, recomputed.

use std::collections::BTreeMap;

use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::{ChannelName, TrustDomain};

use crate::service::Proof;
use crate::service::check::exchange_hash;
use crate::service::keys::Secrets;
use crate::service::wire::{
    Accept, AcceptBody, Agreed, AgreedBody, Chain, Confirm, ConfirmBody, Content, Hash, Maced,
    Message, Open, OpenBody, Pairing, Signature,
};
use crate::wire::Contract;

const DOCUMENT: &str = include_str!("../../../../docs/service-handshake.md");

/// The values of the document's section of test vectors, by name.
struct Vectors(BTreeMap<&'static str, Vec<u8>>);

impl Vectors {
    fn read() -> Self {
        let (_, section) = DOCUMENT.split_once("\n## 8. Test vectors\n").unwrap();
        let (_, block) = section.split_once("```text\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        let (mut vectors, mut name) = (BTreeMap::new(), "");
        for line in block.lines() {
            match line.strip_suffix(':') {
                Some(next) => name = next,
                None => {
                    let value: &mut Vec<u8> = vectors.entry(name).or_default();
                    value.extend(hex(line.trim()));
                }
            }
        }
        Self(vectors)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.get(name).unwrap_or_else(|| panic!("{name}")).clone()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    fn open(&self) -> Open {
        let id = |uri| SpiffeId::parse(uri).unwrap();
        let chain = self.chain("writer's certificate");
        let body = OpenBody {
            trust_domain: TrustDomain::new("car.example").unwrap(),
            contract: Contract([0x11; 32]),
            serial: 7,
            channel: ChannelName::new("frames").unwrap(),
            kind: Kind::Ring {
                slot_bytes: 4096,
                overwrite: false,
                integrity: Integrity::Aead,
            },
            slice_generation: Generation(3),
            epoch: 0x0123_4567_89ab_cdef,
            host_boot: [0x22; 16],
            writer: id("spiffe://car.example/vm/a/svc/camera"),
            reader: id("spiffe://car.example/vm/b/svc/display"),
            chain: chain.hash(),
            nonce: self.array("writer's nonce"),
            key: self.array("writer's X25519 key"),
            expiry: 1_800_000_030,
        };
        Open {
            body,
            chain,
            signature: self.signature("open signature"),
        }
    }

    fn accept(&self, open: &Open) -> Accept {
        let chain = self.chain("reader's certificate");
        let body = AcceptBody {
            open: open.hash(),
            reader: open.body.reader,
            writer: open.body.writer,
            chain: chain.hash(),
            nonce: self.array("reader's nonce"),
            key: self.array("reader's X25519 key"),
        };
        Accept {
            body,
            chain,
            signature: self.signature("accept signature"),
            mac: self.array("accept MAC"),
        }
    }

    fn confirm(&self, open: &Open, accept: &Accept) -> Confirm {
        Confirm {
            body: ConfirmBody {
                exchange: exchange_hash(open, accept),
            },
            signature: self.signature("confirm signature"),
            mac: self.array("confirm MAC"),
        }
    }

    fn agreed(&self, confirm: &Confirm) -> Agreed {
        Agreed {
            body: AgreedBody {
                confirm: confirm.hash(),
            },
            mac: self.array("agreed MAC"),
        }
    }

    fn chain(&self, name: &str) -> Chain {
        Chain::new(vec![CertificateDer::from(self.bytes(name))]).unwrap()
    }

    fn signature(&self, name: &str) -> Signature {
        Signature::new(self.bytes(name)).unwrap()
    }

    fn assert(&self, name: &str, value: &[u8]) {
        assert_eq!(self.bytes(name), value, "{name}");
    }

    fn assert_signed(&self, key: &str, body: &[u8], signature: &Signature) {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.bytes(key));
        key.verify(body, signature.as_bytes()).unwrap();
    }

    fn assert_maced(&self, key: &str, message: &impl Maced) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.bytes(key));
        hmac::verify(&key, &message.maced_bytes(), message.mac()).unwrap();
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    let byte = |pair: &[u8]| u8::try_from(16 * digit(pair[0]) + digit(pair[1])).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn bodies_and_hashes_are_the_documented_ones() {
    let vectors = Vectors::read();
    let open = vectors.open();
    vectors.assert("writer's chain hash", &open.body.chain.0);
    vectors.assert("open body", &open.body.to_bytes());
    vectors.assert("open hash", &open.hash().0);
    let accept = vectors.accept(&open);
    vectors.assert("reader's chain hash", &accept.body.chain.0);
    vectors.assert("accept body", &accept.body.to_bytes());
    let transcript = Hash::of(&[open.to_bytes(), accept.signed_bytes()].concat());
    vectors.assert("transcript", &transcript.0);
    let confirm = vectors.confirm(&open, &accept);
    vectors.assert("exchange", &confirm.body.exchange.0);
    vectors.assert("confirm body", &confirm.body.to_bytes());
    vectors.assert("confirm hash", &confirm.hash().0);
    let agreed = vectors.agreed(&confirm);
    vectors.assert("agreed body", &agreed.body.to_bytes());

    let pairing = Pairing {
        channel: open.body.channel,
        reader: open.body.reader,
    };
    let message = |content| Message { pairing, content }.to_bytes();
    vectors.assert("confirm message", &message(Content::Confirm(confirm)));
    vectors.assert("agreed message", &message(Content::Agreed(agreed)));
}

#[test]
fn signatures_are_over_the_bodies() {
    let vectors = Vectors::read();
    let open = vectors.open();
    let accept = vectors.accept(&open);
    let confirm = vectors.confirm(&open, &accept);
    let (writer, reader) = ("writer's P-256 key", "reader's P-256 key");
    vectors.assert_signed(writer, &open.body.to_bytes(), &open.signature);
    vectors.assert_signed(reader, &accept.body.to_bytes(), &accept.signature);
    vectors.assert_signed(writer, &confirm.body.to_bytes(), &confirm.signature);
}

#[test]
fn keys_and_macs_are_the_documented_ones() {
    let vectors = Vectors::read();
    let open = vectors.open();
    let accept = vectors.accept(&open);
    let confirm = vectors.confirm(&open, &accept);
    let secrets = Secrets::derive(&vectors.bytes("shared secret"), &open, &accept).unwrap();
    vectors.assert("data key", secrets.channel.key());
    vectors.assert("data IV", secrets.channel.iv());
    let agreed = vectors.agreed(&confirm);
    vectors.assert("accept MAC", &secrets.accept.mac(&accept));
    vectors.assert("confirm MAC", &secrets.confirm.mac(&confirm));
    vectors.assert("agreed MAC", &secrets.agreed.mac(&agreed));
    vectors.assert_maced("key of the accept's MAC", &accept);
    vectors.assert_maced("key of the confirm's MAC", &confirm);
    vectors.assert_maced("key of the agreed's MAC", &agreed);
}

#[test]
fn a_mac_with_any_bit_flipped_is_wrong() {
    let vectors = Vectors::read();
    let open = vectors.open();
    let accept = vectors.accept(&open);
    let confirm = vectors.confirm(&open, &accept);
    let agreed = vectors.agreed(&confirm);
    let secrets = Secrets::derive(&vectors.bytes("shared secret"), &open, &accept).unwrap();
    assert_eq!(secrets.accept.verify(&accept), Ok(()));
    assert_eq!(secrets.confirm.verify(&confirm), Ok(()));
    assert_eq!(secrets.agreed.verify(&agreed), Ok(()));
    for bit in 0..256 {
        let flip = |mac: &mut [u8; 32]| mac[bit / 8] ^= 1 << (bit % 8);
        let (mut accept, mut confirm, mut agreed) = (accept.clone(), confirm.clone(), agreed);
        flip(&mut accept.mac);
        flip(&mut confirm.mac);
        flip(&mut agreed.mac);
        assert_eq!(secrets.accept.verify(&accept), Err(Proof::Mac), "bit {bit}");
        assert_eq!(secrets.confirm.verify(&confirm), Err(Proof::Mac));
        assert_eq!(secrets.agreed.verify(&agreed), Err(Proof::Mac));
    }
}
