//! `postern check --live`: what a configuration meets outside of itself. Ports, certificates, auth servers and
//! the hosts of backends are looked at, and nobody logs in.
//!
//! What is wrong with the configuration by itself is `config`'s; how a host is visited, `backend::visit`'s.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use serde_json::{Map, Value};

use crate::backend::error::BackendError;
use crate::backend::visit::Visitor;
use crate::backend::{Backend, Candidate};
use crate::config::{
    self, AuthKind, Config, Listen, ListenAddress, ProxyProtocol, ProxySsl, Xclient,
};
use crate::control::client::{self, Asking, Said};
use crate::dialect;
use crate::limits::redis;
use crate::log::{LogDestination, LogFormat, LogTarget, Severity};
use crate::net::http::HttpClient;
use crate::net::listen::{Beside, bind_socket};
use crate::net::socket::{Deadline, Socket};
use crate::sasl::shown::LoginSecrets;
use crate::service::{self, Kept, Service};
use crate::system::privileges;
use crate::system::sockets::{self, Holder};
use crate::tls::{Facts, Verdict};

/// Longest time for all hosts; the rest is not tried.
const TOTAL: Duration = Duration::from_secs(120);

/// A certificate that expires within so many days needs somebody.
const SOON: i64 = 14;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// It works, and somebody should look.
    Warning,
    /// It does not work.
    Failed,
}

/// Looks at everything; `show` is told of each thing, with what is known of it. The process becomes the
/// configured user on the way, as the service does.
///
/// # Errors
/// For people: nothing could be looked at.
pub(crate) fn run(
    config: &Config,
    file: &Path,
    show: &mut dyn FnMut(State, &str),
) -> Result<(), String> {
    let quiet = without_logs(config);
    let services = service::build(&quiet, &Kept::default().next(&quiet))?;
    look_at_ports(config, file, show);
    look_at_own_certificates(&services, show);
    let process = &config.process;
    if let Some((user, group)) = privileges::target(&process.user, &process.group)? {
        privileges::drop_root(&user, group)?;
        look_at_files(config, &user.name, show);
    }
    let until = Instant::now() + TOTAL;
    look_at_auth_servers(&services, until, show);
    look_at_store(&config.process, show);
    look_at_backends(&services, until, show);
    Ok(())
}

/// What is logged meanwhile is among the findings.
fn without_logs(config: &Config) -> Config {
    let nowhere = vec![LogTarget {
        destination: LogDestination::File("/dev/null".into()),
        level: Severity::Emerg,
        format: LogFormat::Text,
        filter: None,
    }];
    let mut quiet = config.clone();
    for server in &mut quiet.servers {
        server.error_log.clone_from(&nowhere);
    }
    quiet.process.error_log = nowhere;
    quiet
}

/// The process that runs with this configuration, as it says itself.
struct Running {
    pid: u64,
    listens_at: Vec<String>,
}

impl Running {
    fn ask(file: &Path) -> Option<Running> {
        let place = client::place(Some(file)).ok()?;
        let mut asking = Asking::begin(&place, "status", Map::new(), None).ok()?;
        let Ok(Said::Done(answer)) = asking.next() else {
            return None;
        };
        let status = &answer["status"];
        let listeners = status["listeners"].as_array()?.iter();
        let address = |it: &Value| it["address"].as_str().map(str::to_owned);
        Some(Running {
            pid: status["pid"].as_u64()?,
            listens_at: listeners.filter_map(address).collect(),
        })
    }
}

fn look_at_ports(config: &Config, file: &Path, show: &mut dyn FnMut(State, &str)) {
    let running = Running::ask(file);
    let of_servers = config.servers.iter().flat_map(|server| {
        let name = format!("[server {}]", server.name);
        server
            .listen
            .iter()
            .map(move |listen| (name.clone(), listen))
    });
    let status = config.process.status.iter();
    let of_status = status.map(|status| ("status".to_owned(), &status.listen));
    for (whose, listen) in of_servers.chain(of_status) {
        let (state, text) = look_at_port(listen, running.as_ref());
        show(state, &format!("{whose} listen {}: {text}", listen.address));
    }
}

fn look_at_port(listen: &Listen, running: Option<&Running>) -> (State, String) {
    let (bound, name) = match &listen.address {
        ListenAddress::Tcp(at) => {
            let bound = bind_socket(listen, Beside::None, |_| Ok(()));
            (bound.map(drop), at.to_string())
        }
        // It is not bound: a file would be left behind, or a stale one be removed.
        ListenAddress::Unix(path) => (connects_nowhere(path), format!("unix:{}", path.display())),
    };
    let Err(error) = bound else {
        return (State::Good, "free".to_owned());
    };
    match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EADDRINUSE => {}
        Errno::EACCES => {
            let text = "not tried: that takes root's rights, or the capability to bind low ports";
            return (State::Warning, text.to_owned());
        }
        _ => return (State::Failed, error.to_string()),
    }
    let holders = listen.address.port().map_or(Vec::new(), sockets::holders);
    let of_running = |running: &&Running| {
        let is_its = |holder: &Holder| u64::from(holder.pid) == running.pid;
        running.listens_at.contains(&name) || holders.iter().any(is_its)
    };
    if let Some(running) = running.filter(of_running) {
        let text = format!("the Postern that runs (pid {}) listens there", running.pid);
        return (State::Good, text);
    }
    let names = holders
        .iter()
        .map(|it| format!("{} (pid {})", it.name, it.pid));
    let names = names.collect::<Vec<_>>().join(", ");
    match holders.first().map(|holder| holder.name.as_str()) {
        None => {
            let text = "somebody else listens there; root is told who";
            (State::Failed, text.to_owned())
        }
        Some("systemd") => (
            State::Warning,
            format!("held by {names}: right if a socket unit is to hand it over"),
        ),
        Some(env!("CARGO_PKG_NAME")) => (
            State::Warning,
            format!(
                "held by {names}; it cannot be asked whether it is the one of this configuration"
            ),
        ),
        Some(_) => (State::Failed, format!("taken by {names}")),
    }
}

/// An error as of a bind, if somebody listens at the socket.
fn connects_nowhere(path: &Path) -> io::Result<()> {
    const LIMIT: Duration = Duration::from_secs(1);
    match Socket::connect(&socket2::SockAddr::unix(path)?, LIMIT) {
        Ok(_) => Err(Errno::EADDRINUSE.into()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(error),
        },
    }
}

fn look_at_own_certificates(services: &[Arc<Service>], show: &mut dyn FnMut(State, &str)) {
    let mut seen = HashSet::new();
    for service in services {
        let acceptor = service.acceptor.iter();
        for certificate in acceptor.flat_map(|a| a.certificates().to_vec()) {
            let file = certificate.file.display().to_string();
            if !seen.insert(file.clone()) {
                continue;
            }
            let left = certificate.not_after - Timestamp::now().as_second();
            let (state, text) = in_time(left.div_euclid(86_400));
            let (server, names) = (&service.conf.name, &certificate.names);
            show(
                state,
                &format!("[server {server}] certificate {file} for {names}: {text}"),
            );
        }
    }
}

/// How whole days until a certificate expires are to be taken.
fn in_time(days: i64) -> (State, String) {
    match days {
        ..0 => (State::Failed, "has expired".to_owned()),
        0..SOON => (State::Warning, format!("expires in {days} days")),
        _ => (State::Good, format!("good for {days} days")),
    }
}

/// What of the files that are read again after a change the user can read without the keeper. Which of them
/// nobody could, `config` has warned of.
fn look_at_files(config: &Config, user: &str, show: &mut dyn FnMut(State, &str)) {
    let is_denied = |file: &&std::path::PathBuf| {
        File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let denied = config.files.iter().filter(is_denied);
    let denied: Vec<_> = denied.map(|file| file.display().to_string()).collect();
    let text = match denied.as_slice() {
        [] => format!("{user} can read all files again"),
        denied => format!(
            "{user} reads these again through the keeper, which root starts: {}",
            denied.join(", ")
        ),
    };
    show(State::Good, &format!("user: {text}"));
}

fn look_at_auth_servers(
    services: &[Arc<Service>],
    until: Instant,
    show: &mut dyn FnMut(State, &str),
) {
    let mut seen = HashSet::new();
    for service in services {
        let conf = &service.conf;
        if conf.auth != AuthKind::Http {
            continue;
        }
        for url in &conf.auth_http {
            if !seen.insert(url.to_string()) {
                continue;
            }
            let what = format!("[server {}] auth server {url}", conf.name);
            let tls = service.auth_connector.clone().filter(|_| url.tls);
            let client = HttpClient::new(url.clone(), service.dns.clone(), tls, 0);
            let limit = until.saturating_duration_since(Instant::now());
            let limit = limit.min(conf.auth_http_timeout);
            let began = Instant::now();
            match client.reach(Deadline::after(limit, "auth_http_timeout")) {
                Ok(facts) => {
                    let text = format!("{what}: connected{}", in_ms(began));
                    show(State::Good, &text);
                    show_certificate(&what, facts.as_ref(), show);
                }
                Err(error) => {
                    let mut text = format!("{what}: {error}");
                    if let Some(error) = error.into_io() {
                        text += &format!(": {error}");
                    }
                    show(State::Failed, &text);
                }
            }
        }
    }
}

/// What nodes share is used as soon as it is there, so that one that is not is a warning.
fn look_at_store(conf: &config::Process, show: &mut dyn FnMut(State, &str)) {
    const LIMIT: Duration = Duration::from_secs(5);
    let began = Instant::now();
    match redis::reach(conf, LIMIT) {
        None => {}
        Some(Ok(name)) => {
            let text = format!("limits_store {name}: connected{}", in_ms(began));
            show(State::Good, &text);
        }
        Some(Err((name, reason))) => {
            show(State::Warning, &format!("limits_store {name}: {reason}"));
        }
    }
}

fn in_ms(began: Instant) -> String {
    format!(" in {} ms", began.elapsed().as_millis())
}

/// The certificate of a peer, if there was TLS.
fn show_certificate(what: &str, facts: Option<&Facts>, show: &mut dyn FnMut(State, &str)) {
    let Some((facts, peer)) = facts.and_then(|facts| Some((facts, facts.peer.as_ref()?))) else {
        return;
    };
    let is_verified = facts.verdict == Verdict::Success;
    let state = match peer.days_left() {
        Some(days) if i64::from(days) >= SOON => State::Good,
        // Whoever does not look at it, does not stumble over it either.
        _ => State::Warning,
    };
    let judged = if is_verified {
        "verified"
    } else {
        "not verified"
    };
    let (version, words) = (&facts.protocol, peer.in_words());
    show(state, &format!("{what}: {version}, {words}, {judged}"));
}

fn look_at_backends(services: &[Arc<Service>], until: Instant, show: &mut dyn FnMut(State, &str)) {
    let mut seen = Vec::new();
    for service in services {
        let purpose = service.conf.purpose();
        if seen.contains(&purpose) {
            continue;
        }
        seen.push(purpose);
        let backends = service.router.backends();
        if backends.is_empty() {
            let text =
                "the auth server names the backends, for each login: see `postern try-login`";
            show(
                State::Good,
                &format!("[server {}]: {text}", service.conf.name),
            );
        }
        let visitor = Visitor {
            purpose,
            dialogue: dialect::dialogue(service.conf.protocol),
            own_name: service.conf.server_name.clone(),
        };
        for backend in backends {
            look_at_backend(service, &visitor, backend, until, show);
        }
    }
}

fn look_at_backend(
    service: &Service,
    visitor: &Visitor,
    backend: &Backend,
    until: Instant,
    show: &mut dyn FnMut(State, &str),
) {
    let (conf, protocol) = (&backend.conf, service.conf.protocol);
    for host in conf.hosts(protocol) {
        let port = host.port.unwrap_or(conf.port(visitor.purpose));
        let what = format!("[backend {}] {} {}", conf.name, protocol.name(), host.host);
        if Instant::now() >= until {
            show(
                State::Warning,
                &format!("{what}: not tried, no time is left"),
            );
            continue;
        }
        let limit = until.min(Instant::now() + conf.connect_timeout);
        let found = match service.dns.lookup_host(&host.host, port, limit) {
            Ok(found) => found.addresses,
            Err(error) => {
                show(State::Failed, &format!("{what}: no address: {error}"));
                continue;
            }
        };
        for address in found {
            let candidate = Candidate {
                host: host.host.clone(),
                address,
                named_in: format!("hosts in {}", conf.place),
            };
            let what = format!("{what} at {address}");
            if Instant::now() >= until {
                show(
                    State::Warning,
                    &format!("{what}: not tried, no time is left"),
                );
                continue;
            }
            look_at_host(service, visitor, backend, &candidate, &what, show);
        }
    }
}

fn look_at_host(
    service: &Service,
    visitor: &Visitor,
    backend: &Backend,
    host: &Candidate,
    what: &str,
    show: &mut dyn FnMut(State, &str),
) {
    let began = Instant::now();
    let proxy = backend.conf.proxy_protocol;
    let (facts, offers) = match visitor.inspect(backend, host) {
        Ok(found) => found,
        Err(error) => {
            let described = error.in_full(&LoginSecrets::default());
            let text = format!("{what}: {described}{}", hint_at_proxy(&error, proxy));
            return show(State::Failed, &text);
        }
    };
    let how = match backend.conf.ssl(service.conf.protocol) {
        ProxySsl::Off => "in plain text",
        ProxySsl::On => "over TLS",
        ProxySsl::StartTls => "after STARTTLS",
    };
    let header = match proxy {
        ProxyProtocol::Off => "",
        ProxyProtocol::V1 | ProxyProtocol::V2 => ", behind a PROXY header",
    };
    let offered = crate::log::escape(offers.join(", ").as_bytes());
    let text = format!(
        "{what}: answers {how}{header}{}, and offers {offered}",
        in_ms(began)
    );
    show(State::Good, &text);
    show_certificate(what, facts.as_ref(), show);
    let xclient = backend.conf.xclient;
    if !service.record.looks_up_client || xclient == Xclient::Off {
        return;
    }
    const XCLIENT: &str = "XCLIENT";
    let is_offered = |item: &String| item.split(' ').next() == Some(XCLIENT);
    let (state, text) = match offers.iter().any(is_offered) {
        true => (State::Good, "is offered to this machine"),
        false if xclient == Xclient::Auto => (
            State::Warning,
            "is not offered to this machine, so that the host sees our address for that of each client",
        ),
        false => (
            State::Failed,
            "is not offered to this machine, but `xclient` wants it: allow it there, or use `auto` or `off`",
        ),
    };
    show(state, &format!("{what}: {XCLIENT} {text}"));
}

/// A header that only one side knows of shows itself as silence, or as an answer out of place.
fn hint_at_proxy(error: &BackendError, proxy: ProxyProtocol) -> &'static str {
    match (error, proxy) {
        (BackendError::Connect(..), _) => "",
        (_, ProxyProtocol::V1 | ProxyProtocol::V2) => {
            "; a PROXY header was sent: see whether the host expects one (`proxy_protocol`)"
        }
        (BackendError::Timeout | BackendError::NoGreeting | BackendError::Gone(_), _) => {
            "; if it waits for a PROXY header, set `proxy_protocol`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_two_weeks_before_its_end() {
        let state = |days| in_time(days).0;
        assert_eq!(
            [-1, 0, 13, 14].map(state),
            [State::Failed, State::Warning, State::Warning, State::Good,]
        );
    }
}
