//! Chains of the CA before two verifiers that are not ours: WebPKI, which device processes use,
//! and the `openssl` program, which operators have.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, UnixTime};
    use sivshm_abi::identity::SpiffeId;
    use sivshm_ca::{Authority, Issued};
    use tempfile::TempDir;
    use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

    const DAY: Duration = Duration::from_secs(86400);

    /// A CA in `ca/` and a leaf of it in `leaf.pem`, `leaf.key` of a temporary directory.
    fn ca_with_leaf(now: SystemTime) -> (TempDir, Issued) {
        let dir = tempfile::tempdir().unwrap();
        let domain = "car.example".parse().unwrap();
        let mut authority = Authority::init(&dir.path().join("ca"), &domain, now).unwrap();
        let id = SpiffeId::parse("spiffe://car.example/vm/ivi/device").unwrap();
        let issued = authority.issue(&id, DAY, now).unwrap();
        fs::write(dir.path().join("leaf.pem"), &issued.chain_pem).unwrap();
        fs::write(dir.path().join("leaf.key"), issued.key_pem.as_bytes()).unwrap();
        (dir, issued)
    }

    /// Verifies `chain` (leaf first) under the bundle of the CA in `dir`, for both ends of TLS.
    fn webpki(
        dir: &Path,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), webpki::Error> {
        let root = CertificateDer::from_pem_file(dir.join("ca/bundle.pem")).unwrap();
        let anchor = anchor_from_trusted_cert(&root)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let leaf = EndEntityCert::try_from(&chain[0])?;
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            leaf.verify_for_usage(
                &[ECDSA_P256_SHA256],
                std::slice::from_ref(&anchor),
                &chain[1..],
                now,
                usage,
                None,
                None,
            )?;
        }
        Ok(())
    }

    fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
        certificates.map(Result::unwrap).collect()
    }

    fn openssl(dir: &Path, arguments: &str) -> Output {
        Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .expect("these tests need the `openssl` program: apt install openssl")
    }

    fn said(output: &Output) -> String {
        [&output.stdout[..], &output.stderr[..]]
            .map(String::from_utf8_lossy)
            .concat()
    }

    #[test]
    fn webpki_accepts_the_chain_for_both_ends_of_tls() {
        let now = SystemTime::now();
        let (dir, issued) = ca_with_leaf(now);
        let chain = certificates(&issued.chain_pem);
        assert_eq!(webpki(dir.path(), &chain, now), Ok(()));
        assert_eq!(
            webpki(dir.path(), &chain, now - Duration::from_secs(60)),
            Ok(())
        );
    }

    #[test]
    fn webpki_refuses_the_leaf_before_and_after_its_life() {
        let now = SystemTime::now();
        let (dir, issued) = ca_with_leaf(now);
        let chain = certificates(&issued.chain_pem);
        let early = webpki(dir.path(), &chain, now - Duration::from_secs(62));
        assert!(matches!(early, Err(webpki::Error::CertNotValidYet { .. })));
        let late = webpki(dir.path(), &chain, now + DAY + Duration::from_secs(2));
        assert!(matches!(late, Err(webpki::Error::CertExpired { .. })));
    }

    #[test]
    fn webpki_refuses_the_chain_of_another_ca_of_the_same_domain() {
        let now = SystemTime::now();
        let (dir, _) = ca_with_leaf(now);
        let (_, other) = ca_with_leaf(now);
        let chain = certificates(&other.chain_pem);
        assert!(webpki(dir.path(), &chain, now).is_err());
    }

    #[test]
    fn openssl_accepts_the_chain_strictly_for_both_ends_of_tls() {
        let (dir, _) = ca_with_leaf(SystemTime::now());
        for purpose in ["sslserver", "sslclient"] {
            let verified = openssl(
                dir.path(),
                &format!(
                    "verify -x509_strict -check_ss_sig -purpose {purpose} \
                     -CAfile ca/bundle.pem -untrusted leaf.pem leaf.pem"
                ),
            );
            assert_eq!(said(&verified), "leaf.pem: OK\n");
        }
    }

    #[test]
    fn openssl_reads_certificate_and_key_as_a_pair() {
        let (dir, _) = ca_with_leaf(SystemTime::now());
        let text = said(&openssl(dir.path(), "x509 -in leaf.pem -noout -text"));
        assert!(
            text.contains("URI:spiffe://car.example/vm/ivi/device"),
            "{text}"
        );
        assert!(text.contains("Subject: \n"), "{text}");
        let of_certificate = openssl(dir.path(), "x509 -in leaf.pem -noout -pubkey");
        let of_key = openssl(dir.path(), "pkey -in leaf.key -pubout -check");
        assert!(said(&of_key).contains("Key is valid"), "{}", said(&of_key));
        assert!(said(&of_key).contains(&said(&of_certificate)));
    }

    /// A certificate that the holder of a leaf signs with the leaf's key, as leaf first chain.
    fn signed_by_leaf(issued: &Issued) -> String {
        let key = KeyPair::from_pem(&issued.key_pem).unwrap();
        let leaf = certificates(&issued.chain_pem).remove(0);
        let issuer = Issuer::from_ca_cert_der(&leaf, key).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let uri = "spiffe://car.example/vm/other/device".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        let forged = params
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap();
        forged.pem() + &issued.chain_pem
    }

    #[test]
    fn a_leaf_cannot_sign() {
        let now = SystemTime::now();
        let (dir, issued) = ca_with_leaf(now);
        let forged = signed_by_leaf(&issued);
        let refused = webpki(dir.path(), &certificates(&forged), now).unwrap_err();
        assert_eq!(refused, webpki::Error::EndEntityUsedAsCa);
        fs::write(dir.path().join("forged.pem"), forged).unwrap();
        let refused = openssl(
            dir.path(),
            "verify -CAfile ca/bundle.pem -untrusted forged.pem forged.pem",
        );
        assert!(!refused.status.success());
        assert!(
            said(&refused).contains("invalid CA certificate"),
            "{}",
            said(&refused)
        );
    }

    /// What a thief of the intermediate's key can't do: speak for a web site.
    #[test]
    fn the_intermediate_cannot_vouch_for_host_names() {
        let now = SystemTime::now();
        let (dir, _) = ca_with_leaf(now);
        let der = fs::read(dir.path().join("ca/intermediate.key")).unwrap();
        let key = KeyPair::try_from(der).unwrap();
        let pem = fs::read_to_string(dir.path().join("ca/intermediate.pem")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        for name in ["bank.example", "192.0.2.1", "2001:db8::1"] {
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.is_ca = IsCa::ExplicitNoCa;
            let forged = params
                .signed_by(&KeyPair::generate().unwrap(), &issuer)
                .unwrap();
            let forged = forged.pem() + &pem;
            let refused = webpki(dir.path(), &certificates(&forged), now).unwrap_err();
            assert_eq!(refused, webpki::Error::NameConstraintViolation, "{name}");
            fs::write(dir.path().join("forged.pem"), forged).unwrap();
            let refused = openssl(
                dir.path(),
                "verify -CAfile ca/bundle.pem -untrusted forged.pem forged.pem",
            );
            assert!(
                said(&refused).contains("excluded subtree violation"),
                "{name}"
            );
        }
    }
}
