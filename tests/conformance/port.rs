//! `docs/port.md` and `docs/control-frames.md` against what `sivshm-abi` really writes and what
//! `sivshm-device` is bounded by.

#[cfg(test)]
mod tests {
    use sivshm_abi::control;
    use sivshm_abi::directory::{DirectoryHead, MAGIC, PciPlace, SliceId, VERSION, WindowEntry};
    use sivshm_abi::frame::{
        FRAME_TYPES, Facts, FrameHeader, FrameType, LONGEST_PAYLOAD_BYTES, Payload, REASONS,
        Reason, SessionId,
    };
    use sivshm_abi::grant::{
        Access, Generation, Grant, GrantId, GrantPeer, Integrity, Kind, Part, RingId, Vector,
    };
    use sivshm_abi::limits::{MAX_DATA_BYTES, MAX_PCI_WINDOWS, SESSION_CREDIT_BYTES};
    use sivshm_abi::name::{ChannelName, VmName};
    use sivshm_abi::wire::Writer;
    use sivshm_device::audit::{Decision, Event};
    use sivshm_device::run::limits::LIMITS;
    use sivshm_device::vmm::place;
    use sivshm_tests::document::{below, plain_rows};

    const PORT: &str = include_str!("../../docs/port.md");
    const FRAMES: &str = include_str!("../../docs/control-frames.md");
    const AUDIT: &str = include_str!("../../docs/audit.md");

    /// The cells of the first table below a heading, without its head and the marks of code.
    fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
        plain_rows(below(document, heading).unwrap())
    }

    /// Reads every field of a documented structure from its bytes, by the documented offset and
    /// size, and compares it; the fields must cover all bytes without gap or overlap.
    fn compare(document: &str, heading: &str, bytes: &[u8], expected: &[(&str, Vec<u8>)]) {
        let mut end = 0;
        let mut left: Vec<_> = expected.to_vec();
        for row in table(document, heading) {
            let [name, offset, len] = &row[..] else {
                panic!("{heading}: {row:?}")
            };
            let (offset, len): (usize, usize) = (offset.parse().unwrap(), len.parse().unwrap());
            assert_eq!(
                offset, end,
                "{heading}: {name} is not next to its neighbour"
            );
            end += len;
            let found = &bytes[offset..end];
            if name == "reserved" {
                assert!(found.iter().all(|byte| *byte == 0), "{heading}: {name}");
                continue;
            }
            let (expected_name, value) = left.remove(0);
            assert_eq!(name, expected_name, "{heading}");
            assert_eq!(found, value, "{heading}: {name}");
        }
        assert!(left.is_empty(), "{heading}: {left:?} is not documented");
        assert_eq!(end, bytes.len(), "{heading}: the table ends early");
    }

    fn le<const N: usize>(value: u64) -> Vec<u8> {
        value.to_le_bytes()[..N].to_vec()
    }

    #[test]
    fn places_are_the_documented_ones() {
        let byte = |text: &String| u8::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        for row in table(PORT, "## 1. Places") {
            let documented = PciPlace {
                root: byte(&row[1]),
                function: byte(&row[2]),
            };
            let computed = match row[0].strip_prefix("window ") {
                Some(number) => place::window(number.parse().unwrap()).unwrap(),
                None => place::PORT,
            };
            assert_eq!(computed, documented, "{}", row[0]);
        }
        assert!(PORT.contains(&format!("at most {MAX_PCI_WINDOWS} windows")));
    }

    #[test]
    fn the_control_memory_is_laid_out_as_documented() {
        let rows = table(PORT, "## 2. Control memory");
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row[1].clone(), row[2].clone()))
            .collect();
        let expected = [
            (0, control::DIRECTORY_BYTES),
            (
                control::HOST_INDEXES,
                control::GUEST_INDEXES - control::HOST_INDEXES,
            ),
            (
                control::GUEST_INDEXES,
                control::GUEST_INDEXES - control::HOST_INDEXES,
            ),
            (control::HOST_TO_GUEST, control::RING_BYTES),
            (control::GUEST_TO_HOST, control::RING_BYTES),
            (0, control::CONTROL_BYTES),
        ];
        assert_eq!(
            found,
            expected.map(|(at, len)| (at.to_string(), len.to_string()))
        );
        let (_, indexes) = PORT.split_once("| index | offset |").unwrap();
        assert!(indexes.contains(&format!("| tail | {} |", control::TAIL)));
        assert!(indexes.contains(&format!("| head | {} |", control::HEAD)));
    }

    #[test]
    fn the_directory_is_laid_out_as_documented() {
        let head = DirectoryHead {
            vm: VmName::new("ivi").unwrap(),
            instance: [7; 16],
            generation: 3,
            vectors: 32,
            windows: 62,
            max_sessions: 64,
            max_grants: 1024,
        };
        let mut bytes = [0xff; DirectoryHead::BYTES];
        head.write(&mut Writer::new(&mut bytes)).unwrap();
        let fields = [
            ("magic", le::<8>(MAGIC)),
            ("version", le::<4>(VERSION.into())),
            ("vectors", le::<2>(32)),
            ("windows", le::<2>(62)),
            ("max_sessions", le::<2>(64)),
            ("max_grants", le::<2>(1024)),
            ("generation", le::<8>(3)),
            ("instance", vec![7; 16]),
            ("vm", head.vm.to_field().to_vec()),
        ];
        compare(PORT, "### Head", &bytes, &fields);

        let line = WindowEntry {
            slice: SliceId(5),
            access: Access::ReadWrite,
            place: Some(PciPlace {
                root: 0x81,
                function: 3,
            }),
            bytes: 1 << 24,
            generation: Generation(9),
        };
        let mut bytes = [0xff; WindowEntry::BYTES];
        line.write(&mut Writer::new(&mut bytes)).unwrap();
        let fields = [
            ("slice", le::<4>(5)),
            ("access", le::<1>(2)),
            ("root", le::<1>(0x81)),
            ("function", le::<1>(3)),
            ("bytes", le::<8>(1 << 24)),
            ("generation", le::<8>(9)),
        ];
        compare(PORT, "### Window", &bytes, &fields);
    }

    #[test]
    fn limits_are_the_documented_ones() {
        let documented = table(PORT, "## 6. Limits");
        let code: Vec<_> = LIMITS
            .iter()
            .map(|(name, value)| vec![(*name).to_owned(), value.to_string()])
            .collect();
        assert_eq!(documented, code);
    }

    #[test]
    fn types_and_reasons_are_the_documented_ones() {
        let types: Vec<_> = table(FRAMES, "### Types")
            .iter()
            .map(|row| (row[0].clone(), row[1].clone()))
            .collect();
        let code = FRAME_TYPES.iter();
        let code: Vec<_> = code
            .map(|(_, code, name)| ((*name).to_owned(), code.to_string()))
            .collect();
        assert_eq!(types, code);
        let code: Vec<_> = REASONS
            .iter()
            .map(|(_, code, words)| vec![code.to_string(), (*words).to_owned()])
            .collect();
        assert_eq!(table(FRAMES, "## 3. Reasons"), code);
    }

    #[test]
    fn a_header_is_laid_out_as_documented() {
        let header = FrameHeader {
            length: 0x1234,
            kind: FrameType::Grant,
            session: SessionId(0x5678),
        };
        let fields = [
            ("length", le::<4>(0x1234)),
            ("type", le::<2>(3)),
            ("flags", le::<2>(0)),
            ("session", le::<4>(0x5678)),
        ];
        compare(FRAMES, "### Header", &header.to_bytes(), &fields);
    }

    fn compare_payload(heading: &str, payload: &Payload<'_>, fields: &[(&str, Vec<u8>)]) {
        let mut space = [0xff; LONGEST_PAYLOAD_BYTES];
        let mut writer = Writer::new(&mut space);
        payload.write(&mut writer).unwrap();
        let len = writer.written();
        compare(FRAMES, heading, &space[..len], fields);
    }

    #[test]
    fn payloads_are_laid_out_as_documented() {
        let hello = Payload::Hello {
            version: 1,
            boot: [3; 16],
        };
        let fields = [("version", le::<4>(1)), ("boot", vec![3; 16])];
        compare_payload("### HELLO", &hello, &fields);

        let open = Payload::Open(Facts {
            pid: 1,
            uid: 2,
            gid: 3,
            exe_sha256: Some([4; 32]),
        });
        let fields = [
            ("pid", le::<4>(1)),
            ("uid", le::<4>(2)),
            ("gid", le::<4>(3)),
            ("exe_known", le::<4>(1)),
            ("exe_sha256", vec![4; 32]),
        ];
        compare_payload("### OPEN", &open, &fields);

        let (grant, generation) = (GrantId(5), Generation(6));
        let revoke = Payload::Revoke {
            grant,
            generation,
            reason: Reason::PeerGone,
        };
        let fields = [
            ("grant", le::<4>(5)),
            ("generation", le::<8>(6)),
            ("reason", le::<2>(3)),
        ];
        compare_payload("### REVOKE", &revoke, &fields);
        let revoked = Payload::Revoked { grant, generation };
        compare_payload("### REVOKED", &revoked, &fields[..2]);
        let ring = Payload::Ring { credit: 7 };
        compare_payload("### RING", &ring, &[("credit", le::<4>(7))]);
        let close = Payload::Close(Reason::Flood);
        compare_payload("### CLOSE", &close, &[("reason", le::<2>(6))]);
    }

    #[test]
    fn bytes_of_data_and_their_credit_are_the_documented_ones() {
        assert!(FRAMES.contains(&format!("### DATA\n\n1 to {MAX_DATA_BYTES} bytes")));
        assert!(FRAMES.contains(&format!("a credit of {SESSION_CREDIT_BYTES} bytes")));
        let lengths = [
            (0, false),
            (1, true),
            (MAX_DATA_BYTES, true),
            (MAX_DATA_BYTES + 1, false),
        ];
        for (length, valid) in lengths {
            let read = Payload::read(FrameType::Data, &[7; MAX_DATA_BYTES + 1][..length]);
            assert_eq!(read.is_ok(), valid, "{length}");
        }
    }

    #[test]
    fn a_grant_is_laid_out_as_documented() {
        let grant = Grant {
            id: GrantId(7),
            generation: Generation(9),
            channel: ChannelName::new("job-1").unwrap(),
            kind: Kind::Ring {
                slot_bytes: 4096,
                overwrite: true,
                integrity: Integrity::Aead,
            },
            part: Part::Ack(1),
            readers: 2,
            access: Access::ReadOnly,
            window: 3,
            offset: 8192,
            length: 4096,
            epoch: 11,
            expiry: 13,
            peer: Some(GrantPeer {
                vm: VmName::new("worker-1").unwrap(),
                ring: RingId(20),
                vector: Vector(21),
            }),
        };
        let fields = [
            ("id", le::<4>(7)),
            ("kind", le::<1>(2)),
            ("overwrite", le::<1>(1)),
            ("part", le::<1>(1)),
            ("reader", le::<1>(1)),
            ("readers", le::<1>(2)),
            ("access", le::<1>(1)),
            ("window", le::<2>(3)),
            ("slot_bytes", le::<4>(4096)),
            ("generation", le::<8>(9)),
            ("offset", le::<8>(8192)),
            ("length", le::<8>(4096)),
            ("epoch", le::<8>(11)),
            ("expiry", le::<8>(13)),
            ("channel", grant.channel.to_field().to_vec()),
            ("peer", VmName::new("worker-1").unwrap().to_field().to_vec()),
            ("ring", le::<2>(20)),
            ("vector", le::<2>(21)),
            ("integrity", le::<1>(2)),
        ];
        compare_payload("### GRANT", &Payload::Grant(grant), &fields);
    }

    #[test]
    fn events_and_decisions_are_the_documented_ones() {
        let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        let (_, events) = AUDIT.split_once("| event | records |").unwrap();
        for event in Event::ALL {
            let name = word(serde_json::to_value(event).unwrap());
            assert!(events.contains(&format!("| `{name}` |")), "{name}");
        }
        let lines = events.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(lines.count(), Event::ALL.len());
        for decision in [Decision::Allow, Decision::Deny, Decision::End] {
            let name = word(serde_json::to_value(decision).unwrap());
            assert!(AUDIT.contains(&format!("`{name}`")), "{name}");
        }
    }
}
