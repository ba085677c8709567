//! The SMTP server of the demonstration (RFC 5321): takes mail for its two users, from the proxy,
//! which says by XCLIENT who is logged in.
//!
//! Nothing is relayed anywhere.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::auth::hex_byte;
use super::peer::{Gone, Peer};
use super::store::{self, Flags, INBOX, MAX_MESSAGE, Store, UserId, with_crlf};

const OK: &str = "250 2.0.0 OK\r\n";
const SYNTAX: &str = "501 5.5.4 Syntax error in arguments\r\n";
const SEQUENCE: &str = "503 5.5.1 Bad sequence of commands\r\n";
const TOO_LARGE: &str = "552 5.3.4 Message too large\r\n";

/// Serves one connection.
pub(super) fn serve(peer: &mut Peer, store: &Store) -> Result<(), Gone> {
    peer.send("220 localhost ESMTP Postern's demo server\r\n")?;
    let mut session = Session::default();
    loop {
        let line = String::from_utf8_lossy(&peer.read_line()?).into_owned();
        let (word, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match word.to_ascii_uppercase().as_str() {
            "EHLO" => {
                session.say_hello(argument);
                peer.send(format!(
                    "250-localhost\r\n250-PIPELINING\r\n250-SIZE {MAX_MESSAGE}\r\n250-8BITMIME\r\n\
                     250-ENHANCEDSTATUSCODES\r\n250 XCLIENT ADDR LOGIN NAME\r\n"
                ))?;
            }
            "HELO" => {
                session.say_hello(argument);
                peer.send("250 localhost\r\n")?;
            }
            "XCLIENT" => {
                session = Session::of_client(argument);
                peer.send("220 localhost ESMTP Postern's demo server\r\n")?;
            }
            "MAIL" => peer.send(session.mail(argument))?,
            "RCPT" => peer.send(session.rcpt(argument))?,
            "DATA" if session.recipients.is_empty() => peer.send(SEQUENCE)?,
            "DATA" => {
                peer.send("354 End data with <CR><LF>.<CR><LF>\r\n")?;
                let text = read_data(peer)?;
                peer.send(session.deliver(store, text.as_deref()))?;
                session.reset();
            }
            "RSET" => {
                session.reset();
                peer.send(OK)?;
            }
            "NOOP" => peer.send(OK)?,
            "QUIT" => return peer.send("221 2.0.0 Bye\r\n"),
            _ => peer.send("500 5.5.1 Invalid command\r\n")?,
        }
    }
}

/// What is known of the client and of the mail it is sending.
#[derive(Debug, Default)]
struct Session {
    /// From XCLIENT.
    login: Option<UserId>,
    /// From XCLIENT.
    address: Option<IpAddr>,
    helo: String,
    sender: Option<String>,
    recipients: Vec<UserId>,
}

impl Session {
    /// XCLIENT: everything begins anew.
    fn of_client(attributes: &str) -> Self {
        let mut session = Self::default();
        for attribute in attributes.split_ascii_whitespace() {
            match attribute.split_once('=') {
                Some(("LOGIN", value)) => session.login = store::find(&decode_xtext(value)),
                Some(("ADDR", value)) => {
                    let value = value.strip_prefix("IPV6:").unwrap_or(value);
                    session.address = value.parse().ok();
                }
                _ => {}
            }
        }
        session
    }

    fn say_hello(&mut self, name: &str) {
        self.reset();
        // It goes into a header.
        let harmless = |c: &char| c.is_ascii_alphanumeric() || ".-_:[]".contains(*c);
        self.helo = name.chars().filter(harmless).take(255).collect();
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    fn mail(&mut self, argument: &str) -> &'static str {
        if self.login.is_none() {
            return "530 5.7.0 Authentication required\r\n";
        }
        if self.sender.is_some() {
            return SEQUENCE;
        }
        let Some((sender, parameters)) = path(argument, "FROM:") else {
            return SYNTAX;
        };
        let size = parameters.split_ascii_whitespace().find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("SIZE").then_some(value)
        });
        match size.map(str::parse::<usize>) {
            Some(Ok(size)) if size > MAX_MESSAGE => return TOO_LARGE,
            Some(Err(_)) => return SYNTAX,
            _ => {}
        }
        self.sender = Some(sender.to_owned());
        "250 2.1.0 OK\r\n"
    }

    fn rcpt(&mut self, argument: &str) -> &'static str {
        if self.sender.is_none() {
            return SEQUENCE;
        }
        let Some((recipient, _)) = path(argument, "TO:") else {
            return SYNTAX;
        };
        let Some(user) = store::find(recipient.as_bytes()) else {
            return "550 5.1.1 No such user here: the demo has alice and bob\r\n";
        };
        if !self.recipients.contains(&user) {
            self.recipients.push(user);
        }
        "250 2.1.5 OK\r\n"
    }

    /// Puts the message, unless it was too large, into every recipient's INBOX.
    fn deliver(&self, store: &Store, text: Option<&[u8]>) -> &'static str {
        let Some(text) = text else {
            return TOO_LARGE;
        };
        let now = Timestamp::now();
        let mut message = self.trace_header(now).into_bytes();
        message.extend_from_slice(text);
        let message: Arc<[u8]> = with_crlf(&message);
        for &user in &self.recipients {
            let mut account = store.account(user);
            let added = account.add(INBOX, Arc::clone(&message), Flags::default(), now);
            if added.is_err() {
                return "452 4.2.2 Mailbox full\r\n";
            }
        }
        "250 2.0.0 Delivered\r\n"
    }

    /// RFC 5321, section 4.4. No part of it can break its line.
    fn trace_header(&self, now: Timestamp) -> String {
        let sender = self.sender.as_deref().unwrap_or_default();
        let address = match self.address {
            Some(IpAddr::V6(address)) => format!(" ([IPv6:{address}])"),
            Some(IpAddr::V4(address)) => format!(" ([{address}])"),
            None => String::new(),
        };
        let login = self.login.map(UserId::name).unwrap_or_default();
        format!(
            "Return-Path: <{sender}>\r\nReceived: from {helo}{address}\r\n\t(logged in as {login}) \
             by localhost (Postern demo) with ESMTPA;\r\n\t{date}\r\n",
            helo = match self.helo.as_str() {
                "" => "unknown",
                name => name,
            },
            date = now.strftime("%a, %d %b %Y %H:%M:%S +0000"),
        )
    }
}

/// What stands between the angle brackets of MAIL or RCPT, and the parameters behind them.
fn path<'a>(argument: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = argument.trim_start().split_at_checked(word.len())?;
    if !start.eq_ignore_ascii_case(word) {
        return None;
    }
    let (address, parameters) = rest.trim_start().strip_prefix('<')?.split_once('>')?;
    let harmless = address.len() <= 256 && !address.contains(char::is_control);
    harmless.then_some((address, parameters))
}

/// Reads a message up to its final dot and takes doubled dots away; nothing if it was too large.
/// Only CRLF ends the line before the dot and the dot's own: anything else would let one message hold
/// another.
fn read_data(peer: &mut Peer) -> Result<Option<Vec<u8>>, Gone> {
    let mut text = Vec::new();
    let mut too_large = false;
    let mut begins_line = true;
    loop {
        let line = peer.read_raw_line()?;
        if begins_line && line == b".\r\n" {
            return Ok((!too_large).then_some(text));
        }
        let line = match line.strip_prefix(b".") {
            Some(rest) if begins_line => rest,
            _ => &line,
        };
        begins_line = line.ends_with(b"\r\n");
        too_large |= text.len() + line.len() > MAX_MESSAGE;
        if !too_large {
            text.extend_from_slice(line);
        }
    }
}

/// RFC 3461, section 4; what is no encoding stays.
fn decode_xtext(value: &str) -> Vec<u8> {
    let mut parts = value.as_bytes().split(|&byte| byte == b'+');
    let mut decoded = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        match hex_byte(part) {
            Some(byte) => {
                decoded.push(byte);
                decoded.extend_from_slice(&part[2..]);
            }
            None => decoded.extend_from_slice(part),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged_in() -> Session {
        Session::of_client("ADDR=127.0.0.1 LOGIN=alice+40postern.test NAME=[UNAVAILABLE]")
    }

    #[test]
    fn xclient_says_who_is_logged_in() {
        assert_eq!(logged_in().login, store::find(b"alice"));
        assert_eq!(Session::of_client("ADDR=x LOGIN=carol").login, None);
        let mut nobody = Session::of_client("ADDR=127.0.0.1");
        assert!(nobody.mail("FROM:<a@b>").starts_with("530"));
    }

    #[test]
    fn only_the_users_of_the_demo_get_mail() {
        let mut session = logged_in();
        assert!(session.rcpt("TO:<bob@x>").starts_with("503"));
        assert!(session.mail("from:<> size=10").starts_with("250"));
        assert!(session.rcpt("TO:<carol@x>").starts_with("550"));
        assert!(session.rcpt("to: <Bob@x> NOTIFY=NEVER").starts_with("250"));
        assert!(session.rcpt("TO:<bob>").starts_with("250"));
        assert!(session.rcpt("TO:bob@x").starts_with("501"));
        assert_eq!(session.recipients.len(), 1);
    }

    #[test]
    fn what_is_announced_as_too_large_is_refused() {
        let mut session = logged_in();
        assert!(session.mail("FROM:<a@b> SIZE=99999999").starts_with("552"));
        assert!(session.mail("FROM:<a@b> SIZE=x").starts_with("501"));
    }

    #[test]
    fn a_delivered_message_begins_with_how_it_came() {
        let store = Store::new();
        let mut session = logged_in();
        session.say_hello("a b\r\n(c)");
        assert!(session.mail("FROM:<a@b>").starts_with("250"));
        assert!(session.rcpt("TO:<bob@x>").starts_with("250"));
        assert!(
            session
                .deliver(&store, Some(b"X: y\n\nz"))
                .starts_with("250")
        );
        let bob = store::find(b"bob").expect("a user");
        let text = store.account(bob).folder(INBOX).messages[0].text.clone();
        let text = String::from_utf8_lossy(&text).into_owned();
        let start =
            "Return-Path: <a@b>\r\nReceived: from abc ([127.0.0.1])\r\n\t(logged in as alice)";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("+0000\r\nX: y\r\n\r\nz"), "{text}");
    }
}
