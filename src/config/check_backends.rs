//! Rules about who decides about logins, and about backends and routes.
//!
//! Every rule reports; none stops at the first mistake. Values by themselves were checked by their
//! setters, TLS towards backends is `check_tls`'s. Only `check_files` reads files.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::check::{at, warn_unless};
use super::check_tls::source;
use super::draft::{Draft, Drafts};
use super::route::{parse_map, read_map, unknown_backend};
use super::source::{At, Report, Section};
use super::users;
use super::{
    AuthKind, AuthMechanism, Backend, Capabilities, Listen, ListenAddress, Pattern, ProxySsl,
    RouteLine, RouteTarget, Server,
};
use crate::protocol::Protocol;
use crate::sasl::Mechanism;

/// Keys of `[mail]` and `[server]` in whose place a backend has its own.
const OF_BACKENDS: [&str; 4] = ["proxy_ssl", "proxy_protocol", "xclient", "send_client_id"];

/// What is said, else what the rest of the configuration implies; `None` if neither, or if the line
/// is wrong.
pub(super) fn auth_of(draft: &Draft) -> Option<AuthKind> {
    if draft.auth.is_some() || draft.has_failed("auth") {
        return draft.auth;
    }
    if !draft.server.auth_http.is_empty() || draft.has_failed("auth_http") {
        return Some(AuthKind::Http);
    }
    if draft.server.auth_file.is_some() || draft.has_failed("auth_file") {
        return Some(AuthKind::File);
    }
    draft.has_backends.then_some(AuthKind::Passthrough)
}

/// Whether SMTP backends are logged in to where `proxy_smtp_auth` is not on: the backend decides, or nobody
/// has said that it is off.
pub(super) fn logs_in(section: &Section, mail: Option<&Section>, auth: AuthKind) -> bool {
    let key = "proxy_smtp_auth";
    match auth {
        AuthKind::Http => false,
        AuthKind::Passthrough => true,
        AuthKind::File => source(section, mail, key).lines(key).next().is_none(),
    }
}

/// The rules that are about more than one server.
pub(super) fn check(drafts: &Drafts<'_>, report: &mut Report) {
    warn_of_no_effect(drafts, report);
    for (section, draft) in &drafts.backends {
        check_backend(section, draft, drafts, report);
    }
    check_routes(drafts, report);
}

/// Reads the files of users and the maps.
pub(super) fn check_files(drafts: &Drafts<'_>, report: &mut Report) {
    let names = names(drafts);
    users::check_files(drafts, &names, report);
    check_maps(drafts, &names, report);
}

fn check_maps(drafts: &Drafts<'_>, names: &[&str], report: &mut Report) {
    let Some((section, draft)) = &drafts.routes else {
        return;
    };
    for (line, route) in &draft.routes {
        let RouteLine::Map(path) = route else {
            continue;
        };
        match read_map(path).map(|bytes| parse_map(path, &bytes, names)) {
            Ok(Ok(_)) => {}
            Ok(Err(mistakes)) => report.mistakes_elsewhere(*line, mistakes),
            Err(text) => {
                let here = At {
                    line: *line,
                    ..at(section, "map")
                };
                let text = format!("{:?}: {text}", path.display().to_string());
                report.mistake(here, &text);
            }
        }
    }
}

/// What a backend's draft amounts to when the rules hold.
pub(super) fn finish(section: &Section, draft: Draft, report: &Report) -> Backend {
    let hosts = section.lines("hosts").next();
    let shared = draft.server;
    Backend {
        name: name(section).to_owned(),
        place: report.place(hosts.map_or(section.line, |entry| entry.line)),
        proxy_ssl: shared.proxy_ssl,
        proxy_tls: shared.proxy_tls,
        proxy_protocol: shared.proxy_protocol,
        xclient: shared.xclient,
        master: draft.master.finish(),
        send_client_id: shared.send_client_id,
        ..draft.backend
    }
}

/// Whether one server has what its way of deciding needs, and nothing that contradicts it.
pub(super) fn check_server(
    section: &Section,
    mail: Option<&Section>,
    draft: &Draft,
    protocol: Option<Protocol>,
    report: &mut Report,
) {
    let has_url = !draft.server.auth_http.is_empty() || draft.has_failed("auth_http");
    match auth_of(draft) {
        None if !draft.has_failed("auth") => {
            let text = "missing: write auth_http = http://HOST:PORT/URI here or in [mail], or a \
                        [backend NAME] section with hosts = NAME-OR-ADDRESS";
            report.mistake(at(section, "auth_http"), text);
        }
        Some(AuthKind::Http) if !has_url => {
            let text = "missing: write auth_http = http://HOST:PORT/URI here or in [mail]";
            report.mistake(at(section, "auth_http"), text);
        }
        Some(AuthKind::Passthrough) => {
            if !draft.has_backends {
                let text = "passthrough needs a [backend NAME] section with hosts = \
                            NAME-OR-ADDRESS";
                report.mistake(at(source(section, mail, "auth"), "auth"), text);
            }
            if let Some(protocol) = protocol {
                check_mechanisms(section, mail, draft, protocol, report);
            }
        }
        Some(AuthKind::File) => users::check_server(section, mail, draft, protocol, report),
        None | Some(AuthKind::Http) => {}
    }
}

/// What the client says must be of use to the backend.
fn check_mechanisms(
    section: &Section,
    mail: Option<&Section>,
    draft: &Draft,
    protocol: Protocol,
    report: &mut Report,
) {
    let server = &draft.server;
    let record = protocol.record();
    let (key, listed) = (record.auth_directive, &server.of_protocol[protocol].auth);
    let useless = Mechanism::configurable(protocol)
        .filter(|row| listed.has(row) && !row.method.can_be_passed_on())
        .map(|row| row.word);
    let useless = useless.chain(record.own_login.filter(|_| listed.own_login));
    let useless: Vec<&str> = useless.collect();
    if !useless.is_empty() {
        let text = format!(
            "with auth = passthrough nothing can be passed on to the backend after {}",
            useless.join(", ")
        );
        report.mistake(at(source(section, mail, key), key), &text);
    }

    // The default is off as well, and contradicts nobody.
    let key = "proxy_smtp_auth";
    let said_in = source(section, mail, key);
    let is_said = said_in.lines(key).next().is_some() && !draft.has_failed(key);
    if record.backend_login.is_optional() && is_said && !server.proxy_smtp_auth {
        let text = "off contradicts auth = passthrough: the backend decides about logins, by AUTH";
        report.mistake(at(said_in, key), text);
    }
}

/// `auto` means something only where there are backends to ask; elsewhere the fixed list holds.
pub(super) fn settle_capabilities(
    section: &Section,
    mail: Option<&Section>,
    draft: &mut Draft,
    protocol: Option<Protocol>,
    report: &mut Report,
) {
    if draft.has_backends {
        return;
    }
    let server = &mut draft.server;
    for of in Protocol::ALL {
        let key = of.record().capabilities_directive;
        let field = &mut server.of_protocol[of].capabilities;
        if *field != Capabilities::Auto {
            continue;
        }
        *field = Capabilities::without_backends(of);
        if protocol == Some(of) {
            let text = "auto has no effect: there is no [backend NAME] to ask";
            report.warning(at(source(section, mail, key), key), text);
        }
    }
}

/// Rules that need the servers' protocols.
pub(super) fn check_protocols(
    drafts: &[(&Section, Draft)],
    servers: &[Server],
    report: &mut Report,
) {
    let first = servers.first().map(|server| server.protocol);
    let several = servers.iter().any(|server| Some(server.protocol) != first);
    let by_auth = servers.iter().find(|server| {
        let record = server.protocol.record();
        record.backend_login.is_optional() && server.auth.passes_through()
    });
    let port_directives = Protocol::ALL.map(|protocol| protocol.record().port_directive);
    // A login at any of these servers can be routed to any backend.
    let passing = servers
        .iter()
        .filter(|server| !server.auth.asks_auth_servers());
    let passing: Vec<Protocol> = passing.map(|server| server.protocol).collect();
    for (section, _) in drafts {
        tell_missing_hosts(section, &passing, report);
    }
    for (section, draft) in drafts {
        let mut hosts = draft.backend.hosts.iter();
        if let Some(host) = hosts.find(|host| host.port.is_some())
            && several
        {
            let text = format!(
                "the port of {host} holds for every protocol: write {}",
                port_directives.join(", ")
            );
            report.warning(at(section, "hosts"), &text);
        }
        if let Some(server) = by_auth
            && draft.backend.auth_mechanism == AuthMechanism::Off
        {
            let text = format!(
                "off would let everyone in at [server {}]: with auth = passthrough the backend \
                 decides about logins, by AUTH",
                server.name
            );
            report.mistake(at(section, "auth_mechanism"), &text);
        }
    }
}

fn warn_of_no_effect(drafts: &Drafts<'_>, report: &mut Report) {
    // By name, what belongs to which kinds of deciding, and where else it belongs.
    let of_auth_servers: fn(&str) -> bool = |key| key.starts_with("auth_http");
    let of_addresses: fn(&str) -> bool =
        |key| OF_BACKENDS.contains(&key) || key.starts_with("proxy_ssl_");
    let of_own: fn(&str) -> bool = |key| key.starts_with("login_domain") || key == "strip_domain";
    let of_file: fn(&str) -> bool = |key| key == "auth_file";
    let of_cache: fn(&str) -> bool = |key| key == "auth_cache";
    let in_backend = ": it belongs in [backend NAME]";
    for (kind, is_such, advice) in [
        (AuthKind::Passthrough, of_auth_servers, ""),
        (AuthKind::File, of_auth_servers, ""),
        (AuthKind::Passthrough, of_addresses, in_backend),
        (AuthKind::File, of_addresses, in_backend),
        (AuthKind::Http, of_own, ""),
        (AuthKind::Http, of_file, ""),
        (AuthKind::Passthrough, of_file, ""),
        (AuthKind::Passthrough, of_cache, ""),
    ] {
        let text = format!("has no effect with auth = {}{advice}", kind.word());
        let works = |draft: &Draft| auth_of(draft) != Some(kind);
        warn_unless(drafts, is_such, works, &text, report);
    }

    let text = "has no effect without login_domain, or with strip_domain = on";
    let is_ours = |key: &str| key == "login_domain_pass";
    let works = |draft: &Draft| {
        let server = &draft.server;
        let has_domain = server.login_domain.is_some() || draft.has_failed("login_domain");
        !server.login_domain_pass || (has_domain && !server.strip_domain)
    };
    warn_unless(drafts, is_ours, works, text, report);
}

/// A backend with hosts of its own for some protocols needs them for all that are used. One that has none
/// at all was told of already.
fn tell_missing_hosts(section: &Section, protocols: &[Protocol], report: &mut Report) {
    let directives = Protocol::ALL.map(hosts_directive);
    let has_own = |key: &String| section.lines(key).next().is_some();
    if section.lines("hosts").next().is_some() || !directives.iter().any(has_own) {
        return;
    }
    for protocol in Protocol::ALL {
        let key = hosts_directive(protocol);
        if protocols.contains(&protocol) && !has_own(&key) {
            let text = format!(
                "missing: write it for the servers with protocol = {}, or hosts for all",
                protocol.name()
            );
            report.mistake(at(section, &key), &text);
        }
    }
}

fn hosts_directive(protocol: Protocol) -> String {
    format!("{}_hosts", protocol.name())
}

fn check_backend(section: &Section, draft: &Draft, drafts: &Drafts<'_>, report: &mut Report) {
    let mut keys = Protocol::ALL.into_iter().map(hosts_directive);
    let has_own = keys.any(|key| section.lines(&key).next().is_some());
    if section.lines("hosts").next().is_none() && !has_own {
        let text = "missing: write hosts = NAME-OR-ADDRESS[:PORT] …";
        report.mistake(at(section, "hosts"), text);
    }
    // An answer of an auth server can ask for TLS although proxy_ssl is off.
    let own = Protocol::ALL.map(|protocol| draft.backend.own_ssl[protocol]);
    let mut kinds = own.into_iter().flatten().chain([draft.server.proxy_ssl]);
    let is_off = kinds.all(|ssl| ssl == ProxySsl::Off) && !draft.has_failed("proxy_ssl");
    if is_off && all_are(drafts, |kind| !kind.asks_auth_servers()) {
        for entry in &section.entries {
            if entry.key.starts_with("proxy_ssl_") {
                report.warning(at(section, &entry.key), "has no effect without proxy_ssl");
            }
        }
    }
}

/// A host that is one of our own listeners would have each session go round and round.
pub(super) fn check_hosts(drafts: &[(&Section, Draft)], servers: &[Server], report: &mut Report) {
    for (section, draft) in drafts {
        let backend = Backend {
            proxy_ssl: draft.server.proxy_ssl,
            ..draft.backend.clone()
        };
        let addresses = servers.iter().flat_map(|server| {
            let hosts = backend.hosts(server.protocol).iter();
            hosts.filter_map(|host| {
                let ip = match host.host.as_str() {
                    "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    literal => literal.parse().ok()?,
                };
                let port = host.port.unwrap_or(backend.port(server.purpose()));
                Some(SocketAddr::new(ip, port))
            })
        });
        for address in addresses {
            if let Some(name) = listener_at(address, servers) {
                let text = format!(
                    "{address} is where [server {name}] listens: name the server behind it"
                );
                report.mistake(at(section, "hosts"), &text);
            }
        }
    }
}

/// Who would get a connection to this address, as far as the configuration tells.
fn listener_at(address: SocketAddr, servers: &[Server]) -> Option<&str> {
    let ip = address.ip();
    let gets = |listen: &Listen| match &listen.address {
        ListenAddress::Tcp(own) if own.port() == address.port() => {
            own.ip() == ip || listen.takes(ip) && ip.is_loopback()
        }
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) => false,
    };
    let mut servers = servers.iter();
    servers
        .find(|server| server.listen.iter().any(gets))
        .map(|server| server.name.as_str())
}

fn check_routes(drafts: &Drafts<'_>, report: &mut Report) {
    let pass = drafts.servers.iter();
    let mut pass = pass.map(|(_, draft)| auth_of(draft).is_some_and(AuthKind::passes_through));
    let any_passes = pass.any(|passes| passes);
    let Some((section, draft)) = &drafts.routes else {
        if any_passes && let [_, (second, _), ..] = drafts.backends[..] {
            tell_that_routes_are_missing(second, report);
        }
        return;
    };
    let unknown = draft.has_failed("route") || draft.has_failed("map");
    if draft.routes.is_empty() && !unknown && any_passes && drafts.backends.len() > 1 {
        tell_that_routes_are_missing(section, report);
    }
    // Where it is not known who decides, a file of users may.
    if all_are(drafts, AuthKind::asks_auth_servers) {
        let text = "has no effect: no server has auth = passthrough or file";
        report.warning(at(section, ""), text);
    }
    check_route_lines(section, draft, &names(drafts), report);
    warn_of_idle_backends(draft, drafts, report);
}

fn tell_that_routes_are_missing(section: &Section, report: &mut Report) {
    let text = "several backends and no route: write a [routes] section with route = PATTERN \
                BACKEND";
    report.mistake(at(section, ""), text);
}

fn check_route_lines(section: &Section, draft: &Draft, names: &[&str], report: &mut Report) {
    let mut seen: HashMap<&Pattern, usize> = HashMap::new();
    for (line, route) in &draft.routes {
        let (key, pattern) = match route {
            RouteLine::Map(_) => ("map", None),
            RouteLine::Route(route) => ("route", Some(&route.pattern)),
        };
        let here = At {
            line: *line,
            section: &section.name,
            key,
        };
        if let RouteLine::Route(route) = route
            && let RouteTarget::Backend(name) = &route.target
            && !names.contains(&name.as_str())
        {
            report.mistake(here, &unknown_backend(name, names));
        }
        let earlier = seen.get(&Pattern::Any).map(|first| ("*".to_owned(), first));
        let same = pattern.and_then(|p| Some((p.to_string(), seen.get(p)?)));
        if let Some((taken, first)) = earlier.or(same) {
            let text = format!("has no effect: `{taken}` stands in line {first} already");
            report.warning(here, &text);
        }
        if let Some(pattern) = pattern {
            seen.entry(pattern).or_insert(*line);
        }
    }
}

/// A map may come to name a backend, an auth server or a file of users may name each.
fn warn_of_idle_backends(draft: &Draft, drafts: &Drafts<'_>, report: &mut Report) {
    let mut named = Vec::new();
    for (_, line) in &draft.routes {
        match line {
            RouteLine::Map(_) => return,
            RouteLine::Route(route) => {
                if let RouteTarget::Backend(name) = &route.target {
                    named.push(name.as_str());
                }
            }
        }
    }
    if drafts.backends.len() < 2 || !all_are(drafts, AuthKind::passes_through) {
        return;
    }
    for (section, _) in &drafts.backends {
        if !named.contains(&name(section)) {
            report.warning(at(section, ""), "has no effect: no route names it");
        }
    }
}

fn all_are(drafts: &Drafts<'_>, is_such: fn(AuthKind) -> bool) -> bool {
    let mut servers = drafts.servers.iter();
    servers.all(|(_, draft)| auth_of(draft).is_some_and(is_such))
}

fn names<'a>(drafts: &Drafts<'a>) -> Vec<&'a str> {
    let backends = drafts.backends.iter();
    backends.map(|(section, _)| name(section)).collect()
}

pub(super) fn name(section: &Section) -> &str {
    section.name.split(' ').nth(1).unwrap_or_default()
}
