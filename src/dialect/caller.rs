//! Who is calling, as a backend is told: by ID in IMAP, by XCLIENT in POP3 and SMTP.
//!
//! Nothing in it is the client's own claim. Of such a claim one thing is taken note of, here too: how many proxies
//! a login may still go through, which can only end it sooner.

use std::net::SocketAddr;

use crate::append;
use crate::session::Session;

/// What a backend may be told of a client, besides what belongs to one protocol.
#[derive(Debug)]
pub(super) struct Caller {
    /// Where it is, after `set_real_ip_from`; `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Our end of its connection.
    pub(super) local: Option<SocketAddr>,
    /// The session as our log has it.
    pub(super) session: String,
    /// How many more proxies the login may go through behind us.
    pub(super) ttl: u32,
    /// Whether the client speaks TLS with us.
    pub(super) has_tls: bool,
}

impl Caller {
    /// The client of this session.
    pub(super) fn of(session: &Session) -> Self {
        Self {
            address: session.client().socket(),
            local: session.local().socket(),
            session: session_name(session),
            ttl: session.proxy_ttl.saturating_sub(1),
            has_tls: session.tls.is_some(),
        }
    }
}

/// What backends call the session: unique among the processes on machines of different names. At most 64 bytes,
/// more than which Dovecot does not take. Our log has the last two parts as `PID#TID: *NUMBER`.
fn session_name(session: &Session) -> String {
    const NAME: usize = 32;
    let name = session.service.conf.server_name.chars();
    let mut text = String::with_capacity(64);
    text.extend(name.filter(char::is_ascii_graphic).take(NAME));
    text.push('-');
    append::number(&mut text, std::process::id());
    text.push('-');
    append::number(&mut text, session.entry.number);
    text
}

/// A peer says through how many proxies its login may still go. Whoever it is, that is only ever taken for less.
pub(super) fn take_proxy_ttl(session: &mut Session, said: Option<u32>) {
    session.proxy_ttl = session.proxy_ttl.min(said.unwrap_or(u32::MAX));
}

/// How many more proxies the login may go through, if the line is an XCLIENT that says so.
pub(super) fn proxy_ttl(line: &[u8]) -> Option<u32> {
    let mut words = line.split(|&byte| byte == b' ');
    words
        .next()
        .filter(|word| word.eq_ignore_ascii_case(b"XCLIENT"))?;
    let digits = words.find_map(|word| {
        let (name, value) = word.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"TTL=").then_some(value)
    })?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_number_behind_xclient() {
        assert_eq!(proxy_ttl(b"xclient ADDR=192.0.2.1 ttl=3"), Some(3));
        for none in [
            &b"XCLIENT"[..],
            b"XCLIENT TTL=",
            b"XCLIENT TTL=+1",
            b"USER TTL=1",
            b"XCLIENTS TTL=1",
        ] {
            assert_eq!(proxy_ttl(none), None, "{none:?}");
        }
    }
}
