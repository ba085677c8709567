//! IMAP towards the backend: greeting, LOGIN with literals, and what the client is told of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::capabilities::behind_login;
use super::introduce::Introducing;
use super::{Imap, UNAVAILABLE, failed};
use crate::auth::LoginRefusal;
use crate::backend::conn::BackendConn;
use crate::backend::error::{BackendError, BackendReply, RefusalKind};
use crate::backend::grant::{Grant, Target};
use crate::backend::talk::{BackendStep, Introduction, Talk};
use crate::config::{AuthMechanism, Capabilities};
use crate::dialect::handed_on;
use crate::net::line::{Line, line, without_end};
use crate::net::socket::Deadline;
use crate::protocol::Protocol;
use crate::sasl::{Mechanism, PLAIN};
use crate::session::Session;

/// Longest wait for the tagged answer of a host that has said goodbye, or has refused the login in an
/// untagged line.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A dialogue without a client.
pub(super) fn begin(_own_name: &str) -> Box<dyn Talk> {
    Box::new(ImapTalk::default())
}

/// The dialogue with one backend.
#[derive(Debug, Default)]
pub(super) struct ImapTalk {
    /// The client's own tag, under which it is logged in, so that the backend's last line can go on
    /// unchanged; empty in a visit.
    tag: Vec<u8>,
    /// Whether the client must end up with the backend's own list (`imap_capabilities = auto`).
    tells_capabilities: bool,
    /// Untagged lines, which are kept for the client.
    untagged: Vec<u8>,
    /// The backend's words behind CAPABILITY, upper case; empty while it has told none.
    capabilities: Vec<String>,
    /// What it is told of the client; nothing in a visit.
    introducing: Option<Introducing>,
}

impl ImapTalk {
    /// A dialogue for this client.
    pub(super) fn for_client(imap: &Imap, session: &Session) -> Self {
        Self {
            introducing: Some(Introducing::for_client(imap, session)),
            tag: imap.tag.clone(),
            tells_capabilities: *session.service.conf.capabilities() == Capabilities::Auto,
            ..Self::default()
        }
    }
}

impl Talk for ImapTalk {
    fn greet(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        let greeting = backend.read_line()?;
        match Status::of(&greeting) {
            Status::Ok => {
                backend.is_welcome();
                self.capabilities.clear();
                self.learn(&greeting);
                if let Some(introducing) = &mut self.introducing {
                    introducing.has_greeted(&greeting);
                }
                Ok(())
            }
            // PREAUTH would be a session without login, BYE none at all; both are the backend's affair.
            Status::Other => {
                Err(backend.refused(BackendReply::new(greeting, RefusalKind::RawGreeting)))
            }
            Status::None => {
                Err(backend.refused(BackendReply::new(greeting, RefusalKind::Greeting)))
            }
        }
    }

    fn ask_capabilities(
        &mut self,
        backend: &mut BackendConn<'_>,
    ) -> Result<Vec<String>, BackendError> {
        backend.send(b"p1 CAPABILITY\r\n")?;
        self.read_ok(backend, b"p1")?;
        let told = std::mem::take(&mut self.untagged);
        told.split_inclusive(|&byte| byte == b'\n')
            .for_each(|line| self.learn(line));
        Ok(self.capabilities.clone())
    }

    /// RFC 3501, section 6.2.1.
    fn start_tls(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        backend.set_step(BackendStep::InStarttls);
        self.ask_capabilities(backend)?;
        if !self.offers("STARTTLS") {
            return Err(BackendError::no_starttls());
        }
        backend.send(b"p2 STARTTLS\r\n")?;
        self.read_ok(backend, b"p2")?;
        backend.start_tls()?;
        if let Some(introducing) = &mut self.introducing {
            introducing.offered_before_tls(&self.capabilities);
        }
        self.untagged.clear();
        self.capabilities.clear();
        Ok(())
    }

    /// ID, where the backend takes it.
    fn identify(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Introduction, BackendError> {
        match &mut self.introducing {
            Some(introducing) => Ok(introducing.send_id(backend, grant, &self.capabilities)),
            None => Ok(Introduction::Over),
        }
    }

    fn log_in(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError> {
        let answer = match self.choose_mechanism(backend, grant)? {
            None => self.send_password(backend, grant)?,
            Some(mechanism) => self.send_sasl(backend, grant, mechanism)?,
        };
        let answer = self.tell_capabilities(backend, grant, answer);
        let identity = self.introducing.as_ref();
        match identity.and_then(Introducing::new_answer) {
            Some(identity) => Ok(Line::new([&identity[..], &answer].concat())),
            None => Ok(answer),
        }
    }

    fn quit(&mut self, backend: BackendConn<'_>) {
        backend.close_with(b"p9 LOGOUT\r\n");
    }
}

impl ImapTalk {
    /// How to log in; `None` is the LOGIN command. A token goes on as a token where the backend takes
    /// it, by the client's own mechanism if possible.
    fn choose_mechanism(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Option<&'static Mechanism>, BackendError> {
        let fixed = grant.settled_mechanism();
        let chooses = grant.asks_for_token_mechanisms();
        if (fixed.is_some() || chooses) && self.capabilities.is_empty() {
            self.ask_for_login(backend)?;
        }
        let is_offered = |row: &Mechanism| self.offers(&format!("AUTH={}", row.name));
        if fixed.is_none() && chooses {
            return Ok(grant.token_mechanism(is_offered));
        }
        if self.offers("LOGINDISABLED") && !fixed.is_some_and(is_offered) {
            let configured = matches!(grant.target, Target::Backend(_));
            if configured && grant.mechanism == AuthMechanism::Auto && self.offers("AUTH=PLAIN") {
                return Ok(Some(&PLAIN));
            }
            let text =
                "the backend refuses logins without TLS: set `proxy_ssl` to `on` or `starttls`";
            return Err(BackendError::Internal(text.into()));
        }
        Ok(fixed)
    }

    /// Asks for what the login could make use of: a refusal means that nothing is known.
    fn ask_for_login(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        match self.ask_capabilities(backend) {
            Err(BackendError::Refused(reply)) if reply.kind == RefusalKind::Other => Ok(()),
            asked => asked.map(drop),
        }
    }

    /// The LOGIN command, with literals, which carry any login and password.
    fn send_password(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError> {
        let identity = grant.identity()?;
        let (login, password) = (&*identity.login, identity.secret.expose());
        backend.set_step(BackendStep::SendingLogin);
        let size = format!(" LOGIN {{{}}}", login.len());
        backend.send(&line(&[&self.tag, size.as_bytes()]))?;
        self.read_continuation(backend, true)?;

        backend.set_step(BackendStep::SendingUser);
        let size = format!("{{{}}}", password.len());
        backend.send_hiding(&line(&[login, b" ", size.as_bytes()]), size.len())?;
        self.read_continuation(backend, true)?;

        backend.set_step(BackendStep::SendingPassword);
        backend.send_credentials(&line(&[password]), password.len())?;
        let answer = self.read_answer(backend)?;
        self.take_tagged_ok(backend, answer)
    }

    /// AUTHENTICATE, in one step where the backend takes an initial response (RFC 4959).
    fn send_sasl(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
        mechanism: &'static Mechanism,
    ) -> Result<Line, BackendError> {
        let message = grant.sasl_message(mechanism)?;
        let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
        let name = mechanism.name.as_bytes();
        backend.set_step(BackendStep::SendingLogin);
        if self.offers("SASL-IR") {
            let command = line(&[&self.tag, b" AUTHENTICATE ", name, b" ", &encoded]);
            backend.send_credentials(&command, encoded.len())?;
        } else {
            backend.send(&line(&[&self.tag, b" AUTHENTICATE ", name]))?;
            self.read_continuation(backend, false)?;
            backend.set_step(BackendStep::SendingPassword);
            backend.send_credentials(&line(&[&encoded]), encoded.len())?;
        }
        self.untagged.clear();
        let mut answer = self.read_answer(backend)?;
        if answer.starts_with(b"+") {
            // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
            backend.send(&line(&[mechanism.error_answer()]))?;
            answer = self.read_answer(backend)?;
        }
        self.take_tagged_ok(backend, answer)
    }

    /// Where the backend volunteers no list behind the login, the client gets what the host said before it,
    /// now or to a visit. It is not asked: a late answer would be taken for one to the client.
    fn tell_capabilities(&self, backend: &BackendConn<'_>, grant: &Grant, answer: Line) -> Line {
        let mut lines = answer.split_inclusive(|&byte| byte == b'\n');
        if !self.tells_capabilities || lines.any(|line| told_in(line).is_some()) {
            return answer;
        }
        let visited = match &grant.target {
            Target::Backend(known) => {
                known
                    .known
                    .offers
                    .of(Protocol::Imap, backend.address(), backend.ssl())
            }
            Target::Address { .. } => None,
        };
        let offered = match self.capabilities.is_empty() {
            true => visited.unwrap_or_default(),
            false => self.capabilities.as_slice().into(),
        };
        let words = behind_login(&offered);
        match words.is_empty() {
            true => answer,
            false => {
                let told = line(&[b"* CAPABILITY ", words.join(" ").as_bytes()]);
                Line::new([&told[..], &answer].concat())
            }
        }
    }

    /// Takes note of a line's capabilities.
    fn learn(&mut self, line: &[u8]) {
        if let Some(words) = told_in(line) {
            self.capabilities = words;
        }
    }

    fn offers(&self, capability: &str) -> bool {
        self.capabilities
            .iter()
            .any(|offered| offered == capability)
    }

    /// The answer to a command of our own.
    fn read_ok(&mut self, backend: &mut BackendConn<'_>, tag: &[u8]) -> Result<(), BackendError> {
        let answer = self.read_answer(backend)?;
        match is_ok(&answer, tag) {
            true => Ok(()),
            false => Err(self.refused_under(tag, backend, &answer, RefusalKind::Other)),
        }
    }

    /// `is_of_login` says that a refusal is about the login.
    fn read_continuation(
        &mut self,
        backend: &mut BackendConn<'_>,
        is_of_login: bool,
    ) -> Result<(), BackendError> {
        let answer = self.read_answer(backend)?;
        if answer.starts_with(b"+") {
            return Ok(());
        }
        let kind = match is_of_login {
            true => refusal_kind(&answer, &self.tag),
            false => RefusalKind::Other,
        };
        Err(self.refused(backend, &answer, kind))
    }

    /// The answer to the login and what came before it, for the client.
    fn take_tagged_ok(
        &mut self,
        backend: &BackendConn<'_>,
        answer: Vec<u8>,
    ) -> Result<Line, BackendError> {
        if !is_ok(&answer, &self.tag) {
            let kind = refusal_kind(&answer, &self.tag);
            return Err(self.refused(backend, &answer, kind));
        }
        self.untagged.extend_from_slice(&answer);
        Ok(Line::new(std::mem::take(&mut self.untagged)))
    }

    /// The next line that is not untagged. A goodbye, and a refusal that is untagged, are the last that
    /// some servers say: the tagged line is awaited for a moment only.
    fn read_answer(&mut self, backend: &mut BackendConn<'_>) -> Result<Vec<u8>, BackendError> {
        let mut last_words = None;
        loop {
            let read = match last_words {
                None => backend.read_line(),
                Some(limit) => backend.read_line_within(limit),
            };
            let answer = match read {
                Ok(answer) => answer,
                Err(error) => return Err(self.ended_without_answer(backend, error)),
            };
            if !answer.starts_with(b"* ") {
                return match self.has_said_bye() {
                    true => Err(self.answered_with_bye(backend, &answer)),
                    false => Ok(answer),
                };
            }
            if is_bye(&answer) || is_untagged_refusal(&answer) {
                let limit = || Deadline::after(LAST_WORDS, "timeout");
                last_words.get_or_insert_with(limit);
            }
            self.untagged.extend_from_slice(&answer);
        }
    }

    fn untagged_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.untagged.split_inclusive(|&byte| byte == b'\n')
    }

    fn has_said_bye(&self) -> bool {
        self.untagged_lines().any(is_bye)
    }

    /// No tagged line has come. What was said untagged counts, if it refuses a login that the host has seen.
    fn ended_without_answer(
        &mut self,
        backend: &BackendConn<'_>,
        error: BackendError,
    ) -> BackendError {
        match error {
            BackendError::Timeout | BackendError::NoGreeting | BackendError::Gone(_) => {}
            other => return other,
        }
        if backend.has_credentials() && self.untagged_lines().any(is_untagged_refusal) {
            return self.refused(backend, b"", RefusalKind::Login);
        }
        match self.has_said_bye() {
            true => self.refused(backend, b"", RefusalKind::RawGreeting),
            false => error,
        }
    }

    /// The host has said goodbye and then this. A refusal of the login tells more than the goodbye; BAD is
    /// how some servers end a connection on which too many passwords were wrong.
    fn answered_with_bye(&mut self, backend: &BackendConn<'_>, last: &[u8]) -> BackendError {
        let is_bad = is_status(last, &self.tag, b"BAD");
        let kind = match refusal_kind(last, &self.tag) {
            RefusalKind::Other if is_bad && backend.has_credentials() => {
                match self.untagged_lines().any(is_bye_for_now) {
                    true => RefusalKind::LoginForNow,
                    false => RefusalKind::Login,
                }
            }
            RefusalKind::Other => RefusalKind::RawGreeting,
            kind => kind,
        };
        self.refused(backend, last, kind)
    }

    /// The failure for this answer to the login, with the untagged lines before it.
    fn refused(
        &mut self,
        backend: &BackendConn<'_>,
        last: &[u8],
        kind: RefusalKind,
    ) -> BackendError {
        let tag = self.tag.clone();
        self.refused_under(&tag, backend, last, kind)
    }

    /// The same for an answer to the command of this tag.
    fn refused_under(
        &mut self,
        tag: &[u8],
        backend: &BackendConn<'_>,
        last: &[u8],
        kind: RefusalKind,
    ) -> BackendError {
        let handed_on = self.handed_on(last, tag);
        let in_our_words = self.in_our_words(last, kind);
        let mut answer = std::mem::take(&mut self.untagged);
        answer.extend_from_slice(last);
        backend.refused(BackendReply {
            handed_on: handed_on.filter(|_| kind != RefusalKind::RawGreeting),
            in_our_words,
            ..BackendReply::new(answer, kind)
        })
    }

    /// A refusal under `tag` as the client may be shown it: under its own tag, behind the status lines that
    /// came before it. A goodbye is not among them: it would be ours.
    fn handed_on(&self, last: &[u8], tag: &[u8]) -> Option<Line> {
        let words = words_under(tag, last)?;
        if !is_showable(words, &[b"NO", b"BAD"]) {
            return None;
        }
        let last = [&self.tag, &b" "[..], words].concat();
        handed_on(self.showable_lines().chain([&last[..]]))
    }

    /// What the client is told of its login otherwise: the code, which says what is to be done about it
    /// (RFC 5530), with a text of ours. An ALERT is for the user to read, wherever it stands (RFC 3501,
    /// section 7.1).
    fn in_our_words(&self, last: &[u8], kind: RefusalKind) -> Option<Line> {
        let default = match kind {
            RefusalKind::Login => failed(&LoginRefusal::failed().text),
            RefusalKind::LoginForNow => UNAVAILABLE.to_vec(),
            RefusalKind::Greeting | RefusalKind::RawGreeting => return None,
            RefusalKind::Envelope | RefusalKind::LoginHere(_) | RefusalKind::Other => return None,
        };
        let words = words_under(&self.tag, last).unwrap_or_default();
        let untagged_refusal = self.untagged_lines().find(|line| is_untagged_refusal(line));
        let code_of_login = match (code(words), untagged_refusal) {
            (none, Some(line)) if none.is_empty() => code(&line[2..]),
            (code, _) => code,
        };
        let told = match code_of_login.as_slice() {
            b"ALERT" if is_showable(words, &[b"NO"]) => words.to_vec(),
            b"EXPIRED" => b"NO [EXPIRED] Password expired".to_vec(),
            b"LIMIT" => b"NO [LIMIT] Too many connections or another limit".to_vec(),
            b"INUSE" => b"NO [INUSE] Mailbox is in use".to_vec(),
            b"CONTACTADMIN" => b"NO [CONTACTADMIN] Contact the administrator".to_vec(),
            _ => default,
        };
        let told = [&self.tag, &b" "[..], &told].concat();
        let is_alert = |line: &&[u8]| code(&line[2..]) == b"ALERT";
        let alerts = self.showable_lines().filter(is_alert);
        handed_on(alerts.chain([&told[..]]))
    }

    /// The untagged lines that a client may be shown.
    fn showable_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.untagged_lines().filter(|line| {
            let words = words_under(b"*", line);
            words.is_some_and(|words| is_showable(words, &[b"OK", b"NO", b"BAD"]))
        })
    }
}

/// Whether a client may be shown these words: they have one of these statuses and a text (RFC 3501, section
/// 7.1), do not change what it knows of us, and do not announce a literal.
fn is_showable(words: &[u8], statuses: &[&[u8]]) -> bool {
    let words = without_end(words);
    let is_status = statuses.iter().any(|status| has_first_word(words, status));
    let mut parts = words.splitn(2, |&byte| byte == b' ');
    let has_text = parts.nth(1).is_some_and(|text| !text.is_empty());
    is_status && has_text && code(words) != b"CAPABILITY" && !words.ends_with(b"}")
}

/// A line's capabilities in upper case, `* CAPABILITY …` or `… [CAPABILITY …] …`.
fn told_in(line: &[u8]) -> Option<Vec<String>> {
    let line = String::from_utf8_lossy(line).to_ascii_uppercase();
    let words = match line.split_once("[CAPABILITY ") {
        Some((_, words)) => words.split(']').next(),
        None => line.strip_prefix("* CAPABILITY "),
    };
    let words = words?.split_ascii_whitespace();
    Some(words.map(str::to_owned).collect())
}

/// What a tagged NO to a login means.
fn refusal_kind(answer: &[u8], tag: &[u8]) -> RefusalKind {
    if !is_status(answer, tag, b"NO") {
        return RefusalKind::Other;
    }
    let code = code(&answer[tag.len() + 1..]);
    if is_for_now(&code) {
        return RefusalKind::LoginForNow;
    }
    // It wants TLS, of us.
    match code.as_slice() {
        b"PRIVACYREQUIRED" => RefusalKind::Other,
        _ => RefusalKind::Login,
    }
}

/// Whether a code is about the server and not about the login (RFC 5530).
fn is_for_now(code: &[u8]) -> bool {
    matches!(
        code,
        b"UNAVAILABLE" | b"INUSE" | b"SERVERBUG" | b"LIMIT" | b"CONTACTADMIN"
    )
}

/// Whether an untagged line says that the login is refused.
fn is_untagged_refusal(line: &[u8]) -> bool {
    let is_last = is_status(line, b"*", b"NO") || is_bye(line);
    let is_of_login = |code: &[u8]| {
        matches!(
            code,
            b"AUTHENTICATIONFAILED" | b"AUTHORIZATIONFAILED" | b"EXPIRED"
        )
    };
    is_last && is_of_login(&code(&line[2..]))
}

pub(super) fn is_bye(line: &[u8]) -> bool {
    is_status(line, b"*", b"BYE")
}

fn is_bye_for_now(line: &[u8]) -> bool {
    is_bye(line) && is_for_now(&code(&line[2..]))
}

/// The first word of the response code behind a status word, in upper case; empty where there is none.
fn code(words: &[u8]) -> Vec<u8> {
    let mut parts = words.splitn(2, |&byte| byte == b' ');
    let behind = parts.nth(1).unwrap_or_default().trim_ascii_start();
    let Some(inside) = behind.strip_prefix(b"[") else {
        return Vec::new();
    };
    let end = inside.iter().position(|byte| matches!(byte, b' ' | b']'));
    inside[..end.unwrap_or(0)].to_ascii_uppercase()
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

pub(super) fn is_ok(answer: &[u8], tag: &[u8]) -> bool {
    is_status(answer, tag, b"OK")
}

/// Whether a line is this status under this tag.
fn is_status(answer: &[u8], tag: &[u8], status: &[u8]) -> bool {
    words_under(tag, answer).is_some_and(|words| has_first_word(words, status))
}

/// What a line says behind this tag.
fn words_under<'a>(tag: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    line.strip_prefix(tag)?.strip_prefix(b" ")
}

/// Whether the first word is this one, in any case; `OKAY` is not `OK`.
fn has_first_word(line: &[u8], word: &[u8]) -> bool {
    line.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'))
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case(word))
}
