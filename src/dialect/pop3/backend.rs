//! POP3 towards the backend: greeting, USER and PASS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::introduce::Introducing;
use crate::backend::conn::BackendConn;
use crate::backend::error::{BackendError, BackendReply, RefusalKind};
use crate::backend::grant::Grant;
use crate::backend::talk::{BackendStep, Introduction, Talk};
use crate::net::line::{Bare, Line, line, without_end};
use crate::sasl::Mechanism;
use crate::session::Session;

/// A dialogue without a client.
pub(super) fn begin(_own_name: &str) -> Box<dyn Talk> {
    Box::new(Pop3Talk { introducing: None })
}

/// The dialogue with one backend.
#[derive(Debug)]
pub(super) struct Pop3Talk {
    /// What it is told of the client; nothing in a visit.
    introducing: Option<Introducing>,
}

impl Pop3Talk {
    /// A dialogue for this client.
    pub(super) fn for_client(session: &Session) -> Self {
        Self {
            introducing: Some(Introducing::for_client(session)),
        }
    }
}

impl Talk for Pop3Talk {
    fn greet(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        let greeting = read_ok(backend, RefusalKind::Greeting)?;
        backend.is_welcome();
        if let Some(introducing) = &mut self.introducing {
            introducing.has_greeted(&greeting);
        }
        Ok(())
    }

    /// RFC 2449: the lines behind CAPA. A backend that does not know the command is older, and knows USER.
    fn ask_capabilities(
        &mut self,
        backend: &mut BackendConn<'_>,
    ) -> Result<Vec<String>, BackendError> {
        backend.send(b"CAPA\r\n")?;
        if !is_ok(&backend.read_line()?) {
            return Ok(vec!["USER".into()]);
        }
        let mut lines = Vec::new();
        loop {
            let line = backend.read_line()?;
            match without_end(&line) {
                b"." => return Ok(lines),
                line => lines.push(String::from_utf8_lossy(line).to_ascii_uppercase()),
            }
        }
    }

    /// RFC 2595, section 4.
    fn start_tls(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        backend.set_step(BackendStep::InStarttls);
        let offered = self.ask_capabilities(backend)?;
        if !offered.iter().any(|line| line == "STLS") {
            return Err(BackendError::no_starttls());
        }
        backend.send(b"STLS\r\n")?;
        read_ok(backend, RefusalKind::Other)?;
        backend.start_tls()
    }

    /// XCLIENT, where the backend takes it.
    fn identify(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Introduction, BackendError> {
        match &mut self.introducing {
            Some(introducing) => Ok(introducing.send_xclient(backend, grant)),
            None => Ok(Introduction::Over),
        }
    }

    /// The client gets the backend's last `+OK` line.
    fn log_in(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError> {
        match self.choose_mechanism(backend, grant)? {
            None => self.send_password(backend, grant),
            Some(mechanism) => self.send_sasl(backend, grant, mechanism),
        }
    }

    fn quit(&mut self, backend: BackendConn<'_>) {
        backend.close_with(b"QUIT\r\n");
    }
}

impl Pop3Talk {
    /// How to log in; `None` is USER and PASS. A token goes on as a token where the backend takes it.
    fn choose_mechanism(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Option<&'static Mechanism>, BackendError> {
        let fixed = grant.settled_mechanism();
        if fixed.is_some() || !grant.asks_for_token_mechanisms() {
            return Ok(fixed);
        }
        let lines = self.ask_capabilities(backend)?;
        let offered = |mechanism: &Mechanism| {
            let sasl = lines.iter().filter_map(|line| line.strip_prefix("SASL "));
            sasl.flat_map(str::split_ascii_whitespace)
                .any(|name| name == mechanism.name)
        };
        Ok(grant.token_mechanism(offered))
    }

    /// USER and PASS.
    fn send_password(
        &self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError> {
        // `Grant::is_sayable` has made sure of both before the backend was dialled.
        let broken = || BackendError::Internal("login or password would break the line".into());
        let identity = grant.identity()?;
        let login = Bare::new(&identity.login).ok_or_else(broken)?;
        backend.set_step(BackendStep::SendingUser);
        backend.send(&line(&[b"USER ", login.bytes()]))?;
        read_ok(backend, RefusalKind::Login)?;

        let password = Bare::new(identity.secret.expose()).ok_or_else(broken)?;
        backend.set_step(BackendStep::SendingPassword);
        let password = password.bytes();
        backend.send_credentials(&line(&[b"PASS ", password]), password.len())?;
        read_ok(backend, RefusalKind::Login).map(Line::new)
    }

    /// AUTH (RFC 5034), in two steps: lines are short in POP3.
    fn send_sasl(
        &self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
        mechanism: &'static Mechanism,
    ) -> Result<Line, BackendError> {
        let message = grant.sasl_message(mechanism)?;
        backend.set_step(BackendStep::SendingUser);
        backend.send(&line(&[b"AUTH ", mechanism.name.as_bytes()]))?;
        let answer = backend.read_line()?;
        if !answer.starts_with(b"+ ") && without_end(&answer) != b"+" {
            return Err(refused(backend, answer, RefusalKind::Other));
        }
        backend.set_step(BackendStep::SendingPassword);
        let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
        backend.send_credentials(&line(&[&encoded]), encoded.len())?;
        let mut answer = backend.read_line()?;
        if answer.starts_with(b"+ ") {
            // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
            backend.send(&line(&[mechanism.error_answer()]))?;
            answer = backend.read_line()?;
        }
        take_ok(backend, answer, RefusalKind::Login).map(Line::new)
    }
}

fn read_ok(backend: &mut BackendConn<'_>, kind: RefusalKind) -> Result<Vec<u8>, BackendError> {
    let answer = backend.read_line()?;
    take_ok(backend, answer, kind)
}

/// An answer, if it is `+OK`; a refusal is of this kind, if it has no code that says more.
fn take_ok(
    backend: &BackendConn<'_>,
    answer: Vec<u8>,
    kind: RefusalKind,
) -> Result<Vec<u8>, BackendError> {
    if is_ok(&answer) {
        return Ok(answer);
    }
    Err(refused(backend, answer, kind))
}

/// The failure for an answer other than `+OK`. Only `-ERR` refuses anything (RFC 1939, section 3).
fn refused(backend: &BackendConn<'_>, answer: Vec<u8>, kind: RefusalKind) -> BackendError {
    let is_refusal = has_first_word(&answer, b"-ERR");
    let kind = match kind {
        RefusalKind::Login if is_refusal => refusal_kind(&answer),
        RefusalKind::Login => RefusalKind::Other,
        kind => kind,
    };
    let in_our_words = in_our_words(&code(&answer)).map(|text| line(&[text]));
    let handed_on = match is_refusal {
        true => crate::dialect::handed_on([&answer[..]]),
        false => None,
    };
    backend.refused(BackendReply {
        handed_on,
        in_our_words,
        ..BackendReply::new(answer, kind)
    })
}

/// What the refusal of a login means: some codes are about the server and not about the login (RFC 2449,
/// RFC 3206).
fn refusal_kind(answer: &[u8]) -> RefusalKind {
    match code(answer).as_slice() {
        b"IN-USE" | b"LOGIN-DELAY" | b"SYS" | b"SYS/TEMP" => RefusalKind::LoginForNow,
        _ => RefusalKind::Login,
    }
}

/// What a client is told of a code that says what is to be done about a refused login (RFC 2449, section 8;
/// RFC 3206, section 4).
fn in_our_words(code: &[u8]) -> Option<&'static [u8]> {
    match code {
        b"IN-USE" => Some(b"-ERR [IN-USE] Mailbox is in use"),
        b"SYS/PERM" => Some(b"-ERR [SYS/PERM] Mailbox is not available, contact the administrator"),
        b"LOGIN-DELAY" => Some(b"-ERR [LOGIN-DELAY] Too soon after the last login"),
        _ => None,
    }
}

/// The response code of a refusal, in upper case; empty where there is none.
fn code(answer: &[u8]) -> Vec<u8> {
    let inside = answer.strip_prefix(b"-ERR [").unwrap_or_default();
    let end = inside.iter().position(|&byte| byte == b']');
    inside[..end.unwrap_or(0)].to_ascii_uppercase()
}

pub(super) fn is_ok(answer: &[u8]) -> bool {
    has_first_word(answer, b"+OK")
}

pub(super) fn has_first_word(answer: &[u8], word: &[u8]) -> bool {
    answer.split(u8::is_ascii_whitespace).next() == Some(word)
}
