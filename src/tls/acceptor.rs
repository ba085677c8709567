//! The server's side: settings, keys and caches put together once, an engine for each client, and
//! the re-reading of files that have changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use ::rustls::{Connection, ServerConfig, ServerConnection};
use native_tls::TlsAcceptor;
use openssl::sha::Sha256;
use openssl::x509::{X509, X509PurposeId};
use zeroize::Zeroizing;

use super::error::{Problem, TlsError, TlsErrorKind, openssl_reason};
use super::files::{self, Stamps};
use super::keys::{self, Directives};
use super::rustls::RustlsEngine;
use super::rustls_server::{self, Parts};
use super::settings::{
    DEFAULT_SESSION_TIMEOUT, DEFAULT_VERIFY_DEPTH, Library, ServerSettings, SessionCache,
    VerifyClient,
};
use super::tickets::{Cache, Scope, ScopedCache, ScopedTickets, SessionCaches, TicketKeys};
use super::verify::{Rules, Trust};
use super::{Engine, native, native_setup, rustls};

const DIRECTIVES: Directives = Directives {
    certificate: "ssl_certificate",
    key: "ssl_certificate_key",
    password: "ssl_password_file",
};

/// Makes engines for the clients of one server. Clones share keys and sessions.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    settings: ServerSettings,
    alpn: Arc<str>,
    cache: Option<Arc<Cache>>,
    /// Used when there are no `ssl_session_ticket_key` files.
    random_keys: Arc<TicketKeys>,
    current: RwLock<Material>,
    seen: Mutex<Stamps>,
}

/// What one reading of the files gave.
#[derive(Clone)]
enum Material {
    Rustls {
        config: Arc<ServerConfig>,
        trust: Option<Arc<Trust>>,
    },
    Native(TlsAcceptor),
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({})", self.0.alpn)
    }
}

impl Acceptor {
    /// Reads all files and checks everything; `alpn` is `imap`, `pop3` or `smtp`, and `caches` are
    /// those of the whole configuration. Success brings warnings with it.
    pub fn new(
        settings: ServerSettings,
        alpn: &str,
        caches: &SessionCaches,
    ) -> Result<(Acceptor, Vec<Problem>), Vec<Problem>> {
        let mut warnings = without_effect(&settings);
        let seen = Stamps::of(&files_of(&settings));
        let cache = open_cache(&settings, caches).map_err(|problem| vec![problem])?;
        let random_keys = TicketKeys::random()
            .map_err(|stack| vec![Problem::new("ssl_session_tickets", openssl_reason(&stack))])?;
        let random_keys = Arc::new(random_keys);
        let material = read(&settings, alpn, &cache, &random_keys, &mut warnings)?;
        let acceptor = Acceptor(Arc::new(Shared {
            settings,
            alpn: alpn.into(),
            cache,
            random_keys,
            current: RwLock::new(material),
            seen: Mutex::new(seen),
        }));
        Ok((acceptor, warnings))
    }

    /// An engine for one client.
    pub fn engine(&self) -> Result<Box<dyn Engine>, TlsError> {
        let current = self
            .0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match current {
            Material::Rustls { config, trust } => {
                let connection = ServerConnection::new(config).map_err(|error| {
                    TlsError::new(TlsErrorKind::Internal, format!("cannot begin TLS: {error}"))
                })?;
                let role = rustls::Role::Server(trust);
                Ok(Box::new(RustlsEngine::new(
                    Connection::Server(connection),
                    role,
                )))
            }
            Material::Native(acceptor) => {
                Ok(Box::new(native::NativeEngine::new(native::Role::Server {
                    acceptor,
                    alpn: Arc::clone(&self.0.alpn),
                })))
            }
        }
    }

    #[cfg(test)]
    pub(super) fn rustls_config(&self) -> Option<Arc<ServerConfig>> {
        match &*self
            .0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Material::Rustls { config, .. } => Some(Arc::clone(config)),
            Material::Native(_) => None,
        }
    }

    /// Whether clients need a certificate.
    pub fn verify_client(&self) -> VerifyClient {
        self.0.settings.ssl_verify_client
    }

    /// Reads the files again if any has changed; true if the new ones are now in use. On an error,
    /// told once for each change, the old ones stay.
    pub fn refresh(&self) -> Result<bool, String> {
        let mut seen = match self.0.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        let stamps = Stamps::of(&files_of(&self.0.settings));
        if *seen == stamps {
            return Ok(false);
        }
        *seen = stamps;
        let shared = &self.0;
        let material = read(
            &shared.settings,
            &shared.alpn,
            &shared.cache,
            &shared.random_keys,
            &mut Vec::new(),
        )
        .map_err(|problems| kept_old(&problems))?;
        *shared
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = material;
        Ok(true)
    }
}

/// The message for files that were changed for the worse.
pub(super) fn kept_old(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!(
        "changed TLS files are not used, the old ones stay in use: {}",
        texts.join("; ")
    )
}

fn files_of(settings: &ServerSettings) -> Vec<PathBuf> {
    let single = [
        &settings.ssl_password_file,
        &settings.ssl_client_certificate,
        &settings.ssl_trusted_certificate,
        &settings.ssl_crl,
    ];
    let lists = [
        &settings.ssl_certificate,
        &settings.ssl_certificate_key,
        &settings.ssl_session_ticket_key,
    ];
    let single = single.into_iter().flatten();
    single.chain(lists.into_iter().flatten()).cloned().collect()
}

fn without_effect(settings: &ServerSettings) -> Vec<Problem> {
    let mut warnings = Vec::new();
    if settings.ssl_dhparam.is_some() {
        let text = match settings.tls_library {
            Library::Rustls => "has no effect: rustls exchanges keys over elliptic curves only",
            Library::Native => "has no effect: the library uses its own Diffie-Hellman group",
        };
        warnings.push(Problem::new("ssl_dhparam", text));
    }
    for (entry, command) in settings.ssl_conf_command.iter().enumerate() {
        let instead = match command.split_whitespace().next() {
            Some("Ciphersuites" | "CipherString") => "use ssl_ciphers",
            Some("Curves" | "Groups") => "use ssl_ecdh_curve",
            Some("MinProtocol" | "MaxProtocol" | "Protocol") => "use ssl_protocols",
            _ => "the library's own choice holds",
        };
        let text = format!("`{command}` has no effect, it is for OpenSSL alone: {instead}");
        warnings.push(Problem::at("ssl_conf_command", entry, text));
    }
    warnings
}

fn open_cache(
    settings: &ServerSettings,
    caches: &SessionCaches,
) -> Result<Option<Arc<Cache>>, Problem> {
    /// What a session takes, generously.
    const SESSION_BYTES: usize = 4096;
    match &settings.ssl_session_cache {
        None | Some(SessionCache::None | SessionCache::Off) => Ok(None),
        Some(SessionCache::Builtin { sessions }) => {
            let bytes = sessions.saturating_mul(SESSION_BYTES);
            Ok(Some(Arc::new(Cache::new(bytes, *sessions))))
        }
        Some(SessionCache::Shared { name, bytes }) => caches.shared(name, *bytes).map(Some),
    }
}

fn read(
    settings: &ServerSettings,
    alpn: &str,
    cache: &Option<Arc<Cache>>,
    random_keys: &Arc<TicketKeys>,
    warnings: &mut Vec<Problem>,
) -> Result<Material, Vec<Problem>> {
    let mut problems = match settings.tls_library {
        Library::Native => native_setup::check_server(settings),
        Library::Rustls => rustls_server::check_names(settings, warnings)
            .err()
            .unwrap_or_default(),
    };
    if settings.ssl_certificate.is_empty() {
        problems.push(Problem::new(
            "ssl_certificate",
            "a server with TLS needs a certificate",
        ));
    }
    let pairs = keys::load(
        &DIRECTIVES,
        &settings.ssl_certificate,
        &settings.ssl_certificate_key,
        settings.ssl_password_file.as_deref(),
        warnings,
    );
    let clients = read_client_rules(settings);
    let ticket_keys = read_ticket_keys(settings, random_keys);
    let (pairs, clients, ticket_keys) = match (pairs, clients, ticket_keys) {
        (Ok(pairs), Ok(clients), Ok(keys)) if problems.is_empty() => (pairs, clients, keys),
        (pairs, clients, keys) => {
            problems.extend(pairs.err().into_iter().flatten());
            problems.extend(clients.err());
            problems.extend(keys.err());
            return Err(problems);
        }
    };
    if settings.tls_library == Library::Native {
        return native_material(settings, &pairs[0], alpn).map_err(|problem| vec![problem]);
    }
    let mut certificates = Vec::new();
    for pair in &pairs {
        match pair.certified(&DIRECTIVES) {
            Ok(key) => certificates.push((pair.names.clone(), key)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let parts = parts(settings, alpn, certificates, &clients, cache, ticket_keys);
    let config = rustls_server::config(settings, parts).map_err(|problem| vec![problem])?;
    Ok(Material::Rustls {
        config: Arc::new(config),
        trust: clients.trust,
    })
}

fn native_material(
    settings: &ServerSettings,
    pair: &keys::Pair,
    alpn: &str,
) -> Result<Material, Problem> {
    let identity = pair
        .identity()
        .map_err(|text| Problem::new(DIRECTIVES.key, text))?;
    native_setup::acceptor(settings, identity, alpn).map(Material::Native)
}

fn parts(
    settings: &ServerSettings,
    alpn: &str,
    certificates: Vec<(super::names::Names, Arc<::rustls::sign::CertifiedKey>)>,
    clients: &ClientRules,
    cache: &Option<Arc<Cache>>,
    ticket_keys: Arc<TicketKeys>,
) -> Parts {
    let timeout = settings
        .ssl_session_timeout
        .unwrap_or(DEFAULT_SESSION_TIMEOUT);
    let tickets_on = settings.ssl_session_tickets.unwrap_or(true) && timeout > Duration::ZERO;
    Parts {
        certificates,
        issuers: clients.issuers.clone(),
        tickets: Arc::new(ScopedTickets {
            keys: tickets_on.then_some(ticket_keys),
            scope: clients.scope,
            timeout,
        }),
        sessions: Arc::new(ScopedCache {
            cache: cache.clone(),
            scope: clients.scope,
            timeout,
            announced: settings.ssl_session_cache != Some(SessionCache::Off),
        }),
        alpn: alpn.to_owned(),
    }
}

/// How client certificates are asked for and judged.
struct ClientRules {
    trust: Option<Arc<Trust>>,
    issuers: Option<Vec<Vec<u8>>>,
    scope: Scope,
}

fn read_client_rules(settings: &ServerSettings) -> Result<ClientRules, Problem> {
    if settings.ssl_verify_client == VerifyClient::Off {
        return Ok(ClientRules {
            trust: None,
            issuers: None,
            scope: Scope::default(),
        });
    }
    let named = read_anchors("ssl_client_certificate", &settings.ssl_client_certificate)?;
    let unnamed = read_anchors("ssl_trusted_certificate", &settings.ssl_trusted_certificate)?;
    let anchors = [named.as_slice(), unnamed.as_slice()].concat();
    if anchors.is_empty() && settings.ssl_verify_client != VerifyClient::OptionalNoCa {
        let text = "needs ssl_client_certificate or ssl_trusted_certificate, the issuers to trust";
        return Err(Problem::new("ssl_verify_client", text));
    }
    let crl = settings.ssl_crl.as_deref();
    if let Some(path) = crl {
        check_crl_path(path)?;
    }
    let depth = settings.ssl_verify_depth.unwrap_or(DEFAULT_VERIFY_DEPTH);
    let rules = Rules {
        purpose: X509PurposeId::SSL_CLIENT,
        depth: Some(depth),
        crl,
    };
    let trust = Trust::new(&anchors, &rules).map_err(|stack| match crl {
        Some(path) => Problem::new(
            "ssl_crl",
            format!(
                "cannot use \"{}\": {}",
                path.display(),
                openssl_reason(&stack)
            ),
        ),
        None => Problem::new("ssl_client_certificate", openssl_reason(&stack)),
    })?;
    let subjects = named
        .iter()
        .filter_map(|anchor| anchor.subject_name().to_der().ok());
    Ok(ClientRules {
        trust: Some(Arc::new(trust)),
        issuers: Some(subjects.collect()),
        scope: scope(settings, depth)?,
    })
}

fn read_anchors(directive: &'static str, path: &Option<PathBuf>) -> Result<Vec<X509>, Problem> {
    match path {
        Some(path) => files::read_certificates(directive, 0, path),
        None => Ok(Vec::new()),
    }
}

/// OpenSSL opens this file itself, by a name that must be text.
fn check_crl_path(path: &Path) -> Result<(), Problem> {
    files::read("ssl_crl", 0, path)?;
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            "ssl_crl",
            format!("the name \"{}\" is not UTF-8", path.display()),
        )),
    }
}

/// A digest of everything that decides which client certificates are good.
fn scope(settings: &ServerSettings, depth: u32) -> Result<Scope, Problem> {
    let mut digest = Sha256::new();
    digest.update(&[settings.ssl_verify_client as u8]);
    digest.update(&depth.to_be_bytes());
    let parts = [
        ("ssl_client_certificate", &settings.ssl_client_certificate),
        ("ssl_trusted_certificate", &settings.ssl_trusted_certificate),
        ("ssl_crl", &settings.ssl_crl),
    ];
    for (directive, path) in parts {
        let content = match path {
            Some(path) => files::read(directive, 0, path)?,
            None => Zeroizing::new(Vec::new()),
        };
        digest.update(&content.len().to_be_bytes());
        digest.update(&content);
    }
    Ok(digest.finish())
}

fn read_ticket_keys(
    settings: &ServerSettings,
    random_keys: &Arc<TicketKeys>,
) -> Result<Arc<TicketKeys>, Problem> {
    const DIRECTIVE: &str = "ssl_session_ticket_key";
    if settings.ssl_session_ticket_key.is_empty() {
        return Ok(Arc::clone(random_keys));
    }
    let mut contents = Vec::new();
    for (entry, path) in settings.ssl_session_ticket_key.iter().enumerate() {
        let bytes = files::read(DIRECTIVE, entry, path)?;
        if ![48, 80].contains(&bytes.len()) {
            let text = format!(
                "\"{}\" has {} bytes; a ticket key has 48 or 80 (openssl rand 80)",
                path.display(),
                bytes.len()
            );
            return Err(Problem::at(DIRECTIVE, entry, text));
        }
        contents.push(bytes);
    }
    let keys = TicketKeys::from_files(&contents);
    keys.map(Arc::new)
        .map_err(|stack| Problem::new(DIRECTIVE, openssl_reason(&stack)))
}
