//! What stands around a dialogue: its auth server and its backend, which remember what both proxies
//! say to them, and the directives of its server.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::dialogue::Dialogue;
use super::play::{Patience, play};
use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::peers::{Peer, Talk, server_of, smtp, unruly};
use crate::servers::pki::Pki;

/// A dialogue and its surroundings.
pub(crate) struct Stage {
    /// The dialogue.
    pub(crate) dialogue: Dialogue,
    /// Where nginx listens for it.
    pub(crate) port: u16,
    turn: Arc<AtomicUsize>,
    auth: AuthServer,
    backend: Peer,
}

/// Every line that somebody saw of one proxy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The client.
    pub(crate) client: Vec<String>,
    /// The auth server.
    pub(crate) auth: Vec<String>,
    /// The backend.
    pub(crate) backend: Vec<String>,
}

impl Stage {
    /// Starts what the dialogue needs.
    pub(crate) fn new(dialogue: Dialogue, port: u16) -> Stage {
        let backend = backend(&dialogue);
        let turn = Arc::new(AtomicUsize::new(0));
        let answers = answers(&dialogue, backend.address(), Arc::clone(&turn));
        Stage {
            dialogue,
            port,
            turn,
            auth: AuthServer::start(answers),
            backend,
        }
    }

    /// Its `server {}` of nginx's configuration.
    pub(crate) fn server(&self, dns: SocketAddr) -> String {
        let dialogue = &self.dialogue;
        let (port, flags) = (self.port, &dialogue.listen);
        let (protocol, auth) = (&dialogue.protocol, self.auth.address());
        let mut text = format!(
            "server {{\n    listen 127.0.0.1:{port} {flags};\n    protocol {protocol};\n    \
             auth_http {auth}/auth;\n"
        );
        let config = dialogue.config.join("\n");
        if config.contains("starttls") || flags.contains("ssl") {
            text.push_str(&certificates());
        }
        let authority = Pki::shared().authority().display().to_string();
        for line in config.lines() {
            let line = line.replace("@DNS@", &dns.to_string());
            let line = line.replace("@CA@", &authority);
            writeln!(text, "    {line};").expect("a String takes everything");
        }
        text + "}\n"
    }

    /// Plays it to one proxy.
    pub(crate) fn play(&self, way: &str, proxy: SocketAddr, patience: Patience) -> Seen {
        self.turn.store(0, Ordering::SeqCst);
        self.backend.forget();
        let requests = self.auth.requests().len();
        let connections = self.backend.accepted();
        let client = play(&self.dialogue, way, proxy, patience);
        // The client has gone; so will the proxy, which may look at what it had overlooked first.
        thread::sleep(patience.silence / 2);
        let end = Instant::now() + Duration::from_secs(3);
        while self.backend.open() > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        // Both keep what they have accepted until told otherwise.
        self.backend.kill_connections();
        self.auth.close_connections();
        let mut backend = self.backend.lines();
        let connections = self.backend.accepted() - connections;
        backend.push(format!("(connections: {connections})"));
        let auth = self.auth.requests().split_off(requests);
        Seen {
            client: client.iter().map(|line| normal(line)).collect(),
            auth: auth.iter().flat_map(request).collect(),
            backend: backend.iter().map(|line| normal(line)).collect(),
        }
    }
}

fn certificates() -> String {
    let pair = Pki::shared().server();
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    // nginx leaves TLS 1.3 out by default before 1.23.4.
    format!(
        "    ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n"
    )
}

fn backend(dialogue: &Dialogue) -> Peer {
    match dialogue
        .backend
        .split_once(' ')
        .unwrap_or((&dialogue.backend, ""))
    {
        ("", _) => Peer::start(server_of(&dialogue.protocol)),
        ("behind-a-proxy-header", _) => {
            let server = server_of(&dialogue.protocol);
            Peer::start(move |talk| talk.line().and_then(|_| server(talk)))
        }
        ("refuses-xclient", _) => Peer::start(smtp::smtp_server_without_xclient),
        ("preauth", _) => Peer::start(unruly::says_preauth),
        ("says-more", _) => Peer::start(unruly::says_more_behind_its_ok),
        ("one-byte-at-a-time", _) => Peer::start(unruly::one_byte_at_a_time),
        ("answers", lines) => {
            let lines: Vec<String> = lines.split(" | ").map(str::to_owned).collect();
            Peer::start(move |talk| answers_in_turn(talk, &lines))
        }
        (other, _) => panic!("no backend {other}"),
    }
}

/// Says the first line, and each of the others for one line it got; `\n` parts lines of one answer.
fn answers_in_turn(talk: &mut Talk, lines: &[String]) -> std::io::Result<()> {
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            talk.line()?;
        }
        talk.say(&line.replace("\\n", "\r\n"))?;
    }
    talk.wait_for_end()
}

fn answers(
    dialogue: &Dialogue,
    backend: SocketAddr,
    turn: Arc<AtomicUsize>,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let answers = dialogue.auth.clone();
    move |_| {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        let Some(headers) = answers.get(turn).or(answers.last()) else {
            return Answer::ok(backend);
        };
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        match headers.split_first() {
            Some((&"OK", more)) => Answer::ok_with(backend, more),
            Some((status, more)) if status.starts_with("HTTP/") => {
                let (ip, port) = (backend.ip(), backend.port());
                let ok = format!("Auth-Status: OK\r\nAuth-Server: {ip}\r\nAuth-Port: {port}");
                let text = format!("{status}\r\n{}\r\n\r\n", more.join("\r\n"));
                let text = text.replace("@OK@", &ok).replace("\\n", "\n");
                let text = text.replace("@PORT@", &port.to_string());
                Answer::RawThenClose(text.into_bytes())
            }
            _ => Answer::headers(&headers),
        }
    }
}

/// A request's lines; which HTTP it is may differ.
fn request(request: &Request) -> Vec<String> {
    let line = request.line().replace("HTTP/1.1", "HTTP/1.0");
    let headers = request.headers().into_iter().map(normal);
    std::iter::once(line).chain(headers).collect()
}

/// The line with what differs each time replaced: salts, and the port of a client.
fn normal(line: &str) -> String {
    if line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") {
        return "PROXY TCP4 127.0.0.1 127.0.0.1 <PORT> <PORT>".to_owned();
    }
    if let Some((before, rest)) = line.split_once('<')
        && let Some((inner, after)) = rest.split_once('>')
        && is_salt(inner)
    {
        return format!("{before}<SALT>{after}");
    }
    for prefix in ["+ ", "334 "] {
        let coded = line.strip_prefix(prefix).unwrap_or_default();
        let decoded = STANDARD.decode(coded).unwrap_or_default();
        let text = String::from_utf8_lossy(&decoded);
        let inner = text
            .strip_prefix('<')
            .and_then(|text| text.strip_suffix('>'));
        if inner.is_some_and(is_salt) {
            return format!("{prefix}<SALT64>");
        }
    }
    line.to_owned()
}

/// `DIGITS.SECONDS@proxy.test`
fn is_salt(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let stamp = text.strip_suffix("@proxy.test").unwrap_or_default();
    let parts = stamp.split_once('.');
    parts.is_some_and(|(random, seconds)| digits(random) && digits(seconds))
}
