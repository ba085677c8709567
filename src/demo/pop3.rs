//! The POP3 server of the demonstration (RFC 1939), as far as mail programs need it.
//!
//! A session sees INBOX as it was at its login. No locking, no APOP: this is no server for real mail.

use super::peer::{Gone, Peer};
use super::store::{self, INBOX, Message, Store, UserId};

/// Wrong passwords before the connection closes.
const MAX_FAILURES: u32 = 3;

const CAPABILITIES: &str = "+OK Capability list follows\r\nTOP\r\nUSER\r\nUIDL\r\n\
                            RESP-CODES\r\nPIPELINING\r\n.\r\n";
const INVALID: &str = "-ERR invalid command\r\n";
const NO_SUCH: &str = "-ERR no such message\r\n";

/// Serves one connection.
pub(super) fn serve(peer: &mut Peer, store: &Store) -> Result<(), Gone> {
    peer.send("+OK Postern's demo POP3 server ready\r\n")?;
    let user = log_in(peer)?;
    let mut drop = Maildrop {
        uid_validity: store.uid_validity,
        messages: store.account(user).folder(INBOX).messages.clone(),
        deleted: Vec::new(),
    };
    peer.send("+OK Logged in\r\n")?;
    drop.serve(peer)?;
    // The UPDATE state: only QUIT leads here.
    store.account(user).folder_mut(INBOX).remove(&drop.deleted);
    peer.send("+OK Bye\r\n")
}

/// A command in upper case and its argument.
fn split(line: &[u8]) -> (String, &[u8]) {
    let end = line.iter().position(|&byte| byte == b' ');
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    let word = String::from_utf8_lossy(word).to_ascii_uppercase();
    (word, rest.strip_prefix(b" ").unwrap_or(rest))
}

/// The AUTHORIZATION state.
fn log_in(peer: &mut Peer) -> Result<UserId, Gone> {
    let mut login = None;
    let mut failures = 0;
    while failures < MAX_FAILURES {
        let line = peer.read_line()?;
        let (word, argument) = split(&line);
        match (word.as_str(), &login) {
            ("USER", _) if !argument.is_empty() => {
                login = Some(argument.to_vec());
                peer.send("+OK\r\n")?;
            }
            ("PASS", Some(name)) => match store::log_in(name, argument) {
                Some(user) => return Ok(user),
                None => {
                    failures += 1;
                    login = None;
                    peer.send("-ERR [AUTH] Invalid login or password\r\n")?;
                }
            },
            ("CAPA", _) => peer.send(CAPABILITIES)?,
            ("NOOP", _) => peer.send("+OK\r\n")?,
            ("QUIT", _) => {
                peer.send("+OK Bye\r\n")?;
                return Err(Gone);
            }
            _ => peer.send(INVALID)?,
        }
    }
    Err(Gone)
}

/// The TRANSACTION state.
struct Maildrop {
    uid_validity: u32,
    messages: Vec<Message>,
    /// UIDs.
    deleted: Vec<u32>,
}

impl Maildrop {
    /// Answers commands up to QUIT.
    fn serve(&mut self, peer: &mut Peer) -> Result<(), Gone> {
        loop {
            let line = peer.read_line()?;
            let (word, argument) = split(&line);
            let argument = String::from_utf8_lossy(argument);
            match word.as_str() {
                "QUIT" => return Ok(()),
                "NOOP" => peer.send("+OK\r\n")?,
                "CAPA" => peer.send(CAPABILITIES)?,
                "RSET" => {
                    self.deleted.clear();
                    peer.send("+OK\r\n")?;
                }
                "STAT" => peer.send(self.stat())?,
                "LIST" => peer.send(self.list(&argument, |_, it| it.text.len().to_string()))?,
                "UIDL" => peer.send(self.list(&argument, |validity, message| {
                    format!("{validity}-{}", message.uid)
                }))?,
                "RETR" => self.send_message(peer, &argument, usize::MAX)?,
                "TOP" => match argument
                    .split_once(' ')
                    .map(|(at, n)| (at, n.trim().parse()))
                {
                    Some((at, Ok(lines))) => self.send_message(peer, at, lines)?,
                    _ => peer.send(INVALID)?,
                },
                "DELE" => {
                    let uid = self.find(&argument).map(|message| message.uid);
                    self.deleted.extend(uid);
                    peer.send(if uid.is_some() { "+OK\r\n" } else { NO_SUCH })?;
                }
                _ => peer.send(INVALID)?,
            }
        }
    }

    /// Those not deleted, with their numbers.
    fn present(&self) -> impl Iterator<Item = (usize, &Message)> {
        let numbered = self.messages.iter().enumerate();
        let numbered = numbered.map(|(at, message)| (at + 1, message));
        numbered.filter(|(_, message)| !self.deleted.contains(&message.uid))
    }

    fn find(&self, number: &str) -> Option<&Message> {
        let number: usize = number.trim().parse().ok()?;
        let found = self.present().find(|(at, _)| *at == number);
        found.map(|(_, message)| message)
    }

    fn stat(&self) -> String {
        let bytes: usize = self.present().map(|(_, message)| message.text.len()).sum();
        format!("+OK {} {bytes}\r\n", self.present().count())
    }

    /// LIST and UIDL, of all or of one.
    fn list(&self, argument: &str, show: fn(u32, &Message) -> String) -> String {
        let show = |message| show(self.uid_validity, message);
        if !argument.trim().is_empty() {
            return match self.find(argument) {
                Some(message) => format!("+OK {} {}\r\n", argument.trim(), show(message)),
                None => NO_SUCH.into(),
            };
        }
        let lines = self
            .present()
            .map(|(number, message)| format!("{number} {}\r\n", show(message)));
        format!("+OK\r\n{}.\r\n", lines.collect::<String>())
    }

    /// RETR and TOP: the header and so many lines of the body.
    fn send_message(&self, peer: &mut Peer, number: &str, lines: usize) -> Result<(), Gone> {
        let Some(message) = self.find(number) else {
            return peer.send(NO_SUCH);
        };
        peer.send("+OK\r\n")?;
        peer.send(stuffed(&message.text, lines))
    }
}

/// The header and so many lines of the body, dots doubled (RFC 1939, section 3), with the final dot.
fn stuffed(text: &[u8], lines: usize) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(text.len() + 64);
    let mut left = None;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match &mut left {
            None if line == b"\r\n" => left = Some(lines),
            None => {}
            Some(0) => break,
            Some(left) => *left -= 1,
        }
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    if !stuffed.is_empty() && !stuffed.ends_with(b"\r\n") {
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_begins_with_a_dot_gets_another() {
        let text = b"A: b\r\n\r\n.\r\n..x\r\ny.";
        assert_eq!(
            stuffed(text, usize::MAX),
            b"A: b\r\n\r\n..\r\n...x\r\ny.\r\n.\r\n"
        );
    }

    #[test]
    fn top_gives_the_header_and_so_many_lines() {
        let text = b"A: b\r\nC: d\r\n\r\n1\r\n2\r\n";
        assert_eq!(stuffed(text, 0), b"A: b\r\nC: d\r\n\r\n.\r\n");
        assert_eq!(stuffed(text, 1), b"A: b\r\nC: d\r\n\r\n1\r\n.\r\n");
        assert_eq!(stuffed(text, 9), [text.as_slice(), b".\r\n"].concat());
        assert_eq!(stuffed(b"", 1), b".\r\n");
    }
}
