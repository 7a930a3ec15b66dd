//! `docs/identity.md` against certificates that the CA really issues, as `openssl` prints them.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, SystemTime};

    use sivshm_abi::identity::SpiffeId;
    use sivshm_ca::profile::Reason;
    use sivshm_ca::{Authority, Target};
    use sivshm_tests::document::{below, plain_rows};

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/identity.md");
    const LEAF: &str = "spiffe://car.example/vm/ivi/svc/camera";
    /// The line before the table of reasons.
    const REASONS: &str = "`unspecified`, the reason:";
    const DAY: Duration = Duration::from_secs(86400);

    /// 2027-01-01 00:01:00 UTC, and the times that the document derives from the time of issue, as
    /// `openssl` prints them.
    const ISSUE: Duration = Duration::from_secs(1_798_761_660);
    const TIMES: [(&str, &str); 4] = [
        ("<issue - 1 min>", "Jan 1 00:00:00 2027 GMT"),
        ("<issue + 3650 d>", "Dec 29 00:01:00 2036 GMT"),
        ("<issue + 30 d>", "Jan 31 00:01:00 2027 GMT"),
        ("<issue + TTL>", "Jan 2 00:01:00 2027 GMT"),
    ];

    /// One line of a certificate's table: field, critical (empty where that has no meaning), value.
    #[derive(Debug, Eq, PartialEq)]
    struct Row {
        field: String,
        critical: String,
        value: String,
    }

    impl Row {
        fn new(field: &str, critical: &str, value: &str) -> Self {
            // Every run of white space is one space; older versions write `O = x` for `O=x`.
            let words: Vec<_> = value.split_whitespace().collect();
            Self {
                field: field.to_owned(),
                critical: critical.to_owned(),
                value: words.join(" ").replace(" = ", "="),
            }
        }
    }

    /// The cells of the table below a heading of the document, without its head.
    fn table(heading: &str) -> Vec<Vec<String>> {
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        plain_rows(below(&document, heading).unwrap())
    }

    /// What `openssl` says of a certificate, in its order.
    fn printed(pem: &Path) -> Vec<Row> {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(pem)
            .output()
            .expect("this test needs the `openssl` program: apt install openssl");
        let text = String::from_utf8(output.stdout).unwrap();
        let (fields, extensions) = text.split_once("X509v3 extensions:\n").unwrap();
        let field = |name: &str| {
            let (_, rest) = fields.split_once(name).unwrap();
            rest.trim_start_matches([' ', ':']).lines().next().unwrap()
        };
        let mut rows = vec![
            Row::new("Version", "", field("Version")),
            Row::new("Serial Number", "", &serial(fields)),
            Row::new("Signature Algorithm", "", field("Signature Algorithm")),
            Row::new("Issuer", "", field("Issuer")),
            Row::new("Not Before", "", field("Not Before")),
            Row::new("Not After", "", field("Not After")),
            Row::new("Subject", "", field("Subject")),
            Row::new("Public Key", "", field("ASN1 OID")),
        ];
        rows.extend(extensions_of(extensions));
        rows
    }

    fn extensions_of(text: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        // A name is indented by 12 and its value by more; the signature, by 4, ends the list.
        let mut lines = text.lines().peekable();
        while let Some(name) = lines.next_if(|line| line.starts_with("            ")) {
            let (name, critical) = name.trim().split_once(':').unwrap();
            let mut value = String::new();
            while let Some(line) = lines.next_if(|line| line.starts_with("                ")) {
                value += line;
            }
            let critical = if critical.trim() == "critical" {
                "yes"
            } else {
                "no"
            };
            rows.push(Row::new(
                name.trim_start_matches("X509v3 "),
                critical,
                &value,
            ));
        }
        rows
    }

    /// Says of the serial number what the document says, or gives it as it is.
    fn serial(fields: &str) -> String {
        let (_, rest) = fields.split_once("Serial Number:").unwrap();
        let (serial, _) = rest.split_once("Signature").unwrap();
        let octets: Vec<_> = serial.trim().split(':').collect();
        let first = u8::from_str_radix(octets[0], 16);
        if octets.len() == 16 && first.is_ok_and(|first| (1..0x80).contains(&first)) {
            "16 octets, positive".to_owned()
        } else {
            serial.to_owned()
        }
    }

    fn key_identifier(rows: &[Row]) -> String {
        let found = rows
            .iter()
            .find(|row| row.field == "Subject Key Identifier");
        let id = found.unwrap().value.clone();
        assert_eq!(id.split(':').count(), 20, "{id}");
        id
    }

    #[test]
    fn certificates_are_as_the_document_says() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let now = SystemTime::UNIX_EPOCH + ISSUE;
        let mut authority = Authority::init(&ca, &"car.example".parse().unwrap(), now).unwrap();
        let id = SpiffeId::parse(LEAF).unwrap();
        let issued = authority.issue(&id, DAY, now).unwrap();
        let leaf = dir.path().join("leaf.pem");
        std::fs::write(&leaf, issued.chain_pem).unwrap();

        let (root, intermediate, leaf) = (
            printed(&ca.join("bundle.pem")),
            printed(&ca.join("intermediate.pem")),
            printed(&leaf),
        );
        let mut values = TIMES.map(|(word, value)| (word, value.to_owned())).to_vec();
        values.extend([
            ("<DOMAIN>", "car.example".to_owned()),
            ("<SPIFFE ID>", LEAF.to_owned()),
            ("<key identifier of root>", key_identifier(&root)),
            (
                "<key identifier of intermediate>",
                key_identifier(&intermediate),
            ),
            ("<key identifier of leaf>", key_identifier(&leaf)),
        ]);
        let documented = |heading: &str| -> Vec<Row> {
            let row = |cells: Vec<String>| {
                let value = values.iter().fold(cells[2].clone(), |text, (word, value)| {
                    text.replace(word, value)
                });
                Row::new(&cells[0], &cells[1], &value)
            };
            table(heading).into_iter().map(row).collect()
        };
        assert_eq!(root, documented("### Root"));
        assert_eq!(intermediate, documented("### Intermediate"));
        assert_eq!(leaf, documented("### Leaf"));
    }

    #[test]
    fn the_directory_and_the_ledger_are_as_the_document_says() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let now = SystemTime::now();
        let mut authority = Authority::init(&ca, &"car.example".parse().unwrap(), now).unwrap();
        let id = SpiffeId::parse(LEAF).unwrap();
        authority.issue(&id, DAY, now).unwrap();
        authority
            .revoke(&Target::Id(id), Reason::Superseded, now)
            .unwrap();
        let files = table("## The CA's directory");
        for cells in &files {
            let mode = std::fs::metadata(ca.join(&cells[0]))
                .unwrap()
                .permissions()
                .mode();
            let documented = u32::from_str_radix(&cells[1], 8).unwrap();
            // The umask of whoever runs this test may narrow what the document allows.
            assert_eq!(mode & 0o7777 & !documented, 0, "{cells:?}");
        }
        assert_eq!(std::fs::read_dir(&ca).unwrap().count(), files.len());

        let ledger = std::fs::read_to_string(ca.join("ledger.jsonl")).unwrap();
        let mut kinds = BTreeSet::new();
        for line in ledger.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields: BTreeSet<_> = record.as_object().unwrap().keys().cloned().collect();
            let kind = record["kind"].as_str().unwrap();
            kinds.insert(kind.to_owned());
            let documented = table(&format!("### Ledger: {kind}"));
            assert_eq!(documented[0][1], kind);
            let documented = documented.into_iter().map(|cells| cells[0].clone());
            assert_eq!(fields, documented.collect());
        }
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let documented = document.split("\n### Ledger: ").skip(1);
        let documented = documented.map(|section| section.lines().next().unwrap().to_owned());
        assert_eq!(kinds, documented.collect());
    }

    /// What `openssl` says of a CRL, up to the certificates in it, and of these.
    fn printed_crl(pem: &str) -> (Vec<Row>, String) {
        let mut openssl = Command::new("openssl")
            .args(["crl", "-noout", "-text"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(pem.as_bytes()).unwrap();
        drop(input);
        let output = openssl.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (text, certificates) = text.split_once("Revoked Certificates").unwrap();
        let (fields, extensions) = text.split_once("CRL extensions:\n").unwrap();
        let fields = fields.lines().skip(1).map(str::trim);
        let fields = fields.filter(|field| !field.is_empty());
        let mut rows: Vec<_> = fields
            .map(|field| {
                let colon = field.split_once(": ");
                let (name, value) = colon.or(field.split_once(' ')).unwrap();
                Row::new(name, "", value)
            })
            .collect();
        rows.extend(extensions_of(extensions));
        (rows, certificates.to_owned())
    }

    #[test]
    fn crls_are_as_the_document_says() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let now = SystemTime::UNIX_EPOCH + ISSUE;
        let mut authority = Authority::init(&ca, &"car.example".parse().unwrap(), now).unwrap();
        let id = SpiffeId::parse(LEAF).unwrap();
        let documented = |signer: &str, number: &str| -> Vec<Row> {
            let certificate = match signer {
                "root" => "bundle.pem",
                _ => "intermediate.pem",
            };
            let identifier = key_identifier(&printed(&ca.join(certificate)));
            let row = |cells: Vec<String>| {
                let value = cells[2]
                    .replace("<DOMAIN>", "car.example")
                    .replace("<issue - 1 min>", TIMES[0].1)
                    .replace("<issue of intermediate + 30 d>", TIMES[2].1)
                    .replace("<key identifier of intermediate>", &identifier)
                    .replace("intermediate", signer)
                    .replace("<number>", number);
                Row::new(&cells[0], &cells[1], &value)
            };
            table("### CRL").into_iter().map(row).collect()
        };
        let lists = |ca: &Path| {
            let text = std::fs::read_to_string(ca.join("crl.pem")).unwrap();
            let end = "-----END X509 CRL-----\n";
            let [root, own, rest] = text.split(end).collect::<Vec<_>>()[..] else {
                panic!("{text}");
            };
            assert_eq!(rest, "");
            [root, own].map(|list| printed_crl(&format!("{list}{end}")))
        };
        for (signer, (rows, certificates)) in ["root", "intermediate"].iter().zip(lists(&ca)) {
            assert_eq!(rows, documented(signer, "1"));
            assert!(certificates.starts_with(".\n"), "none: {certificates}");
        }
        for (number, (reason, cells)) in (2..).zip(Reason::ALL.iter().zip(table(REASONS))) {
            assert_eq!(reason.word(), cells[0]);
            let leaf = authority.issue(&id, DAY, now).unwrap();
            let target = Target::Serial(leaf.record.serial);
            authority.revoke(&target, *reason, now).unwrap();
            let [_, (rows, certificates)] = lists(&ca);
            assert_eq!(rows, documented("intermediate", &number.to_string()));
            let serial = leaf.record.serial.to_string().to_uppercase();
            let (_, entry) = certificates.split_once(&serial).unwrap();
            let (entry, _) = entry.split_once("Serial Number").unwrap_or((entry, ""));
            let (entry, _) = entry.split_once("Signature Alg").unwrap_or((entry, ""));
            assert!(
                entry.contains("Revocation Date: Jan  1 00:01:00 2027 GMT"),
                "{entry}"
            );
            let shown = entry
                .split_once("Reason Code:")
                .map_or("", |(_, shown)| shown.trim());
            assert_eq!(shown, cells[1]);
        }
    }

    /// The forms of a SPIFFE ID in the document are those that are read, and the domain's is not.
    #[test]
    fn names_are_as_the_document_says() {
        let forms = table("## Names");
        let accepted: Vec<_> = forms
            .iter()
            .map(|cells| {
                let uri = cells[1]
                    .replace("DOMAIN", "car.example")
                    .replace("SERVICE", "camera")
                    .replace("VM", "ivi");
                SpiffeId::parse(&uri).is_ok_and(|id| id.to_string() == uri)
            })
            .collect();
        assert_eq!(accepted, [false, true, true]);
    }
}
