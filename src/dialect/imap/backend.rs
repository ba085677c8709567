//! IMAP towards the backend: greeting, LOGIN with literals, and what the client is told of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Imap;
use crate::backend::grant::{Grant, Target};
use crate::config::{AuthMechanism, Capabilities, ProxySsl};
use crate::dialect::{
    no_starttls, read_backend_line, read_backend_line_by, refused, send_to_backend,
};
use crate::net::conn::Conn;
use crate::net::line::{Line, line};
use crate::net::socket::Deadline;
use crate::sasl::{Mechanism, oauth};
use crate::session::error::{Cause, RefusalKind};
use crate::session::{Session, Step};

/// Longest wait for the answer to a question of our own, for which no login may fail.
const OWN_QUESTION: Duration = Duration::from_secs(2);

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
    let answer = match answers.mechanism(session, backend, grant)? {
        None => log_in_plainly(imap, answers, session, backend, grant)?,
        Some(mechanism) => authenticate(imap, answers, session, backend, grant, mechanism)?,
    };
    tell_capabilities(session, backend, answer)
}

/// The LOGIN command, with literals, which carry any login and password.
fn log_in_plainly(
    imap: &Imap,
    mut answers: Answers,
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let login = grant.login.as_slice();
    let password = grant.password()?;
    session.set_step(Step::SendingLogin);
    let size = format!(" LOGIN {{{}}}", login.len());
    send_to_backend(session, backend, &line(&[&imap.tag, size.as_bytes()]))?;
    answers.read_continuation(session, backend, Some(&imap.tag))?;

    session.set_step(Step::SendingUser);
    let size = format!(" {{{}}}", password.len());
    send_to_backend(session, backend, &line(&[login, size.as_bytes()]))?;
    answers.read_continuation(session, backend, Some(&imap.tag))?;

    session.set_step(Step::SendingPassword);
    send_to_backend(session, backend, &line(&[password]))?;
    session.credentials_are_out();
    answers.read_tagged_ok(session, backend, &imap.tag)
}

/// AUTHENTICATE, in one step where the backend takes an initial response (RFC 4959).
fn authenticate(
    imap: &Imap,
    mut answers: Answers,
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    mechanism: Mechanism,
) -> Result<Line, Cause> {
    let message = grant.sasl_message(mechanism)?;
    let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
    let name = mechanism.name().as_bytes();
    session.set_step(Step::SendingLogin);
    if answers.offers(b"SASL-IR") {
        let command = line(&[&imap.tag, b" AUTHENTICATE ", name, b" ", &encoded]);
        send_to_backend(session, backend, &command)?;
    } else {
        send_to_backend(
            session,
            backend,
            &line(&[&imap.tag, b" AUTHENTICATE ", name]),
        )?;
        answers.read_continuation(session, backend, None)?;
        session.set_step(Step::SendingPassword);
        send_to_backend(session, backend, &line(&[&encoded]))?;
    }
    session.credentials_are_out();
    answers.untagged.clear();
    let answer = answers.read_answer(session, backend)?;
    if answer.starts_with(b"+") {
        // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
        send_to_backend(session, backend, &line(&[oauth::dummy_answer(mechanism)]))?;
        return answers.read_tagged_ok(session, backend, &imap.tag);
    }
    answers.take_tagged_ok(session, answer, &imap.tag)
}

/// With `imap_capabilities = auto` the client must end up with the backend's own list: where the
/// backend volunteers none it is asked for; a wrong answer, or none in time, means that nothing is known.
fn tell_capabilities(
    session: &mut Session,
    backend: &mut Conn,
    answer: Line,
) -> Result<Line, Cause> {
    let is_auto = session.service.conf.imap_capabilities == Capabilities::Auto;
    let told = answer.to_ascii_uppercase();
    if !is_auto || told.windows(11).any(|words| words == b"CAPABILITY ") {
        return Ok(answer);
    }
    // Anything already behind the answer is the client's, and in its way.
    if !backend.buffered().is_empty() {
        return Ok(answer);
    }
    session.set_step(Step::ReadingResponse);
    send_to_backend(session, backend, b"p3 CAPABILITY\r\n")?;
    let (own, login) = (
        Deadline::after(OWN_QUESTION, "timeout"),
        session.login_deadline(),
    );
    let deadline = if own.at < login.at { own } else { login };
    let mut asked = Answers::default();
    loop {
        match read_backend_line_by(deadline, backend, &mut asked.total) {
            Ok(line) if line.starts_with(b"p3 ") => break,
            Ok(line) => asked.untagged.extend_from_slice(&line),
            Err(Cause::BackendTimeout) => break,
            Err(cause) => return Err(cause),
        }
    }
    Ok(Line::new([&asked.untagged[..], &answer].concat()))
}

/// What the backend has said: untagged lines are kept for the client.
#[derive(Default)]
struct Answers {
    untagged: Vec<u8>,
    /// Its words behind CAPABILITY, upper case; empty while it has told none.
    capabilities: Vec<Vec<u8>>,
    total: usize,
}

impl Answers {
    fn read_greeting(&mut self, session: &mut Session, backend: &mut Conn) -> Result<(), Cause> {
        let greeting = read_backend_line(session, backend, &mut self.total)?;
        session.host_has_greeted();
        match Status::of(&greeting) {
            Status::Ok => {
                self.learn(&greeting);
                Ok(())
            }
            // PREAUTH would be a session without login, BYE none at all; both are the backend's affair.
            Status::Other => Err(refused(session, greeting, RefusalKind::RawGreeting, None)),
            Status::None => Err(refused(session, greeting, RefusalKind::Greeting, None)),
        }
    }

    /// How to log in; `None` is the LOGIN command. A token goes on as a token where the backend takes
    /// it, by the client's own mechanism if possible.
    fn mechanism(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
        grant: &Grant,
    ) -> Result<Option<Mechanism>, Cause> {
        let fixed = match grant.mechanism {
            AuthMechanism::Plain => Some(Mechanism::Plain),
            AuthMechanism::Xoauth2 => Some(Mechanism::Xoauth2),
            AuthMechanism::Oauthbearer => Some(Mechanism::OauthBearer),
            // An authorization identity goes with SASL PLAIN alone (RFC 4616).
            AuthMechanism::Auto | AuthMechanism::Login | AuthMechanism::Off => {
                grant.authzid.is_some().then_some(Mechanism::Plain)
            }
        };
        let chooses = grant.asks_for_token_mechanisms();
        if (fixed.is_some() || chooses) && self.capabilities.is_empty() {
            self.ask_capabilities(session, backend)?;
        }
        if fixed.is_none() && chooses {
            let offered =
                |mechanism: Mechanism| self.offers(format!("AUTH={}", mechanism.name()).as_bytes());
            return Ok(grant.token_mechanism(offered));
        }
        if fixed.is_none() && self.offers(b"LOGINDISABLED") {
            let configured = matches!(grant.target, Target::Backend(_));
            if configured && grant.mechanism == AuthMechanism::Auto && self.offers(b"AUTH=PLAIN") {
                return Ok(Some(Mechanism::Plain));
            }
            let text =
                "the backend refuses logins without TLS: set `proxy_ssl` to `on` or `starttls`";
            return Err(Cause::Internal(text.into()));
        }
        Ok(fixed)
    }

    fn ask_capabilities(&mut self, session: &mut Session, backend: &mut Conn) -> Result<(), Cause> {
        send_to_backend(session, backend, b"p1 CAPABILITY\r\n")?;
        self.expect_ok(session, backend, b"p1")?;
        let told = std::mem::take(&mut self.untagged);
        told.split_inclusive(|&byte| byte == b'\n')
            .for_each(|line| self.learn(line));
        Ok(())
    }

    /// Takes note of a line's capabilities, `* CAPABILITY …` or `… [CAPABILITY …] …`.
    fn learn(&mut self, line: &[u8]) {
        let line = line.to_ascii_uppercase();
        let mut words =
            line.split(|byte| byte.is_ascii_whitespace() || matches!(byte, b'[' | b']'));
        if words.by_ref().any(|word| word == b"CAPABILITY") {
            self.capabilities = words
                .filter(|word| !word.is_empty())
                .map(<[u8]>::to_vec)
                .collect();
        }
    }

    fn offers(&self, capability: &[u8]) -> bool {
        self.capabilities
            .iter()
            .any(|offered| offered == capability)
    }

    /// RFC 3501, section 6.2.1. What the backend said before is forgotten.
    fn start_tls(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
        grant: &Grant,
    ) -> Result<(), Cause> {
        session.set_step(Step::InStarttls);
        self.ask_capabilities(session, backend)?;
        if !self.offers(b"STARTTLS") {
            return Err(no_starttls());
        }
        send_to_backend(session, backend, b"p2 STARTTLS\r\n")?;
        self.expect_ok(session, backend, b"p2")?;
        session.start_backend_tls(backend, grant)?;
        self.untagged.clear();
        self.capabilities.clear();
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

    /// `login_tag` is the tag of a command whose refusal is about the login.
    fn read_continuation(
        &mut self,
        session: &mut Session,
        backend: &mut Conn,
        login_tag: Option<&[u8]>,
    ) -> Result<(), Cause> {
        let answer = self.read_answer(session, backend)?;
        if answer.starts_with(b"+") {
            return Ok(());
        }
        let kind = login_tag.map_or(RefusalKind::Other, |tag| refusal_kind(&answer, tag));
        Err(self.refused_as(session, &answer, kind))
    }

    fn read_tagged_ok(
        mut self,
        session: &mut Session,
        backend: &mut Conn,
        tag: &[u8],
    ) -> Result<Line, Cause> {
        let answer = self.read_answer(session, backend)?;
        self.take_tagged_ok(session, answer, tag)
    }

    fn take_tagged_ok(
        mut self,
        session: &Session,
        answer: Vec<u8>,
        tag: &[u8],
    ) -> Result<Line, Cause> {
        if !is_tagged_ok(&answer, tag) {
            let kind = refusal_kind(&answer, tag);
            return Err(self.refused_as(session, &answer, kind));
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
                return Err(self.said_bye(session, backend));
            }
        }
    }

    /// The host goes down, or so it says: another one may serve. A refusal that came along tells more.
    fn said_bye(&mut self, session: &mut Session, backend: &mut Conn) -> Cause {
        let mut last = Vec::new();
        if !backend.buffered().is_empty() {
            match read_backend_line(session, backend, &mut self.total) {
                Ok(line) => last = line,
                Err(cause) => return cause,
            }
        }
        let mut words = last.splitn(2, |&byte| byte == b' ');
        let (tag, rest) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        match [&b"NO"[..], b"BAD"]
            .iter()
            .any(|word| has_first_word(rest, word))
        {
            true => self.refused_as(session, &last, refusal_kind(&last, tag)),
            false => self.refused_as(session, b"", RefusalKind::RawGreeting),
        }
    }

    fn refused(&mut self, session: &Session, last: &[u8]) -> Cause {
        self.refused_as(session, last, RefusalKind::Other)
    }

    fn refused_as(&mut self, session: &Session, last: &[u8], kind: RefusalKind) -> Cause {
        let mut answer = std::mem::take(&mut self.untagged);
        answer.extend_from_slice(last);
        refused(session, answer, kind, None)
    }
}

/// What a tagged NO to a login means: some codes are about the server and not about the login
/// (RFC 5530).
fn refusal_kind(answer: &[u8], tag: &[u8]) -> RefusalKind {
    const FOR_NOW: [&[u8]; 5] = [
        b"[UNAVAILABLE]",
        b"[INUSE]",
        b"[SERVERBUG]",
        b"[LIMIT]",
        b"[CONTACTADMIN]",
    ];
    let words = answer
        .strip_prefix(tag)
        .and_then(|rest| rest.strip_prefix(b" "));
    let Some(words) = words.filter(|words| has_first_word(words, b"NO")) else {
        return RefusalKind::Other;
    };
    let code = words[2..].trim_ascii_start().to_ascii_uppercase();
    if FOR_NOW.iter().any(|for_now| code.starts_with(for_now)) {
        return RefusalKind::LoginForNow;
    }
    // It wants TLS, of us.
    match code.starts_with(b"[PRIVACYREQUIRED]") {
        true => RefusalKind::Other,
        false => RefusalKind::Login,
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
