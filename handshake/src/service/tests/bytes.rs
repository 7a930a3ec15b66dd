//! Bytes that are nearly right: cut, lengthened, and with every bit that can be flipped flipped.

use proptest::prelude::*;
use sivshm_abi::frame::Reason;
use sivshm_abi::wire::Malformed;

use super::world::{Cast, Record};
use crate::limits::MAX_CHAIN_CERTIFICATES;
use crate::service::check_open;
use crate::service::limits::{MAX_SERVICE_MESSAGE_BYTES, MAX_SIGNATURE_BYTES};
use crate::service::wire::{
    Chain, Content, HEADER_BYTES, Hash, MESSAGE_TYPES, Message, MessageType, RefusalReason, Role,
    SERVICE_REFUSALS, ServiceRefusal, Signature, Terms,
};
use crate::tests::certificates::now;

fn messages(cast: &Cast, record: &Record) -> Vec<Message> {
    let terms = cast.terms();
    let contents = [
        Content::Want {
            peer: cast.reader.id(),
            integrity: None,
        },
        Content::Want {
            peer: cast.reader.id(),
            integrity: Some(sivshm_abi::grant::Integrity::Aead),
        },
        Content::Terms(Terms {
            contract: terms.contract,
            serial: terms.serial,
            kind: terms.kind,
            slice_generation: terms.slice_generation,
            host_boot: terms.host_boot,
            role: Role::Reader,
            reader: 1,
            readers: 2,
        }),
        Content::Open(Box::new(record.open.clone())),
        Content::Accept(Box::new(record.accept.clone())),
        Content::Confirm(record.confirm.clone()),
        Content::Agreed(record.agreed),
        Content::Installed(Hash([2; 32])),
        Content::Refusal(ServiceRefusal {
            by: cast.device_a.id(),
            reason: RefusalReason::Late,
        }),
        Content::End(Reason::OtherEnd),
    ];
    let pairing = cast.pairing();
    contents.map(|content| Message { pairing, content }).into()
}

#[test]
fn messages_survive_the_wire_and_no_part_of_one_is_one() {
    let cast = Cast::new();
    for message in messages(&cast, &cast.record()) {
        let bytes = message.to_bytes();
        let len = bytes.len();
        assert_eq!(Message::take(&bytes), Ok(Some((message.clone(), len))));
        for cut in 0..len {
            assert_eq!(Message::take(&bytes[..cut]), Ok(None));
            // The same with a length that says so.
            if let Some(payload) = cut.checked_sub(HEADER_BYTES) {
                let mut bytes = bytes[..cut].to_vec();
                let length = u32::try_from(payload).unwrap();
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                assert!(
                    Message::take(&bytes).is_err(),
                    "{} cut at {cut}",
                    message.kind()
                );
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let length = u32::try_from(len + 1 - HEADER_BYTES).unwrap();
        longer[..4].copy_from_slice(&length.to_le_bytes());
        assert!(Message::take(&longer).is_err(), "{}", message.kind());
    }
}

/// What a device process says to an exchange in which one bit is wrong.
fn passes(cast: &Cast, messages: &[Vec<u8>; 3]) -> bool {
    let take = |bytes: &[u8]| match Message::take(bytes) {
        Ok(Some((message, len))) if len == bytes.len() => Some(message),
        _ => None,
    };
    let [open, accept, confirm] = messages;
    let (Some(open), Some(accept), Some(confirm)) = (take(open), take(accept), take(confirm))
    else {
        return false;
    };
    let routed = [&open, &accept, &confirm];
    if routed
        .iter()
        .any(|message| message.pairing != cast.pairing())
    {
        return false;
    }
    let (Content::Open(open), Content::Accept(accept), Content::Confirm(confirm)) =
        (open.content, accept.content, confirm.content)
    else {
        return false;
    };
    check_open(&open, &cast.terms(), &cast.device_b, now())
        .and_then(|opened| opened.accept(&accept, &cast.device_b, now()))
        .and_then(|accepted| accepted.confirm(&confirm))
        .is_ok()
}

#[test]
fn one_wrong_bit_anywhere_is_refused() {
    let cast = Cast::new();
    let record = cast.record();
    let pairing = cast.pairing();
    let contents = [
        Content::Open(Box::new(record.open)),
        Content::Accept(Box::new(record.accept)),
        Content::Confirm(record.confirm),
    ];
    let messages = contents.map(|content| Message { pairing, content }.to_bytes());
    assert!(passes(&cast, &messages));
    for which in 0..3 {
        let len = messages[which].len();
        // The MAC of a `confirm` is for the reader alone; that of an `accept` the writer signs.
        let checked = if which == 2 { len - 32 } else { len };
        for at in 0..checked {
            let mut wrong = messages.clone();
            wrong[which][at] ^= 1 << (at % 8);
            assert!(!passes(&cast, &wrong), "message {which}, byte {at}");
        }
    }
}

#[test]
fn values_that_no_message_has() {
    let cast = Cast::new();
    let record = cast.record();
    let body = |change: fn(&mut Vec<u8>)| {
        let pairing = cast.pairing();
        let content = Content::Open(Box::new(record.open.clone()));
        let mut bytes = Message { pairing, content }.to_bytes();
        change(&mut bytes);
        Message::take(&bytes).map(drop)
    };
    assert_eq!(body(|_| {}), Ok(()));
    // The label begins behind the header, the channel and the reader.
    const READER: usize = "spiffe://car.example/vm/b/svc/display".len();
    const LABEL: usize = HEADER_BYTES + 32 + 1 + READER;
    const EPOCH: usize = LABEL + 1 + 21 + 2 + 63 + 32 + 8 + 32 + 7 + 8;
    const ROLE: usize = EPOCH + 8 + 16 + 1 + "spiffe://car.example/vm/a/svc/camera".len();
    let bad = |what| Err(Malformed::BadValue(what));
    assert_eq!(body(|bytes| bytes[LABEL + 1] ^= 1), bad("open.label"));
    assert_eq!(body(|bytes| bytes[LABEL + 22] = 2), bad("open.version"));
    let zero = |bytes: &mut Vec<u8>| bytes[EPOCH..EPOCH + 8].fill(0);
    assert_eq!(body(zero), bad("open.epoch"));
    assert_eq!(body(|bytes| bytes[ROLE] = 2), bad("open.role"));
    assert_eq!(body(|bytes| bytes[4] = 99), bad("message.type"));
    assert_eq!(
        body(|bytes| bytes[HEADER_BYTES] = b'/'),
        bad("message.channel")
    );
    let too_long = |bytes: &mut Vec<u8>| bytes[..4].fill(0xff);
    assert_eq!(
        body(too_long),
        Err(Malformed::TooMany {
            what: "message bytes",
            max: MAX_SERVICE_MESSAGE_BYTES
        })
    );
}

#[test]
fn chains_and_signatures_are_bounded() {
    let der = |len: usize| rustls_pki_types::CertificateDer::from(vec![7; len]);
    let too_many = |certificates| match Chain::new(certificates) {
        Err(Malformed::TooMany { what, max }) => (what, max),
        other => panic!("{other:?}"),
    };
    assert_eq!(Chain::new(Vec::new()), Err(Malformed::BadValue("chain")));
    let most = MAX_CHAIN_CERTIFICATES;
    assert_eq!(too_many(vec![der(9); most + 1]), ("certificates", most));
    assert_eq!(too_many(vec![der(4097)]).0, "bytes of a certificate");
    assert_eq!(too_many(vec![der(4096), der(4096)]).0, "bytes of a chain");
    assert!(Chain::new(vec![der(1000); most]).is_ok());
    assert!(Signature::new(Vec::new()).is_err());
    assert!(Signature::new(vec![1; MAX_SIGNATURE_BYTES]).is_ok());
    assert!(Signature::new(vec![1; MAX_SIGNATURE_BYTES + 1]).is_err());
}

#[test]
fn the_longest_open_fits_a_message() {
    use sivshm_abi::identity::SpiffeId;
    let cast = Cast::new();
    let long = |vm: &str, service: &str| {
        let (domain, vm, service) = ("d".repeat(63), vm.repeat(32), service.repeat(32));
        SpiffeId::parse(&format!("spiffe://{domain}/vm/{vm}/svc/{service}")).unwrap()
    };
    let mut open = cast.record().open;
    open.body.writer = long("a", "c");
    open.body.reader = long("b", "d");
    let room = crate::service::limits::MAX_CHAIN_BYTES - 1 - 4 - 4;
    let der = |len: usize| rustls_pki_types::CertificateDer::from(vec![7; len]);
    open.chain = Chain::new(vec![der(4096), der(room - 4096)]).unwrap();
    assert!(Chain::new(vec![der(4096), der(room - 4095)]).is_err());
    open.signature = Signature::new(vec![1; MAX_SIGNATURE_BYTES]).unwrap();
    let mut pairing = cast.pairing();
    pairing.reader = open.body.reader;
    let content = Content::Open(Box::new(open));
    let bytes = Message { pairing, content }.to_bytes();
    assert_eq!(bytes.len(), MAX_SERVICE_MESSAGE_BYTES);
    assert!(Message::take(&bytes).unwrap().is_some());
}

#[test]
fn numbers_and_tables_agree() {
    for (kind, code, name, _) in MESSAGE_TYPES {
        assert_eq!(kind.code(), *code);
        assert_eq!(MessageType::from_code(*code), Ok(*kind));
        assert_eq!(kind.to_string(), *name);
    }
    for (reason, code, words, heals) in SERVICE_REFUSALS {
        assert_eq!(reason.code(), *code);
        assert_eq!(RefusalReason::from_code(*code), Ok(*reason));
        assert_eq!(reason.to_string(), *words);
        assert_eq!(reason.heals(), *heals);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_make_no_reader_panic(
        kind in 0_u8..12,
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
        known in any::<bool>(),
    ) {
        let mut stream = Vec::new();
        if known {
            stream.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            stream.push(kind);
        }
        stream.extend(bytes);
        if let Ok(Some((message, len))) = Message::take(&stream) {
            prop_assert_eq!(&message.to_bytes(), &stream[..len]);
        }
    }
}

#[test]
fn a_message_that_is_read_has_no_other_bytes() {
    let cast = Cast::new();
    for message in messages(&cast, &cast.record()) {
        let bytes = message.to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(Some((read, len))) = Message::take(&changed) {
                assert_eq!(read.to_bytes(), changed[..len]);
                assert_ne!(read, message);
            }
        }
    }
}
