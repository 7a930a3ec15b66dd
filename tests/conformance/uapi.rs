//! The guest device file: `docs/device-file.md`, the C header and `sivshm_abi::uapi` are one table.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sivshm_abi::frame::REASONS;
    use sivshm_abi::grant::{
        Access, Generation, Grant, GrantId, GrantPeer, Integrity, Kind, Part, RingId, Vector,
    };
    use sivshm_abi::limits::{GRANT_OFFSET_SHIFT, MAX_DATA_BYTES, SESSION_CREDIT_BYTES};
    use sivshm_abi::name::{ChannelName, VmName};
    use sivshm_abi::uapi::{self, SessionState};
    use sivshm_abi::wire::Writer;

    const DOCUMENT: &str = include_str!("../../docs/device-file.md");
    const HEADER: &str = include_str!("../../guest-module/kmod/sivshm_uapi.h");
    const GATE_HEADER: &str = include_str!("../../guest-module/kmod/gate.h");
    const MODULE: &str = include_str!("../../guest-module/kmod/chardev.c");

    /// An ioctl: number, direction, argument.
    type Ioctl = (u8, String, String);

    /// A field: offset, bytes, name.
    type Field = (usize, usize, String);

    /// Cells of every table line below `heading`, up to the next heading.
    fn table(heading: &str) -> Vec<Vec<&'static str>> {
        let (_, below) = DOCUMENT.split_once(&format!("\n{heading}\n")).unwrap();
        let section = below.split("\n#").next().unwrap();
        (section.lines().filter(|line| line.starts_with('|')))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .filter(|cells: &Vec<&str>| !cells.iter().all(|cell| cell.starts_with("---")))
            .collect()
    }

    fn unquoted(cell: &str) -> String {
        cell.trim_matches('`').to_owned()
    }

    fn documented_fields(structure: &str) -> Vec<Field> {
        (table(&format!("### `struct {structure}`")).into_iter())
            .filter(|cells| cells.len() == 4 && cells[0] != "offset")
            .map(|cells| {
                let number = |cell: &str| cell.parse().unwrap();
                (number(cells[0]), number(cells[1]), unquoted(cells[2]))
            })
            .collect()
    }

    /// Fields of a structure of the header; every field must be naturally aligned.
    fn declared_fields(structure: &str) -> Vec<Field> {
        let (_, below) = HEADER
            .split_once(&format!("struct {structure} {{\n"))
            .unwrap();
        let mut fields = Vec::new();
        let mut offset = 0;
        for line in below.split("};").next().unwrap().lines() {
            let (kind, name) = line.trim().trim_end_matches(';').split_once(' ').unwrap();
            let size = match kind {
                "__u8" => 1,
                "__u16" => 2,
                "__u32" | "__s32" => 4,
                "__u64" => 8,
                other => panic!("{other} is no type of this interface"),
            };
            assert_eq!(offset % size, 0, "{structure}.{name} is not aligned");
            let (name, count) = match name.trim_end_matches(']').split_once('[') {
                Some((name, count)) => (name, count.parse().unwrap()),
                None => (name, 1),
            };
            fields.push((offset, size * count, name.to_owned()));
            offset += size * count;
        }
        fields
    }

    fn declared_ioctls() -> BTreeMap<String, Ioctl> {
        (HEADER.lines())
            .filter_map(|line| line.strip_prefix("#define SIVSHM_IOC_"))
            .map(|line| {
                let (name, definition) = line.split_once(' ').unwrap();
                let (direction, arguments) = definition.split_once('(').unwrap();
                let arguments: Vec<_> = arguments
                    .trim_end_matches(')')
                    .split(',')
                    .map(str::trim)
                    .collect();
                let kind = format!("0x{:X}", uapi::IOCTL_TYPE);
                assert_eq!(arguments[0], kind, "type byte of {name}");
                let direction = match direction {
                    "_IOR" => "R",
                    "_IOW" => "W",
                    "_IOWR" => "RW",
                    other => panic!("{other} is no direction"),
                };
                let ioctl = (
                    arguments[1].parse().unwrap(),
                    direction.into(),
                    arguments[2].into(),
                );
                (name.to_owned(), ioctl)
            })
            .collect()
    }

    fn define(name: &str) -> u32 {
        let line = (HEADER.lines())
            .find_map(|line| line.strip_prefix(&format!("#define {name} ")))
            .unwrap();
        line.parse().unwrap()
    }

    #[test]
    fn structures_are_the_same_in_document_header_and_abi() {
        for (structure, bytes) in [
            ("sivshm_list", uapi::LIST_BYTES),
            ("sivshm_wait", uapi::WAIT_BYTES),
            ("sivshm_bind", uapi::BIND_BYTES),
            ("sivshm_grant", uapi::GRANT_INFO_BYTES),
        ] {
            let declared = declared_fields(structure);
            assert_eq!(documented_fields(structure), declared, "{structure}");
            let (offset, size, _) = declared.last().unwrap();
            assert_eq!(offset + size, bytes, "{structure}");
        }
    }

    #[test]
    fn ioctls_are_the_same_in_document_header_and_abi() {
        let declared = declared_ioctls();
        let mut documented = BTreeMap::new();
        for cells in table("## ioctls").into_iter().skip(1) {
            let argument = unquoted(cells[3]);
            let bytes = match argument.strip_prefix("struct ") {
                Some(structure) => {
                    let (offset, size, _) = declared_fields(structure).pop().unwrap();
                    offset + size
                }
                None => 4,
            };
            assert_eq!(cells[4].parse(), Ok(bytes), "bytes of {}", cells[0]);
            let ioctl = (cells[1].parse().unwrap(), cells[2].to_owned(), argument);
            documented.insert(unquoted(cells[0]), ioctl);
        }
        assert_eq!(documented, declared);
        let numbers: Vec<_> = declared
            .iter()
            .map(|(name, ioctl)| (name.as_str(), ioctl.0))
            .collect();
        let expected = [
            ("BIND", uapi::BIND),
            ("LIST", uapi::LIST),
            ("NOTIFY", uapi::NOTIFY),
            ("VERSION", uapi::VERSION),
            ("WAIT", uapi::WAIT),
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn numbers_are_the_same_in_header_and_abi() {
        assert_eq!(define("SIVSHM_UAPI_VERSION"), uapi::UAPI_VERSION);
        assert_eq!(define("SIVSHM_GRANT_OFFSET_SHIFT"), GRANT_OFFSET_SHIFT);
        assert_eq!(define("SIVSHM_OPENING"), SessionState::Opening.code());
        assert_eq!(define("SIVSHM_ACTIVE"), SessionState::Active.code());
        assert_eq!(define("SIVSHM_CLOSED"), SessionState::Closed.code());
        assert!(DOCUMENT.contains(&format!("`slot << {GRANT_OFFSET_SHIFT}`")));
    }

    #[test]
    fn bytes_of_read_and_write_are_bounded_as_documented() {
        assert!(DOCUMENT.contains(&format!("at most {MAX_DATA_BYTES}, and returns")));
        assert!(DOCUMENT.contains(&format!("come, at most {MAX_DATA_BYTES}.")));
        assert!(DOCUMENT.contains(&format!("\n{SESSION_CREDIT_BYTES} bytes are under way")));
        let define = format!("#define SIVSHM_MAX_DATA_BYTES {MAX_DATA_BYTES}\n");
        assert!(GATE_HEADER.contains(&define));
    }

    /// The events that the module's `poll` gives are those of the document, no more and no less.
    #[test]
    fn events_are_the_same_in_document_and_module() {
        let events = |text: &str| -> BTreeSet<String> {
            (text.split(|letter: char| !letter.is_ascii_alphanumeric()))
                .filter(|word| word.starts_with("EPOLL"))
                .map(str::to_owned)
                .collect()
        };
        let documented = table("## poll").into_iter().skip(1);
        let documented = documented.flat_map(|cells| events(cells[0])).collect();
        assert_eq!(events(MODULE), documented);
    }

    #[test]
    fn reasons_are_those_of_the_control_frames() {
        let documented: Vec<_> = (table("### `struct sivshm_list`").into_iter())
            .filter(|cells| cells.len() == 2 && cells[0] != "reason")
            .map(|cells| (cells[0].parse().unwrap(), cells[1]))
            .collect();
        let expected: Vec<_> = REASONS
            .iter()
            .map(|(_, code, words)| (*code, *words))
            .collect();
        assert_eq!(documented, expected);
    }

    /// The C structure is a second description of what `Grant::write` writes.
    #[test]
    fn a_grant_has_its_fields_where_the_header_says() {
        let grant = Grant {
            id: GrantId(0x0101_0101),
            generation: Generation(0x0202_0202_0202_0202),
            channel: ChannelName::new("channel").unwrap(),
            kind: Kind::Ring {
                slot_bytes: 0x0303_0303,
                overwrite: true,
                integrity: Integrity::Aead,
            },
            part: Part::Ack(4),
            readers: 5,
            access: Access::ReadWrite,
            window: 0x0606,
            offset: 0x0707_0707_0707_0707,
            length: 0x0808_0808_0808_0808,
            epoch: 0x0909_0909_0909_0909,
            expiry: 0x0a0a_0a0a_0a0a_0a0a,
            peer: Some(GrantPeer {
                vm: VmName::new("peer").unwrap(),
                ring: RingId(0x0b0b),
                vector: Vector(0x0c0c),
            }),
        };
        let mut bytes = [0; uapi::GRANT_INFO_BYTES];
        grant.write(&mut Writer::new(&mut bytes[8..])).unwrap();
        for (offset, size, name) in declared_fields("sivshm_grant") {
            let field = &bytes[offset..offset + size];
            let filled = |byte| field.iter().all(|found| *found == byte);
            let right = match name.as_str() {
                "slot" | "reserved" | "zero" => filled(0),
                "id" => filled(1),
                "kind" | "access" | "integrity" => filled(2),
                "overwrite" | "part" => filled(1),
                "generation" => filled(2),
                "slot_bytes" => filled(3),
                "reader" => filled(4),
                "readers" => filled(5),
                "window" => filled(6),
                "offset" => filled(7),
                "length" => filled(8),
                "epoch" => filled(9),
                "expiry" => filled(10),
                "ring" => filled(11),
                "vector" => filled(12),
                "channel" => field.starts_with(b"channel\0"),
                "peer" => field.starts_with(b"peer\0"),
                other => panic!("{other} is a field that this test does not know"),
            };
            assert!(right, "{name} is not at {offset}");
        }
    }
}
