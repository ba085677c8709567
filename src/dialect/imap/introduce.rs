//! Tells an IMAP backend who is calling, before the login: the ID command as a question of our own, which fails
//! no login.
//!
//! What the command says is `id`'s business. Any answer under its tag but OK means that the backend does not
//! take it. Where none comes within the limit, the connection is given up, since a late answer could reach the
//! client, and the next one is asked less: first without the client's own fields, which may be what the
//! backend does not bear, then nothing.

use std::sync::Arc;

use super::Imap;
use super::backend::{is_bye, is_ok};
use super::id::{self, Fields};
use crate::backend::conn::BackendConn;
use crate::backend::grant::{Grant, Target};
use crate::backend::silent::Answered;
use crate::backend::talk::{BackendStep, Introduction};
use crate::config::SendClientId;
use crate::dialect::caller::Caller;
use crate::net::line::{Line, line, without_end};
use crate::protocol::Protocol;
use crate::service::Service;
use crate::session::Session;

/// What a backend may say up to the end of its answer, in bytes and in lines.
const BYTES: usize = 16 * 1024;
const LINES: usize = 100;

/// The greeting of proxies like this one, which never say what they offer: another Postern counts how many
/// proxies a login has come through, others refuse the command.
const OF_PROXIES: &[u8] = b"* OK IMAP4 ready";

/// What is still to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// With the client's own fields.
    All,
    /// Without them.
    OurOwn,
    Nothing,
}

/// What one backend is told of one client.
#[derive(Debug)]
pub(super) struct Introducing {
    service: Arc<Service>,
    caller: Caller,
    /// What the client says of itself.
    fields: Fields,
    /// What the client was told, if it has asked.
    told: Option<Vec<u8>>,
    /// What the backend says of itself, as a list.
    said: Option<String>,
    asks: Asks,
    /// The backend is a proxy of our kind.
    is_proxy: bool,
    /// It offered ID before TLS. Whoever takes that out on the way hides the client, but nothing else comes of
    /// it; `send_client_id = on` does not ask for it.
    offered_before_tls: bool,
}

/// How one command went.
enum Answer {
    Ok,
    /// The backend does not take it.
    Refused,
    Missing,
}

impl Introducing {
    /// For this client.
    pub(super) fn for_client(imap: &Imap, session: &Session) -> Self {
        let identity = imap.id.clone();
        let (fields, told) = identity.map_or_else(Default::default, |identity| {
            (identity.fields, Some(identity.told))
        });
        Self {
            service: Arc::clone(&session.service),
            caller: Caller::of(session),
            fields,
            told,
            said: None,
            asks: Asks::All,
            is_proxy: false,
            offered_before_tls: false,
        }
    }

    /// The backend has greeted with this line, on a connection of its own.
    pub(super) fn has_greeted(&mut self, greeting: &[u8]) {
        self.is_proxy = without_end(greeting) == OF_PROXIES;
        self.offered_before_tls = false;
    }

    /// What the backend offered before TLS, which is forgotten otherwise.
    pub(super) fn offered_before_tls(&mut self, capabilities: &[String]) {
        self.offered_before_tls = has_id(capabilities);
    }

    /// Asks what is still to be asked, where it is wanted. `capabilities` are what the backend has told on this
    /// connection.
    pub(super) fn send_id(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
        capabilities: &[String],
    ) -> Introduction {
        let is_wanted = match grant.send_client_id {
            SendClientId::Off => false,
            SendClientId::On => true,
            SendClientId::Auto => self.is_offered(backend, grant, capabilities),
        };
        if !is_wanted || self.asks == Asks::Nothing || backend.is_silent() {
            return Introduction::Over;
        }
        if self.asks == Asks::All && !self.fields.is_empty() {
            let command = id::command("p3", &self.caller, &self.fields);
            match self.ask(backend, &command, b"p3") {
                Answer::Ok => {
                    backend.note_question(Answered::Yes);
                    return Introduction::Over;
                }
                Answer::Refused => {}
                Answer::Missing => {
                    // It may be the client's doing, and tells nothing of the backend.
                    self.asks = Asks::OurOwn;
                    return Introduction::Unanswered;
                }
            }
        }
        let command = id::command("p4", &self.caller, &Fields::default());
        match self.ask(backend, &command, b"p4") {
            Answer::Ok | Answer::Refused => {
                backend.note_question(Answered::Yes);
                Introduction::Over
            }
            Answer::Missing => {
                backend.note_question(Answered::No);
                self.asks = Asks::Nothing;
                Introduction::Unanswered
            }
        }
    }

    /// Whether the backend is known to take ID: it has said so on this connection, or in a visit, or before
    /// TLS. It is not asked: that would cost each login a round trip.
    fn is_offered(
        &self,
        backend: &BackendConn<'_>,
        grant: &Grant,
        capabilities: &[String],
    ) -> bool {
        if !capabilities.is_empty() {
            return has_id(capabilities);
        }
        let visited = match &grant.target {
            Target::Backend(known) => {
                let offers = &known.known.offers;
                offers.of(Protocol::Imap, backend.address(), backend.ssl())
            }
            Target::Address { .. } => None,
        };
        let was_visited = visited.is_some_and(|offered| has_id(&offered));
        was_visited || self.offered_before_tls || self.is_proxy
    }

    /// Sends one command and takes its answer off the stream.
    fn ask(&mut self, backend: &mut BackendConn<'_>, command: &[u8], tag: &[u8]) -> Answer {
        backend.set_step(BackendStep::SendingId);
        if backend.send(command).is_err() {
            return Answer::Missing;
        }
        let limit = backend.question_limit();
        let (mut bytes, mut lines) = (0, 0);
        let mut response = Vec::new();
        // The literal that is under way.
        let mut literal = 0_usize;
        while bytes < BYTES && lines < LINES {
            let Ok(line) = backend.read_line_within(limit) else {
                return Answer::Missing;
            };
            bytes += line.len();
            lines += 1;
            if literal == 0 && response.is_empty() {
                if is_bye(&line) {
                    return Answer::Missing;
                }
                if line
                    .strip_prefix(tag)
                    .is_some_and(|rest| rest.starts_with(b" "))
                {
                    return match is_ok(&line, tag) {
                        true => Answer::Ok,
                        false => Answer::Refused,
                    };
                }
            }
            let behind = line.get(literal..).unwrap_or_default();
            literal = match behind.is_empty() {
                true => literal - line.len(),
                false => literal_at_end(behind),
            };
            response.extend_from_slice(&line);
            if literal == 0 && !behind.is_empty() {
                self.take_answer(backend, &response);
                response.clear();
            }
        }
        Answer::Missing
    }

    /// Takes note of a whole untagged response, if it says who the backend is.
    fn take_answer(&mut self, backend: &BackendConn<'_>, response: &[u8]) {
        let Some(fields) = Fields::of_answer(response) else {
            return;
        };
        let list = fields.list();
        let identities = &self.service.identities;
        identities.note(backend.address(), list.as_bytes());
        self.said = Some(list);
    }

    /// What a client that has asked is still to be told, before its login is answered: the backend's own answer,
    /// where it got another one. A client that has asked knows what an untagged ID is.
    pub(super) fn new_answer(&self) -> Option<Line> {
        let (said, told) = (self.said.as_ref()?, self.told.as_ref()?);
        (said.as_bytes() != told).then(|| line(&[b"* ID ", said.as_bytes()]))
    }
}

fn has_id(capabilities: &[String]) -> bool {
    capabilities.iter().any(|offered| offered == "ID")
}

/// Size of the literal that a line announces at its end; 0 if it announces none.
fn literal_at_end(line: &[u8]) -> usize {
    let digits = without_end(line).strip_suffix(b"}").and_then(|line| {
        let start = line.iter().rposition(|&byte| byte == b'{')?;
        std::str::from_utf8(&line[start + 1..]).ok()
    });
    let size = digits.and_then(|digits| digits.parse().ok());
    size.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_announced_at_the_end_of_a_line() {
        assert_eq!(literal_at_end(b"* ID (\"name\" {7}\r\n"), 7);
        for none in [
            &b"* ID NIL\r\n"[..],
            b"{}\r\n",
            b"7}\r\n",
            b"{x}\r\n",
            b"{99999999999999999999999}\r\n",
        ] {
            assert_eq!(literal_at_end(none), 0, "{none:?}");
        }
    }
}
