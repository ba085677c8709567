//! What `stream {}` passes on at the ports of mail, and how Postern would do it.
//!
//! Only told, never written: bytes that pass unread become sessions that log in, for which certificates and
//! routes are needed that no such block names.

use super::listen::{is_ssl, port};
use super::tree::{Block, Directive, Tree};
use crate::protocol::Protocol;

/// Each server of a `stream {}` that listens on a port of mail, and what is to be done about it.
pub(super) fn servers(tree: &Tree) -> Vec<(&Directive, String)> {
    let mut found = Vec::new();
    for stream in blocks(&tree.main.directives, "stream") {
        let servers = stream.directives.iter().filter(|inner| inner.is_server());
        for server in servers {
            let advice = server
                .block
                .as_ref()
                .and_then(|block| advice(block, stream));
            found.extend(advice.map(|advice| (server, advice)));
        }
    }
    found
}

fn advice(server: &Block, stream: &Block) -> Option<String> {
    let listens: Vec<String> = values(server, "listen");
    let ports = listens.iter().filter_map(|line| Some((line, port(line)?)));
    let mail: Vec<(&String, u16, Protocol)> = ports
        .filter_map(|(line, port)| Some((line, port, Protocol::of_port(port)?)))
        .collect();
    let (_, _, protocol) = mail.first()?;
    let target = values(server, "proxy_pass").pop()?;
    let name = protocol.name();
    let is_tls = |port: u16| port == protocol.record().tls_port;
    let mut lines = Vec::new();
    for (line, port, _) in &mail {
        let address = line.split(' ').next().unwrap_or(line);
        lines.push(match is_ssl(line) || is_tls(*port) {
            true => format!("listen = {address} ssl"),
            false => format!("listen = {address}"),
        });
    }
    let has_tls = mail
        .iter()
        .any(|(line, port, _)| is_ssl(line) || is_tls(*port));
    // TLS that passed unread ended at the backend.
    let backend_tls = values(server, "proxy_ssl")
        .iter()
        .any(|value| value == "on")
        || mail
            .iter()
            .any(|(line, port, _)| is_tls(*port) && !is_ssl(line));
    let mut text = format!(
        "Postern is a mail proxy only and passes no ports on; write a [server {name}] with {}, auth = \
         passthrough{}, and a [backend NAME] with hosts = {}{}",
        lines.join(", "),
        if has_tls {
            ", ssl_certificate and ssl_certificate_key"
        } else {
            ""
        },
        hosts(&target, stream),
        if backend_tls {
            " and proxy_ssl = on"
        } else {
            ""
        },
    );
    if mail.iter().any(|(_, port, _)| *port == RELAY) {
        text.push_str("; for mail without a login smtp_auth = none and an auth_http instead");
    }
    Some(text)
}

/// Where other mail servers deliver, who do not log in.
const RELAY: u16 = 25;

/// The machines behind `proxy_pass`, as `hosts` takes them.
fn hosts(target: &str, stream: &Block) -> String {
    let upstreams = stream
        .directives
        .iter()
        .filter(|inner| inner.name == "upstream");
    let mut named = upstreams.filter(|upstream| {
        upstream
            .arguments
            .first()
            .is_some_and(|name| name == target)
    });
    let hosts = match named.next().and_then(|upstream| upstream.block.as_ref()) {
        Some(upstream) => {
            let addresses = values(upstream, "server");
            let first = |line: &String| line.split(' ').next().map(str::to_owned);
            addresses.iter().filter_map(first).collect()
        }
        None => vec![target.to_owned()],
    };
    let is_host = |host: &String| !host.starts_with("unix:") && !host.contains('$');
    if hosts.is_empty() || !hosts.iter().all(is_host) {
        return format!("the machines of {}", super::tree::shown(target));
    }
    super::tree::shown(&hosts.join(" "))
}

fn blocks<'a>(directives: &'a [Directive], name: &'static str) -> impl Iterator<Item = &'a Block> {
    let found = directives
        .iter()
        .filter(move |directive| directive.name == name);
    found.filter_map(|directive| directive.block.as_ref())
}

/// The words behind each directive of this name.
fn values(block: &Block, name: &str) -> Vec<String> {
    let found = block
        .directives
        .iter()
        .filter(|directive| directive.name == name);
    found
        .map(|directive| directive.arguments.join(" "))
        .collect()
}
