//! The server's side: settings, keys and caches put together once, an engine for each client, and
//! the re-reading of files that have changed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;

use ::rustls::sign::CertifiedKey;
use ::rustls::{Connection, ServerConfig, ServerConnection};
use native_tls::TlsAcceptor;

use super::client_rules::ClientRules;
use super::error::{Problem, TlsError, TlsErrorKind, openssl_reason};
use super::files::{self, Seen, Stamps};
use super::keys::{self, Directives};
use super::rustls::RustlsEngine;
use super::rustls_server::{self, Parts};
use super::settings::{
    DEFAULT_SESSION_TIMEOUT, Library, ServerSettings, SessionCache, VerifyClient,
};
use super::tickets::{Cache, OfServer, ScopedCache, ScopedTickets, SessionCaches, TicketKeys};
use super::verify::Trust;
use super::{Engine, native, native_setup, rustls, stapling};

const DIRECTIVES: Directives = Directives {
    certificate: "ssl_certificate",
    key: "ssl_certificate_key",
    password: "ssl_password_file",
};

/// Makes engines for the clients of one server. Clones share keys and sessions.
#[derive(Clone)]
pub(crate) struct Acceptor(Arc<Shared>);

struct Shared {
    settings: ServerSettings,
    alpn: Arc<str>,
    cache: Option<Arc<Cache>>,
    /// Used when there are no `ssl_session_ticket_key` files.
    random_keys: Arc<TicketKeys>,
    current: RwLock<Current>,
    seen: Mutex<Seen>,
}

/// What one reading of the files gave.
struct Current {
    material: Material,
    certificates: Arc<[CertificateInUse]>,
}

/// A certificate that clients are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateInUse {
    /// The file, as the configuration names it.
    pub file: PathBuf,
    /// The first few names that it stands for, for people.
    pub names: String,
    /// The last second at which it is valid, counted from 1970.
    pub not_after: i64,
}

/// What engines are made of.
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
    /// those of the whole configuration, in which the server has the name `server`. Success brings
    /// warnings with it.
    pub(crate) fn new(
        settings: ServerSettings,
        alpn: &str,
        server: &str,
        caches: &SessionCaches,
    ) -> Result<(Acceptor, Vec<Problem>), Vec<Problem>> {
        let mut warnings = without_effect(&settings);
        let seen = Stamps::of(&files_of(&settings));
        let before = caches.of_before(server, &settings);
        let cache = open_cache(&settings, caches, before).map_err(|problem| vec![problem])?;
        let random_keys = match before {
            Some(before) => Arc::clone(&before.random_keys),
            None => random_keys().map_err(|problem| vec![problem])?,
        };
        let current = read(&settings, alpn, &cache, &random_keys, &mut warnings)?;
        let used = OfServer {
            settings: settings.clone(),
            random_keys: Arc::clone(&random_keys),
            cache: cache.clone(),
        };
        caches.remember(server, used);
        let acceptor = Acceptor(Arc::new(Shared {
            settings,
            alpn: alpn.into(),
            cache,
            random_keys,
            current: RwLock::new(current),
            seen: Mutex::new(Seen::new(seen)),
        }));
        Ok((acceptor, warnings))
    }

    /// An engine for one client.
    pub(crate) fn engine(&self) -> Result<Box<dyn Engine>, TlsError> {
        let material = self.current().material.clone();
        match material {
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
        match &self.current().material {
            Material::Rustls { config, .. } => Some(Arc::clone(config)),
            Material::Native(_) => None,
        }
    }

    /// The certificates that clients are shown now.
    pub(crate) fn certificates(&self) -> Arc<[CertificateInUse]> {
        Arc::clone(&self.current().certificates)
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        let current = &self.0.current;
        current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients need a certificate.
    pub(crate) fn verify_client(&self) -> VerifyClient {
        self.0.settings.ssl_verify_client
    }

    /// Reads the files again if any has changed; true if the new ones are now in use. On an error,
    /// told once for each change, the old ones stay and it is tried again.
    pub(crate) fn refresh(&self) -> Result<bool, String> {
        let mut seen = match self.0.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        let shared = &self.0;
        seen.refresh(&files_of(&shared.settings), || {
            let read = read(
                &shared.settings,
                &shared.alpn,
                &shared.cache,
                &shared.random_keys,
                &mut Vec::new(),
            );
            let read = read.map_err(|problems| kept_old(&problems))?;
            let mut current = shared
                .current
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *current = read;
            Ok(())
        })
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
        &settings.ssl_stapling_file,
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

fn random_keys() -> Result<Arc<TicketKeys>, Problem> {
    let keys = TicketKeys::random().map(Arc::new);
    keys.map_err(|stack| Problem::new("ssl_session_tickets", openssl_reason(&stack)))
}

fn open_cache(
    settings: &ServerSettings,
    caches: &SessionCaches,
    before: Option<&OfServer>,
) -> Result<Option<Arc<Cache>>, Problem> {
    /// What a session takes, generously.
    const SESSION_BYTES: usize = 4096;
    match &settings.ssl_session_cache {
        None | Some(SessionCache::None | SessionCache::Off) => Ok(None),
        Some(SessionCache::Builtin { sessions }) => {
            let bytes = sessions.saturating_mul(SESSION_BYTES);
            let before = before.and_then(|before| before.cache.clone());
            Ok(before.or_else(|| Some(Arc::new(Cache::new(bytes, *sessions)))))
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
) -> Result<Current, Vec<Problem>> {
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
    let clients = ClientRules::read(settings, warnings);
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
    let in_use = settings.ssl_certificate.iter().zip(&pairs);
    let in_use = in_use.map(|(file, pair)| CertificateInUse {
        file: file.clone(),
        names: pair.names.summary(),
        not_after: pair.not_after(),
    });
    let in_use: Arc<[CertificateInUse]> = in_use.collect();
    let material = match settings.tls_library {
        Library::Native => {
            native_material(settings, &pairs[0], alpn).map_err(|problem| vec![problem])?
        }
        Library::Rustls => {
            let responses = stapling::load(&settings.ssl_stapling_file, &pairs, warnings)?;
            let certificates = certified(&pairs, responses)?;
            let parts = parts(settings, alpn, certificates, &clients, cache, ticket_keys);
            let config = rustls_server::config(settings, parts).map_err(|problem| vec![problem])?;
            Material::Rustls {
                config: Arc::new(config),
                trust: clients.trust,
            }
        }
    };
    Ok(Current {
        material,
        certificates: in_use,
    })
}

/// The pairs, each with its OCSP response, as rustls takes them, or what is wrong with any of them.
fn certified(
    pairs: &[keys::Pair],
    responses: Vec<Option<Vec<u8>>>,
) -> Result<Vec<CertifiedPair>, Vec<Problem>> {
    let mut certificates = Vec::new();
    let mut problems = Vec::new();
    for (pair, ocsp) in pairs.iter().zip(responses) {
        match pair.certified(&DIRECTIVES) {
            Ok(key) => {
                let key = CertifiedKey { ocsp, ..key };
                certificates.push((pair.names.clone(), Arc::new(key)));
            }
            Err(problem) => problems.push(problem),
        }
    }
    match problems.is_empty() {
        true => Ok(certificates),
        false => Err(problems),
    }
}

/// A certificate with its key, and the names that it is for.
type CertifiedPair = (super::names::Names, Arc<CertifiedKey>);

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
    certificates: Vec<CertifiedPair>,
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
