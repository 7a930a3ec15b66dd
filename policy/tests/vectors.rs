//! The test vectors of `docs/policy.md`: the fields that it lists, encoded as it says, have the
//! digests that it names and that the compiler computes.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use ring::digest::{SHA256, digest};
    use sivshm_policy::plan::Digest;

    const DOCUMENT: &str = include_str!("../../docs/policy.md");

    /// The blocks of the document's test vectors in one language.
    fn blocks(language: &str) -> Vec<&'static str> {
        let (_, vectors) = DOCUMENT.split_once("### Test vectors").unwrap();
        let blocks = vectors.split("```").skip(1).step_by(2);
        blocks
            .filter_map(|block| block.strip_prefix(language))
            .collect()
    }

    fn encode(fields: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in fields.trim().lines() {
            let value = match line.split_once(' ') {
                Some(("text", text)) => text.as_bytes().to_vec(),
                Some(("int", number)) => number.parse::<u64>().unwrap().to_le_bytes().to_vec(),
                Some(("bytes", hex)) => Digest::from_hex(hex).unwrap().0.to_vec(),
                None if line == "none" => Vec::new(),
                _ => panic!("{line}"),
            };
            bytes.extend(u64::try_from(value.len()).unwrap().to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }

    #[test]
    fn fields_digests_and_compiler_agree() {
        let plan = sivshm_policy::compile("policy.md", blocks("toml")[0]).unwrap();
        let computed = [plan.vms[0].peers[0].contract, plan.digest];
        assert_eq!(plan.vms[1].peers[0].contract, computed[0]);
        for ((what, fields), computed) in ["contract", "plan"]
            .iter()
            .zip(blocks("fields"))
            .zip(computed)
        {
            let of_fields = digest(&SHA256, &encode(fields));
            assert_eq!(of_fields.as_ref(), computed.0, "{what}: {computed}");
            let row = format!("| {what} | `{computed}` |");
            assert!(DOCUMENT.contains(&row), "{row}");
        }
    }
}
