//! The CA's directory: made whole or not at all, never overwritten, opened only when it is private
//! and its files belong together; and the ledger that every certificate is in.

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use serde_json::Value;
    use sivshm_abi::identity::SpiffeId;
    use sivshm_ca::Authority;
    use sivshm_ca::authority::AuthorityError;
    use tempfile::TempDir;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86400);

    fn init(dir: &Path) -> Result<Authority, AuthorityError> {
        Authority::init(dir, &"car.example".parse().unwrap(), SystemTime::now())
    }

    fn made() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        init(&path).unwrap();
        (dir, path)
    }

    fn device(vm: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://car.example/vm/{vm}/device")).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn ledger(dir: &Path) -> Vec<Value> {
        let text = fs::read_to_string(dir.join("ledger.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn keys_and_ledger_are_their_owners_only() {
        let (dir, ca) = made();
        assert_eq!(names(dir.path()), ["ca"], "nothing is left beside it");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&ca), 0o700);
        for name in ["root.key", "intermediate.key", "ledger.jsonl"] {
            assert_eq!(mode(&ca.join(name)), 0o600, "{name}");
        }
        assert_eq!(names(&ca).len(), 7);
    }

    #[test]
    fn an_existing_ca_is_never_overwritten() {
        let (_dir, ca) = made();
        let before = fs::read(ca.join("bundle.pem")).unwrap();
        assert!(matches!(init(&ca), Err(AuthorityError::Exists(_))));
        assert_eq!(fs::read(ca.join("bundle.pem")).unwrap(), before);
    }

    #[test]
    fn other_things_in_the_way_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&file, &link] {
            assert!(matches!(init(path), Err(AuthorityError::Exists(_))));
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["file", "link"]);
    }

    #[test]
    fn an_empty_directory_becomes_the_ca_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        fs::create_dir(&ca).unwrap();
        assert!(init(&ca).is_ok());
        assert!(Authority::open(&ca).is_ok());
    }

    /// An `init` that dies leaves a directory under a temporary name with some of the files. No
    /// incomplete set of those that issuing needs opens, also if somebody gives it the CA's name.
    #[test]
    fn an_interrupted_init_leaves_nothing_that_opens() {
        let (_dir, ca) = made();
        let needed = [
            "intermediate.key",
            "ledger.jsonl",
            "intermediate.pem",
            "root-crl.pem",
            "bundle.pem",
        ];
        for missing in needed {
            let aside = ca.with_extension("aside");
            fs::rename(ca.join(missing), &aside).unwrap();
            assert!(Authority::open(&ca).is_err(), "opened without {missing}");
            fs::write(ca.join(missing), "").unwrap();
            let opened = Authority::open(&ca);
            // A ledger may be empty as far as opening goes: only revoking reads it back.
            assert_eq!(opened.is_ok(), missing == "ledger.jsonl", "empty {missing}");
            fs::rename(&aside, ca.join(missing)).unwrap();
        }
        assert!(Authority::open(&ca).is_ok());
    }

    #[test]
    fn issuing_does_not_need_the_roots_key() {
        let (_dir, ca) = made();
        fs::remove_file(ca.join("root.key")).unwrap();
        let mut authority = Authority::open(&ca).unwrap();
        assert!(
            authority
                .issue(&device("ivi"), HOUR, SystemTime::now())
                .is_ok()
        );
    }

    #[test]
    fn a_ca_that_others_can_reach_is_refused() {
        for (name, mode) in [("", 0o750), ("intermediate.key", 0o640)] {
            let (_dir, ca) = made();
            fs::set_permissions(ca.join(name), Permissions::from_mode(mode)).unwrap();
            let refused = Authority::open(&ca).err().unwrap();
            assert!(
                matches!(refused, AuthorityError::Exposed { .. }),
                "{refused}"
            );
        }
    }

    #[test]
    fn files_of_two_cas_do_not_mix() {
        for name in [
            "intermediate.key",
            "intermediate.pem",
            "bundle.pem",
            "root-crl.pem",
        ] {
            let ((_keep, ca), (_keep_too, other)) = (made(), made());
            fs::copy(other.join(name), ca.join(name)).unwrap();
            let refused = Authority::open(&ca).err().unwrap();
            assert!(
                matches!(refused, AuthorityError::Damaged { .. }),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_ledger_holds_every_certificate_in_order() {
        let (_dir, ca) = made();
        for vm in ["ivi", "cluster"] {
            let mut authority = Authority::open(&ca).unwrap();
            authority
                .issue(&device(vm), HOUR, SystemTime::now())
                .unwrap();
        }
        let lines = ledger(&ca);
        let ids: Vec<_> = lines
            .iter()
            .map(|line| line["spiffe_id"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(
            ids,
            [
                "spiffe://car.example",
                "spiffe://car.example",
                // The two lists.
                "",
                "",
                "spiffe://car.example/vm/ivi/device",
                "spiffe://car.example/vm/cluster/device"
            ]
        );
        assert_eq!(
            lines[0]["issuer"], lines[0]["serial"],
            "the root signs itself"
        );
        assert_eq!(lines[1]["issuer"], lines[0]["serial"]);
        for line in &lines[4..] {
            assert_eq!(line["issuer"], lines[1]["serial"]);
            assert_eq!(line.as_object().unwrap().len(), 7);
        }
    }

    #[test]
    fn no_certificate_leaves_when_the_ledger_cannot_be_written() {
        let (_dir, ca) = made();
        let path = ca.join("ledger.jsonl");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut authority = Authority::open(&ca).unwrap();
        let refused = authority.issue(&device("ivi"), HOUR, SystemTime::now());
        assert!(matches!(refused, Err(AuthorityError::File(_))));
    }

    #[test]
    fn a_leaf_never_outlives_its_issuer() {
        let (_dir, ca) = made();
        let mut authority = Authority::open(&ca).unwrap();
        let near_the_end = SystemTime::now() + 30 * DAY - 2 * HOUR;
        let issued = authority.issue(&device("ivi"), DAY, near_the_end).unwrap();
        assert_eq!(issued.record.not_after, authority.validity().not_after);
        for now in [near_the_end + HOUR + DAY / 24, SystemTime::now() - HOUR] {
            let refused = authority.issue(&device("ivi"), HOUR, now).err().unwrap();
            assert!(
                matches!(refused, AuthorityError::IntermediateEnds(_)),
                "{refused}"
            );
        }
    }

    #[test]
    fn names_of_other_domains_and_lives_out_of_bounds_are_refused() {
        let (_dir, ca) = made();
        let mut authority = Authority::open(&ca).unwrap();
        let foreign = SpiffeId::parse("spiffe://bus.example/vm/ivi/device").unwrap();
        let refused = authority
            .issue(&foreign, HOUR, SystemTime::now())
            .err()
            .unwrap();
        assert!(
            matches!(refused, AuthorityError::ForeignDomain { .. }),
            "{refused}"
        );
        let second = Duration::from_secs(1);
        for life in [HOUR - second, DAY + second, Duration::MAX] {
            let refused = authority
                .issue(&device("ivi"), life, SystemTime::now())
                .err()
                .unwrap();
            assert!(matches!(refused, AuthorityError::Life(_)), "{refused}");
        }
        assert_eq!(ledger(&ca).len(), 4, "what is refused is not recorded");
    }
}
