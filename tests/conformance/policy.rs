//! `docs/policy.md` against the code: keys, kinds, units, limits, and every error in its words.

#[cfg(test)]
mod tests {
    use sivshm_abi::grant::INTEGRITIES;
    use sivshm_abi::limits;
    use sivshm_policy::keys::{KINDS, OVERFLOWS, TABLES, VERSION};
    use sivshm_policy::plan::Uncontained;
    use sivshm_policy::{compile, size};
    use sivshm_tests::document::plain_rows;

    const DOCUMENT: &str = include_str!("../../docs/policy.md");
    const EXAMPLE: &str = include_str!("../../docs/examples/job.toml");

    /// The cells of every row of the first table at or behind `start`, without its head and without
    /// the marks of code.
    fn table(start: &str) -> Vec<Vec<String>> {
        let at = DOCUMENT.find(start).unwrap();
        plain_rows(DOCUMENT.get(at..).unwrap())
    }

    /// The first columns of a table.
    fn columns<const N: usize>(start: &str) -> Vec<[String; N]> {
        let rows = table(start).into_iter();
        rows.map(|row| std::array::from_fn(|column| row[column].clone()))
            .collect()
    }

    #[test]
    fn keys_are_those_of_the_parser() {
        for rule in TABLES {
            let documented: Vec<[String; 3]> = columns(&format!("\n### {}\n", rule.name));
            let keys = rule.keys.iter().map(|key| {
                [key.name, key.form, key.default.unwrap_or("required")].map(str::to_owned)
            });
            assert_eq!(documented, keys.collect::<Vec<_>>(), "{}", rule.name);
        }
        assert!(DOCUMENT.starts_with(&format!("# The policy language, version {VERSION}\n")));
    }

    #[test]
    fn words_and_units_are_those_of_the_parser() {
        let first = |start| {
            columns(start)
                .into_iter()
                .map(|[name]| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(first("| kind | what it holds"), KINDS);
        assert_eq!(first("| overflow | what a full"), OVERFLOWS);
        let suites: Vec<_> = INTEGRITIES.iter().map(|(_, _, word)| *word).collect();
        assert_eq!(first("| integrity | what is"), suites);
        let uncontained: Vec<_> = Uncontained::ALL.iter().map(|what| what.word()).collect();
        assert_eq!(first("| uncontained | what happens"), uncontained);
        let units = size::UNITS.iter().rev();
        let units: Vec<_> = units
            .map(|(name, bytes)| [(*name).to_owned(), bytes.to_string()])
            .collect();
        assert_eq!(columns("| unit | bytes"), units);
    }

    #[test]
    fn limits_are_those_of_the_code() {
        let limits = [
            ("MAX_POLICY_BYTES", sivshm_policy::MAX_POLICY_BYTES as u64),
            ("MAX_DIAGNOSTICS", sivshm_policy::MAX_DIAGNOSTICS as u64),
            ("MAX_NAME_BYTES", limits::MAX_NAME_BYTES as u64),
            (
                "MAX_TRUST_DOMAIN_BYTES",
                limits::MAX_TRUST_DOMAIN_BYTES as u64,
            ),
            ("MAX_VMS", limits::MAX_VMS as u64),
            ("MAX_SERVICES", sivshm_policy::MAX_SERVICES as u64),
            ("MAX_READERS", limits::MAX_READERS as u64),
            ("MAX_GRANTS", limits::MAX_GRANTS as u64),
            ("MAX_WINDOWS", limits::MAX_WINDOWS as u64),
            ("MIN_CHANNEL_BYTES", size::MIN_CHANNEL_BYTES),
            ("MAX_SLICE_BYTES", limits::MAX_SLICE_BYTES),
        ];
        let limits = limits.map(|(name, value)| [name.to_owned(), value.to_string()]);
        assert_eq!(columns("\n## Limits\n"), limits);
    }

    /// Removing the key must be an error that names it if and only if the document requires it.
    #[test]
    fn a_key_is_required_as_the_document_says() {
        let ring = "kind = \"ring\"\nslot = \"4KiB\"\noverflow = \"block\"\nintegrity = \"aead\"";
        let vm = "[[vm]]\nuncontained = \"show\"";
        let complete = EXAMPLE.replacen("kind = \"region\"", ring, 1);
        let complete = complete.replacen("[[vm]]", vm, 1);
        compile("job.toml", &complete).unwrap();
        for rule in TABLES.iter().filter(|rule| rule.name.starts_with("[[")) {
            for [key, _, default] in columns(&format!("\n### {}\n", rule.name)) {
                let (before, table) = complete.split_once(rule.name).unwrap();
                let table = table.replacen(&format!("\n{key} ="), "\n#", 1);
                let missing = compile("job.toml", &format!("{before}{}{table}", rule.name));
                match missing {
                    Ok(_) => assert!(!default.starts_with("required"), "{key}"),
                    Err(errors) => {
                        assert!(default.starts_with("required"), "{key}: {errors}");
                        assert!(errors.diagnostics[0].message.contains(&key) || key == "slot");
                    }
                }
            }
        }
    }

    #[test]
    fn each_documented_error_is_what_the_compiler_says() {
        compile("job.toml", EXAMPLE).unwrap();
        let errors = table("\n## Errors\n");
        assert!(errors.len() > 40);
        for row in errors {
            let [message, old, new] = &row[..] else {
                panic!("{row:?}");
            };
            assert!(
                EXAMPLE.contains(old.as_str()),
                "{old} is not in the example"
            );
            let text = EXAMPLE.replacen(old.as_str(), &new.replace('⏎', "\n"), 1);
            let errors = compile("job.toml", &text).expect_err(message);
            let said = errors
                .diagnostics
                .iter()
                .any(|error| error.message.replace('`', "").contains(message.as_str()));
            assert!(said, "{message}: not said of {new}, but\n{errors}");
        }
    }
}
