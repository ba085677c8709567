//! The client's side towards one backend or auth server: settings, trust and our own certificate put together
//! once, an engine for each connection, and the re-reading of files that have changed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use ::rustls::pki_types::ServerName;
use ::rustls::{ClientConfig, ClientConnection, Connection};
use native_tls::TlsConnector;
use openssl::x509::{X509, X509PurposeId};

use super::acceptor::kept_old;
use super::ciphers::{self, Version};
use super::error::{Problem, TlsError, TlsErrorKind, openssl_reason};
use super::files::{self, Seen, Stamps};
use super::keys::{self, Directives, Pair};
use super::rustls::RustlsEngine;
use super::rustls_client::{self, Demands};
use super::settings::{ClientSettings, Library};
use super::verify::{Rules, Trust};
use super::{Engine, native, native_setup, rustls};

/// Makes engines for connections to one backend. Clones share everything.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Shared>);

struct Shared {
    settings: ClientSettings,
    current: RwLock<Material>,
    seen: Mutex<Seen>,
}

/// What one reading of the files gave.
#[derive(Clone)]
enum Material {
    Rustls {
        config: Arc<ClientConfig>,
    },
    Native {
        connector: TlsConnector,
        demands: Arc<Demands>,
    },
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({:?})", self.0.settings.proxy_ssl_name)
    }
}

impl Connector {
    /// Reads all files and checks everything. Success brings warnings with it.
    pub(crate) fn new(settings: ClientSettings) -> Result<(Connector, Vec<Problem>), Vec<Problem>> {
        let mut warnings = Vec::new();
        let seen = Stamps::of(&files_of(&settings));
        let material = read(&settings, &mut warnings)?;
        let connector = Connector(Arc::new(Shared {
            settings,
            current: RwLock::new(material),
            seen: Mutex::new(Seen::new(seen)),
        }));
        Ok((connector, warnings))
    }

    /// An engine for one connection to the backend with this host name or address, which
    /// `proxy_ssl_name` overrides.
    pub(crate) fn engine(&self, name: &str) -> Result<Box<dyn Engine>, TlsError> {
        let settings = &self.0.settings;
        let name = settings.proxy_ssl_name.as_deref().unwrap_or(name);
        let name = name.strip_suffix('.').unwrap_or(name).to_owned();
        // Both libraries get names that are names only: one of them panics on a NUL.
        let server_name = server_name(&name, settings)
            .map_err(|text| TlsError::new(TlsErrorKind::WrongName, text))?;
        let current = self
            .0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match current {
            Material::Rustls { config } => {
                let connection = ClientConnection::new(config, server_name).map_err(|error| {
                    TlsError::new(TlsErrorKind::Internal, format!("cannot begin TLS: {error}"))
                })?;
                let role = rustls::Role::Client {
                    name,
                    verified: settings.proxy_ssl_verify,
                    directives: settings.directives,
                };
                Ok(Box::new(RustlsEngine::new(
                    Connection::Client(connection),
                    role,
                )))
            }
            Material::Native { connector, demands } => {
                let role = native::Role::Client {
                    connector,
                    name,
                    demands,
                };
                Ok(Box::new(native::NativeEngine::new(role)))
            }
        }
    }

    /// Reads the files again if any has changed; true if the new ones are now in use. On an error,
    /// told once for each change, the old ones stay and it is tried again. The system's store is read only at start.
    pub(crate) fn refresh(&self) -> Result<bool, String> {
        let mut seen = match self.0.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        let shared = &self.0;
        seen.refresh(&files_of(&shared.settings), || {
            let material = read(&shared.settings, &mut Vec::new());
            let material = material.map_err(|problems| kept_old(&problems))?;
            let mut current = shared
                .current
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *current = material;
            Ok(())
        })
    }
}

fn files_of(settings: &ClientSettings) -> Vec<PathBuf> {
    let files = [
        &settings.proxy_ssl_trusted_certificate,
        &settings.proxy_ssl_certificate,
        &settings.proxy_ssl_certificate_key,
        &settings.proxy_ssl_password_file,
    ];
    files.into_iter().flatten().cloned().collect()
}

fn server_name(name: &str, settings: &ClientSettings) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let directive = settings.directives.name;
        format!("\"{name}\" is not a name a certificate can have (set {directive})")
    })
}

fn read(settings: &ClientSettings, warnings: &mut Vec<Problem>) -> Result<Material, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut note = |problem: Problem| problems.push(problem);
    let name = settings.proxy_ssl_name.as_deref();
    if let Some(Err(text)) = name.map(|name| server_name(name, settings)) {
        note(Problem::new(settings.directives.name, text));
    }
    let versions = versions(settings).map_err(&mut note);
    let own = read_own(settings, warnings).map_err(|found| found.into_iter().for_each(&mut note));
    let roots = read_roots(settings).map_err(&mut note);
    let pins = read_pins(settings).map_err(&mut note);
    let (Ok(versions), Ok(own), Ok(roots), Ok(pins), true) =
        (versions, own, roots, pins, problems.is_empty())
    else {
        return Err(problems);
    };
    let demands = demands(settings, &roots, pins).map_err(|problem| vec![problem])?;
    let material = match settings.tls_library {
        Library::Rustls => rustls_material(settings, &versions, demands, own),
        Library::Native => native_material(settings, &roots, demands, own),
    };
    material.map_err(|problem| vec![problem])
}

fn versions(settings: &ClientSettings) -> Result<Vec<Version>, Problem> {
    match settings.tls_library {
        Library::Rustls => rustls_versions(settings),
        Library::Native => native_setup::client_versions(settings),
    }
}

fn rustls_versions(settings: &ClientSettings) -> Result<Vec<Version>, Problem> {
    let supported = [Version::Tls12, Version::Tls13];
    let versions = ciphers::versions(
        settings.directives.protocols,
        &settings.proxy_ssl_protocols,
        Library::Rustls,
        &supported,
    )?;
    Ok(if versions.is_empty() {
        supported.to_vec()
    } else {
        versions
    })
}

fn read_own(
    settings: &ClientSettings,
    warnings: &mut Vec<Problem>,
) -> Result<Option<Pair>, Vec<Problem>> {
    let certificates: Vec<PathBuf> = settings.proxy_ssl_certificate.iter().cloned().collect();
    let keys: Vec<PathBuf> = settings.proxy_ssl_certificate_key.iter().cloned().collect();
    let password_file = settings.proxy_ssl_password_file.as_deref();
    let pairs = keys::load(
        &of_own_pair(settings),
        &certificates,
        &keys,
        password_file,
        warnings,
    )?;
    Ok(pairs.into_iter().next())
}

fn of_own_pair(settings: &ClientSettings) -> Directives {
    Directives {
        certificate: settings.directives.certificate,
        key: settings.directives.certificate_key,
        password: settings.directives.password_file,
    }
}

/// Trusted issuers; empty where nothing is verified.
fn read_roots(settings: &ClientSettings) -> Result<Vec<X509>, Problem> {
    if !settings.proxy_ssl_verify {
        return Ok(Vec::new());
    }
    if let Some(path) = &settings.proxy_ssl_trusted_certificate {
        return files::read_certificates(settings.directives.trusted_certificate, 0, path);
    }
    let system = rustls_native_certs::load_native_certs();
    let roots: Vec<X509> = system
        .certs
        .iter()
        .filter_map(|der| X509::from_der(der).ok())
        .collect();
    if roots.is_empty() {
        let text = "the system has no trusted certificates (install ca-certificates, or name a \
                    file here)";
        let directive = settings.directives.trusted_certificate;
        return Err(Problem::new(directive, text));
    }
    Ok(roots)
}

fn read_pins(settings: &ClientSettings) -> Result<Vec<[u8; 32]>, Problem> {
    let mut pins = Vec::new();
    for (entry, text) in settings.proxy_ssl_fingerprint.iter().enumerate() {
        let pin = parse_pin(text).ok_or_else(|| {
            let text = format!(
                "`{text}` is not a SHA-256 fingerprint: 64 hex digits, colons allowed \
                 (openssl x509 -noout -fingerprint -sha256)"
            );
            Problem::at(settings.directives.fingerprint, entry, text)
        })?;
        pins.push(pin);
    }
    Ok(pins)
}

fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = match lower.split_once('=') {
        Some((label, digits)) if label.starts_with("sha256") => digits,
        Some(_) => return None,
        None => lower.strip_prefix("sha256:").unwrap_or(&lower),
    };
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    let mut pin = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(pin)
}

fn demands(
    settings: &ClientSettings,
    roots: &[X509],
    pins: Vec<[u8; 32]>,
) -> Result<Demands, Problem> {
    let rules = Rules {
        purpose: X509PurposeId::SSL_SERVER,
        depth: None,
        crl: None,
    };
    let trust = settings
        .proxy_ssl_verify
        .then(|| Trust::new(roots, &rules))
        .transpose();
    let directives = settings.directives;
    let trust = trust
        .map_err(|stack| Problem::new(directives.trusted_certificate, openssl_reason(&stack)))?;
    Ok(Demands {
        directives,
        trust,
        pins,
    })
}

fn rustls_material(
    settings: &ClientSettings,
    versions: &[Version],
    demands: Demands,
    own: Option<Pair>,
) -> Result<Material, Problem> {
    let own = own
        .map(|pair| pair.certified(&of_own_pair(settings)).map(Arc::new))
        .transpose()?;
    let config = rustls_client::config(versions, Arc::new(demands), own)?;
    Ok(Material::Rustls {
        config: Arc::new(config),
    })
}

fn native_material(
    settings: &ClientSettings,
    roots: &[X509],
    demands: Demands,
    own: Option<Pair>,
) -> Result<Material, Problem> {
    let identity = own.map(|pair| pair.identity()).transpose();
    let identity =
        identity.map_err(|text| Problem::new(settings.directives.certificate_key, text))?;
    Ok(Material::Native {
        connector: native_setup::connector(settings, Some(roots), identity)?,
        demands: Arc::new(demands),
    })
}
