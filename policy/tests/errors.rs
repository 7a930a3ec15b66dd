//! Every error of `docs/policy.md`: its message, its place and its suggestion.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use sivshm_policy::{Diagnostic, compile};

    /// A valid policy, one table a line; the cases below change one line or add some.
    const BASE: &str = r#"version = 1
trust_domain = "car.example"
serial = 7
[[vm]]
name = "manager"
[[vm]]
name = "worker-{1..3}"
[[service]]
vm = "manager"
name = "mapper"
process = { uid = 1000 }
[[service]]
vm = "worker-{n}"
name = "reducer"
process = { uid = 1000 }
[[channel]]
name = "job-{n}"
from = "manager/mapper"
to = ["worker-{n}/reducer"]
kind = "region"
size = "16MiB"
[[never]]
from = "worker-*"
to = "worker-*"
reason = "isolated"
"#;

    const CHANNEL: &str =
        "[[channel]]\nname = \"x\"\nfrom = \"manager/mapper\"\nto = [\"worker-1/reducer\"]\n";

    fn errors(text: &str) -> Vec<Diagnostic> {
        compile("p.toml", text).unwrap_err().diagnostics
    }

    /// The only error of the base policy with one text replaced by another.
    fn changed(old: &str, new: &str) -> Diagnostic {
        assert!(BASE.contains(old), "{old}");
        let mut errors = errors(&BASE.replacen(old, new, 1));
        assert_eq!(errors.len(), 1, "{new}: {errors:?}");
        errors.remove(0)
    }

    /// The only error of the base policy with more behind it.
    fn extended(more: &str) -> Diagnostic {
        let mut errors = errors(&format!("{BASE}{more}"));
        assert_eq!(errors.len(), 1, "{more}: {errors:?}");
        errors.remove(0)
    }

    fn assert_error(error: &Diagnostic, line: usize, column: usize, message: &str, help: &str) {
        let place = (error.place.line, error.place.column);
        assert_eq!(place, (line, column), "{error:?}");
        assert!(error.message.contains(message), "{error:?}");
        let got = error.help.as_deref().unwrap_or_default();
        assert!(got.contains(help), "{error:?}");
    }

    #[test]
    fn the_base_is_valid() {
        compile("p.toml", BASE).unwrap();
    }

    #[test]
    fn values() {
        let cases = [
            (
                "version = 1",
                "version = 2",
                1,
                11,
                "version 2 is unknown",
                "reads version 1",
            ),
            ("car.example", "Car", 2, 16, "can't be in a name", ""),
            ("serial = 7", "serial = -7", 3, 10, "can't be negative", ""),
            (
                "serial = 7",
                "serial = \"7\"",
                3,
                10,
                "expected an integer, found string",
                "",
            ),
            ("manager", "man/ager", 5, 8, "`man/ager` is not a name", ""),
            ("{1..3}", "{1..3", 7, 8, "braces do not match", ""),
            (
                "{1..3}",
                "{n}",
                7,
                8,
                "nothing binds `{n}` here",
                "by a range",
            ),
            ("{1..3}", "{0..256}", 7, 8, "more than 256", ""),
            (
                "uid = 1000",
                "uid = 4294967295",
                11,
                19,
                "no process has this uid",
                "",
            ),
            (
                "uid = 1000 }",
                "uid = 1, exe_sha256 = \"0F\" }",
                11,
                35,
                "64 hexadecimal",
                "",
            ),
            (
                "\"manager/mapper\"",
                "\"manager\"",
                18,
                8,
                "write \"vm/service\"",
                "",
            ),
            (
                "[\"worker-{n}/reducer\"]",
                "[]",
                19,
                6,
                "can't be empty",
                "",
            ),
            (
                "[\"worker-{n}/reducer\"]",
                "\"worker-{n}/reducer\"",
                19,
                6,
                "an array",
                "",
            ),
            (
                "region",
                "latest",
                20,
                8,
                "unknown kind `latest`; in this version there are region, ring",
                "",
            ),
            (
                "region",
                "rign",
                20,
                8,
                "unknown kind",
                "did you mean `ring`?",
            ),
            ("region", "ring", 20, 8, "size of its slots", ""),
            (
                "region\"",
                "ring\"\nslot = \"4KiB\"\nintegrity = \"crc32\"",
                22,
                13,
                "unknown integrity `crc32`",
                "did you mean `crc32c`?",
            ),
            (
                "manager\"",
                "manager\"\nuncontained = \"end\"",
                6,
                15,
                "there are show, end-vmm",
                "",
            ),
            ("16MiB", "16MB", 21, 8, "`16MB` is not a size", ""),
            ("16MiB", "12MiB", 21, 8, "8MiB and 16MiB", ""),
            ("16MiB", "4KiB", 21, 8, "between 8KiB and 16GiB", ""),
            (
                "16MiB\"",
                "16MiB\"\nslot = \"4KiB\"",
                22,
                8,
                "for rings only",
                "",
            ),
            (
                "from = \"worker-*\"",
                "from = \"\"",
                23,
                8,
                "can't match a VM",
                "",
            ),
            ("isolated", "", 25, 10, "say why", ""),
        ];
        for (old, new, line, column, message, help) in cases {
            assert_error(&changed(old, new), line, column, message, help);
        }
    }

    #[test]
    fn keys() {
        let error = changed("size = ", "sise = ");
        assert_error(
            &error,
            21,
            1,
            "unknown key `sise` in [[channel]]",
            "did you mean `size`?",
        );
        let error = changed("serial", "trust");
        assert_error(
            &error,
            3,
            1,
            "unknown key `trust` in the file",
            "its keys are version",
        );
        let error = changed("size = \"16MiB\"", "");
        assert_error(&error, 16, 1, "[[channel]] has no `size`", "");
        let error = changed("serial = 7", "");
        assert_error(&error, 1, 1, "the file has no `serial`", "");
        let single = BASE.replacen("[[vm]]\nname = \"manager\"\n", "", 1);
        let errors = errors(&single.replacen("[[vm]]", "[vm]", 1));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_error(
            &errors[0],
            4,
            1,
            "tables, each written as [[vm]], found table",
            "",
        );
    }

    #[test]
    fn syntax() {
        let error = changed("serial = 7", "serial = ");
        assert_eq!((error.place.line, error.place.column), (3, 10), "{error:?}");
        let error = changed("uid = 1000", "uid = 1000, uid = 1001");
        assert_eq!(error.place.line, 11, "{error:?}");
        assert!(error.message.contains("duplicate key"), "{error:?}");
    }

    #[test]
    fn names_between_tables() {
        let cases = [
            (
                "vm = \"manager\"",
                "vm = \"manger\"",
                9,
                6,
                "there is no VM `manger`",
                "`manager`",
            ),
            (
                "vm = \"worker-{n}\"",
                "vm = \"wroker-{n}\"",
                13,
                6,
                "nothing binds `{n}`",
                "`worker-{n}`",
            ),
            (
                "manager/mapper",
                "manager/maper",
                18,
                8,
                "VM `manager` has no service `maper`",
                "`mapper`",
            ),
            (
                "worker-{n}/",
                "worker-{4..5}/",
                17,
                8,
                "no end of the channel binds `{n}`",
                "",
            ),
            (
                "job-{n}",
                "job",
                17,
                8,
                "the same name",
                "`{n}` into the name",
            ),
            (
                "job-{n}",
                "job-{m}",
                17,
                8,
                "the same name",
                "`{n}` into the name",
            ),
            (
                "job-{n}",
                "job-{1..3}",
                17,
                8,
                "can't have a range",
                "placeholder",
            ),
            (
                "from = \"worker-*\"",
                "from = \"wroker-1\"",
                23,
                8,
                "protects nobody",
                "`worker-1`",
            ),
        ];
        for (old, new, line, column, message, help) in cases {
            assert_error(&changed(old, new), line, column, message, help);
        }
    }

    #[test]
    fn what_may_exist_once_shows_both_places() {
        let error = extended("[[vm]]\nname = \"worker-2\"\n");
        assert_error(&error, 27, 8, "VM `worker-2` is declared twice", "");
        assert_eq!(error.notes[0].0.line, 7);
        let error =
            extended("[[service]]\nvm = \"worker-2\"\nname = \"reducer\"\nprocess = { uid = 1 }\n");
        assert_error(
            &error,
            28,
            8,
            "service `worker-2/reducer` is declared twice",
            "",
        );
        assert_eq!(error.notes[0].0.line, 15);
        let error = extended(
            "[[service]]\nvm = \"worker-2\"\nname = \"other\"\nprocess = { uid = 1000 }\n",
        );
        assert_error(
            &error,
            29,
            11,
            "both `worker-2/reducer` and `worker-2/other`",
            "a uid of its own",
        );
        assert_eq!(error.notes[0].0.line, 15);
        let error = extended(&format!(
            "{}kind = \"region\"\nsize = \"8KiB\"\n",
            CHANNEL.replace("\"x\"", "\"job-2\"")
        ));
        assert_error(&error, 27, 8, "channel `job-2` is declared twice", "");
        assert_eq!(error.notes[0].0.line, 17);
    }

    #[test]
    fn channels_between_wrong_ends() {
        let region = "kind = \"region\"\nsize = \"8KiB\"\n";
        let cases = [
            (
                CHANNEL.replace("worker-1/reducer", "manager/mapper"),
                29,
                "are in one VM",
            ),
            (
                CHANNEL.replace(
                    "\"worker-1/reducer\"",
                    "\"worker-{1..3}/reducer\", \"worker-2/reducer\"",
                ),
                29,
                "the reader `reducer` twice",
            ),
            (
                CHANNEL.replace("worker-1", "worker-{1..4}"),
                29,
                "no VM `worker-4`",
            ),
            (
                CHANNEL.replace("manager/mapper", "worker-{1..3}/reducer"),
                28,
                "can't have a range",
            ),
            (
                CHANNEL.replace("\"x\"", "\"x-{n}\""),
                27,
                "no end of the channel binds `{n}`",
            ),
        ];
        for (channel, line, message) in cases {
            let error = extended(&format!("{channel}{region}"));
            assert_eq!(error.place.line, line, "{error:?}");
            assert!(error.message.contains(message), "{error:?}");
        }
        let error = extended(&format!(
            "{CHANNEL}kind = \"ring\"\nslot = \"4KiB\"\nsize = \"8KiB\"\n"
        ));
        assert_error(
            &error,
            27,
            8,
            "not even two of 4KiB fit",
            "make `size` larger",
        );
    }

    #[test]
    fn aead_has_one_reader() {
        let ring = "kind = \"ring\"\nslot = \"64B\"\nsize = \"64KiB\"\nintegrity = \"aead\"\n";
        compile("p.toml", &format!("{BASE}{CHANNEL}{ring}")).unwrap();
        let fan_out = CHANNEL.replace("worker-1", "worker-{1..3}");
        let error = extended(&format!("{fan_out}{ring}"));
        assert_error(&error, 33, 13, "`x` has 3 readers", "use `crc32c`");
        assert_eq!(error.notes[0].0.line, 29);
    }

    #[test]
    fn a_broken_never_rule_shows_rule_and_channel() {
        let channel = CHANNEL.replace("manager/mapper", "worker-2/reducer");
        let error = extended(&format!("{channel}kind = \"region\"\nsize = \"8KiB\"\n"));
        assert_error(&error, 27, 8, "channel `x` breaks a never rule", "");
        let (place, note) = &error.notes[0];
        assert_eq!(place.line, 23);
        assert!(note.contains("isolated"), "{note}");
    }

    #[test]
    fn limits() {
        let vms = "[[vm]]\nname = \"a-{1..253}\"\n";
        assert_error(&extended(vms), 27, 8, "at most 256 VMs", "");
        let services: String = (1..=64)
            .map(|n| {
                format!(
                    "[[service]]\nvm = \"manager\"\nname = \"s-{n}\"\nprocess = {{ uid = {n} }}\n"
                )
            })
            .collect();
        let error = extended(&services);
        assert!(error.message.contains("more than 64 services"), "{error:?}");
        let channels: String = (1..=512)
            .map(|n| {
                format!(
                    "{}kind = \"region\"\nsize = \"8KiB\"\n",
                    CHANNEL.replace("\"x\"", &format!("\"x-{n}\""))
                )
            })
            .collect();
        let error = extended(&channels);
        assert!(
            error.message.contains("takes part in too many channels"),
            "{error:?}"
        );
        let huge = format!("{CHANNEL}kind = \"region\"\nsize = \"16GiB\"\n");
        assert!(
            extended(&huge)
                .message
                .contains("the slice of this channel would have 32GiB")
        );
        let long = format!("{BASE}#{}", "x".repeat(sivshm_policy::MAX_POLICY_BYTES));
        assert!(errors(&long)[0].message.contains("at most 8388608 bytes"));
    }

    #[test]
    fn all_errors_of_a_stage_are_shown_as_a_person_reads_them() {
        let text = BASE
            .replacen("size", "sise", 1)
            .replacen("uid = 1000", "uid = 0.5", 1);
        let shown = compile("p.toml", &text).unwrap_err().to_string();
        assert_eq!(
            shown,
            r#"p.toml:11:19: error: expected an integer, found float
    11 | process = { uid = 0.5 }
       |                   ^^^
p.toml:21:1: error: unknown key `sise` in [[channel]]
    21 | sise = "16MiB"
       | ^^^^
       = help: did you mean `size`?
p.toml: 2 errors; nothing of this file is used"#
        );
    }

    #[test]
    fn a_bad_declaration_is_reported_once_and_hides_no_other_error() {
        let text = BASE.replacen("\"manager\"", "\"man/ager\"", 1).replacen(
            "{1..3}",
            "{1..3}\"\n[[vm]]\nname = \"worker-3",
            1,
        );
        let errors = errors(&text);
        let lines: Vec<usize> = errors.iter().map(|error| error.place.line).collect();
        assert_eq!(lines, [5, 9], "{errors:?}");
    }
}
