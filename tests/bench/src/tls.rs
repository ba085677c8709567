//! TLS of the clients and of the stub servers: certificates, a client that believes everybody, with and
//! without resumption.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};

use crate::process;

/// A certificate and its key, PEM files; `both` holds one behind the other.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) both: PathBuf,
}

/// Of what kind a certificate's key is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Ecdsa,
    Rsa,
}

impl KeyKind {
    /// How `openssl req` is told to make such a key.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ecdsa => &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::Rsa => &["rsa:2048"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

impl Certificate {
    /// Makes a self-signed one in `folder`: P-256 or RSA with 2048 bits.
    ///
    /// # Errors
    /// What openssl says.
    pub(crate) fn make(kind: KeyKind, folder: &Path) -> Result<Self, String> {
        let file = |what: &str| folder.join(format!("{}-{what}.pem", kind.name()));
        let (certificate, key, both) = (file("certificate"), file("key"), file("both"));
        let (certificate_name, key_name) = (certificate.display().to_string(), key.display());
        let key_name = key_name.to_string();
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "30", "-subj"];
        arguments.extend(["/CN=proxy.test", "-out", &certificate_name]);
        arguments.extend(["-keyout", &key_name, "-newkey"]);
        arguments.extend(kind.arguments());
        process::run(Path::new("openssl"), &arguments)?;
        let read = |file: &Path| std::fs::read(file).map_err(|error| error.to_string());
        let content = [read(&certificate)?, read(&key)?].concat();
        std::fs::write(&both, content).map_err(|error| error.to_string())?;
        Ok(Self {
            certificate,
            key,
            both,
        })
    }
}

/// What a server with these files needs.
///
/// # Errors
/// When the files are not what they should be.
pub(crate) fn server(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![chain], key)
        });
    Ok(Arc::new(config.map_err(io::Error::other)?))
}

/// How clients begin their sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Each with a full handshake.
    Full,
    /// Each client resumes the last one of its own, if the server lets it.
    Resumed,
}

/// The TLS of many clients that begin their sessions in this way.
#[derive(Clone)]
pub(crate) struct Clients {
    handshake: Handshake,
    config: Arc<ClientConfig>,
}

impl Clients {
    /// Clients that believe every certificate.
    pub(crate) fn new(handshake: Handshake) -> Self {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the library's own provider knows the versions of TLS")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelievesEverybody))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Self {
            handshake,
            config: Arc::new(config),
        }
    }

    /// What one of them keeps over all its sessions: those that resume have a store of their own.
    pub(crate) fn one(&self) -> Arc<ClientConfig> {
        match self.handshake {
            Handshake::Full => Arc::clone(&self.config),
            Handshake::Resumed => {
                let mut config = ClientConfig::clone(&self.config);
                config.resumption = Resumption::in_memory_sessions(8);
                Arc::new(config)
            }
        }
    }
}

/// A session of such a client.
pub(crate) fn begin(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("proxy.test").map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The client's own work is not measured: it looks at no certificate and at no signature.
#[derive(Debug)]
struct BelievesEverybody;

impl ServerCertVerifier for BelievesEverybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}
