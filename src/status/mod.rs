//! `status`: numbers for Prometheus, a page for people, and what else is asked over HTTP. `/metrics`,
//! `/healthz`, `/sessions`, `/`, and `/kick`, by which the page ends a session.
//!
//! HTTP is spoken here as far as these need it, with `httparse` for the heads: the small servers there are
//! start a thread for each connection or wait for a head as long as it takes, and hold no bound against
//! those who abuse that. What a connection may cost is bounded in `door`; `request` and `answer` do no
//! I/O; `numbers`, `sessions` and `page` are what is answered.
//!
//! Nobody logs in here, so whoever can connect may read. What changes something is asked for from this
//! machine only, with a secret that is in the page alone, and by no other site's page.

mod answer;
mod door;
mod numbers;
mod page;
mod request;
mod sessions;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::config::{BackendHost, Config, Process};
use crate::front::Listening;
use crate::log::{Log, Severity};
use crate::net::address::Address;
use crate::protocol::{Protocol, Purpose};
use crate::service::Service;
use crate::session::Runtime;
use crate::tls::CertificateInUse;

pub(crate) use door::Door;

use answer::Answer;
use request::{Method, Request};

/// What is shown, and the secret by which a page of ours is known again.
pub(crate) struct Site {
    runtime: Arc<Runtime>,
    token: String,
    began: Timestamp,
    shown: RwLock<Arc<Shown>>,
}

/// What a reload changes.
#[derive(Clone)]
pub(crate) struct Shown {
    /// The servers.
    pub services: Vec<Arc<Service>>,
    /// Where they listen.
    pub listening: Vec<Listening>,
    /// Their process.
    pub process: Process,
    /// Where lines about all this go.
    pub log: Log,
    /// When this configuration was read.
    pub since: Timestamp,
    /// Whether the last attempt to read another one failed.
    pub reload_failed: bool,
}

impl Shown {
    /// A configuration that is in use from now on.
    pub(crate) fn new(
        config: &Config,
        services: Vec<Arc<Service>>,
        listening: Vec<Listening>,
        log: &Log,
    ) -> Self {
        Self {
            services,
            listening,
            process: config.process.clone(),
            log: log.clone(),
            since: Timestamp::now(),
            reload_failed: false,
        }
    }
}

/// A host of a backend, for one of the protocols that it is configured for.
struct HostState {
    backend: String,
    protocol: Protocol,
    /// With its port.
    host: String,
    is_down: bool,
}

impl Shown {
    /// Every configured host of every backend, for what the servers need it for.
    fn hosts(&self) -> Vec<HostState> {
        let mut purposes: Vec<Purpose> = Vec::new();
        for purpose in self.services.iter().map(|service| service.conf.purpose()) {
            if !purposes.contains(&purpose) {
                purposes.push(purpose);
            }
        }
        let backends = self.services.first();
        let backends = backends.map_or(&[][..], |service| service.router.backends());
        let mut states: Vec<HostState> = Vec::new();
        for backend in backends {
            for purpose in &purposes {
                for host in backend.conf.hosts(purpose.protocol) {
                    let port = host.port.unwrap_or(backend.conf.port(*purpose));
                    let state = HostState {
                        backend: backend.conf.name.clone(),
                        protocol: purpose.protocol,
                        host: BackendHost {
                            port: Some(port),
                            ..host.clone()
                        }
                        .to_string(),
                        is_down: backend.is_down(host, *purpose),
                    };
                    if !states.iter().any(|known| known.is_same(&state)) {
                        states.push(state);
                    }
                }
            }
        }
        states
    }

    /// The certificates that clients are shown, with the server that shows them.
    fn certificates(&self) -> Vec<(&Service, CertificateInUse)> {
        let mut found: Vec<(&Service, CertificateInUse)> = Vec::new();
        for service in &self.services {
            service.refresh_tls();
            for certificate in service
                .acceptor
                .iter()
                .flat_map(|a| a.certificates().to_vec())
            {
                let is_same = |(of, known): &(&Service, CertificateInUse)| {
                    of.conf.name == service.conf.name && known.file == certificate.file
                };
                if !found.iter().any(is_same) {
                    found.push((service, certificate));
                }
            }
        }
        found
    }
}

impl HostState {
    fn is_same(&self, other: &Self) -> bool {
        self.backend == other.backend && self.protocol == other.protocol && self.host == other.host
    }
}

impl Site {
    /// What is shown from the start on.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(runtime: &Arc<Runtime>, shown: Shown) -> Result<Arc<Self>, String> {
        let site = Self {
            runtime: Arc::clone(runtime),
            token: random_word()?,
            began: shown.since,
            shown: RwLock::new(Arc::new(shown)),
        };
        Ok(Arc::new(site))
    }

    /// Another configuration is in use.
    pub(crate) fn change_to(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    /// Another configuration could not be read; the old one stays in use.
    pub(crate) fn note_failed_reload(&self) {
        let shown = self.shown();
        self.change_to(Shown {
            reload_failed: true,
            ..(*shown).clone()
        });
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer to a request of somebody at `peer`.
    fn answer(&self, request: &Request, peer: Address) -> Answer {
        let shown = self.shown();
        if !is_for_us(request, &shown) {
            return Answer::text(421, "This is not the host that you asked for.\n");
        }
        match (request.method, request.path.as_str()) {
            (Method::Get | Method::Head, "/healthz") => Answer::text(200, "ok\n"),
            (Method::Get | Method::Head, "/metrics") => numbers::metrics(self, &shown),
            (Method::Get | Method::Head, "/sessions") => sessions::list(self, request),
            (Method::Get | Method::Head, "/") => page::page(self, &shown, request, peer),
            (Method::Post, "/kick") => self.kick(request, peer, &shown),
            (_, "/healthz" | "/metrics" | "/sessions" | "/") => Answer::wrong_method("GET, HEAD"),
            (_, "/kick") => Answer::wrong_method("POST"),
            _ => Answer::text(404, "There is nothing here.\n"),
        }
    }

    /// Ends a session, if it is our page that asks, in the browser of somebody on this machine.
    fn kick(&self, request: &Request, peer: Address, shown: &Shown) -> Answer {
        let refused = |text: &str| Answer::text(403, text);
        if !is_this_machine(peer) {
            return refused("Sessions are ended from this machine only.\n");
        }
        if !is_same_site(request) {
            return refused("Another site's page asked for this.\n");
        }
        let token = request.field("token").unwrap_or_default();
        if !openssl_eq(token.as_bytes(), self.token.as_bytes()) {
            return refused("The page is too old. Load it again.\n");
        }
        let number = request.field("session").and_then(|text| text.parse().ok());
        let Some(number) = number else {
            return Answer::text(400, "Which session?\n");
        };
        if sessions::end(&self.runtime, number) {
            let text = format!("the status page ended session *{number}, asked from {peer}");
            shown
                .log
                .write(Severity::Notice, file!(), &text, None, None);
        }
        Answer::see_other(&format!("/?ended={number}"))
    }
}

/// Whether a request names this host as it can only be named by who knows it: by an address, as
/// `localhost`, or as the directive has it. Another name is one that somebody has made to point here, whose
/// pages a browser would let read ours (DNS rebinding).
fn is_for_us(request: &Request, shown: &Shown) -> bool {
    let Some(host) = &request.host else {
        // A browser always names one.
        return request.method != Method::Post;
    };
    let name = without_port(host).to_ascii_lowercase();
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let configured = shown.process.status.as_ref();
    let configured = configured.and_then(|status| status.host.as_deref());
    is_address || name == "localhost" || Some(name.as_str()) == configured
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_this_machine(peer: Address) -> bool {
    peer.ip().is_none_or(|ip| ip.is_loopback())
}

/// Whether a page of ours has sent this, as far as the browser says (Fetch Metadata; RFC 6454).
fn is_same_site(request: &Request) -> bool {
    let of_host = |origin: &String| {
        let host = origin.strip_prefix("http://");
        host.is_some() && host == request.host.as_deref()
    };
    let is_form = |kind: &String| kind.starts_with("application/x-www-form-urlencoded");
    request.origin.as_ref().is_none_or(of_host)
        && (request.fetch_site.as_ref()).is_none_or(|site| site == "same-origin")
        && request.content_type.as_ref().is_some_and(is_form)
}

/// Compares in constant time.
fn openssl_eq(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && openssl::memcmp::eq(one, other)
}

/// 128 bits that nobody can guess.
fn random_word() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Since the process began.
fn uptime(site: &Site) -> Duration {
    let since = Timestamp::now().duration_since(site.began);
    Duration::try_from(since).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (host, name) in [
            ("localhost:9180", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:9180", "[::1]"),
            ("127.0.0.1:", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn a_secret_is_compared_whole() {
        assert!(openssl_eq(b"abc", b"abc"));
        assert!(
            !openssl_eq(b"abc", b"abd") && !openssl_eq(b"ab", b"abc") && !openssl_eq(b"", b"a")
        );
    }
}
