//! Tells a POP3 backend who is calling, before the login: Dovecot's XCLIENT as a question of our own, which fails
//! no login.
//!
//! POP3 has no tags: where no answer comes within the limit, the connection is given up, since a late one would be
//! taken for that to the next command.

use super::backend::{has_first_word, is_ok};
use crate::backend::conn::BackendConn;
use crate::backend::grant::Grant;
use crate::backend::silent::Answered;
use crate::backend::talk::{BackendStep, Introduction};
use crate::config::SendClientId;
use crate::dialect::caller::Caller;
use crate::net::line::{Line, line, without_end};
use crate::session::Session;

/// How Dovecot says in its greeting that it takes XCLIENT from us.
const OFFER: &[u8] = b"[XCLIENT]";

/// The greeting of proxies like this one, perhaps with a salt behind it: another Postern counts how many proxies
/// a login has come through, others refuse the command.
const OF_PROXIES: &[u8] = b"+OK POP3 ready";

/// What one backend is told of one client.
#[derive(Debug)]
pub(super) struct Introducing {
    caller: Caller,
    is_offered: bool,
    /// It has left the command without an answer.
    is_given_up: bool,
}

impl Introducing {
    /// For this client.
    pub(super) fn for_client(session: &Session) -> Self {
        Self {
            caller: Caller::of(session),
            is_offered: false,
            is_given_up: false,
        }
    }

    /// The backend has greeted with this line, on a connection of its own. STLS is not followed by another
    /// greeting; a forged offer has the command refused, and nothing else.
    pub(super) fn has_greeted(&mut self, greeting: &[u8]) {
        let mut words = greeting.split(u8::is_ascii_whitespace);
        let is_proxy = without_end(greeting)
            .strip_prefix(OF_PROXIES)
            .is_some_and(|salt| salt.is_empty() || salt.starts_with(b" <"));
        self.is_offered = is_proxy || words.any(|word| word == OFFER);
    }

    /// Sends the command, where it is wanted, and takes its answer off the stream.
    pub(super) fn send_xclient(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Introduction {
        let is_wanted = match grant.send_client_id {
            SendClientId::Off => false,
            SendClientId::On => true,
            SendClientId::Auto => self.is_offered,
        };
        if !is_wanted || self.is_given_up || backend.is_silent() {
            return Introduction::Over;
        }
        backend.set_step(BackendStep::SendingXclient);
        let sent = backend.send(&command(&self.caller));
        let limit = backend.question_limit();
        let answer = sent.and_then(|()| backend.read_line_within(limit));
        let is_answer = |line: &Vec<u8>| is_ok(line) || has_first_word(line, b"-ERR");
        match answer.is_ok_and(|line| is_answer(&line)) {
            true => {
                backend.note_question(Answered::Yes);
                Introduction::Over
            }
            false => {
                backend.note_question(Answered::No);
                self.is_given_up = true;
                Introduction::Unanswered
            }
        }
    }
}

/// The command. A server name has no spaces, and neither has anything else in it.
fn command(caller: &Caller) -> Line {
    let mut text = String::from("XCLIENT");
    if let Some(address) = caller.address {
        let ip = address.ip().to_canonical();
        text.push_str(&format!(" ADDR={ip} PORT={}", address.port()));
    }
    text.push_str(&format!(" SESSION={} TTL={}", caller.session, caller.ttl));
    line(&[text.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_that_of_dovecot() {
        let caller = |address| Caller {
            address,
            local: None,
            session: "mail.example.org-12-34".to_owned(),
            ttl: 4,
            has_tls: false,
        };
        let address = "[2001:db8::1]:4711".parse().ok();
        assert_eq!(
            &*command(&caller(address)),
            b"XCLIENT ADDR=2001:db8::1 PORT=4711 SESSION=mail.example.org-12-34 TTL=4\r\n"
        );
        assert_eq!(
            &*command(&caller(None)),
            b"XCLIENT SESSION=mail.example.org-12-34 TTL=4\r\n"
        );
    }
}
