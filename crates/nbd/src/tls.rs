//! Certificates for encrypted connections.
//!
//! A server has one certificate, signed by an authority that was made for it and signs nothing else.
//! What a client needs is the authority's certificate (`ca-cert.pem` for tools that use GnuTLS): with it
//! a client takes this server and no other, which is what pinning means. Clients show no certificate;
//! who they are is said by the name of the export, which is a secret of that boot, and travels encrypted.

use crate::error::NbdError;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{fmt, sync::Arc};

/// A certificate with its key, and the authority that signed it.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
    /// The authority's certificate, for clients.
    authority: String,
    certificate: String,
    key: String,
}

fn failed<E: fmt::Display>(action: &'static str) -> impl Fn(E) -> NbdError {
    move |error| NbdError::Identity {
        action,
        detail: error.to_string(),
    }
}

impl Identity {
    /// Makes an authority and a certificate of it for these names and addresses. The authority's key is
    /// forgotten at once. Valid until the year 4096: it is replaced, not renewed.
    ///
    /// # Errors
    /// [`NbdError::Identity`], for a name that cannot stand in a certificate.
    pub fn generate(names: &[String]) -> Result<Self, NbdError> {
        let make = failed::<rcgen::Error>("make a certificate");
        let mut params = CertificateParams::new(Vec::new()).map_err(&make)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "Bugler NBD authority");
        let key = KeyPair::generate().map_err(&make)?;
        let authority = params.self_signed(&key).map_err(&make)?;
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(names.to_vec()).map_err(&make)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Bugler NBD");
        let key = KeyPair::generate().map_err(&make)?;
        let certificate = params.signed_by(&key, &issuer).map_err(&make)?;
        Self::from_pem(&authority.pem(), &certificate.pem(), &key.serialize_pem())
    }

    /// Takes what [`generate`](Self::generate) made, or what another authority gave: its certificate, the
    /// server's certificate (with those between, if there are any), and its key, in PEM.
    ///
    /// # Errors
    /// [`NbdError::Identity`].
    pub fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Self, NbdError> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("read the certificate"))?;
        let secret =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(failed("read the key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed("choose versions of TLS"))?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(failed("use the certificate"))?;
        Ok(Self {
            config: Arc::new(config),
            authority: authority.to_owned(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// The authority's certificate in PEM, for clients.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The server's certificate in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The server's key in PEM, to be kept secret.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}
