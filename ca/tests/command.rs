//! The program: its files, its words and its exit codes.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Output};

    use serde_json::Value;

    fn run(dir: &Path, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sivshm-ca"))
            .args(arguments.split_whitespace())
            .current_dir(dir)
            .output()
            .unwrap()
    }

    #[test]
    fn init_and_issue_write_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let done = run(dir.path(), "init --domain car.example --dir etc/ca");
        assert!(done.status.success(), "{done:?}");
        assert!(dir.path().join("etc/ca/bundle.pem").exists());

        let done = run(dir.path(), "issue --dir etc/ca device ivi --out vm/ivi");
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(
            said.starts_with("issued spiffe://car.example/vm/ivi/device\n"),
            "{said}"
        );
        assert!(
            said.ends_with("chain: vm/ivi/device.pem\nkey: vm/ivi/device.key\n"),
            "{said}"
        );
        let key = dir.path().join("vm/ivi/device.key");
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert!(
            fs::read(&key)
                .unwrap()
                .starts_with(b"-----BEGIN PRIVATE KEY-----\n")
        );

        let done = run(
            dir.path(),
            "issue --dir etc/ca --ttl 90m --json service ivi camera --out vm/ivi/svc",
        );
        let said: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(said["spiffe_id"], "spiffe://car.example/vm/ivi/svc/camera");
        assert_eq!(said["chain"], "vm/ivi/svc/camera.pem");
        let chain = fs::read_to_string(dir.path().join("vm/ivi/svc/camera.pem")).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        let ledger = fs::read_to_string(dir.path().join("etc/ca/ledger.jsonl")).unwrap();
        let last: Value = serde_json::from_str(ledger.lines().last().unwrap()).unwrap();
        assert_eq!(last["serial"], said["serial"]);
    }

    #[test]
    fn revoke_and_crl_write_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "init --domain car.example --dir ca");
        let issue = "issue --dir ca --json service ivi camera --out svc";
        let [first, second] = [(); 2]
            .map(|()| -> Value { serde_json::from_slice(&run(dir.path(), issue).stdout).unwrap() });
        let serial = first["serial"].as_str().unwrap();
        let revoke = format!("revoke --dir ca --serial {serial} --reason superseded");
        let said = String::from_utf8(run(dir.path(), &revoke).stdout).unwrap();
        let id = "spiffe://car.example/vm/ivi/svc/camera";
        assert!(
            said.starts_with(&format!(
                "revoked {id}, serial {serial}, superseded\nCRL 2: 1 certificate revoked, "
            )),
            "{said}"
        );
        let done = run(dir.path(), &format!("revoke --dir ca --id {id} --json"));
        let said: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(said["revoked"][0]["serial"], second["serial"]);
        assert_eq!(said["revoked"][0]["reason"], "unspecified");
        assert_eq!(said["revoked_before"][0]["serial"], serial);
        assert_eq!(said["revoked_before"][0]["reason"], "superseded");
        assert_eq!(said["crl"]["number"], 3);
        assert_eq!(said["path"], "ca/crl.pem");

        let done = run(dir.path(), "crl --dir ca --out etc/crl.pem --json");
        let said: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((&said["number"], &said["entries"]), (&4.into(), &2.into()));
        let list = |path: &str| fs::read(dir.path().join(path)).unwrap();
        assert_eq!(list("ca/crl.pem"), list("etc/crl.pem"));

        let unknown = "00".repeat(16);
        let refused = run(dir.path(), &format!("revoke --dir ca --serial {unknown}"));
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8(refused.stderr).unwrap();
        let what = format!("the ledger has no certificate with the serial number {unknown}");
        assert!(said.contains(&what), "{said}");
    }

    /// A limit on file size kills the program with a signal while it writes the ledger: later than
    /// the keys, which are below the limit, and earlier than the certificates.
    #[test]
    fn a_killed_init_leaves_nothing_that_opens_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let init = format!(
            "{} init --domain car.example --dir ca",
            env!("CARGO_BIN_EXE_sivshm-ca")
        );
        let killed = Command::new("sh")
            .args(["-c", &format!("ulimit -c 0; ulimit -f 1; exec {init}")])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(killed.status.code(), None, "{killed:?}");
        let left = fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
        let left: Vec<_> = left.map(|entry| entry.path()).collect();
        assert_eq!(left.len(), 1);
        assert!(left[0].join("intermediate.key").exists());
        assert!(sivshm_ca::Authority::open(&left[0]).is_err());
        let again = run(dir.path(), "init --domain car.example --dir ca");
        assert!(again.status.success(), "{again:?}");
    }

    #[test]
    fn issuing_again_replaces_the_pair() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "init --domain car.example --dir ca");
        let mut keys = [(); 2].map(|()| {
            let done = run(dir.path(), "issue --dir ca device ivi --out ivi");
            assert!(done.status.success(), "{done:?}");
            fs::read(dir.path().join("ivi/device.key")).unwrap()
        });
        assert_ne!(keys[0], keys[1]);
        keys.sort();
        assert_eq!(fs::read_dir(dir.path().join("ivi")).unwrap().count(), 2);
    }

    #[test]
    fn a_wrong_command_line_exits_2_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for arguments in [
            "",
            "init --domain car.example",
            "init --domain CAR --dir ca",
            "issue --dir ca --ttl 25h device ivi --out ivi",
            "issue --dir ca device Ivi --out ivi",
            "issue --dir ca operator x --out ivi",
            "revoke --dir ca",
            "revoke --dir ca --serial 4a",
            "revoke --dir ca --id spiffe://car.example/ivi",
            "revoke --dir ca --id spiffe://car.example/vm/ivi/device --reason rumour",
            "crl",
        ] {
            let refused = run(dir.path(), arguments);
            assert_eq!(refused.status.code(), Some(2), "{arguments}: {refused:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_the_host_refuses_exits_1_on_one_line_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let refused = run(dir.path(), "issue --dir ca device ivi --out ivi");
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(
            said,
            "sivshm-ca: could not look at ca: No such file or directory (os error 2)\n"
        );
        run(dir.path(), "init --domain car.example --dir ca");
        let refused = run(dir.path(), "init --domain car.example --dir ca");
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("never overwritten"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}
