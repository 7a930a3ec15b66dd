//! `docs/peer-handshake.md` against the tables and the bytes of `sivshm-handshake`.

#[cfg(test)]
mod tests {
    use sivshm_abi::directory::SliceId;
    use sivshm_abi::grant::Generation;
    use sivshm_handshake::limits::LIMITS;
    use sivshm_handshake::wire::{
        Contract, Hello, MESSAGE_TYPES, Manifest, ManifestEntry, Message, PROTOCOL_VERSION,
        SliceEntry,
    };
    use sivshm_handshake::{ALPN, REFUSAL_CODES, REQUIRED_SEALS, SLICE_MODE};
    use sivshm_tests::document::{below, plain_rows};

    const DOCUMENT: &str = include_str!("../../docs/peer-handshake.md");

    /// The cells of the table below a heading of the document, without its head.
    fn table(heading: &str) -> Vec<Vec<String>> {
        plain_rows(below(DOCUMENT, heading).unwrap())
    }

    /// The first two columns of a table.
    fn pairs(heading: &str) -> Vec<(String, String)> {
        let rows = table(heading).into_iter();
        rows.map(|row| (row[0].clone(), row[1].clone())).collect()
    }

    fn pair(first: impl ToString, second: impl ToString) -> (String, String) {
        (first.to_string(), second.to_string())
    }

    #[test]
    fn message_types_are_the_documented_ones() {
        let types = MESSAGE_TYPES.iter();
        let types: Vec<_> = types.map(|(_, code, name)| pair(code, name)).collect();
        assert_eq!(pairs("### Message types"), types);
    }

    #[test]
    fn refusal_codes_are_the_documented_ones() {
        let codes = REFUSAL_CODES.iter();
        let codes: Vec<_> = codes.map(|(_, code, words)| pair(code, words)).collect();
        assert_eq!(pairs("## 6. Refusal"), codes);
    }

    #[test]
    fn limits_are_the_documented_ones() {
        let limits = LIMITS.iter();
        let limits: Vec<_> = limits.map(|(name, value)| pair(name, value)).collect();
        assert_eq!(pairs("## 5. Limits"), limits);
    }

    #[test]
    fn slices_are_as_documented() {
        let [seals, mode] = table("## 4. What a descriptor must be").try_into().unwrap();
        assert_eq!(
            seals[1].split_whitespace().next().unwrap(),
            format!("{REQUIRED_SEALS:#x}")
        );
        assert_eq!(mode[1], format!("0{SLICE_MODE:o}"));
        let alpn = std::str::from_utf8(ALPN).unwrap();
        assert!(DOCUMENT.contains(&format!("ALPN `{alpn}`")));
    }

    /// The bytes that a table of fields says, for these values of its fields.
    fn laid_out(heading: &str, values: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let rows = pairs(heading);
        assert_eq!(rows.len(), values.len(), "{heading}");
        for ((field, width), (name, value)) in rows.iter().zip(values) {
            assert_eq!(field, name);
            assert_eq!(*width, value.len().to_string(), "{heading}: {field}");
            bytes.extend(*value);
        }
        bytes
    }

    fn message(code: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&length.to_le_bytes(), [code].as_slice(), payload].concat()
    }

    #[test]
    fn hellos_are_laid_out_as_documented() {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            connection: 0x0102_0304_0506_0708,
            instance: [2; 16],
            host_boot: [3; 16],
            policy_serial: 9,
            contract: Contract([4; 32]),
        };
        let payload = laid_out(
            "### Hello",
            &[
                ("version", &PROTOCOL_VERSION.to_le_bytes()),
                ("connection", &[8, 7, 6, 5, 4, 3, 2, 1]),
                ("instance", &[2; 16]),
                ("host boot", &[3; 16]),
                ("policy serial", &9_u64.to_le_bytes()),
                ("contract", &[4; 32]),
            ],
        );
        assert_eq!(Message::Hello(hello).to_bytes(), message(1, &payload));
    }

    #[test]
    fn manifests_are_laid_out_as_documented() {
        let slice = SliceEntry {
            slice: SliceId(1),
            bytes: 2,
            generation: Generation(3),
            seals: 4,
            uid: 5,
            gid: 6,
            mode: 7,
            dev: 8,
            ino: 9,
        };
        let entries = vec![
            ManifestEntry::Slice(slice),
            ManifestEntry::Doorbell { id: 10 },
        ];
        let slice = laid_out(
            "### Entry of a manifest: slice",
            &[
                ("tag", &[1]),
                ("slice", &1_u32.to_le_bytes()),
                ("bytes", &2_u64.to_le_bytes()),
                ("generation", &3_u64.to_le_bytes()),
                ("seals", &4_u32.to_le_bytes()),
                ("owner", &5_u32.to_le_bytes()),
                ("group", &6_u32.to_le_bytes()),
                ("mode", &7_u32.to_le_bytes()),
                ("device", &8_u64.to_le_bytes()),
                ("inode", &9_u64.to_le_bytes()),
            ],
        );
        let doorbell = laid_out(
            "### Entry of a manifest: doorbell",
            &[("tag", &[2]), ("eventfd", &10_u64.to_le_bytes())],
        );
        let manifest = Message::Manifest(Manifest::new(entries).unwrap());
        let payload = [&[2, 0], slice.as_slice(), &doorbell].concat();
        assert_eq!(manifest.to_bytes(), message(2, &payload));
    }
}
