//! IMAP towards the backend: greeting, LOGIN with literals, and what the client is told of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Imap;
use crate::auth::Grant;
use crate::backend::dial::start_tls;
use crate::config::ProxySsl;
use crate::dialect::{no_starttls, read_backend_line, refused, send_to_backend};
use crate::net::conn::Conn;
use crate::net::line::{Line, line};
use crate::session::error::{Cause, Refusal};
use crate::session::{Session, Step};

/// Logs in under the client's own tag, so that the backend's last line can go on unchanged.
pub(super) fn log_in(
    imap: &Imap,
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let mut answers = Answers::default();
    answers.read_greeting(session, backend)?;
    if grant.ssl == ProxySsl::StartTls {
        answers.start_tls(session, backend, grant)?;
    }
    if grant.authzid.is_some() {
        return authenticate_plain(imap, answers, session, backend, grant);
    }

    let login = grant.login.as_slice();
    let password = grant.password(session)?;
    session.step = Step::SendingLogin;
    let size = format!(" LOGIN {{{}}}", login.len());
    send_to_backend(session, backend, &line(&[&imap.tag, size.as_bytes()]))?;
    answers.read_continuation(session, backend)?;

    session.step = Step::SendingUser;
    let size = format!(" {{{}}}", password.len());
    send_to_backend(session, backend, &line(&[login, size.as_bytes()]))?;
    answers.read_continuation(session, backend)?;

    session.step = Step::SendingPassword;
    send_to_backend(session, backend, &line(&[password]))?;
    answers.read_tagged_ok(session, backend, &imap.tag)
}

/// An authorization identity goes with SASL PLAIN alone (RFC 4616).
fn authenticate_plain(
    imap: &Imap,
    mut answers: Answers,
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let message = grant.plain_message(session)?;
    session.step = Step::SendingLogin;
    send_to_backend(
        session,
        backend,
        &line(&[&imap.tag, b" AUTHENTICATE PLAIN"]),
    )?;
    answers.read_continuation(session, backend)?;
    session.step = Step::SendingPassword;
    let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
    send_to_backend(session, backend, &line(&[&encoded]))?;
    answers.read_tagged_ok(session, backend, &imap.tag)
}

/// What the backend has said: untagged lines are kept for the client.
#[derive(Default)]
struct Answers {
    untagged: Vec<u8>,
    total: usize,
}

impl Answers {
    fn read_greeting(&mut self, session: &mut Session, backend: &mut Conn) -> Result<(), Cause> {
        let greeting = read_backend_line(session, backend, &mut self.total)?;
        match Status::of(&greeting) {
            Status::Ok => Ok(()),
            // PREAUTH would be a session without login, BYE none at all; both are the backend's affair.
            Status::Other => Err(Cause::BackendRefused(Refusal {
                answer: greeting,
                hint: None,
                pass_on: session.service.conf.proxy_pass_error_message,
                unavailable: true,
            })),
            Status::None => Err(refused(session, greeting, None)),
        }
    }

    /// RFC 3501, section 6.2.1. What the backend said before is forgotten.
    fn start_tls(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
        grant: &Grant,
    ) -> Result<(), Cause> {
        session.step = Step::InStarttls;
        send_to_backend(session, backend, b"p1 CAPABILITY\r\n")?;
        self.expect_ok(session, backend, b"p1")?;
        let offered = self.untagged.split(|&byte| byte == b'\n').any(|line| {
            let mut words = line.split(u8::is_ascii_whitespace).skip(1);
            let is_capability = words
                .next()
                .is_some_and(|word| word.eq_ignore_ascii_case(b"CAPABILITY"));
            is_capability && words.any(|word| word.eq_ignore_ascii_case(b"STARTTLS"))
        });
        if !offered {
            return Err(no_starttls());
        }
        send_to_backend(session, backend, b"p2 STARTTLS\r\n")?;
        self.expect_ok(session, backend, b"p2")?;
        start_tls(session, backend, grant)?;
        self.untagged.clear();
        Ok(())
    }

    fn expect_ok(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
        tag: &[u8],
    ) -> Result<(), Cause> {
        let answer = self.read_answer(session, backend)?;
        match is_tagged_ok(&answer, tag) {
            true => Ok(()),
            false => Err(self.refused(session, &answer)),
        }
    }

    fn read_continuation(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
    ) -> Result<(), Cause> {
        let answer = self.read_answer(session, backend)?;
        match answer.first() {
            Some(b'+') => Ok(()),
            _ => Err(self.refused(session, &answer)),
        }
    }

    fn read_tagged_ok(
        mut self,
        session: &mut Session,
        backend: &mut Conn,
        tag: &[u8],
    ) -> Result<Line, Cause> {
        let answer = self.read_answer(session, backend)?;
        if !is_tagged_ok(&answer, tag) {
            return Err(self.refused(session, &answer));
        }
        self.untagged.extend_from_slice(&answer);
        Ok(Line::new(self.untagged))
    }

    /// The next line that is not untagged.
    fn read_answer(&mut self, session: &mut Session, backend: &mut Conn) -> Result<Vec<u8>, Cause> {
        loop {
            let answer = read_backend_line(session, backend, &mut self.total)?;
            if !answer.starts_with(b"* ") {
                return Ok(answer);
            }
            self.untagged.extend_from_slice(&answer);
            if has_first_word(&answer[2..], b"BYE") {
                return Err(self.refused(session, b""));
            }
        }
    }

    fn refused(&mut self, session: &Session, last: &[u8]) -> Cause {
        let mut answer = std::mem::take(&mut self.untagged);
        answer.extend_from_slice(last);
        refused(session, answer, None)
    }
}

/// What kind of greeting a line is.
enum Status {
    Ok,
    Other,
    None,
}

impl Status {
    fn of(greeting: &[u8]) -> Self {
        match greeting.strip_prefix(b"* ") {
            Some(rest) if has_first_word(rest, b"OK") => Self::Ok,
            Some(_) => Self::Other,
            None => Self::None,
        }
    }
}

fn is_tagged_ok(answer: &[u8], tag: &[u8]) -> bool {
    let words = answer
        .strip_prefix(tag)
        .and_then(|rest| rest.strip_prefix(b" "));
    words.is_some_and(|words| has_first_word(words, b"OK"))
}

/// Whether the first word is this one, in any case; `OKAY` is not `OK`.
fn has_first_word(line: &[u8], word: &[u8]) -> bool {
    line.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'))
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case(word))
}
