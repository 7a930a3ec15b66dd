//! `docs/service-handshake.md` against the tables and the bytes of `sivshm-handshake`.

#[cfg(test)]
mod tests {
    use sivshm_abi::frame::Reason;
    use sivshm_abi::grant::{Generation, Integrity, Kind};
    use sivshm_abi::identity::SpiffeId;
    use sivshm_abi::name::{ChannelName, TrustDomain};
    use sivshm_handshake::service::ALPN;
    use sivshm_handshake::service::limits::LIMITS;
    use sivshm_handshake::service::wire::{
        AcceptBody, Agreed, AgreedBody, ConfirmBody, Content, Hash, MESSAGE_TYPES, Message,
        OpenBody, Pairing, RefusalReason, Role, SERVICE_REFUSALS, ServiceRefusal, Terms,
    };
    use sivshm_handshake::wire::Contract;
    use sivshm_tests::document::{below, plain_rows};

    const DOCUMENT: &str = include_str!("../../docs/service-handshake.md");

    /// The cells of the table below a heading of the document, without its head.
    fn table(heading: &str) -> Vec<Vec<String>> {
        plain_rows(below(DOCUMENT, heading).unwrap())
    }

    /// The first columns of a table.
    fn columns<const N: usize>(heading: &str) -> Vec<[String; N]> {
        let rows = table(heading).into_iter();
        rows.map(|row| std::array::from_fn(|at| row[at].clone()))
            .collect()
    }

    #[test]
    fn message_types_are_the_documented_ones() {
        let types = MESSAGE_TYPES.iter().map(|(_, code, name, ways)| {
            let ways = [
                (ways.up, "up"),
                (ways.down, "down"),
                (ways.across, "across"),
            ];
            let ways = ways.iter().filter(|(goes, _)| *goes);
            let ways: Vec<_> = ways.map(|(_, word)| *word).collect();
            [code.to_string(), (*name).to_owned(), ways.join(", ")]
        });
        assert_eq!(columns::<3>("### Message types"), types.collect::<Vec<_>>());
        let alpn = std::str::from_utf8(ALPN).unwrap();
        assert!(DOCUMENT.contains(&format!("ALPN is `{alpn}`")));
    }

    #[test]
    fn refusals_are_the_documented_ones() {
        let refusals = SERVICE_REFUSALS.iter().map(|(_, code, words, heals)| {
            let again = if *heals { "yes" } else { "no" };
            [code.to_string(), (*words).to_owned(), again.to_owned()]
        });
        assert_eq!(
            columns::<3>("## 6. Refusal and end"),
            refusals.collect::<Vec<_>>()
        );
        // The reasons that are not wanted again, besides the own close.
        let last = [Reason::Admin, Reason::Policy];
        let last = last.map(|reason| reason.code().to_string());
        let [a, b] = last;
        let said = format!("its own close, {a} or {b}\nof the reasons");
        assert!(DOCUMENT.contains(&said));
    }

    #[test]
    fn limits_are_the_documented_ones() {
        let limits = LIMITS.iter();
        let limits: Vec<_> = limits
            .map(|(name, value)| [(*name).to_owned(), value.to_string()])
            .collect();
        assert_eq!(columns::<2>("## 5. Limits"), limits);
    }

    /// The bytes that a table of fields says, for these values of its fields. A width of `1 + n` is
    /// that of a text with its length.
    fn laid_out(heading: &str, values: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let rows = columns::<2>(heading);
        assert_eq!(rows.len(), values.len(), "{heading}");
        for ([field, width], (name, value)) in rows.iter().zip(values) {
            assert_eq!(field, name);
            let got = match width.as_str() {
                "1 + n" => {
                    assert_eq!(usize::from(value[0]), value.len() - 1);
                    "1 + n".to_owned()
                }
                _ => value.len().to_string(),
            };
            assert_eq!(*width, got, "{heading}: {field}");
            bytes.extend(*value);
        }
        bytes
    }

    fn id(uri: &str) -> SpiffeId {
        SpiffeId::parse(uri).unwrap()
    }

    fn text(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    const WRITER: &str = "spiffe://car.example/vm/a/svc/camera";
    const READER: &str = "spiffe://car.example/vm/b/svc/display";

    fn channel() -> ChannelName {
        ChannelName::new("frames").unwrap()
    }

    fn message(content: Content) -> Message {
        let pairing = Pairing {
            channel: channel(),
            reader: id(READER),
        };
        Message { pairing, content }
    }

    fn framed(code: u8, content: &[u8]) -> Vec<u8> {
        let payload = [&channel().to_field(), text(READER).as_slice(), content].concat();
        let length = u32::try_from(payload.len()).unwrap();
        [&length.to_le_bytes(), [code].as_slice(), &payload].concat()
    }

    const RING: Kind = Kind::Ring {
        slot_bytes: 4096,
        overwrite: true,
        integrity: Integrity::Crc32c,
    };

    #[test]
    fn terms_are_laid_out_as_documented() {
        let terms = Terms {
            contract: Contract([1; 32]),
            serial: 2,
            kind: RING,
            slice_generation: Generation(3),
            host_boot: [4; 16],
            role: Role::Reader,
            reader: 5,
            readers: 6,
        };
        let expected = laid_out(
            "### Terms",
            &[
                ("contract", &[1; 32]),
                ("policy serial", &2_u64.to_le_bytes()),
                ("kind", &[2]),
                ("slot bytes", &4096_u32.to_le_bytes()),
                ("overwrite", &[1]),
                ("integrity", &[1]),
                ("slice generation", &3_u64.to_le_bytes()),
                ("host boot", &[4; 16]),
                ("role", &[2]),
                ("reader", &[5]),
                ("readers", &[6]),
            ],
        );
        let said = message(Content::Terms(terms)).to_bytes();
        assert_eq!(said, framed(2, &expected));
    }

    #[test]
    fn bodies_are_laid_out_as_documented() {
        let domain = TrustDomain::new("car.example").unwrap();
        let open = OpenBody {
            trust_domain: domain,
            contract: Contract([1; 32]),
            serial: 2,
            channel: channel(),
            kind: RING,
            slice_generation: Generation(3),
            epoch: 9,
            host_boot: [4; 16],
            writer: id(WRITER),
            reader: id(READER),
            chain: Hash([5; 32]),
            nonce: [6; 32],
            key: [7; 32],
            expiry: 8,
        };
        let expected = laid_out(
            "### Body of an open",
            &[
                ("label", &text("sivshm-service/1 open")),
                ("version", &1_u16.to_le_bytes()),
                ("trust domain", &domain.to_field()),
                ("contract", &[1; 32]),
                ("policy serial", &2_u64.to_le_bytes()),
                ("channel", &channel().to_field()),
                ("kind", &[2]),
                ("slot bytes", &4096_u32.to_le_bytes()),
                ("overwrite", &[1]),
                ("integrity", &[1]),
                ("slice generation", &3_u64.to_le_bytes()),
                ("epoch", &9_u64.to_le_bytes()),
                ("host boot", &[4; 16]),
                ("writer", &text(WRITER)),
                ("role", &[1]),
                ("reader", &text(READER)),
                ("chain", &[5; 32]),
                ("nonce", &[6; 32]),
                ("key", &[7; 32]),
                ("expiry", &8_u64.to_le_bytes()),
            ],
        );
        assert_eq!(open.to_bytes(), expected);

        let accept = AcceptBody {
            open: Hash([1; 32]),
            reader: id(READER),
            writer: id(WRITER),
            chain: Hash([2; 32]),
            nonce: [3; 32],
            key: [4; 32],
        };
        let expected = laid_out(
            "### Body of an accept",
            &[
                ("label", &text("sivshm-service/1 accept")),
                ("open", &[1; 32]),
                ("reader", &text(READER)),
                ("writer", &text(WRITER)),
                ("role", &[2]),
                ("chain", &[2; 32]),
                ("nonce", &[3; 32]),
                ("key", &[4; 32]),
            ],
        );
        assert_eq!(accept.to_bytes(), expected);

        let confirm = ConfirmBody {
            exchange: Hash([1; 32]),
        };
        let expected = laid_out(
            "### Body of a confirm",
            &[
                ("label", &text("sivshm-service/1 confirm")),
                ("exchange", &[1; 32]),
            ],
        );
        assert_eq!(confirm.to_bytes(), expected);

        let expected = laid_out(
            "### Body of an agreed",
            &[
                ("label", &text("sivshm-service/1 agreed")),
                ("confirm", &[1; 32]),
            ],
        );
        assert_eq!(agreed([1; 32]).body.to_bytes(), expected);
    }

    fn agreed(confirm: [u8; 32]) -> Agreed {
        Agreed {
            body: AgreedBody {
                confirm: Hash(confirm),
            },
            mac: [9; 32],
        }
    }

    #[test]
    fn short_messages_are_laid_out_as_documented() {
        let said = |content| message(content).to_bytes();
        let peer = id(WRITER);
        let want = |integrity| said(Content::Want { peer, integrity });
        let expected = |code: u8| [text(WRITER), vec![code]].concat();
        assert_eq!(want(None), framed(1, &expected(255)));
        assert_eq!(want(Some(Integrity::Aead)), framed(1, &expected(2)));
        let agreed = agreed([7; 32]);
        let expected = [agreed.body.to_bytes(), vec![9; 32]].concat();
        assert_eq!(said(Content::Agreed(agreed)), framed(6, &expected));
        assert_eq!(said(Content::Installed(Hash([8; 32]))), framed(7, &[8; 32]));
        let refusal = ServiceRefusal {
            by: id("spiffe://car.example/vm/b/device"),
            reason: RefusalReason::Late,
        };
        let expected = [text("spiffe://car.example/vm/b/device"), vec![11, 0]].concat();
        assert_eq!(said(Content::Refusal(refusal)), framed(8, &expected));
        assert_eq!(said(Content::End(Reason::OtherEnd)), framed(9, &[12, 0]));
    }
}
