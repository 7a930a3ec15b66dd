//! The certificate profile, field by field, in what the CA really issues.

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use sivshm_abi::identity::SpiffeId;
    use sivshm_ca::{Authority, Issued};
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::parse_x509_certificate;
    use x509_parser::prelude::{X509Certificate, X509Version};

    const LEAF: &str = "spiffe://car.example/vm/ivi/svc/camera";
    const DOMAIN: &str = "spiffe://car.example";
    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;

    /// A leaf for an hour, with the certificates above it.
    struct Chain {
        root: CertificateDer<'static>,
        intermediate: CertificateDer<'static>,
        leaf: CertificateDer<'static>,
        issued: Issued,
    }

    fn chain() -> Chain {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        let mut authority = Authority::init(&path, &"car.example".parse().unwrap(), now).unwrap();
        let id = SpiffeId::parse(LEAF).unwrap();
        let issued = authority
            .issue(&id, Duration::from_secs(HOUR), now)
            .unwrap();
        let mut certificates = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
        let leaf = certificates.next().unwrap().unwrap();
        let intermediate = certificates.next().unwrap().unwrap();
        assert!(certificates.next().is_none());
        Chain {
            root: CertificateDer::from_pem_file(path.join("bundle.pem")).unwrap(),
            intermediate,
            leaf,
            issued,
        }
    }

    fn parse(der: &[u8]) -> X509Certificate<'_> {
        let (rest, certificate) = parse_x509_certificate(der).unwrap();
        assert!(rest.is_empty());
        certificate
    }

    /// The extensions as (short name, critical), sorted; a repeated or unknown one shows.
    fn extensions(certificate: &X509Certificate<'_>) -> Vec<(&'static str, bool)> {
        let mut found: Vec<_> = certificate
            .extensions()
            .iter()
            .map(|extension| {
                let name = match extension.parsed_extension() {
                    ParsedExtension::AuthorityKeyIdentifier(_) => "aki",
                    ParsedExtension::BasicConstraints(_) => "bc",
                    ParsedExtension::ExtendedKeyUsage(_) => "eku",
                    ParsedExtension::KeyUsage(_) => "ku",
                    ParsedExtension::NameConstraints(_) => "nc",
                    ParsedExtension::SubjectAlternativeName(_) => "san",
                    ParsedExtension::SubjectKeyIdentifier(_) => "ski",
                    _ => "unknown",
                };
                (name, extension.critical)
            })
            .collect();
        found.sort_unstable();
        found
    }

    fn uris<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let names = names.value.general_names.iter().map(|name| match name {
            GeneralName::URI(uri) => *uri,
            other => panic!("{other} is no URI"),
        });
        names.collect()
    }

    fn key_id<'a>(certificate: &'a X509Certificate<'a>) -> &'a [u8] {
        let found = certificate.iter_extensions().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            }
        });
        found.unwrap()
    }

    fn issuer_key_id<'a>(certificate: &'a X509Certificate<'a>) -> &'a [u8] {
        let found = certificate.iter_extensions().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    assert!(id.authority_cert_issuer.is_none());
                    assert!(id.authority_cert_serial.is_none());
                    id.key_identifier.as_ref().map(|id| id.0)
                }
                _ => None,
            }
        });
        found.unwrap()
    }

    fn key_usage(certificate: &X509Certificate<'_>) -> String {
        certificate.key_usage().unwrap().unwrap().value.to_string()
    }

    /// Seconds from the time of issue to the first and the last second of the life.
    fn life(certificate: &X509Certificate<'_>) -> (i64, i64) {
        let now = i64::try_from(NOW).unwrap();
        let validity = certificate.validity();
        (
            validity.not_before.timestamp() - now,
            validity.not_after.timestamp() - now,
        )
    }

    #[test]
    fn every_certificate_is_v3_p256_and_has_a_positive_16_octet_serial() {
        let chain = chain();
        for der in [&chain.root, &chain.intermediate, &chain.leaf] {
            let certificate = parse(der);
            assert_eq!(certificate.version(), X509Version::V3);
            let algorithm = &certificate.signature_algorithm.algorithm;
            assert_eq!(algorithm.to_id_string(), "1.2.840.10045.4.3.2");
            assert_eq!(&certificate.tbs_certificate.signature.algorithm, algorithm);
            let key = &certificate.public_key().algorithm;
            assert_eq!(key.algorithm.to_id_string(), "1.2.840.10045.2.1");
            let curve = key.parameters.as_ref().unwrap().as_oid().unwrap();
            assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7");
            assert_eq!(certificate.raw_serial().len(), 16);
            assert!(certificate.raw_serial()[0] < 0x80);
        }
    }

    #[test]
    fn the_leaf_has_one_name_and_can_only_authenticate() {
        let chain = chain();
        let (leaf, intermediate) = (parse(&chain.leaf), parse(&chain.intermediate));
        assert_eq!(uris(&leaf), [LEAF]);
        assert_eq!(leaf.subject().iter().count(), 0);
        assert_eq!(
            extensions(&leaf),
            [
                ("aki", false),
                ("bc", true),
                ("eku", false),
                ("ku", true),
                ("san", true),
                ("ski", false)
            ]
        );
        let constraints = leaf.basic_constraints().unwrap().unwrap().value;
        assert!(!constraints.ca && constraints.path_len_constraint.is_none());
        assert_eq!(key_usage(&leaf), "Digital Signature");
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && usage.other.is_empty());
        assert!(!usage.any && !usage.code_signing && !usage.email_protection);
        assert!(!usage.time_stamping && !usage.ocsp_signing);
        assert_eq!(leaf.issuer().as_raw(), intermediate.subject().as_raw());
        assert_eq!(issuer_key_id(&leaf), key_id(&intermediate));
        assert_ne!(key_id(&leaf), key_id(&intermediate));
        assert_eq!(life(&leaf), (-60, 3600));
    }

    #[test]
    fn the_intermediate_signs_leaves_and_no_other_name() {
        let chain = chain();
        let (intermediate, root) = (parse(&chain.intermediate), parse(&chain.root));
        assert_eq!(uris(&intermediate), [DOMAIN]);
        assert_eq!(
            intermediate.subject().to_string(),
            "O=car.example, CN=SIVSHM intermediate"
        );
        assert_eq!(
            extensions(&intermediate),
            [
                ("aki", false),
                ("bc", true),
                ("ku", true),
                ("nc", true),
                ("san", false),
                ("ski", false)
            ]
        );
        let constraints = intermediate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca);
        assert_eq!(constraints.path_len_constraint, Some(0));
        assert_eq!(key_usage(&intermediate), "Key Cert Sign, CRL Sign");
        let names = intermediate.name_constraints().unwrap().unwrap().value;
        assert!(names.permitted_subtrees.is_none());
        let excluded = names.excluded_subtrees.as_ref().unwrap();
        let excluded: Vec<_> = excluded.iter().map(|tree| &tree.base).collect();
        assert_eq!(
            excluded,
            [
                &GeneralName::DNSName(""),
                &GeneralName::RFC822Name(""),
                &GeneralName::IPAddress(&[0; 8]),
                &GeneralName::IPAddress(&[0; 32])
            ]
        );
        assert_eq!(intermediate.issuer().as_raw(), root.subject().as_raw());
        assert_eq!(issuer_key_id(&intermediate), key_id(&root));
        assert_eq!(life(&intermediate), (-60, 30 * 86400));
    }

    #[test]
    fn the_root_signs_itself_and_one_level_of_signers() {
        let chain = chain();
        let root = parse(&chain.root);
        assert_eq!(uris(&root), [DOMAIN]);
        assert_eq!(root.subject().to_string(), "O=car.example, CN=SIVSHM root");
        assert_eq!(root.issuer().as_raw(), root.subject().as_raw());
        assert_eq!(
            extensions(&root),
            [("bc", true), ("ku", true), ("san", false), ("ski", false)]
        );
        let constraints = root.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca);
        assert_eq!(constraints.path_len_constraint, Some(1));
        assert_eq!(key_usage(&root), "Key Cert Sign, CRL Sign");
        assert_eq!(life(&root), (-60, 3650 * 86400));
    }

    #[test]
    fn the_record_is_that_of_the_leaf() {
        let chain = chain();
        let (leaf, intermediate) = (parse(&chain.leaf), parse(&chain.intermediate));
        let record = &chain.issued.record;
        let hex = |bytes: &[u8]| sivshm_ca::key::hex(bytes);
        assert_eq!(record.serial.to_string(), hex(leaf.raw_serial()));
        assert_eq!(record.issuer.to_string(), hex(intermediate.raw_serial()));
        assert_eq!(record.spiffe_id, LEAF);
        assert_eq!(record.not_after, leaf.validity().not_after.to_datetime());
        let digest = ring::digest::digest(&ring::digest::SHA256, leaf.public_key().raw);
        assert_eq!(record.key_sha256, hex(digest.as_ref()));
    }
}
