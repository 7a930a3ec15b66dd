//! Who may be a service, and open what: identities that are not the right ones, wishes that the policy
//! does not have, and floods, on real device processes with a program in place of each VM. What the
//! library would not even try is tried by a program, too, that speaks the control rings by itself. The
//! same programs succeed with the right identity in the same run.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant, SystemTime};

    use anyhow::{Context as _, Result};
    use serde_json::{Value, json};
    use sivshm_abi::identity::{SpiffeId, Subject};
    use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
    use sivshm_ca::Authority;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::process::{Process, output_of};
    use sivshm_tests::service::{Attached, AuditLog, SERVICE_LIMIT, next, pairing};

    const HOUR: Duration = Duration::from_secs(60 * 60);

    const DOMAIN: &str = "proof.example";

    const UNPROVED: &str = "the service did not prove by an SVID who it is";
    const NO_SERVICE: &str = "the policy names no service of this VM that this process matches";
    const ROLE_TAKEN: &str = "another live session already is this service";

    /// Users of the services of `alpha`.
    const OTHER_USER: u32 = 1001;
    const PINNED_USER: u32 = 1002;
    const NOBODY: u32 = 65534;

    const APP: Attached<'_> = Attached::new("alpha", "app");
    const READER: Attached<'_> = Attached::new("beta", "app");
    const AB: [&str; 2] = ["--writes", "ab=beta/app"];

    /// `alpha` writes to `beta` by three services, one of which is one executable; `gamma` writes to
    /// `beta` and to `delta`.
    fn policy(executable: &str) -> String {
        let mut text = format!("version = 1\ntrust_domain = \"{DOMAIN}\"\nserial = 1\n");
        for vm in ["alpha", "beta", "gamma", "delta"] {
            text += &format!("[[vm]]\nname = \"{vm}\"\n");
            text += &service(vm, "app", "uid = 1000");
        }
        text += &service("alpha", "other", &format!("uid = {OTHER_USER}"));
        let pinned = format!("uid = {PINNED_USER}, exe_sha256 = \"{executable}\"");
        text += &service("alpha", "pinned", &pinned);
        for (name, from, to) in [
            ("ab", "alpha/app", "beta/app"),
            ("ob", "alpha/other", "beta/app"),
            ("pb", "alpha/pinned", "beta/app"),
            ("gb", "gamma/app", "beta/app"),
            ("gd", "gamma/app", "delta/app"),
        ] {
            text += &format!(
                "[[channel]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = [\"{to}\"]\n\
                     kind = \"region\"\nsize = \"8KiB\"\n"
            );
        }
        text
    }

    fn service(vm: &str, name: &str, process: &str) -> String {
        format!("[[service]]\nvm = \"{vm}\"\nname = \"{name}\"\nprocess = {{ {process} }}\n")
    }

    fn up() -> Result<Deployment> {
        let mut deployment = down()?;
        deployment.up()?;
        Ok(deployment)
    }

    fn down() -> Result<Deployment> {
        let artifacts = Artifacts::from_env()?;
        let digest = output_of(Command::new("sha256sum").arg(artifacts.guest.join("probe")))?;
        let digest = digest.split_whitespace().next().context("a digest")?;
        Deployment::new(&artifacts, &policy(digest), None)
    }

    /// Gives every party an SVID of another CA, which reaches back in time.
    fn backdate(deployment: &Deployment) -> Result<Authority> {
        let etc = deployment.etc();
        fs::remove_dir_all(etc.join("ca"))?;
        let began = SystemTime::now() - 3 * HOUR;
        let mut ca = Authority::init(&etc.join("ca"), &TrustDomain::new(DOMAIN)?, began)?;
        for name in ["bundle.pem", "crl.pem"] {
            fs::copy(etc.join("ca").join(name), etc.join(name))?;
        }
        for vm in deployment.vms() {
            let device = etc.join("vm").join(vm).join("device");
            issue(&mut ca, DOMAIN, (vm, None), began, &device)?;
        }
        for (vm, service) in [
            ("alpha", "app"),
            ("alpha", "other"),
            ("alpha", "pinned"),
            ("beta", "app"),
            ("gamma", "app"),
            ("delta", "app"),
        ] {
            let path = deployment.services_dir(vm).join(service);
            issue(&mut ca, DOMAIN, (vm, Some(service)), began, &path)?;
        }
        Ok(ca)
    }

    /// Writes `PATH.pem` and `PATH.key` of a device process or of a service.
    fn issue(
        ca: &mut Authority,
        domain: &str,
        (vm, service): (&str, Option<&str>),
        began: SystemTime,
        path: &Path,
    ) -> Result<()> {
        let (domain, vm) = (TrustDomain::new(domain)?, VmName::new(vm)?);
        let subject = match service {
            Some(service) => Subject::Service(vm, ServiceName::new(service)?),
            None => Subject::Device(vm),
        };
        let issued = ca.issue(&SpiffeId { domain, subject }, 24 * HOUR, began)?;
        fs::write(path.with_extension("pem"), issued.chain_pem.as_bytes())?;
        fs::write(path.with_extension("key"), issued.key_pem.as_bytes())?;
        Ok(())
    }

    /// Papers in a folder of their own, to be put in the place of a service's.
    fn place(deployment: &Deployment, papers: &Path, vm: &str, service: &str) -> Result<()> {
        for suffix in ["pem", "key"] {
            let to = deployment.services_dir(vm).join(service);
            fs::copy(papers.with_extension(suffix), to.with_extension(suffix))?;
        }
        Ok(())
    }

    /// What a program says last, which is `name`; it ends then.
    fn outcome(mut process: Process, name: &str, channel: &str) -> Result<Value> {
        let what = next(&mut process, &mut 0, name, channel)?;
        process.finish(SERVICE_LIMIT)?;
        Ok(what)
    }

    /// What a program fails with that opens a channel by the library.
    fn refused(deployment: &Deployment, who: Attached<'_>, end: &[&str]) -> Result<Value> {
        let mut arguments = vec!["--open-ms=20000"];
        arguments.extend(end);
        let mut process = who.start(deployment, &arguments)?;
        let (_, failed) = process.wait_event("failed", SERVICE_LIMIT)?;
        process.finish(SERVICE_LIMIT)?;
        Ok(failed["what"].clone())
    }

    /// Why `alpha`'s device process closes the session of a program that shows its papers as they are.
    fn closed(deployment: &Deployment, who: Attached<'_>, option: Option<&str>) -> Result<Value> {
        let user = who.user.to_string();
        let crowd = Attached {
            program: "crowd",
            ..who
        };
        let mut arguments = vec!["--user", user.as_str(), "claim"];
        arguments.extend(option);
        let closed = outcome(crowd.start(deployment, &arguments)?, "closed", "")?;
        Ok(closed["reason"].clone())
    }

    /// The right service opens its channel.
    fn right(deployment: &Deployment, who: Attached<'_>, channel: &str) -> Result<()> {
        time_to_open(deployment, who, READER, channel).map(drop)
    }

    /// The time that a writer and a reader take from their start to their open channel, and what of it
    /// is the handshake, from `open` to grants.
    fn time_to_open(
        deployment: &Deployment,
        writer: Attached<'_>,
        reader: Attached<'_>,
        channel: &str,
    ) -> Result<[Duration; 2]> {
        let end = |other: Attached<'_>| format!("{channel}={}/{}", other.vm, other.service);
        let started = Instant::now();
        let mut one = writer.start(deployment, &["--writes", &end(reader)])?;
        let mut other = reader.start(deployment, &["--reads", &end(writer)])?;
        let opened = next(&mut one, &mut 0, "opened", channel)?;
        assert_eq!(next(&mut other, &mut 0, "opened", channel)?, opened);
        let all = started.elapsed();
        let status = deployment.status()?;
        let pairing = pairing(&status, writer.vm, channel, None);
        assert_eq!(pairing["epoch"], opened["epoch"]);
        let handshake = pairing["handshake_us"].as_u64().context("it is open")?;
        Ok([all, Duration::from_micros(handshake)])
    }

    /// Wrong papers, and wrong processes, never the right ones.
    #[test]
    fn only_the_right_papers_of_the_right_process_are_a_service() {
        let run = || -> Result<()> {
            let mut deployment = down()?;
            let mut ca = backdate(&deployment)?;
            deployment.up()?;
            let papers = tempfile::tempdir()?;
            let path = |name: &str| papers.path().join(name);
            let now = SystemTime::now();
            let long_ago = now - 3 * HOUR;
            let app = ("alpha", Some("app"));
            let mut rogue = Authority::init(&path("rogue"), &TrustDomain::new(DOMAIN)?, long_ago)?;
            let foreign = "foreign.example";
            let mut stranger =
                Authority::init(&path("stranger"), &TrustDomain::new(foreign)?, long_ago)?;
            issue(&mut ca, DOMAIN, app, now, &path("right"))?;
            issue(
                &mut ca,
                DOMAIN,
                ("alpha", Some("other")),
                now,
                &path("other"),
            )?;
            issue(&mut ca, DOMAIN, ("beta", Some("app")), now, &path("beta"))?;
            issue(&mut ca, DOMAIN, ("alpha", None), now, &path("device"))?;
            issue(&mut rogue, DOMAIN, app, now, &path("another-ca"))?;
            issue(&mut stranger, foreign, app, now, &path("another-domain"))?;
            expired(&mut ca, &path("expired"))?;
            self_signed(&path("self-signed"))?;

            // What the library says at once, and what the device process finds of who insists.
            let no_root = "does not lead to a root of the trust bundle";
            for (name, library, device) in [
                ("self-signed", no_root, no_root),
                ("another-ca", no_root, no_root),
                ("another-domain", no_root, no_root),
                ("expired", "has expired", "has expired"),
                (
                    "device",
                    "that of the device process of VM `alpha`, not of a service",
                    "that of the device process of VM `alpha`, not of service `app` in VM `alpha`",
                ),
                (
                    "beta",
                    "that of the device process of VM `alpha`, not of the device process of VM `beta`",
                    "that of service `app` in VM `beta`, not of service `app` in VM `alpha`",
                ),
                (
                    "other",
                    "it is not service `app`, which was asked for",
                    "that of service `other` in VM `alpha`, not of service `app` in VM `alpha`",
                ),
            ] {
                let audit = AuditLog::of(&deployment, "alpha");
                place(&deployment, &path(name), "alpha", "app")?;
                let said = refused(&deployment, APP, &["--writes=ab=delta/app"]).context(name)?;
                let kind = if name == "beta" {
                    "handshake"
                } else {
                    "identity"
                };
                assert_eq!(said["kind"], kind, "{name}: {said}");
                assert!(
                    said["reason"].to_string().contains(library),
                    "{name}: {said}"
                );
                assert_eq!(closed(&deployment, APP, None)?, UNPROVED, "{name}");
                audit.wait_blame("session", "guest", device).context(name)?;
            }
            place(&deployment, &path("right"), "alpha", "app")?;
            let audit = AuditLog::of(&deployment, "alpha");
            assert_eq!(closed(&deployment, APP, Some("--nothing"))?, UNPROVED);
            audit.wait_blame("session", "guest", "it presents no certificate")?;
            right(&deployment, APP, "ab")?;
            deployment.down()
        };
        run().unwrap();
    }

    /// An SVID whose time is over.
    fn expired(ca: &mut Authority, path: &Path) -> Result<()> {
        let (domain, vm) = (TrustDomain::new(DOMAIN)?, VmName::new("alpha")?);
        let subject = Subject::Service(vm, ServiceName::new("app")?);
        let began = SystemTime::now() - 2 * HOUR;
        let issued = ca.issue(&SpiffeId { domain, subject }, HOUR, began)?;
        fs::write(path.with_extension("pem"), issued.chain_pem.as_bytes())?;
        fs::write(path.with_extension("key"), issued.key_pem.as_bytes())?;
        Ok(())
    }

    /// A certificate with the right name that its own key has signed.
    fn self_signed(path: &Path) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        let name = format!("spiffe://{DOMAIN}/vm/alpha/svc/app");
        params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into()?)];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        let certificate = params.self_signed(&key)?;
        fs::write(path.with_extension("pem"), certificate.pem())?;
        fs::write(path.with_extension("key"), key.serialize_pem())?;
        Ok(())
    }

    /// Right papers, of processes that the policy does not name, or names another service.
    #[test]
    fn only_the_process_that_the_policy_names_is_a_service() {
        let run = || -> Result<()> {
            let mut deployment = up()?;
            let programs = &deployment.artifacts().guest;
            let mut other = fs::read(programs.join("probe"))?;
            other.push(0);
            fs::write(programs.join("probe-too"), other)?;
            fs::set_permissions(programs.join("probe-too"), PermissionsExt::from_mode(0o755))?;
            let pinned = Attached {
                service: "pinned",
                user: PINNED_USER,
                ..APP
            };
            let not_named = ("policy", "the policy names no service");
            let not_that = (
                "guest",
                "peer: its SVID is that of service `app` in VM `alpha`, not of",
            );
            for (name, who, reason, (blame, why)) in [
                (
                    "nobody",
                    Attached {
                        user: NOBODY,
                        ..APP
                    },
                    NO_SERVICE,
                    not_named,
                ),
                (
                    "other-user",
                    Attached {
                        user: OTHER_USER,
                        ..APP
                    },
                    UNPROVED,
                    not_that,
                ),
                (
                    "other-executable",
                    Attached {
                        program: "probe-too",
                        ..pinned
                    },
                    NO_SERVICE,
                    not_named,
                ),
            ] {
                let audit = AuditLog::of(&deployment, "alpha");
                let said = refused(&deployment, who, &AB).context(name)?;
                match reason {
                    NO_SERVICE => assert_eq!(said["kind"], "ended", "{name}: {said}"),
                    _ => assert_eq!(said["kind"], "handshake", "{name}: {said}"),
                }
                assert_eq!(closed(&deployment, who, None)?, reason, "{name}");
                audit.wait_blame("session", blame, why)?;
            }
            right(&deployment, APP, "ab")?;
            right(&deployment, pinned, "pb")?;
            deployment.down()
        };
        run().unwrap();
    }

    #[test]
    fn a_withdrawn_svid_is_worth_nothing_before_and_after_a_reload() {
        let run = || -> Result<()> {
            let mut deployment = down()?;
            withdraw(&deployment, "app")?;
            deployment.up()?;
            let other = Attached {
                service: "other",
                user: OTHER_USER,
                ..APP
            };
            right(&deployment, other, "ob")?;
            withdraw(&deployment, "other")?;
            output_of(&mut deployment.command("reload"))?;
            for who in [APP, other] {
                let audit = AuditLog::of(&deployment, "alpha");
                let said = refused(&deployment, who, &AB)?;
                assert_eq!(said["kind"], "identity", "{said}");
                assert!(
                    said["reason"]
                        .to_string()
                        .contains("is on the revocation list"),
                    "{said}"
                );
                assert_eq!(closed(&deployment, who, None)?, UNPROVED);
                audit.wait_blame("session", "guest", "is on the revocation list")?;
            }
            ca(
                &deployment,
                &[
                    "issue",
                    "--dir",
                    "ca",
                    "service",
                    "alpha",
                    "app",
                    "--out",
                    "vm/alpha/svc",
                ],
            )?;
            right(&deployment, APP, "ab")?;
            deployment.down()
        };
        run().unwrap();
    }

    fn ca(deployment: &Deployment, words: &[&str]) -> Result<()> {
        let mut ca = Command::new(deployment.artifacts().bin.join("sivshm-ca"));
        output_of(ca.current_dir(deployment.etc()).args(words)).map(drop)
    }

    /// Puts all SVIDs of a service of `alpha` on the list.
    fn withdraw(deployment: &Deployment, service: &str) -> Result<()> {
        let id = format!("spiffe://{DOMAIN}/vm/alpha/svc/{service}");
        ca(deployment, &["revoke", "--dir", "ca", "--id", &id])?;
        let etc = deployment.etc();
        fs::copy(etc.join("ca/crl.pem"), etc.join("crl.pem"))?;
        Ok(())
    }

    /// Wishes that the own device process refuses, for good and before anything is granted.
    #[test]
    fn what_the_policy_does_not_have_is_not_opened() {
        let run = || -> Result<()> {
            let mut deployment = up()?;
            let no_such = "the policy has no such channel for this service";
            let not_wanted = "the other end's service is not the one wanted";
            let unprotected = "the channel is not protected as required";
            for (who, end, reason) in [
                // The reader of `ab` is another one, and so is its writer.
                (APP, &["--writes=ab=delta/app"][..], no_such),
                (READER, &["--reads=ab=gamma/app"], not_wanted),
                // No channel at all, another service's, another VM's.
                (APP, &["--writes=none=beta/app"], no_such),
                (APP, &["--writes=ob=beta/app"], no_such),
                (APP, &["--writes=gb=beta/app"], no_such),
                (
                    APP,
                    &["--writes=ab=beta/app", "--integrity=aead"],
                    unprotected,
                ),
                (
                    READER,
                    &["--reads=ab=alpha/app", "--integrity=crc32c"],
                    unprotected,
                ),
            ] {
                let audit = AuditLog::of(&deployment, who.vm);
                let said = refused(&deployment, who, end)?;
                assert_eq!(said["kind"], "refused", "{end:?} {said}");
                assert_eq!(said["by"], "OwnDevice", "{end:?} {said}");
                assert_eq!(said["reason"], reason, "{end:?} {said}");
                audit.wait_blame("pairing", "policy", reason)?;
                let granted = |record: &Value| record["event"] == "grant";
                assert!(!audit.records()?.iter().any(granted), "{end:?}");
            }
            right(&deployment, APP, "ab")?;
            deployment.down()
        };
        run().unwrap();
    }

    /// One device process has the newer policy, the other one not yet.
    #[test]
    fn policies_of_different_serials_wait_for_each_other() {
        let run = || -> Result<()> {
            let mut deployment = up()?;
            let etc = deployment.etc();
            let newer = fs::read_to_string(etc.join("policy.toml"))?;
            let newer = newer.replace("serial = 1", "serial = 2");
            fs::write(etc.join("policy.toml"), &newer)?;
            let request = json!({
                "command": "reload",
                "policy": newer,
                "crl": fs::read_to_string(etc.join("crl.pem"))?,
            });
            let answer = ask(&deployment.run_dir().join("admin/alpha.sock"), &request)?;
            assert_eq!(answer["answer"], "reloaded", "{answer}");

            let audit = AuditLog::of(&deployment, "beta");
            let mut reader = READER.start(&deployment, &["--reads=ab=alpha/app"])?;
            let early = ["--writes=ab=beta/app", "--open-ms=5000"];
            let mut writer = APP.start(&deployment, &early)?;
            let said = next(&mut writer, &mut 0, "failed", "ab")?;
            assert_eq!(
                (&said["kind"], &said["by"]),
                (&json!("refused"), &json!("PeerDevice"))
            );
            assert_eq!(
                said["reason"],
                "the two sides' policies or host boots differ"
            );
            audit.wait_blame("pairing", "peer", "the policy's serial is not")?;
            writer.finish(SERVICE_LIMIT)?;

            let mut writer = APP.start(&deployment, &AB)?;
            audit.wait_blame("pairing", "peer", "the policy's serial is not")?;
            output_of(&mut deployment.command("reload"))?;
            let opened = next(&mut writer, &mut 0, "opened", "ab")?;
            assert_eq!(next(&mut reader, &mut 0, "opened", "ab")?, opened);
            deployment.down()
        };
        run().unwrap();
    }

    /// One line to a device process's socket for operators, and the one that it answers.
    fn ask(socket: &Path, request: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(socket)?;
        writeln!(stream, "{request}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    const CROWD: Attached<'_> = Attached {
        program: "crowd",
        ..APP
    };

    #[test]
    fn of_two_sessions_of_one_service_the_later_one_ends() {
        let run = || -> Result<()> {
            let mut deployment = up()?;
            let audit = AuditLog::of(&deployment, "alpha");
            let mut reader = READER.start(&deployment, &["--reads=ab=alpha/app"])?;
            let mut crowd = CROWD.start(&deployment, &["--user=1000", "race", "ab=beta/app"])?;
            let closed = next(&mut crowd, &mut 0, "closed", "second")?;
            assert_eq!(closed["reason"], ROLE_TAKEN);
            next(&mut crowd, &mut 0, "opened", "first")?;
            next(&mut reader, &mut 0, "opened", "ab")?;
            audit.wait_blame("session", "guest", ROLE_TAKEN)?;
            deployment.down()
        };
        run().unwrap();
    }

    /// What opens at all opens during the flood: it goes on until its program is ended.
    #[test]
    fn floods_of_handshakes_do_not_keep_others_from_opening() {
        let run = || -> Result<()> {
            let mut deployment = up()?;
            let gamma = Attached::new("gamma", "app");
            let delta = Attached::new("delta", "app");
            let flood = |vm: &'static str, words: &[&str]| -> Result<Process> {
                let party = Attached { vm, ..CROWD };
                let mut flood = party.start(&deployment, &[&["--user=1000"], words].concat())?;
                let (_, says) = flood.wait_event("flooding", SERVICE_LIMIT)?;
                println!("{vm} floods: {}", says["what"]);
                Ok(flood)
            };
            let quiet = [
                time_to_open(&deployment, gamma, READER, "gb")?,
                time_to_open(&deployment, gamma, delta, "gd")?,
            ];
            let compare = |name: &str, quiet: [Duration; 2], flooded: [Duration; 2]| {
                let ratio = |at: usize| flooded[at].as_secs_f64() / quiet[at].as_secs_f64();
                println!(
                    "{name}: open after {:?}, {:.1} times the time without; handshake {:?}, {:.1} times",
                    flooded[0],
                    ratio(0),
                    flooded[1],
                    ratio(1)
                );
            };
            // What one session of one VM does to the VM at its other end.
            let wants = flood("alpha", &["wants", "ab=beta/app"])?;
            let took = time_to_open(&deployment, gamma, READER, "gb")?;
            compare("wishes of one session", quiet[0], took);
            drop(wants);
            let sessions = flood("alpha", &["sessions"])?;
            let took = time_to_open(&deployment, gamma, READER, "gb")?;
            compare("unproved sessions of one VM", quiet[0], took);
            // All others at once.
            let more = flood("beta", &["sessions"])?;
            drop(sessions);
            let wants = flood("alpha", &["wants", "ab=beta/app"])?;
            let took = time_to_open(&deployment, gamma, delta, "gd")?;
            compare("all other VMs", quiet[1], took);
            drop((more, wants));
            // When it is over, who has flooded is soon as welcome as anybody.
            time_to_open(&deployment, gamma, delta, "gd")?;
            right(&deployment, APP, "ab")?;
            deployment.down()
        };
        run().unwrap();
    }
}
