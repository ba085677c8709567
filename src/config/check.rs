//! Rules that span several directives, and what `postern check` prints when they all hold.
//!
//! Every rule reports; none stops at the first mistake. Values by themselves were checked by their
//! setters. Nothing is bound here; rules about TLS are `check_tls`'s, those about `auth`, backends
//! and routes `check_backends`'s.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use nix::unistd::{Group, User};

use super::check_backends;
use super::check_tls;
use super::deny::{parse_deny, read_deny};
use super::directives;
use super::draft::{Draft, Drafts};
use super::master;
use super::mistake::MistakeKind;
use super::names::{Named, named};
use super::source::{At, Report, Section};
use super::value::shown;
use super::{
    AuthKind, Backend, Balance, Config, Files, Listen, ListenAddress, Process, ProxySsl, RouteLine,
    RouteTarget, Server, Starttls,
};
use crate::log::Severity;
use crate::protocol::Protocol;

/// Applies the rules and gives what is left when they hold, without the warnings. After a mistake
/// the result is not to be used.
pub(super) fn check(drafts: Drafts<'_>, files: Files, report: &mut Report) -> Config {
    check_accounts(&drafts, report);
    warn_of_accept_queue(&drafts, report);
    check_addresses(&drafts.servers, report);
    check_status(&drafts, report);
    check_real_ip(&drafts, report);
    check_penalties(&drafts, report);
    check_filters(&drafts, report);
    check_levels(&drafts, report);
    check_tls::check_effect(&drafts, report);
    if drafts.servers.is_empty() {
        let at = At {
            line: 1,
            section: "",
            key: "",
        };
        report.mistake(
            at,
            "no server: write a [server NAME] section with a listen line",
        );
    }

    check_backends::check(&drafts, report);
    master::check(&drafts, report);
    if files == Files::Read {
        check_tls::check_engines(&drafts, report);
        check_backends::check_files(&drafts, report);
        check_deny(&drafts, report);
    }

    let servers = drafts.servers.into_iter();
    let servers = servers.map(|(section, draft)| check_server(section, draft, drafts.mail, report));
    let servers: Vec<Server> = servers.collect();
    check_backends::check_protocols(&drafts.backends, &servers, report);
    check_backends::check_hosts(&drafts.backends, &servers, report);
    let backends = drafts.backends.into_iter();
    let routes = drafts
        .routes
        .into_iter()
        .flat_map(|(_, draft)| draft.routes);
    Config {
        process: Process {
            error_log: drafts.process.error_log,
            error_log_user_tag: drafts.process.error_log_user_tag,
            ..drafts.process.process
        },
        servers,
        backends: backends
            .map(|(section, draft)| check_backends::finish(section, draft, report))
            .collect(),
        routes: routes.map(|(_, line)| line).collect(),
        warnings: Vec::new(),
        files: Vec::new(),
    }
}

/// What would listen where, and where logins would go: one line per listener, backend and route, and one for
/// the status page.
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    for server in &config.servers {
        for listen in &server.listen {
            describe_listener(&mut text, server, listen);
        }
    }
    if let Some(status) = &config.process.status {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "status  http://{}/", status.listen.address);
    }
    for backend in &config.backends {
        describe_backend(&mut text, backend, &config.servers);
    }
    for line in &config.routes {
        // Writing to a String cannot fail.
        let _ = match line {
            RouteLine::Map(path) => writeln!(text, "map  {}", path.display()),
            RouteLine::Route(route) => match &route.target {
                RouteTarget::Backend(name) => {
                    writeln!(text, "route  {}  [backend {name}]", route.pattern)
                }
                RouteTarget::Reject(reason) => {
                    writeln!(text, "route  {}  reject {reason}", route.pattern)
                }
            },
        };
    }
    text
}

fn describe_listener(text: &mut String, server: &Server, listen: &Listen) {
    let (protocol, address, name) = (server.protocol.name(), &listen.address, &server.name);
    // Writing to a String cannot fail.
    let _ = write!(text, "{protocol}  {address}  [server {name}]");
    text.push_str(match server.starttls {
        _ if listen.ssl => "  ssl",
        Starttls::Off => "",
        Starttls::On => "  starttls",
        Starttls::Only => "  starttls only",
    });
    if listen.proxy_protocol {
        text.push_str("  proxy_protocol");
    }
    if matches!(listen.address, ListenAddress::Tcp(at) if at.is_ipv6()) && !listen.ipv6only {
        text.push_str("  ipv6only=off");
    }
    match server.auth {
        AuthKind::Passthrough => text.push_str("  passthrough"),
        AuthKind::File => {
            if let Some(file) = &server.auth_file {
                let _ = write!(text, "  auth_file {}", file.display());
            }
        }
        AuthKind::Http => {
            for url in &server.auth_http {
                let _ = write!(text, "  auth_http {url}");
            }
        }
    }
    text.push('\n');
}

/// With the ports for what the servers are for.
fn describe_backend(text: &mut String, backend: &Backend, servers: &[Server]) {
    let _ = write!(text, "[backend {}] ", backend.name);
    for host in &backend.hosts {
        let _ = write!(text, " {host}");
    }
    let mut told = Vec::new();
    for purpose in servers.iter().map(Server::purpose) {
        let port = (purpose.protocol, backend.port(purpose));
        if !told.contains(&port) {
            told.push(port);
            let _ = write!(text, "  {} {}", port.0.name(), port.1);
            for host in backend.own_hosts[port.0].iter().flatten() {
                let _ = write!(text, " {host}");
            }
            if backend.own_ssl[port.0].is_some() {
                let words = ssl_in_words(backend.ssl(port.0)).trim_start();
                let _ = write!(text, " {words}");
            }
        }
    }
    text.push_str(ssl_in_words(backend.proxy_ssl));
    text.push_str(match backend.balance {
        Balance::Failover => "",
        Balance::RoundRobin => "  round_robin",
        Balance::Hash => "  hash",
    });
    if let Some(master) = &backend.master {
        let _ = write!(text, "  master_user {}", master.user);
    }
    text.push('\n');
}

fn ssl_in_words(ssl: ProxySsl) -> &'static str {
    match ssl {
        ProxySsl::Off => "",
        ProxySsl::On => "  proxy_ssl",
        ProxySsl::StartTls => "  proxy_ssl starttls",
    }
}

/// The first line of a key, or the section's header.
pub(super) fn at<'a>(section: &'a Section, key: &'a str) -> At<'a> {
    let line = section.lines(key).next().map(|entry| entry.line);
    At {
        line: line.unwrap_or(section.line),
        section: &section.name,
        key,
    }
}

fn check_accounts(drafts: &Drafts<'_>, report: &mut Report) {
    let Some(postern) = drafts.postern else {
        return;
    };
    let process = &drafts.process.process;
    if let Some(user) = &process.user
        && !matches!(User::from_name(user), Ok(Some(_)))
    {
        let text = format!("the system knows no user {}", shown(user));
        report.mistake_of_kind(MistakeKind::UnknownAccount, at(postern, "user"), &text);
    }
    if process.group.is_some() && process.user.is_none() {
        let text = "needs `user` beside it: a group alone would leave root's rights in place";
        report.mistake(at(postern, "group"), text);
    }
    let groups = [
        ("group", &process.group),
        ("control_group", &process.control_group),
    ];
    for (key, group) in groups {
        if let Some(group) = group
            && !matches!(Group::from_name(group), Ok(Some(_)))
        {
            let text = format!("the system knows no group {}", shown(group));
            report.mistake_of_kind(MistakeKind::UnknownAccount, at(postern, key), &text);
        }
    }
}

fn warn_of_accept_queue(drafts: &Drafts<'_>, report: &mut Report) {
    let Some(postern) = drafts.postern else {
        return;
    };
    if postern.lines("accept_queue").next().is_some() && !drafts.process.has_failed("accept_queue")
    {
        let text = "is no longer needed: max_sessions alone bounds how many connections wait";
        report.warning(at(postern, "accept_queue"), text);
    }
}

/// No address may be listened on twice, in one server or in two.
fn check_addresses(servers: &[(&Section, Draft)], report: &mut Report) {
    let mut taken: HashMap<Bound, (&str, usize)> = HashMap::new();
    for (section, draft) in servers {
        for (listen, line) in draft.server.listen.iter().zip(&draft.listen_lines) {
            let bound = bound(listen);
            if let Some((name, first)) = bound.iter().find_map(|bound| taken.get(bound)) {
                let here = At {
                    line: *line,
                    section: &section.name,
                    key: "listen",
                };
                let address = &listen.address;
                let text = format!("{address} is taken already by [{name}] in line {first}");
                let kind = MistakeKind::AddressTaken {
                    address: address.clone(),
                    by: (*name).to_owned(),
                };
                report.mistake_of_kind(kind, here, &text);
            }
            for bound in bound {
                taken.entry(bound).or_insert((&section.name, *line));
            }
        }
    }
}

/// No server may listen where the status page is; a wildcard would be in its way too, and it in that of
/// an address.
fn check_status(drafts: &Drafts<'_>, report: &mut Report) {
    let (Some(postern), Some(status)) = (drafts.postern, &drafts.process.process.status) else {
        return;
    };
    let ListenAddress::Tcp(own) = status.listen.address else {
        return;
    };
    let clashes = |listen: &Listen| match listen.address {
        ListenAddress::Tcp(at) if at.port() == own.port() && own.port() != 0 => {
            at.ip() == own.ip() || listen.takes(own.ip()) || status.listen.takes(at.ip())
        }
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) => false,
    };
    let all = drafts.servers.iter();
    let mut all = all.flat_map(|(section, draft)| {
        let lines = draft.server.listen.iter().zip(&draft.listen_lines);
        lines.map(|(listen, line)| (&section.name, listen, line))
    });
    if let Some((name, _, line)) = all.find(|(_, listen, _)| clashes(listen)) {
        let text = format!("{own} is taken already by [{name}] in line {line}");
        report.mistake(at(postern, "status"), &text);
    }
}

/// What nobody else may listen on too.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Bound {
    Tcp(IpAddr, u16),
    Unix(PathBuf),
}

/// A wildcard and a specific address differ; `[::]` with `ipv6only=off` is both wildcards.
fn bound(listen: &Listen) -> Vec<Bound> {
    let address = match &listen.address {
        ListenAddress::Unix(path) => return vec![Bound::Unix(path.clone())],
        ListenAddress::Tcp(address) => address,
    };
    let (ip, port) = (address.ip(), address.port());
    if port == 0 {
        return Vec::new();
    }
    let mut bound = vec![Bound::Tcp(ip, port)];
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !listen.ipv6only {
        bound.push(Bound::Tcp(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    bound
}

/// Reads the files of `deny`.
fn check_deny(drafts: &Drafts<'_>, report: &mut Report) {
    let Some(postern) = drafts.postern else {
        return;
    };
    for entry in postern.lines("deny") {
        let Some(Named::Files(files)) = named(entry, &drafts.process.folder) else {
            continue;
        };
        for file in files {
            match read_deny(&file).map(|bytes| parse_deny(&file, &bytes)) {
                Ok(Ok(_)) => {}
                Ok(Err(mistakes)) => report.mistakes_elsewhere(entry.line, mistakes),
                Err(text) => {
                    let here = At {
                        line: entry.line,
                        ..at(postern, "deny")
                    };
                    let text = format!("{:?}: {text}", file.display().to_string());
                    report.mistake(here, &text);
                }
            }
        }
    }
}

/// `set_real_ip_from` needs a listener whose connections begin with a PROXY header.
fn check_real_ip(drafts: &Drafts<'_>, report: &mut Report) {
    let text = "has no effect without listen … proxy_protocol";
    let is_ours = |key: &str| key == "set_real_ip_from";
    let has_proxy = |draft: &Draft| draft.server.listen.iter().any(|one| one.proxy_protocol);
    warn_unless(drafts, is_ours, has_proxy, text, report);
}

/// With `auth_penalty_max = off` failed logins cost nothing, however many there are.
fn check_penalties(drafts: &Drafts<'_>, report: &mut Report) {
    let text = "has no effect with auth_penalty_max = off";
    let of_penalties = [
        "auth_penalty_free",
        "auth_penalty_exempt",
        "auth_failures_per_user",
    ];
    let is_ours = |key: &str| of_penalties.contains(&key);
    let is_on = |draft: &Draft| draft.server.auth_penalty_max.is_some();
    warn_unless(drafts, is_ours, is_on, text, report);
}

/// Warns, once for each such key of a section, of lines that do nothing for their server. A line of
/// `[mail]` does nothing only if it does nothing for any of the servers that inherit it.
pub(super) fn warn_unless(
    drafts: &Drafts<'_>,
    is_such: impl Fn(&str) -> bool,
    works: impl Fn(&Draft) -> bool,
    text: &str,
    report: &mut Report,
) {
    let keys = |section: &Section| -> Vec<String> {
        let keys = section.entries.iter().map(|entry| entry.key.clone());
        let mut keys: Vec<String> = keys.filter(|key| is_such(key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    for (section, _) in drafts.servers.iter().filter(|(_, draft)| !works(draft)) {
        for key in keys(section) {
            report.warning(at(section, &key), text);
        }
    }
    let Some(mail) = drafts.mail else {
        return;
    };
    for key in keys(mail) {
        let servers = drafts.servers.iter();
        let mut heirs = servers.filter(|(own, _)| own.lines(&key).next().is_none());
        if heirs.clone().next().is_some() && heirs.all(|(_, draft)| !works(draft)) {
            report.warning(at(mail, &key), text);
        }
    }
}

/// A filter for a tag that no line has lets nothing through.
fn check_filters(drafts: &Drafts<'_>, report: &mut Report) {
    // Every line of a session has this one.
    let mut tags: HashSet<&str> = HashSet::from(["mail"]);
    let servers = drafts.servers.iter().map(|(_, draft)| draft);
    for draft in servers.chain([&drafts.process]) {
        tags.extend(draft.error_log_user_tag.iter().map(String::as_str));
    }

    let servers = drafts.servers.iter().map(|(section, _)| *section);
    for section in servers.chain(drafts.postern).chain(drafts.mail) {
        for entry in section.lines("error_log") {
            let mut words = entry.value.split_whitespace();
            let Some(tag) = words.find_map(|word| word.strip_prefix("filter=tag:")) else {
                continue;
            };
            if !tags.contains(tag) {
                let here = At {
                    line: entry.line,
                    section: &section.name,
                    key: "error_log",
                };
                let text = format!("lets nothing through: no error_log_user_tag {}", shown(tag));
                report.warning(here, &text);
            }
        }
    }
}

/// Who leaves the level out may not know that failed logins are told on a lower one.
fn check_levels(drafts: &Drafts<'_>, report: &mut Report) {
    let servers = drafts.servers.iter().map(|(section, _)| *section);
    for section in servers.chain(drafts.postern).chain(drafts.mail) {
        let levels = section.lines("error_log").map(|entry| {
            let mut words = entry.value.split_whitespace().skip(1);
            (entry.line, words.find_map(Severity::parse))
        });
        let levels: Vec<_> = levels.collect();
        let tells = |level: &Option<Severity>| level.is_some_and(|level| level <= Severity::Info);
        if levels.iter().any(|(_, level)| tells(level)) {
            continue;
        }
        if let Some(&(line, _)) = levels.iter().find(|(_, level)| level.is_none()) {
            let here = At {
                line,
                section: &section.name,
                key: "error_log",
            };
            let text =
                "without a level is `error`: no failed login is logged; write `info` behind it";
            report.warning(here, text);
        }
    }
}

fn check_server(
    section: &Section,
    mut draft: Draft,
    mail: Option<&Section>,
    report: &mut Report,
) -> Server {
    let name = section.name.split(' ').nth(1).unwrap_or_default();
    if section.lines("listen").next().is_none() {
        let text = "missing: write listen = ADDRESS:PORT";
        report.mistake(at(section, "listen"), text);
    }
    let auth = check_backends::auth_of(&draft);
    let protocol = protocol_of(section, &draft, report);
    if let Some(protocol) = protocol {
        warn_of_foreign_keys(section, protocol, report);
    }
    warn_of_plain_tls_ports(section, &draft, report);
    warn_of_no_effect(section, mail, &draft, protocol, report);
    check_backends::check_server(section, mail, &draft, protocol, report);
    check_backends::settle_capabilities(section, mail, &mut draft, protocol, report);

    Server {
        name: name.to_owned(),
        protocol: protocol.unwrap_or(Protocol::Imap),
        auth: auth.unwrap_or(AuthKind::Http),
        master: draft.master.finish(),
        proxy_smtp_auth: draft.server.proxy_smtp_auth
            || auth.is_some_and(|auth| check_backends::logs_in(section, mail, auth)),
        error_log: draft.error_log,
        error_log_user_tag: draft.error_log_user_tag,
        ..draft.server
    }
}

/// What is said, else what the ports imply; `None` if a line about it is wrong.
fn protocol_of(section: &Section, draft: &Draft, report: &mut Report) -> Option<Protocol> {
    if draft.protocol.is_some() || draft.has_failed("protocol") {
        return draft.protocol;
    }
    let mut implied: Option<(Protocol, u16)> = None;
    for (listen, line) in draft.server.listen.iter().zip(&draft.listen_lines) {
        let ListenAddress::Tcp(address) = &listen.address else {
            continue;
        };
        let port = address.port();
        let Some(protocol) = Protocol::of_port(port) else {
            continue;
        };
        let (first, first_port) = *implied.get_or_insert((protocol, port));
        if first != protocol {
            let (name, first) = (protocol.name(), first.name());
            let text = format!(
                "port {port} implies {name}, port {first_port} implies {first}: write protocol = …, \
                 or two [server] sections"
            );
            report.mistake(
                At {
                    line: *line,
                    ..at(section, "listen")
                },
                &text,
            );
            return None;
        }
    }
    // Without listeners, or with a wrong line of them, this would only repeat that.
    let complete = !draft.server.listen.is_empty() && !draft.has_failed("listen");
    if implied.is_none() && complete {
        let text = "missing: no port tells it, write protocol = imap, pop3 or smtp";
        report.mistake(at(section, "protocol"), text);
    }
    implied.map(|(protocol, _)| protocol)
}

/// Who connects to such a port speaks TLS from the first byte.
fn warn_of_plain_tls_ports(section: &Section, draft: &Draft, report: &mut Report) {
    for (listen, line) in draft.server.listen.iter().zip(&draft.listen_lines) {
        let Some(port) = listen.address.port() else {
            continue;
        };
        let protocol = Protocol::of_port(port).map(Protocol::record);
        if !listen.ssl && protocol.is_some_and(|record| record.tls_port == port) {
            let here = At {
                line: *line,
                ..at(section, "listen")
            };
            let text = format!(
                "clients of port {port} speak TLS from the first byte: write `ssl` behind it"
            );
            report.warning(here, &text);
        }
    }
}

/// A server's own lines that are for another protocol.
fn warn_of_foreign_keys(section: &Section, protocol: Protocol, report: &mut Report) {
    for entry in &section.entries {
        let only = directives::find(&entry.key).and_then(|directive| directive.only);
        if only.is_some_and(|only| only != protocol) {
            let here = At {
                line: entry.line,
                section: &section.name,
                key: &entry.key,
            };
            let text = format!("has no effect: this server speaks {}", protocol.name());
            report.warning(here, &text);
        }
    }
}

fn warn_of_no_effect(
    section: &Section,
    mail: Option<&Section>,
    draft: &Draft,
    protocol: Option<Protocol>,
    report: &mut Report,
) {
    let server = &draft.server;
    let mut warn = |key: &str, text: &str| {
        let sections = std::iter::once(section).chain(mail);
        let mut sections = sections.filter(|section| section.lines(key).next().is_some());
        if let Some(section) = sections.next() {
            report.warning(at(section, key), text);
        }
    };
    let key = "smtp_greeting_delay";
    let only = directives::find(key).and_then(|directive| directive.only);
    if protocol.is_some() && protocol == only && server.smtp_greeting_delay >= server.timeout {
        warn(key, "is not below timeout: no client would ever be greeted");
    }
}
