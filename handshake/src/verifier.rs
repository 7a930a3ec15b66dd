//! The one door from `rustls` to [`crate::identity::verify`], for both directions.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sivshm_abi::name::TrustDomain;
use webpki::KeyUsage;

use crate::credentials::Credentials;
use crate::identity::{self, Party, VerifiedIdentity};
use crate::tls::SIGNATURES;
use crate::trust::Trust;

/// Judges the other party's certificate of one connection and keeps what it found.
#[derive(Debug)]
pub(crate) struct SvidVerifier {
    trust: Trust,
    domain: TrustDomain,
    want: Party,
    found: Mutex<Option<VerifiedIdentity>>,
}

impl SvidVerifier {
    pub(crate) fn new(credentials: &Credentials, want: Party) -> Arc<Self> {
        Arc::new(Self {
            trust: credentials.trust.clone(),
            domain: credentials.id.domain,
            want,
            found: Mutex::new(None),
        })
    }

    /// What was found. It says nothing about who presented the certificate until `rustls` has
    /// checked a signature with its key, which is when the TLS handshake is over.
    pub(crate) fn take(&self) -> Option<VerifiedIdentity> {
        self.found.lock().ok()?.take()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (trust, domain) = (&self.trust, self.domain);
        let identity = identity::verify(leaf, issuers, trust, domain, self.want, usage, now)
            .map_err(|fault| CertificateError::Other(OtherError(Arc::new(fault))))?;
        let mut found = self
            .found
            .lock()
            .map_err(|_| Error::General("a verifier panicked".into()))?;
        *found = Some(identity);
        Ok(())
    }
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, issuers, KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

impl ClientCertVerifier for SvidVerifier {
    /// No hint: every party has one SVID.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, issuers, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}
