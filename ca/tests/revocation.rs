//! Revocation, before two verifiers that are not ours (WebPKI and `openssl`) and in the ledger.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
    use serde_json::Value;
    use sivshm_abi::identity::SpiffeId;
    use sivshm_ca::authority::RevokeError;
    use sivshm_ca::profile::{Reason, Serial};
    use sivshm_ca::{Authority, Issued, Target};
    use tempfile::TempDir;
    use webpki::ring::ECDSA_P256_SHA256;
    use webpki::{
        BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
        RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
        anchor_from_trusted_cert,
    };

    const DAY: Duration = Duration::from_secs(86400);

    struct Ca {
        path: PathBuf,
        authority: Authority,
        now: SystemTime,
        _dir: TempDir,
    }

    fn id(service: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://car.example/vm/ivi/svc/{service}")).unwrap()
    }

    impl Ca {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ca");
            let now = SystemTime::now();
            let authority = Authority::init(&path, &"car.example".parse().unwrap(), now).unwrap();
            Self {
                path,
                authority,
                now,
                _dir: dir,
            }
        }

        fn issue(&mut self, service: &str) -> Issued {
            self.authority.issue(&id(service), DAY, self.now).unwrap()
        }

        fn revoke(&mut self, issued: &Issued) -> Result<sivshm_ca::Revoked, RevokeError> {
            let target = Target::Serial(issued.record.serial);
            self.authority
                .revoke(&target, Reason::KeyCompromise, self.now)
        }

        /// What `crl.pem` holds.
        fn lists(&self) -> Vec<CertificateRevocationListDer<'static>> {
            let pem = fs::read(self.path.join("crl.pem")).unwrap();
            let lists = CertificateRevocationListDer::pem_slice_iter(&pem);
            lists.map(Result::unwrap).collect()
        }

        /// Verifies a chain as a verifier does that wants to know the state of every certificate.
        fn verify(
            &self,
            issued: &Issued,
            lists: &[CertificateRevocationListDer<'_>],
            at: SystemTime,
        ) -> Result<(), webpki::Error> {
            let root = CertificateDer::from_pem_file(self.path.join("bundle.pem")).unwrap();
            let anchor = anchor_from_trusted_cert(&root).unwrap();
            let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
            let chain: Vec<_> = chain.map(Result::unwrap).collect();
            let lists = lists.iter().map(|list| {
                let list = BorrowedCertRevocationList::from_der(list).unwrap();
                CertRevocationList::Owned(list.to_owned().unwrap())
            });
            let lists: Vec<_> = lists.collect();
            let lists: Vec<_> = lists.iter().collect();
            let options = RevocationOptionsBuilder::new(&lists)
                .unwrap()
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build();
            let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
            EndEntityCert::try_from(&chain[0])?
                .verify_for_usage(
                    &[ECDSA_P256_SHA256],
                    &[anchor],
                    &chain[1..],
                    at,
                    KeyUsage::client_auth(),
                    Some(options),
                    None,
                )
                .map(drop)
        }

        fn openssl(&self, issued: &Issued) -> String {
            fs::write(self.path.join("leaf.pem"), &issued.chain_pem).unwrap();
            let output = Command::new("openssl")
                .args([
                    "verify",
                    "-x509_strict",
                    "-crl_check_all",
                    "-CRLfile",
                    "crl.pem",
                ])
                .args([
                    "-CAfile",
                    "bundle.pem",
                    "-untrusted",
                    "leaf.pem",
                    "leaf.pem",
                ])
                .current_dir(&self.path)
                .output()
                .expect("these tests need the `openssl` program: apt install openssl");
            fs::remove_file(self.path.join("leaf.pem")).unwrap();
            [&output.stdout[..], &output.stderr[..]]
                .map(String::from_utf8_lossy)
                .concat()
        }

        fn ledger(&self) -> Vec<Value> {
            let text = fs::read_to_string(self.path.join("ledger.jsonl")).unwrap();
            let lines = text.lines().map(serde_json::from_str);
            lines.map(Result::unwrap).collect()
        }
    }

    fn serials(lists: &[CertificateRevocationListDer<'_>]) -> Vec<Serial> {
        let (_, own) = x509_parser::parse_x509_crl(&lists[1]).unwrap();
        let serials = own.iter_revoked_certificates();
        let serials = serials.map(|entry| Serial::from_der(entry.raw_serial()).unwrap());
        serials.collect()
    }

    #[test]
    fn webpki_accepts_the_chain_until_the_leaf_is_revoked() {
        let mut ca = Ca::new();
        let (lost, kept) = (ca.issue("camera"), ca.issue("camera"));
        assert_eq!(ca.verify(&lost, &ca.lists(), ca.now), Ok(()));
        ca.revoke(&lost).unwrap();
        assert_eq!(
            ca.verify(&lost, &ca.lists(), ca.now),
            Err(webpki::Error::CertRevoked)
        );
        assert_eq!(ca.verify(&kept, &ca.lists(), ca.now), Ok(()));
    }

    #[test]
    fn openssl_accepts_the_chain_until_the_leaf_is_revoked() {
        let mut ca = Ca::new();
        let (lost, kept) = (ca.issue("camera"), ca.issue("camera"));
        assert_eq!(ca.openssl(&lost), "leaf.pem: OK\n");
        ca.revoke(&lost).unwrap();
        let said = ca.openssl(&lost);
        assert!(said.contains("certificate revoked"), "{said}");
        assert_eq!(ca.openssl(&kept), "leaf.pem: OK\n");
    }

    /// Fail closed: neither list covers what the other one does.
    #[test]
    fn a_verifier_needs_both_lists() {
        let mut ca = Ca::new();
        let leaf = ca.issue("camera");
        for list in ca.lists() {
            assert_eq!(
                ca.verify(&leaf, &[list], ca.now),
                Err(webpki::Error::UnknownRevocationStatus)
            );
        }
    }

    #[test]
    fn a_list_lives_as_long_as_the_leaves_that_it_can_name() {
        let mut ca = Ca::new();
        let late = ca.now + 29 * DAY;
        let leaf = ca.authority.issue(&id("camera"), DAY, late).unwrap();
        let end = SystemTime::from(leaf.record.not_after);
        let second = Duration::from_secs(1);
        // The first list of all still counts in the last second of the last leaf.
        assert_eq!(ca.verify(&leaf, &ca.lists(), end - second), Ok(()));
        let refused = ca.authority.crl(ca.now + 31 * DAY).unwrap_err();
        assert!(
            refused.to_string().contains("intermediate is valid"),
            "{refused}"
        );
    }

    #[test]
    fn an_id_stands_for_all_its_certificates() {
        let mut ca = Ca::new();
        let (first, other, second) = (ca.issue("camera"), ca.issue("radar"), ca.issue("camera"));
        ca.revoke(&first).unwrap();
        let target = Target::Id(id("camera"));
        let done = ca
            .authority
            .revoke(&target, Reason::Superseded, ca.now)
            .unwrap();
        assert_eq!(done.newly.len(), 1);
        assert_eq!(done.newly[0].serial, second.record.serial);
        assert_eq!(done.before.len(), 1);
        assert_eq!(
            done.before[0].reason,
            Reason::KeyCompromise,
            "stays as it was"
        );
        let listed = serials(&ca.lists());
        assert_eq!(listed.len(), 2);
        assert!(!listed.contains(&other.record.serial));
    }

    #[test]
    fn the_numbers_of_lists_go_up_and_are_recorded() {
        let mut ca = Ca::new();
        let leaf = ca.issue("camera");
        let number = |ca: &Ca| {
            let lists = ca.lists();
            let (_, own) = x509_parser::parse_x509_crl(&lists[1]).unwrap();
            let number = own.crl_number().unwrap().iter_u64_digits().next();
            let recorded = ca.ledger().last().unwrap()["number"].as_u64();
            assert_eq!(number, recorded);
            number.unwrap()
        };
        let mut numbers = vec![1];
        ca.revoke(&leaf).unwrap();
        numbers.push(number(&ca));
        // Also if the file is lost, and in another process.
        fs::remove_file(ca.path.join("crl.pem")).unwrap();
        Authority::open(&ca.path).unwrap().crl(ca.now).unwrap();
        numbers.push(number(&ca));
        ca.revoke(&leaf).unwrap();
        numbers.push(number(&ca));
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(serials(&ca.lists()), [leaf.record.serial]);
    }

    #[test]
    fn what_the_ledger_does_not_have_can_not_be_revoked() {
        let (mut ca, mut other) = (Ca::new(), Ca::new());
        let foreign = other.issue("camera");
        let before = fs::read(ca.path.join("crl.pem")).unwrap();
        let unknown = ca.revoke(&foreign).unwrap_err();
        assert!(matches!(unknown, RevokeError::Unknown(_)), "{unknown}");
        let target = Target::Id(id("camera"));
        let unknown = ca
            .authority
            .revoke(&target, Reason::Unspecified, ca.now)
            .unwrap_err();
        assert!(matches!(unknown, RevokeError::Unknown(_)), "{unknown}");
        for signer in [0, 1] {
            let serial = ca.ledger()[signer]["serial"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let target = Target::Serial(serial);
            let refused = ca
                .authority
                .revoke(&target, Reason::Unspecified, ca.now)
                .unwrap_err();
            assert!(matches!(refused, RevokeError::NotALeaf(_)), "{refused}");
        }
        assert_eq!(fs::read(ca.path.join("crl.pem")).unwrap(), before);
        assert_eq!(ca.ledger().len(), 4, "what is refused is not recorded");
    }

    /// The ledger comes first: whatever keeps the list from being written, the next one has it.
    #[test]
    fn a_revocation_outlives_a_list_that_could_not_be_written() {
        let mut ca = Ca::new();
        let leaf = ca.issue("camera");
        let list = ca.path.join("crl.pem");
        let in_the_way = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            fs::write(path.join("x"), "").unwrap();
        };
        in_the_way(&list);
        let failed = ca.revoke(&leaf).unwrap_err();
        assert!(matches!(failed, RevokeError::Authority(_)), "{failed}");
        fs::remove_dir_all(&list).unwrap();
        let done = ca.revoke(&leaf).unwrap();
        assert_eq!((done.newly.len(), done.before.len()), (0, 1));
        assert_eq!(serials(&ca.lists()), [leaf.record.serial]);
    }

    /// Nobody's list lacks what another one revoked at the same time.
    #[test]
    fn concurrent_revocations_are_all_on_the_last_list() {
        let mut ca = Ca::new();
        let leaves: Vec<_> = (0..8).map(|_| ca.issue("camera").record.serial).collect();
        std::thread::scope(|scope| {
            for leaf in &leaves {
                let (path, now) = (&ca.path, ca.now);
                scope.spawn(move || {
                    let mut authority = Authority::open(path).unwrap();
                    let target = Target::Serial(*leaf);
                    authority.revoke(&target, Reason::Superseded, now).unwrap();
                });
            }
        });
        let mut leaves = leaves;
        leaves.sort();
        assert_eq!(serials(&ca.lists()), leaves);
        let last = ca.ledger().last().unwrap()["number"].clone();
        assert_eq!(last, 9);
    }
}
