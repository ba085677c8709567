//! SMTP towards the backend: greeting, EHLO, XCLIENT, AUTH, or MAIL and RCPT of a client without
//! login.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::counting::Counting;
use super::{Smtp, xclient};
use crate::backend::conn::BackendConn;
use crate::backend::error::{BackendError, BackendReply, RefusalKind};
use crate::backend::grant::{Grant, Target};
use crate::backend::talk::{BackendStep, Introduction, Talk};
use crate::config::{AuthMechanism, ProxySsl, Xclient};
use crate::dialect::caller::Caller;
use crate::net::line::{Line, line};
use crate::net::resolve::HostName;
use crate::sasl::{Mechanism, ToBackend};
use crate::session::Session;

/// Longest command line that every server takes (RFC 5321, section 4.5.3.1.4): a longer initial
/// response goes in a second step (RFC 4954, section 4).
const COMMAND_LINE: usize = 512;

/// What the administrator can do where a host takes no login.
const NO_LOGIN: &str = "submission is usually port 587 with `proxy_ssl = starttls`";

/// The same where it takes none in plain text.
const WANTS_TLS: &str = "it wants TLS first; set `proxy_ssl = starttls`";

/// A dialogue without a client.
pub(super) fn begin(own_name: &str) -> Box<dyn Talk> {
    Box::new(SmtpTalk {
        own_name: own_name.to_owned(),
        client: None,
        counting: Counting::default(),
        capabilities: Vec::new(),
    })
}

/// The dialogue with one backend.
#[derive(Debug)]
pub(super) struct SmtpTalk {
    /// `server_name`
    own_name: String,
    /// For whom it is; nobody in a visit.
    client: Option<Client>,
    /// Tells another proxy how many its login has come through.
    counting: Counting,
    /// The lines of the last answer to EHLO, upper case.
    capabilities: Vec<String>,
}

/// What a backend may be told of a client.
#[derive(Debug)]
pub(super) struct Client {
    /// The name behind its last HELO or EHLO.
    pub helo: Option<Vec<u8>>,
    /// Whether it ever said EHLO.
    pub esmtp: bool,
    /// Its MAIL and RCPT lines, where no login is asked for.
    pub envelope: Option<(Vec<u8>, Vec<u8>)>,
    /// Who is calling.
    pub caller: Caller,
    /// Its name.
    pub host_name: HostName,
}

impl SmtpTalk {
    /// A dialogue for this client.
    pub(super) fn for_client(smtp: &Smtp, session: &mut Session) -> Self {
        Self {
            own_name: session.service.conf.server_name.clone(),
            client: Some(Client {
                helo: smtp.helo.clone(),
                esmtp: smtp.esmtp,
                envelope: smtp.mail.clone().zip(smtp.rcpt.clone()),
                caller: Caller::of(session),
                host_name: session.host_name(),
            }),
            counting: Counting::default(),
            capabilities: Vec::new(),
        }
    }
}

impl Client {
    /// Its HELO or EHLO, if it has said any.
    fn hello(&self) -> Option<Line> {
        let word: &[u8] = if self.esmtp { b"EHLO " } else { b"HELO " };
        self.helo.as_ref().map(|name| line(&[word, name]))
    }
}

/// A whole reply.
struct Reply {
    code: Vec<u8>,
    raw: Vec<u8>,
    texts: Vec<String>,
}

impl Talk for SmtpTalk {
    fn greet(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        let greeting = read_reply(backend, &[b"220"], RefusalKind::Greeting, None)?;
        backend.is_welcome();
        self.counting.has_greeted(&greeting.raw);
        Ok(())
    }

    /// EHLO with our own name.
    fn ask_capabilities(
        &mut self,
        backend: &mut BackendConn<'_>,
    ) -> Result<Vec<String>, BackendError> {
        self.say_own_hello(backend, b"EHLO ")?;
        Ok(self.capabilities.clone())
    }

    /// RFC 3207.
    fn start_tls(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
        self.ask_capabilities(backend)?;
        if self.capability("STARTTLS").is_none() {
            return Err(BackendError::no_starttls());
        }
        send(backend, BackendStep::InStarttls, b"STARTTLS\r\n")?;
        read_reply(backend, &[b"220"], RefusalKind::Other, None)?;
        backend.start_tls()?;
        self.capabilities.clear();
        Ok(())
    }

    /// HELO only where nothing is wanted of the backend that needs EHLO. XCLIENT, and behind it the client's
    /// own greeting: it resets what the backend knew.
    fn identify(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Introduction, BackendError> {
        let is_plain = grant.xclient == Xclient::Off
            && grant.ssl != ProxySsl::StartTls
            && matches!(grant.target, Target::Address { .. });
        let is_esmtp = self.client.as_ref().is_some_and(|client| client.esmtp);
        match is_plain && !is_esmtp {
            true => self.say_own_hello(backend, b"HELO ")?,
            false => self.say_own_hello(backend, b"EHLO ")?,
        }
        self.send_xclient(backend, grant)?;
        match &self.client {
            Some(client) if grant.xclient == Xclient::Auto => {
                match self.capability("XCLIENT") {
                    None => Ok(self.counting.send_ttl(backend, &client.caller)),
                    // It is told all.
                    Some(_) => Ok(Introduction::Over),
                }
            }
            Some(_) | None => Ok(Introduction::Over),
        }
    }

    fn log_in(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError> {
        if grant.smtp_auth && !grant.without_login && grant.mechanism != AuthMechanism::Off {
            let offered = self.capability("AUTH").unwrap_or_default();
            let mechanism = grant.sasl_mechanism(&offered);
            let sent = match mechanism.to_backend {
                ToBackend::TwoAnswers => self.send_password(backend, grant, mechanism),
                ToBackend::Message(_) | ToBackend::Never => {
                    self.send_sasl(backend, grant, mechanism)
                }
            };
            let is_offered = !offered.is_empty();
            sent.map_err(|error| explain_refusal(error, is_offered, backend.address().port()))?;
        }
        let client = self.client.as_ref();
        match client.and_then(|client| client.envelope.as_ref()) {
            Some((mail, rcpt)) if grant.without_login => replay(backend, mail, rcpt),
            _ => Ok(line(&[b"235 2.0.0 OK"])),
        }
    }

    fn quit(&mut self, backend: BackendConn<'_>) {
        backend.close_with(b"QUIT\r\n");
    }
}

impl SmtpTalk {
    /// A mechanism that asks for login and password one after the other.
    fn send_password(
        &self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
        mechanism: &'static Mechanism,
    ) -> Result<(), BackendError> {
        let identity = grant.identity()?;
        let command = line(&[b"AUTH ", mechanism.name.as_bytes()]);
        send(backend, BackendStep::SendingAuth, &command)?;
        read_reply(backend, &[b"334"], RefusalKind::Login, None)?;
        let login = line(&[&encode(&identity.login)]);
        send(backend, BackendStep::SendingAuth, &login)?;
        read_reply(backend, &[b"334"], RefusalKind::Login, None)?;
        let password = encode(identity.secret.expose());
        backend.set_step(BackendStep::SendingAuth);
        backend.send_credentials(&line(&[&password]), password.len())?;
        read_reply(backend, &[b"235"], RefusalKind::Login, None).map(drop)
    }

    /// One mechanism with an initial response.
    fn send_sasl(
        &self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
        mechanism: &'static Mechanism,
    ) -> Result<(), BackendError> {
        let encoded = encode(&grant.sasl_message(mechanism)?);
        let command = line(&[b"AUTH ", mechanism.name.as_bytes(), b" ", &encoded]);
        backend.set_step(BackendStep::SendingAuth);
        if command.len() <= COMMAND_LINE {
            backend.send_credentials(&command, encoded.len())?;
        } else {
            let command = line(&[b"AUTH ", mechanism.name.as_bytes()]);
            backend.send(&command)?;
            read_reply(backend, &[b"334"], RefusalKind::Login, None)?;
            backend.send_credentials(&line(&[&encoded]), encoded.len())?;
        }
        let answer = read_reply(backend, &[b"235", b"334"], RefusalKind::Login, None)?;
        if answer.code == b"334" {
            // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
            let dummy = line(&[mechanism.error_answer()]);
            send(backend, BackendStep::SendingAuth, &dummy)?;
            read_reply(backend, &[b"235"], RefusalKind::Login, None)?;
        }
        Ok(())
    }

    fn say_own_hello(
        &mut self,
        backend: &mut BackendConn<'_>,
        word: &[u8],
    ) -> Result<(), BackendError> {
        let command = line(&[word, self.own_name.as_bytes()]);
        self.say_hello(backend, BackendStep::SendingHelo, &command)
    }

    fn say_hello(
        &mut self,
        backend: &mut BackendConn<'_>,
        step: BackendStep,
        command: &[u8],
    ) -> Result<(), BackendError> {
        send(backend, step, command)?;
        let reply = read_reply(backend, &[b"250"], RefusalKind::Other, None)?;
        self.capabilities = reply.texts.into_iter().skip(1).collect();
        Ok(())
    }

    fn send_xclient(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<(), BackendError> {
        let offered = self.capability("XCLIENT");
        let full = match (grant.xclient, offered) {
            (Xclient::Off, _) | (Xclient::Auto, None) => return Ok(()),
            (Xclient::Full, Some(offered)) if !offered.is_empty() => Some(offered),
            (Xclient::Full | Xclient::On, _) | (Xclient::Auto, Some(_)) => None,
        };
        let Some(client) = &self.client else {
            return Ok(());
        };
        let user = grant.acts_for();
        let login = (!user.is_empty() && !grant.smtp_auth).then_some(user);
        let commands = match &full {
            None => vec![xclient::command(client, login)],
            Some(offered) => xclient::commands(client, login, offered).map_err(|_| {
                BackendError::Internal("the login is too long for XCLIENT".to_owned())
            })?,
        };
        let hello = client.hello();
        let expected: [&[u8]; 2] = [b"220", b"250"];
        for command in commands {
            let command = line(&[command.as_bytes()]);
            send(backend, BackendStep::SendingXclient, &command)?;
            read_reply(backend, &expected, RefusalKind::Other, Some(xclient::HINT))?;
        }
        match hello {
            Some(hello) => self.say_hello(backend, BackendStep::SendingClientHelo, &hello),
            None => Ok(()),
        }
    }

    /// The words behind a capability, if the backend's last EHLO lists it.
    fn capability(&self, name: &str) -> Option<Vec<String>> {
        self.capabilities.iter().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(name)).then(|| words.map(str::to_owned).collect())
        })
    }
}

/// A refusal of AUTH as such, by a host that does not list it, is that of every login.
fn explain_refusal(error: BackendError, is_offered: bool, port: u16) -> BackendError {
    let BackendError::Refused(mut reply) = error else {
        return error;
    };
    let wants_tls = reply.answer.starts_with(b"530") || reply.answer.starts_with(b"538");
    let is_of_command = wants_tls || reply.answer.starts_with(b"50");
    if reply.kind == RefusalKind::Other && is_of_command && !is_offered {
        reply.kind = RefusalKind::LoginHere(port);
        reply.hint = Some(if wants_tls { WANTS_TLS } else { NO_LOGIN });
    }
    BackendError::Refused(reply)
}

/// Says again what the client has said, and returns the answer to RCPT, whatever it is.
fn replay(backend: &mut BackendConn<'_>, mail: &[u8], rcpt: &[u8]) -> Result<Line, BackendError> {
    send(backend, BackendStep::SendingMailFrom, &line(&[mail]))?;
    read_reply(backend, &[b"250"], RefusalKind::Envelope, None)?;
    send(backend, BackendStep::SendingRcptTo, &line(&[rcpt]))?;
    let reply = read_reply(backend, &[], RefusalKind::Other, None)?;
    Ok(Line::new(reply.raw))
}

fn send(
    backend: &mut BackendConn<'_>,
    step: BackendStep,
    command: &[u8],
) -> Result<(), BackendError> {
    backend.set_step(step);
    backend.send(command)
}

/// Reads all lines of a reply whose code is one of `expected`; an empty list takes any.
fn read_reply(
    backend: &mut BackendConn<'_>,
    expected: &[&[u8]],
    kind: RefusalKind,
    hint: Option<&'static str>,
) -> Result<Reply, BackendError> {
    let mut reply = Reply {
        code: Vec::new(),
        raw: Vec::new(),
        texts: Vec::new(),
    };
    loop {
        let text = backend.read_line()?;
        reply.raw.extend_from_slice(&text);
        let Some((code, last, text)) = reply_line(&text) else {
            let reply = BackendReply::new(reply.raw, RefusalKind::Other);
            return Err(backend.refused(reply));
        };
        if reply.code.is_empty() {
            reply.code = code.to_vec();
        }
        if reply.code != code {
            let reply = BackendReply::new(reply.raw, RefusalKind::Other);
            return Err(backend.refused(reply));
        }
        reply
            .texts
            .push(String::from_utf8_lossy(text).to_ascii_uppercase());
        if last {
            break;
        }
    }
    if expected.is_empty() || expected.contains(&reply.code.as_slice()) {
        return Ok(reply);
    }
    let kind = refusal_kind(&reply.code, kind);
    let lines = reply.raw.split_inclusive(|&byte| byte == b'\n');
    let handed_on = match is_refusal(&reply.code) {
        true => crate::dialect::handed_on(lines),
        false => None,
    };
    Err(backend.refused(BackendReply {
        hint,
        handed_on,
        in_our_words: (kind == RefusalKind::Envelope).then(|| sender_refused(&reply)),
        ..BackendReply::new(reply.raw, kind)
    }))
}

/// A refused sender in our words: the backend's code decides whether the message is tried again, and its
/// enhanced code (RFC 3463) what the sender is told.
fn sender_refused(reply: &Reply) -> Line {
    let enhanced = reply.texts.first().and_then(|text| text.split(' ').next());
    let is_enhanced = |word: &&str| {
        let parts: Vec<_> = word.split('.').collect();
        let is_number = |part: &&str| matches!(part.len(), 1..=3) && is_digits(part.as_bytes());
        parts.len() == 3 && parts.iter().all(is_number) && parts[0].as_bytes() == &reply.code[..1]
    };
    let general = format!("{}.0.0", char::from(reply.code[0]));
    let enhanced = enhanced.filter(is_enhanced).unwrap_or(&general);
    line(&[&reply.code, b" ", enhanced.as_bytes(), b" Sender refused"])
}

fn is_refusal(code: &[u8]) -> bool {
    matches!(code, [b'4' | b'5', ..])
}

/// What a reply refuses at a step where the expected refusal is `kind`.
fn refusal_kind(code: &[u8], kind: RefusalKind) -> RefusalKind {
    match (code, kind) {
        // RFC 5321, section 3.8: the host goes down; another one may serve.
        (b"421", _) => RefusalKind::Greeting,
        // 4xx is about the server and not about the login (RFC 4954, section 6).
        ([b'4', ..], RefusalKind::Login) => RefusalKind::LoginForNow,
        // It does not know or like the command, or wants TLS, of us (RFC 4954, section 6; RFC 3207).
        ([b'5', b'0', _] | b"530" | b"538", RefusalKind::Login) => RefusalKind::Other,
        // The same of MAIL, where 501 and 504 are about the address.
        (b"500" | b"502" | b"503" | b"530" | b"538", RefusalKind::Envelope) => RefusalKind::Other,
        ([b'4' | b'5', ..], _) | (_, RefusalKind::Greeting) => kind,
        // No refusal at all.
        _ => RefusalKind::Other,
    }
}

/// Code, whether it is the last line, and text of a reply's line (RFC 5321, section 4.2).
pub(super) fn reply_line(line: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let line = crate::net::line::without_end(line);
    let (code, rest) = line.split_at_checked(3)?;
    if !is_digits(code) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

fn is_digits(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit)
}

fn encode(message: &[u8]) -> Line {
    Line::new(STANDARD.encode(message).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::error::BackendReply;
    use crate::sasl::shown::LoginSecrets;

    #[test]
    fn a_reply_line_has_a_code_and_a_separator() {
        assert_eq!(
            reply_line(b"250-SIZE 1\r\n"),
            Some((&b"250"[..], false, &b"SIZE 1"[..]))
        );
        assert_eq!(
            reply_line(b"250 ok\n"),
            Some((&b"250"[..], true, &b"ok"[..]))
        );
        assert_eq!(reply_line(b"250\r\n"), Some((&b"250"[..], true, &b""[..])));
        for bad in [&b"25 ok\r\n"[..], b"2500 ok\r\n", b"\r\n", b"250_ok\r\n"] {
            assert_eq!(reply_line(bad), None);
        }
    }

    #[test]
    fn auth_that_is_not_listed_and_refused_as_such_is_no_login_at_all() {
        let explained = |answer: &str, is_offered| {
            let kind = refusal_kind(&answer.as_bytes()[..3], RefusalKind::Login);
            let reply = BackendReply::new(answer.into(), kind);
            explain_refusal(BackendError::Refused(reply), is_offered, 25)
                .describe(&LoginSecrets::default())
        };
        assert_eq!(
            explained("503 5.5.1 not enabled\r\n", false),
            "the backend offers no login on port 25: submission is usually port 587 with \
             `proxy_ssl = starttls`; it answered \"503 5.5.1 not enabled\""
        );
        assert_eq!(
            explained("530 5.7.0 Must issue STARTTLS\r\n", false),
            "the backend offers no login on port 25: it wants TLS first; set `proxy_ssl = starttls`; \
             it answered \"530 5.7.0 Must issue STARTTLS\""
        );
        for (answer, is_offered) in [("504 5.5.4 what\r\n", true), ("535 5.7.8 no\r\n", false)] {
            let text = explained(answer, is_offered);
            assert!(text.starts_with("upstream sent invalid"), "{text}");
        }
    }
}
