//! The ID command (RFC 2971) towards a backend: who is calling, as Dovecot takes it from its
//! `login_trusted_networks`, and behind that what the client says of itself.
//!
//! Fields whose names begin with `x-` are ours alone: the client's own are dropped, but for `x-proxy-ttl`, which
//! can only end a login sooner. No I/O.

use std::net::SocketAddr;

use super::parse::{Argument, parse_id_answer};
use crate::dialect::caller::Caller;
use crate::net::line::{Line, line};

/// Most fields of a command (RFC 2971, section 3.3).
const FIELDS: usize = 30;

/// Longest name of a field, in bytes (the same).
const NAME: usize = 30;

/// Longest value, in bytes, as it is written: RFC 2971 has 1024 as well, and Dovecot counts the escapes and ends
/// the connection over more.
const VALUE: usize = 1024;

/// Most bytes of all that is kept of a peer's fields.
const ALL: usize = 4096;

/// What a peer says of itself: names and values, as they are written inside quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Those of these strings that may be passed on, within the limits.
    pub(super) fn of(strings: &[Argument]) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut all = 0;
        for pair in strings.chunks_exact(2) {
            let [name, value] = pair else {
                continue;
            };
            let Some(name) = field_name(name).filter(|name| !is_ours(name)) else {
                continue;
            };
            let value = quotable(value);
            all += name.len() + value.len();
            let is_new = !fields
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(&name));
            if is_new && value.len() <= VALUE && all <= ALL && fields.len() < FIELDS {
                fields.push((name, value));
            }
        }
        Self(fields)
    }

    /// What a backend's whole answer says, if it says anything.
    pub(super) fn of_answer(answer: &[u8]) -> Option<Self> {
        let fields = Self::of(&parse_id_answer(answer)?);
        (!fields.0.is_empty()).then_some(fields)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the list of a command or an answer.
    pub(super) fn list(&self) -> String {
        let pairs = self.0.iter();
        let pairs: Vec<_> = pairs.map(|(name, value)| pair(name, value)).collect();
        match pairs.is_empty() {
            true => "NIL".to_owned(),
            false => format!("({})", pairs.join(" ")),
        }
    }
}

/// The command under this tag: who is calling, and what he says of himself.
pub(super) fn command(tag: &str, caller: &Caller, fields: &Fields) -> Line {
    let mut told = Fields(Vec::new());
    let mut add = |name: &str, value: String| told.0.push((name.to_owned(), value));
    add("x-session-id", quotable(caller.session.as_bytes()));
    let mut add_address = |end: &str, address: Option<SocketAddr>| {
        if let Some(address) = address {
            add(
                &format!("x-{end}-ip"),
                address.ip().to_canonical().to_string(),
            );
            add(&format!("x-{end}-port"), address.port().to_string());
        }
    };
    add_address("originating", caller.address);
    add_address("connected", caller.local);
    add("x-proxy-ttl", caller.ttl.to_string());
    let transport = if caller.has_tls { "TLS" } else { "insecure" };
    add("x-client-transport", transport.to_owned());
    told.0.extend(fields.0.iter().cloned());
    told.0.truncate(FIELDS);
    line(&[tag.as_bytes(), b" ID ", told.list().as_bytes()])
}

/// How many more proxies the login may go through, as a peer counts.
pub(super) fn proxy_ttl(strings: &[Argument]) -> Option<u32> {
    let mut pairs = strings.chunks_exact(2);
    let found = pairs.find(|pair| pair[0].eq_ignore_ascii_case(b"x-proxy-ttl"))?;
    let digits = std::str::from_utf8(&found[1]).ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

fn pair(name: &str, value: &str) -> String {
    format!("\"{name}\" \"{value}\"")
}

/// A name that needs no escapes, as all that are registered.
fn field_name(name: &[u8]) -> Option<String> {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let is_name = (1..=NAME).contains(&name.len()) && name.iter().all(is_plain);
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

fn is_ours(name: &str) -> bool {
    name.get(..2)
        .is_some_and(|start| start.eq_ignore_ascii_case("x-"))
}

/// Text as it stands inside quotes (RFC 3501, section 9): what cannot, or not everywhere, is `?`. A client must
/// not be able to have the whole command refused.
fn quotable(text: &[u8]) -> String {
    let mut quoted = String::new();
    for &byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push('?'),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&[u8]]) -> Vec<Argument> {
        texts
            .iter()
            .map(|text| Argument::new(text.to_vec()))
            .collect()
    }

    fn caller() -> Caller {
        Caller {
            address: Some(([203, 0, 113, 7], 4711).into()),
            local: Some(([192, 0, 2, 1], 993).into()),
            session: "mail.example.org-12-34".to_owned(),
            ttl: 4,
            has_tls: true,
        }
    }

    #[test]
    fn a_backend_is_told_who_calls_and_what_he_says_of_himself() {
        let fields = Fields::of(&strings(&[
            b"name",
            b"K-9 \"Mail\"",
            b"X-Originating-IP",
            b"6.6.6.6",
        ]));
        assert_eq!(
            &*command("p3", &caller(), &fields),
            b"p3 ID (\"x-session-id\" \"mail.example.org-12-34\" \"x-originating-ip\" \
              \"203.0.113.7\" \"x-originating-port\" \"4711\" \"x-connected-ip\" \"192.0.2.1\" \
              \"x-connected-port\" \"993\" \"x-proxy-ttl\" \"4\" \"x-client-transport\" \"TLS\" \
              \"name\" \"K-9 \\\"Mail\\\"\")\r\n"
        );
        let of_unix_socket = Caller {
            address: None,
            local: None,
            has_tls: false,
            ..caller()
        };
        assert_eq!(
            &*command("p3", &of_unix_socket, &Fields::default()),
            b"p3 ID (\"x-session-id\" \"mail.example.org-12-34\" \"x-proxy-ttl\" \"4\" \
              \"x-client-transport\" \"insecure\")\r\n"
        );
    }

    #[test]
    fn what_a_client_says_is_bounded_and_breaks_no_line() {
        let long = [b'x'; 1025];
        let escaped = [b'"'; 513];
        let fields = Fields::of(&strings(&[
            b"a",
            b"1\r\n2\0\xff",
            b"A",
            b"again",
            b"b",
            &long,
            b"c",
            &escaped,
            b"",
            b"x",
            b"d d",
            b"x",
            &[b'e'; 31],
            b"x",
            b"f\"",
            b"x",
            b"x-y",
            b"x",
            b"X-",
            b"x",
            b"g",
            &long[1..],
            b"odd",
        ]));
        let list = fields.list();
        assert!(list.starts_with("(\"a\" \"1??2??\" \"g\" \"xxx"), "{list}");
        assert_eq!(fields.0.len(), 2);

        let many: Vec<Vec<u8>> = (0..200)
            .map(|number| format!("{number}").into_bytes())
            .collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let fields = Fields::of(&strings(&many));
        assert_eq!(fields.0.len(), FIELDS);
        let sent = command("p3", &caller(), &fields);
        let sent = String::from_utf8_lossy(&sent).into_owned();
        assert_eq!(sent.matches('"').count(), 4 * FIELDS);
        assert!(sent.contains("x-client-transport"), "{sent}");

        let value = vec![b'v'; 1000];
        let names: Vec<Vec<u8>> = (0..30).map(|number| vec![b'a' + number]).collect();
        let large: Vec<&[u8]> = names
            .iter()
            .flat_map(|name| [name.as_slice(), &value])
            .collect();
        assert!(Fields::of(&strings(&large)).list().len() < ALL + FIELDS * 6);
    }

    #[test]
    fn an_answer_is_written_anew() {
        let answer = b"* ID (\"name\" {7}\r\nDovecot \"x-evil\" \"1\")\r\n";
        let fields = Fields::of_answer(answer).expect("an answer");
        assert_eq!(fields.list(), "(\"name\" \"Dovecot\")");
        assert_eq!(Fields::of_answer(b"* ID NIL\r\n"), None);
        assert_eq!(Fields::default().list(), "NIL");
    }

    #[test]
    fn a_ttl_is_a_number() {
        let ttl = |value: &[u8]| proxy_ttl(&strings(&[b"name", b"x", b"X-Proxy-TTL", value]));
        assert_eq!(ttl(b"3"), Some(3));
        for bad in [&b""[..], b"-1", b"+1", b"x", b"99999999999999"] {
            assert_eq!(ttl(bad), None, "{bad:?}");
        }
        assert_eq!(proxy_ttl(&strings(&[b"x-proxy-ttl"])), None);
    }
}
