//! What of a client's bytes may be quoted in the log: as far as a grammar says that they are no secret.
//!
//! Bytes in, bytes out. A client that speaks at the wrong moment may say its password, so what is shown
//! ends where a command word that carries one stands, and where nothing is known of a word.

use crate::sasl::Mechanism;

/// Words before which everything on an SMTP line may be shown.
const HARMLESS: [&[u8]; 12] = [
    b"HELO",
    b"EHLO",
    b"LHLO",
    b"MAIL",
    b"RCPT",
    b"RSET",
    b"NOOP",
    b"QUIT",
    b"STARTTLS",
    b"VRFY",
    b"EXPN",
    b"HELP",
];

/// Longest word of which nothing is known that is shown.
const UNKNOWN_WORD: usize = 10;

/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;

/// What of something that is no PROXY header: the fields of version 1, up to the first that cannot be one;
/// the fixed part of version 2; the first word of anything else.
pub(super) fn of_broken_header(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(b"\r\n\r\n\0") {
        return bytes[..bytes.len().min(V2_FIXED)].to_vec();
    }
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let mut words = line.split(|&byte| byte == b' ');
    let first = words.next().unwrap_or_default();
    if first != b"PROXY" {
        return unknown_word(first).to_vec();
    }
    let mut shown = vec![first];
    if let Some(family) = words.next() {
        shown.push(unknown_word(family));
        if matches!(family, b"TCP4" | b"TCP6" | b"UNKNOWN") {
            shown.extend(words.take(4).take_while(|word| is_address_or_port(word)));
        }
    }
    shown.join(&b' ')
}

fn is_address_or_port(word: &[u8]) -> bool {
    word.iter()
        .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':'))
}

/// A word as people use them, or nothing.
fn unknown_word(word: &[u8]) -> &[u8] {
    let is_plain = word.iter().all(u8::is_ascii_alphanumeric);
    match is_plain && word.len() <= UNKNOWN_WORD {
        true => word,
        false => b"",
    }
}

/// What of a client's bytes before an SMTP greeting: its commands, up to the mechanism of AUTH, or to the
/// first word that is no command.
pub(super) fn before_greeting(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut is_first = true;
    for line in bytes.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
        let words = line.split(|&byte| byte <= b' ');
        let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        let Some(first) = words.first() else {
            shown.extend_from_slice(line);
            continue;
        };
        let is_auth = |word: &&[u8]| word.eq_ignore_ascii_case(b"AUTH");
        let is_harmless = HARMLESS
            .iter()
            .any(|known| first.eq_ignore_ascii_case(known));
        if !is_harmless && !is_auth(first) {
            if is_first {
                shown.extend_from_slice(unknown_word(first));
            }
            return shown;
        }
        if let Some(at) = words.iter().position(is_auth) {
            let mechanism = words.get(at + 1).and_then(|name| Mechanism::by_name(name));
            let mechanism = mechanism.map(|mechanism| mechanism.name.as_bytes());
            let command: Vec<&[u8]> = words[..=at].iter().copied().chain(mechanism).collect();
            shown.extend_from_slice(&command.join(&b' '));
            return shown;
        }
        shown.extend_from_slice(line);
        is_first = false;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_header_is_shown_up_to_its_grammar() {
        let shown = |text: &[u8]| String::from_utf8_lossy(&of_broken_header(text)).into_owned();
        assert_eq!(
            shown(b"PROXY TCP4 ::1 ::1 1 143\r\na LOGIN good hunter2\r\n"),
            "PROXY TCP4 ::1 ::1 1 143"
        );
        assert_eq!(
            shown(b"PROXY TCP4 ::1 ::1 1 143 a LOGIN good hunter2\r\n"),
            "PROXY TCP4 ::1 ::1 1 143"
        );
        assert_eq!(
            shown(b"PROXY TCP4 1.2.3.4 hunter2 1 2\r\n"),
            "PROXY TCP4 1.2.3.4"
        );
        assert_eq!(shown(b"PROXY LOGIN abc dead\r\n"), "PROXY LOGIN");
        assert_eq!(shown(b"PROXY TCP5 1.2.3.4"), "PROXY TCP5");
        assert_eq!(shown(b"PROXY UNKNOWN\nPASS hunter2\r\n"), "PROXY UNKNOWN");
        assert_eq!(shown(b"a LOGIN bob hunter2\r\n"), "a");
        assert_eq!(shown(b"AGJvYgBodW50ZXIy\r\n"), "");
        assert_eq!(shown(b"\x16\x03\x01"), "");
        let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"[..], b"hunter2"].concat();
        assert_eq!(of_broken_header(&v2), v2[..16]);
    }

    #[test]
    fn what_comes_before_a_greeting_is_shown_up_to_credentials() {
        let shown = |text: &[u8]| String::from_utf8_lossy(&before_greeting(text)).into_owned();
        assert_eq!(
            shown(b"EHLO x\r\nauth PLAIN AGJv\r\n"),
            "EHLO x\r\nauth PLAIN"
        );
        assert_eq!(shown(b"EHLO x AUTH PLAIN AGJv\r\n"), "EHLO x AUTH PLAIN");
        assert_eq!(shown(b"AUTH AGJvYgBodW50ZXIy\r\n"), "AUTH");
        assert_eq!(shown(b"\0AUTH PLAIN AGJv\r\n"), "AUTH PLAIN");
        assert_eq!(shown(b"\0\0\r\n"), "\0\0\r\n");
        assert_eq!(shown(b"hunter2 AUTH PLAIN AGJv\r\n"), "hunter2");
        assert_eq!(shown(b"my long secret AUTH PLAIN AGJv\r\n"), "my");
        assert_eq!(shown(b"AUTH LOGIN\r\nYm9i\r\ncHc=\r\n"), "AUTH LOGIN");
        assert_eq!(shown(b" AUTH PLAIN AGJv\r\n"), "AUTH PLAIN");
        assert_eq!(shown(b"AUTH\tPLAIN\tAGJv\r\n"), "AUTH PLAIN");
        assert_eq!(shown(b"EHLO x\rAUTH PLAIN AGJv\r"), "EHLO x\rAUTH PLAIN");
        assert_eq!(shown(b"AUTH\x0bPLAIN\0AGJv"), "AUTH PLAIN");
        assert_eq!(shown(b"MAIL FROM:<a@b>\r\n"), "MAIL FROM:<a@b>\r\n");
        assert_eq!(shown(b"a LOGIN bob hunter2\r\n"), "a");
        assert_eq!(shown(b"NOOP\r\nYm9i\r\n"), "NOOP\r\n");
        assert_eq!(shown(b"AGJvYgBodW50ZXIy\r\n"), "");
        assert_eq!(shown(b"GET / HTTP/1.1\r\n"), "GET");
    }
}
