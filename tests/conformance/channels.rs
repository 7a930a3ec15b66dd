//! `docs/channels.md` against `sivshm_abi::channel`, which both ends of a channel are built on.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sivshm_abi::channel::{
        ACK_BYTES, HEAD_BYTES, SLOT_ALIGN, ack, head, slot, slot_count, slot_header_bytes,
        slot_stride,
    };
    use sivshm_abi::grant::{INTEGRITIES, Integrity};
    use sivshm_ring::slots::IntegrityFault;

    const DOCUMENT: &str = include_str!("../../docs/channels.md");

    /// The tables of a section, as cells, without their heads.
    fn tables(heading: &str) -> Vec<Vec<Vec<&'static str>>> {
        let (_, section) = DOCUMENT.split_once(&format!("\n{heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = |lines: &[&'static str]| {
            let cells =
                |line: &&'static str| line.trim_matches('|').split('|').map(str::trim).collect();
            lines.iter().skip(2).map(cells).collect()
        };
        let lines: Vec<_> = section.lines().collect();
        lines
            .split(|line| !line.starts_with('|'))
            .filter(|table| !table.is_empty())
            .map(rows)
            .collect()
    }

    /// Name, offset and bytes of each field of a section's first table.
    fn fields(heading: &str) -> Vec<(&'static str, u64, Option<u64>)> {
        let table = tables(heading).swap_remove(0);
        table
            .into_iter()
            .map(|row| (row[0], row[1].parse().unwrap(), row[2].parse().ok()))
            .collect()
    }

    fn at(offset: usize) -> u64 {
        u64::try_from(offset).unwrap()
    }

    #[test]
    fn the_head_page_is_the_documented_one() {
        let expected = [
            ("sequence", at(head::SEQUENCE), Some(8)),
            ("length", at(head::LENGTH), Some(8)),
            ("waiting", at(head::WAITING), Some(8)),
            ("epoch", at(head::EPOCH), Some(8)),
            ("whole", 0, Some(HEAD_BYTES)),
        ];
        assert_eq!(fields("## 1. Head page"), expected);
    }

    #[test]
    fn the_acknowledgement_line_is_the_documented_one() {
        let expected = [
            ("seen", at(ack::SEEN), Some(8)),
            ("waiting", at(ack::WAITING), Some(8)),
            ("epoch", at(ack::EPOCH), Some(8)),
            ("whole", 0, Some(ACK_BYTES)),
        ];
        assert_eq!(fields("## 2. Acknowledgement line"), expected);
    }

    #[test]
    fn the_slot_is_the_documented_one() {
        let expected = [
            ("length", at(slot::LENGTH), Some(4)),
            ("reserved", 4, Some(4)),
            ("number", at(slot::NUMBER), Some(8)),
            ("payload", slot_header_bytes(Integrity::None), None),
        ];
        assert_eq!(fields("## 5. Ring"), expected);
        assert!(DOCUMENT.contains(&format!("Slots begin at multiples of {SLOT_ALIGN}.")));
    }

    #[test]
    fn the_examples_of_geometry_are_right() {
        let examples = tables("## 5. Ring").swap_remove(1);
        assert_eq!(examples.len(), 9);
        for row in examples {
            let integrity = integrity(row[0]);
            let payload = row[1].parse().unwrap();
            assert_eq!(
                slot_stride(payload, integrity).to_string(),
                row[3],
                "{row:?}"
            );
            let slots = slot_count(row[2].parse().unwrap(), payload, integrity);
            let slots = slots.map_or("none".to_owned(), |slots| slots.to_string());
            assert_eq!(slots, row[4], "{row:?}");
        }
    }

    fn integrity(word: &str) -> Integrity {
        let suite = INTEGRITIES.iter().find(|(_, _, name)| *name == word);
        suite.unwrap().0
    }

    #[test]
    fn the_slot_with_integrity_is_the_documented_one() {
        let header = |suite| slot_header_bytes(integrity(suite));
        let expected = [
            ("length", at(slot::LENGTH), Some(4), true, true),
            ("crc", at(slot::CRC), Some(4), true, true),
            ("number", at(slot::NUMBER), Some(8), true, true),
            ("identifier", at(slot::IDENTIFIER), Some(8), true, true),
            ("reserved", at(slot::IDENTIFIER) + 8, Some(8), true, true),
            ("tag", at(slot::TAG), Some(at(slot::TAG_BYTES)), false, true),
            ("payload", header("crc32c"), None, true, false),
            ("payload", header("aead"), None, false, true),
        ];
        let table = tables("## 6. Integrity").swap_remove(0);
        let found: Vec<_> = (table.iter())
            .map(|row| {
                let [offset, bytes] = [row[1].parse().unwrap(), row[2].parse().unwrap_or(0)];
                let bytes = (bytes > 0).then_some(bytes);
                (row[0], offset, bytes, row[3] == "yes", row[4] == "yes")
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_fault_is_documented() {
        let table = tables("## 6. Integrity").swap_remove(2);
        let names: BTreeSet<_> = table.iter().map(|row| row[0]).collect();
        let faults = IntegrityFault::ALL.map(IntegrityFault::name);
        assert_eq!(names, faults.into_iter().collect());
    }
}
