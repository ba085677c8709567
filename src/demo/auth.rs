//! The auth server of the demonstration: what `auth_http` asks, answered for two users.
//!
//! About the smallest service that does (the protocol is that of nginx's ngx_mail_auth_http_module);
//! a real one would look somewhere for the user and for the user's backend.

use std::net::SocketAddr;

use super::peer::{Gone, Peer};
use super::store;

/// Most headers of a request.
const HEADERS: usize = 64;

/// Where the demonstration's mail servers are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backends {
    /// The IMAP server.
    pub(super) imap: SocketAddr,
    /// The POP3 server.
    pub(super) pop3: SocketAddr,
    /// The SMTP server.
    pub(super) smtp: SocketAddr,
}

/// Answers requests on one connection.
pub(super) fn serve(peer: &mut Peer, backends: Backends) -> Result<(), Gone> {
    loop {
        let (answer, length) = loop {
            if let Some(found) = answer(peer.buffered(), backends)? {
                break found;
            }
            peer.read_more()?;
        };
        peer.consume(length);
        peer.send(format!(
            "HTTP/1.1 200 OK\r\n{answer}Content-Length: 0\r\n\r\n"
        ))?;
    }
}

/// The header lines that answer a request, and its length, once its head is complete.
fn answer(bytes: &[u8], backends: Backends) -> Result<Option<(String, usize)>, Gone> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(status) = request.parse(bytes) else {
        return Err(Gone);
    };
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    let header = |name: &str| {
        let mut headers = request.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value).unwrap_or_default()
    };
    let backend = match header("Auth-Protocol") {
        b"imap" => backends.imap,
        b"pop3" => backends.pop3,
        b"smtp" => backends.smtp,
        _ => return Err(Gone),
    };
    let (login, password) = (decode(header("Auth-User")), decode(header("Auth-Pass")));
    let answer = match store::log_in(&login, &password) {
        Some(_) => format!(
            "Auth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n",
            backend.ip(),
            backend.port()
        ),
        None => "Auth-Status: Invalid login or password\r\nAuth-Wait: 1\r\n".into(),
    };
    Ok(Some((answer, length)))
}

/// Percent-decoding; what is no encoding stays.
fn decode(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        let encoded = (byte == b'%').then(|| hex_byte(behind)).flatten();
        decoded.push(encoded.unwrap_or(byte));
        rest = if encoded.is_some() {
            &behind[2..]
        } else {
            behind
        };
    }
    decoded
}

/// The byte that two hexadecimal digits begin with.
pub(super) fn hex_byte(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| {
        let digit = char::from(*bytes.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    Some(digit(0)? * 16 + digit(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: fn() -> Backends = || Backends {
        imap: ([127, 0, 0, 1], 1).into(),
        pop3: ([127, 0, 0, 1], 2).into(),
        smtp: ([127, 0, 0, 1], 3).into(),
    };

    fn ask(password: &str) -> String {
        let request = format!(
            "GET /auth HTTP/1.1\r\nHost: x\r\nAuth-User: alice\r\nAuth-Pass: {password}\r\n\
             Auth-Protocol: pop3\r\n\r\n"
        );
        let (answer, length) = answer(request.as_bytes(), BACKENDS())
            .expect("HTTP")
            .expect("complete");
        assert_eq!(length, request.len());
        answer
    }

    #[test]
    fn the_right_password_leads_to_the_protocols_backend() {
        let answer = "Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: 2\r\n";
        assert_eq!(ask("wonderland"), answer);
        assert_eq!(ask("wonder%6Cand"), answer);
    }

    #[test]
    fn any_other_password_is_refused() {
        for wrong in ["", "builder", "wonderland%00", "%", "%6"] {
            assert!(ask(wrong).starts_with("Auth-Status: Invalid"), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        assert!(answer(b"EHLO x\r\n\r\n\r\n", BACKENDS()).is_err());
        assert!(
            answer(b"GET / HTTP/1.1\r\n", BACKENDS())
                .expect("HTTP")
                .is_none()
        );
    }
}
