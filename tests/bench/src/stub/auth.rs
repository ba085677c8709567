//! What the auth server says: everybody may pass, except for guesses.

use std::net::SocketAddr;

use super::Kind;

/// A login whose backend never greets.
pub(crate) const STUCK: &str = "stuck@slow.test";

/// A password that is refused, with `Auth-Wait: 3`, and counted.
pub(crate) const GUESS: &str = "guess";

/// The path under which the auth server says how often it was.
pub(super) const GUESSES: &str = "/guesses";

/// What the auth server knows.
pub(super) struct Auth {
    /// Where those who may pass are sent.
    pub(super) servers: Vec<(Kind, SocketAddr)>,
    pub(super) guesses: usize,
}

/// The answer, and whether the connection ends with it.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) ends: bool,
}

impl Auth {
    /// Answers one request, which is a head without a body.
    pub(super) fn answer(&mut self, request: &str) -> Answer {
        if request.starts_with(&format!("GET {GUESSES} ")) {
            return Answer {
                text: format!("{}\r\n", self.guesses),
                ends: true,
            };
        }
        let header = |name: &str| {
            let mut lines = request.lines().filter_map(|line| line.split_once(": "));
            lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
        };
        let is_kept = request.contains(" HTTP/1.1") && header("Connection") != Some("close");
        let verdict = if header("Auth-Pass") == Some(GUESS) {
            self.guesses += 1;
            "Auth-Status: Invalid login or password\r\nAuth-Wait: 3".to_owned()
        } else {
            let kind = match header("Auth-Protocol") {
                _ if header("Auth-User") == Some(STUCK) => Kind::Mute,
                Some("pop3") => Kind::Pop3,
                Some("smtp") => Kind::Smtp,
                _ => Kind::Imap,
            };
            let server = self.servers.iter().find(|(of, _)| *of == kind);
            let port = server.map_or(0, |(_, address)| address.port());
            format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}")
        };
        let connection = if is_kept { "keep-alive" } else { "close" };
        Answer {
            text: format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n{verdict}\r\n\r\n"
            ),
            ends: !is_kept,
        }
    }
}
