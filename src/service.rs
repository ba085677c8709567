//! One `[server]` at work: its configuration and what was built from it. Sessions share it and keep
//! it as long as they live, so that a reload does not touch them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::auth::Authenticator;
use crate::auth::cache::Cached;
use crate::auth::file::AuthFile;
use crate::auth::file::source::UserFile;
use crate::auth::http::AuthHttp;
use crate::auth::passthrough::Passthrough;
use crate::backend::capabilities::{self, Asker, Learned};
use crate::backend::identities::Identities;
use crate::backend::known::Known;
use crate::backend::refusal_time::RefusalTime;
use crate::backend::route::Router;
use crate::backend::talk::Dialogue;
use crate::backend::visit::Visitor;
use crate::backend::{Backend, Visits, check, refreshed_in_words, wait_between};
use crate::config::{self, AuthKind, Capabilities, Config, Xclient};
use crate::log::{Log, Seldom};
use crate::metrics::ServerMetrics;
use crate::net::address::Address;
use crate::net::http::HttpClient;
use crate::net::resolve::{Dns, PendingName};
use crate::protocol::{Protocol, Record};
use crate::system::threads::spawn;
use crate::tls::{Acceptor, ClientSettings, Connector, Problem, SessionCaches};

/// By what logins in progress towards somebody are counted, and how many there may be.
#[derive(Debug, Clone)]
pub(crate) struct LoginTarget {
    /// One name for each auth server, each backend, and the calculation of hashes.
    pub name: String,
    /// The most; `admission` has a limit of its own besides.
    pub most: usize,
}

impl LoginTarget {
    /// One of which as many are let in as `admission` says.
    pub(crate) fn named(name: String) -> Self {
        Self {
            name,
            most: usize::MAX,
        }
    }

    /// The checking of passwords, for all servers together: each takes a processor, and memory that the file
    /// of users says, so there are no more at once than processors.
    fn hashes() -> Self {
        Self {
            name: "password hashes".to_owned(),
            most: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A server that sessions can run on.
#[derive(Debug)]
pub(crate) struct Service {
    /// What the configuration says.
    pub conf: config::Server,
    /// What its protocol fixes.
    pub record: &'static Record,
    /// Where its lines go.
    pub log: Log,
    /// What is counted here.
    pub metrics: Arc<ServerMetrics>,
    /// By what logins that somebody decides about are counted, if they are.
    pub auth_target: Option<LoginTarget>,
    /// Whether logins in progress towards one backend are limited: where there is only one, there is nobody
    /// to keep workers for.
    pub limits_targets: bool,
    /// Who decides about logins.
    pub auth: Box<dyn Authenticator>,
    /// The backends, and which login belongs to which.
    pub router: Arc<Router>,
    /// How long the backends take to refuse a login.
    pub refusal_time: RefusalTime,
    /// What the backends offer, once they have been asked (`imap_capabilities = auto` and its like).
    learned: Arc<Learned>,
    /// Who knows names and addresses.
    pub dns: Dns,
    /// TLS towards clients, where any listener or STARTTLS wants it.
    pub acceptor: Option<Acceptor>,
    /// TLS towards backends that the auth server names; why there is none (no certificate store, say)
    /// matters only to a login that needs it.
    pub connector: Result<Connector, String>,
    /// TLS towards auth servers, where one of them wants it.
    pub auth_connector: Option<Connector>,
    /// What its backends say of themselves.
    pub identities: Identities,
    /// When certificates were last looked at.
    refreshed: Seldom,
}

/// What one configuration hands to the next, by name. Nothing of it can be told from the configuration.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// TLS sessions that the servers can resume.
    caches: SessionCaches,
    /// What is known of the hosts of each backend.
    known: HashMap<String, Arc<Known>>,
    /// What is counted of each server that any configuration of the process had: who comes back while sessions
    /// of the one before still run goes on with its counts, and is not counted twice.
    metrics: HashMap<(String, Protocol), Arc<ServerMetrics>>,
}

impl Kept {
    /// What of this is kept for another configuration, and a place for what is new there.
    pub(crate) fn next(&self, config: &Config) -> Self {
        let of_name = |name: &String| self.known.get(name).cloned().unwrap_or_default();
        let names = config.backends.iter().map(|backend| &backend.name);
        let mut metrics = self.metrics.clone();
        for server in &config.servers {
            let key = (server.name.clone(), server.protocol);
            metrics.insert(key, self.metrics(server));
        }
        Self {
            caches: self.caches.next(),
            known: names.map(|name| (name.clone(), of_name(name))).collect(),
            metrics,
        }
    }

    /// Lets go of what no server of this configuration has taken over.
    pub(crate) fn forget_before(&mut self) {
        self.caches.forget_before();
    }

    fn metrics(&self, server: &config::Server) -> Arc<ServerMetrics> {
        let (name, protocol) = (server.name.clone(), server.protocol);
        let new = || Arc::new(ServerMetrics::new(&server.name, protocol));
        let kept = self.metrics.get(&(name, protocol)).cloned();
        kept.unwrap_or_else(new)
    }

    fn known(&self, backend: &str) -> Arc<Known> {
        self.known.get(backend).cloned().unwrap_or_default()
    }
}

/// Builds the servers of a configuration; `kept` is its own.
///
/// # Errors
/// What is wrong, for people: a log that cannot be opened, a resolver that cannot be set up.
pub(crate) fn build(config: &Config, kept: &Kept) -> Result<Vec<Arc<Service>>, String> {
    let log = Log::open_process(
        &config.process.error_log,
        &config.process.error_log_user_tag,
        config.process.log_format,
    )?;
    let backend = |conf: &config::Backend| {
        let known = kept.known(&conf.name);
        Arc::new(Backend::new(conf.clone(), known, log.clone()))
    };
    let backends = config.backends.iter().map(backend);
    let shared = Shared {
        router: Arc::new(Router::new(
            backends.collect(),
            &config.routes,
            log.clone(),
        )?),
        kept,
        connectors: RefCell::default(),
        users: RefCell::default(),
    };
    let build = |conf: &config::Server| Service::build(config, conf, &shared);
    config.servers.iter().map(build).collect()
}

/// Starts what is done without a client: health checks, lists of capabilities, maps read again. They
/// go on until what is returned is dropped. `dialogue` knows how a protocol is spoken.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn visit_backends(
    services: &[Arc<Service>],
    dialogue: fn(Protocol) -> Dialogue,
) -> std::io::Result<Arc<Visits>> {
    let visits = Arc::new(Visits);
    let Some(first) = services.first() else {
        return Ok(visits);
    };
    let mut visitors: Vec<Visitor> = Vec::new();
    for service in services {
        let visitor = Visitor {
            purpose: service.conf.purpose(),
            dialogue: dialogue(service.conf.protocol),
            own_name: service.conf.server_name.clone(),
        };
        if service.capabilities_are_learned() {
            capabilities::start(service.asker(visitor.clone()), Arc::downgrade(&visits))?;
        }
        let is_new = |known: &Visitor| known.purpose != visitor.purpose;
        if visitors.iter().all(is_new) {
            visitors.push(visitor);
        }
    }
    first.router.follow_maps(Arc::downgrade(&visits))?;
    tend_auth(services, Arc::downgrade(&visits))?;
    for backend in first.router.backends() {
        let dns = first.dns.clone();
        check::start(backend, visitors.clone(), dns, Arc::downgrade(&visits))?;
    }
    Ok(visits)
}

/// Starts the thread that looks after the methods which need it: files of users that change, logins that are
/// remembered for too long. It ends with the visits.
fn tend_auth(services: &[Arc<Service>], visits: Weak<Visits>) -> std::io::Result<()> {
    /// How often.
    const LOOK: Duration = Duration::from_secs(1);
    let needs_it = |service: &&Arc<Service>| {
        service.conf.auth == AuthKind::File || service.conf.auth_cache.is_some()
    };
    let services: Vec<_> = services.iter().filter(needs_it).cloned().collect();
    if services.is_empty() {
        return Ok(());
    }
    let tend = move || {
        while wait_between(&visits, LOOK) {
            for service in &services {
                for (severity, text) in service.auth.tend() {
                    service.log.write(severity, file!(), &text, None, None);
                }
            }
        }
    };
    spawn("auth", tend).map(drop)
}

/// What the servers of a configuration have in common.
struct Shared<'a> {
    router: Arc<Router>,
    kept: &'a Kept,
    /// One for equal settings: each holds the system's certificate store, which takes a while to read.
    connectors: RefCell<Vec<(ClientSettings, Result<Connector, String>)>>,
    /// One for each file of users.
    users: RefCell<HashMap<PathBuf, Arc<UserFile>>>,
}

impl Shared<'_> {
    fn users(&self, conf: &config::Server) -> Result<Arc<UserFile>, String> {
        let Some(path) = &conf.auth_file else {
            return Err(format!("server \"{}\": no auth_file", conf.name));
        };
        let mut known = self.users.borrow_mut();
        if let Some(file) = known.get(path) {
            return Ok(Arc::clone(file));
        }
        let backends = self.router.backends().iter();
        let names = backends.map(|backend| backend.conf.name.clone());
        let file = Arc::new(UserFile::open(path, names.collect())?);
        known.insert(path.clone(), Arc::clone(&file));
        Ok(file)
    }

    fn connector(
        &self,
        conf: &config::Server,
        settings: &ClientSettings,
    ) -> Result<Connector, String> {
        let mut known = self.connectors.borrow_mut();
        if let Some((_, connector)) = known.iter().find(|(known, _)| known == settings) {
            return connector.clone();
        }
        let built = Connector::new(settings.clone()).map(|(connector, _)| connector);
        let built = built.map_err(|problems| in_words(conf, &problems));
        known.push((settings.clone(), built.clone()));
        built
    }
}

impl Service {
    fn build(
        config: &Config,
        conf: &config::Server,
        shared: &Shared<'_>,
    ) -> Result<Arc<Self>, String> {
        let targets = match conf.error_log.as_slice() {
            [] => config.process.error_log.as_slice(),
            own => own,
        };
        let dns = Dns::new(conf.resolver.as_ref())?;
        let record = conf.protocol.record();
        let https = conf.auth_http.iter().any(|url| url.tls);
        let auth_connector = match https {
            true => Some(shared.connector(conf, &conf.auth_http_tls)?),
            false => None,
        };
        let servers = conf.auth_http.iter().map(|url| {
            let tls = auth_connector.clone().filter(|_| url.tls);
            HttpClient::new(url.clone(), dns.clone(), tls, conf.auth_http_keepalive)
        });
        let acceptor = match conf.has_tls() {
            false => None,
            true => {
                let (name, caches) = (&conf.name, &shared.kept.caches);
                let built = Acceptor::new(conf.tls.clone(), record.alpn, name, caches);
                Some(built.map_err(|problems| in_words(conf, &problems))?.0)
            }
        };
        let connector = shared.connector(conf, &conf.proxy_tls);
        // Where an auth server decides, it may name any number of backends.
        let limits_targets = match conf.auth {
            AuthKind::Http => true,
            AuthKind::Passthrough | AuthKind::File => config.has_several_targets(),
        };
        let router = Arc::clone(&shared.router);
        let auth: Box<dyn Authenticator> = match conf.auth {
            AuthKind::Http => {
                let servers = servers.collect();
                Box::new(AuthHttp::new(conf, servers, router, connector.clone()))
            }
            AuthKind::Passthrough => Box::new(Passthrough::new(conf, router)),
            AuthKind::File => Box::new(AuthFile::new(conf, shared.users(conf)?, router)),
        };
        Ok(Arc::new(Self {
            record,
            acceptor,
            metrics: shared.kept.metrics(conf),
            auth_target: auth_target(conf),
            limits_targets,
            identities: Identities::default(),
            refreshed: Seldom::new(),
            log: Log::open(targets, &conf.error_log_user_tag, config.process.log_format)?,
            auth: match conf.auth_cache {
                Some(time) if conf.auth.can_be_remembered() => Box::new(Cached::new(auth, time)?),
                Some(_) | None => auth,
            },
            connector,
            router: Arc::clone(&shared.router),
            refusal_time: RefusalTime::default(),
            learned: Arc::default(),
            auth_connector,
            dns,
            conf: conf.clone(),
        }))
    }

    /// Reads certificates again whose files have changed, looking at most once a second. Sessions keep
    /// what they began with; a broken new file leaves the old one in use.
    pub(crate) fn refresh_tls(&self) {
        if self.refreshed.allow().is_none() {
            return;
        }
        let of_clients = self.acceptor.iter().map(Acceptor::refresh);
        let connectors = self.connector.iter().chain(&self.auth_connector);
        for refreshed in of_clients.chain(connectors.map(Connector::refresh)) {
            if let Some((severity, text)) = refreshed_in_words(refreshed) {
                let text = format!("server \"{}\": {text}", self.conf.name);
                self.log.write(severity, file!(), &text, None, None);
            }
        }
    }

    /// The capabilities that clients are told before their login: those configured, those learned, or
    /// until these are known the protocol's default.
    pub(crate) fn capabilities(&self) -> Arc<[String]> {
        match self.conf.capabilities() {
            Capabilities::Fixed(items) => items.as_slice().into(),
            Capabilities::Auto => {
                let default = || {
                    Capabilities::without_backends(self.conf.protocol)
                        .fixed()
                        .into()
                };
                self.learned.list().unwrap_or_else(default)
            }
        }
    }

    /// Where the list comes from that `capabilities` has now, for the log.
    pub(crate) fn source_of_capabilities(&self) -> &'static str {
        match self.conf.capabilities() {
            Capabilities::Fixed(_) => "those configured",
            Capabilities::Auto if self.learned.list().is_some() => "what the backends offer",
            Capabilities::Auto => "the default, as no backend has answered",
        }
    }

    fn asker(&self, visitor: Visitor) -> Asker {
        Asker {
            server: self.conf.name.clone(),
            visitor,
            router: Arc::clone(&self.router),
            dns: self.dns.clone(),
            log: self.log.clone(),
            learned: Arc::downgrade(&self.learned),
        }
    }

    fn capabilities_are_learned(&self) -> bool {
        *self.conf.capabilities() == Capabilities::Auto && !self.router.backends().is_empty()
    }

    /// Bytes of a client's command, as the protocol's directive says.
    pub(crate) fn client_buffer(&self) -> usize {
        self.conf.client_buffer()
    }

    /// Whether one of the backends is told the client's name.
    pub(crate) fn backends_are_told_names(&self) -> bool {
        let mut backends = self.router.backends().iter();
        self.record.looks_up_client && backends.any(|backend| backend.conf.xclient != Xclient::Off)
    }

    /// Starts looking up the client's name, if it is needed and there is a `resolver` to ask.
    /// `done` is called when it is known.
    pub(crate) fn begin_host_name(
        &self,
        client: Address,
        done: impl FnOnce() + Send + 'static,
    ) -> Option<PendingName> {
        if !self.conf.protocol.record().looks_up_client || self.conf.resolver.is_none() {
            return None;
        }
        let limit = self.conf.resolver_timeout;
        Some(self.dns.begin_client_name(client.ip()?, limit, done))
    }
}

/// Whom logins at a server wait for before they are decided about.
fn auth_target(conf: &config::Server) -> Option<LoginTarget> {
    match conf.auth {
        AuthKind::Passthrough => None,
        AuthKind::File => Some(LoginTarget::hashes()),
        AuthKind::Http => {
            let names = conf.auth_http.iter().map(|url| format!("{url:?}"));
            let names: Vec<_> = names.collect();
            Some(LoginTarget::named(format!("auth {}", names.join(" "))))
        }
    }
}

fn in_words(conf: &config::Server, problems: &[Problem]) -> String {
    let texts: Vec<_> = problems.iter().map(Problem::to_string).collect();
    format!("server \"{}\": {}", conf.name, texts.join("; "))
}
