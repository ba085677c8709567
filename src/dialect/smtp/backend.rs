//! SMTP towards the backend: greeting, EHLO, XCLIENT, AUTH, or MAIL and RCPT of a client without
//! login.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Smtp, xclient};
use crate::backend::grant::{Grant, Target};
use crate::config::{AuthMechanism, ProxySsl, Xclient};
use crate::dialect::{no_starttls, read_backend_line, refused, send_to_backend};
use crate::net::conn::Conn;
use crate::net::line::{Line, line};
use crate::sasl::{Mechanism, oauth};
use crate::session::error::{Cause, RefusalKind};
use crate::session::{Session, Step};

/// Longest command line that every server takes (RFC 5321, section 4.5.3.1.4): a longer initial
/// response goes in a second step (RFC 4954, section 4).
const COMMAND_LINE: usize = 512;

/// Introduces us and the client, logs in where that is wanted, and returns the client's answer.
pub(super) fn log_in(
    smtp: &Smtp,
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let mut talk = Talk {
        session,
        backend,
        total: 0,
        capabilities: Vec::new(),
    };
    talk.read_reply(&[b"220"], RefusalKind::Greeting, None)?;
    talk.session.host_has_greeted();
    talk.say_own_hello(smtp, grant)?;
    if grant.ssl == ProxySsl::StartTls {
        talk.start_tls(smtp, grant)?;
    }
    talk.send_xclient(smtp, grant)?;
    if grant.smtp_auth && !grant.without_login && grant.mechanism != AuthMechanism::Off {
        talk.send_auth(grant)?;
    }
    match (&smtp.mail, &smtp.rcpt) {
        (Some(mail), Some(rcpt)) if grant.without_login => talk.replay(mail, rcpt),
        _ => Ok(line(&[b"235 2.0.0 OK"])),
    }
}

/// The dialogue with one backend.
struct Talk<'a> {
    session: &'a mut Session,
    backend: &'a mut Conn,
    total: usize,
    /// The lines of the last answer to EHLO, upper case.
    capabilities: Vec<String>,
}

/// A whole reply.
struct Reply {
    code: Vec<u8>,
    raw: Vec<u8>,
    texts: Vec<String>,
}

impl Talk<'_> {
    /// HELO only where nothing is wanted of the backend that needs EHLO.
    fn say_own_hello(&mut self, smtp: &Smtp, grant: &Grant) -> Result<(), Cause> {
        let conf = &self.session.service.conf;
        let plain = grant.xclient == Xclient::Off
            && grant.ssl != ProxySsl::StartTls
            && matches!(grant.target, Target::Address { .. });
        let word: &[u8] = match plain && !smtp.esmtp {
            true => b"HELO ",
            false => b"EHLO ",
        };
        let command = line(&[word, conf.server_name.as_bytes()]);
        self.say_hello(Step::SendingHelo, &command)
    }

    /// RFC 3207; what the backend said before is forgotten, and asked again.
    fn start_tls(&mut self, smtp: &Smtp, grant: &Grant) -> Result<(), Cause> {
        if self.capability("STARTTLS").is_none() {
            return Err(no_starttls());
        }
        self.send(Step::InStarttls, b"STARTTLS\r\n")?;
        self.read_reply(&[b"220"], RefusalKind::Other, None)?;
        self.session.start_backend_tls(self.backend, grant)?;
        self.capabilities.clear();
        self.say_own_hello(smtp, grant)
    }

    fn say_hello(&mut self, step: Step, command: &[u8]) -> Result<(), Cause> {
        self.send(step, command)?;
        let reply = self.read_reply(&[b"250"], RefusalKind::Other, None)?;
        self.capabilities = reply.texts.into_iter().skip(1).collect();
        Ok(())
    }

    /// XCLIENT, and behind it the client's own greeting: it resets what the backend knew.
    fn send_xclient(&mut self, smtp: &Smtp, grant: &Grant) -> Result<(), Cause> {
        let offered = self.capability("XCLIENT");
        let more = match (grant.xclient, offered) {
            (Xclient::Off, _) | (Xclient::Auto, None) => return Ok(()),
            (Xclient::Full, Some(offered)) => offered,
            (Xclient::Full, None) | (Xclient::On, _) | (Xclient::Auto, Some(_)) => Vec::new(),
        };
        let name = self.session.host_name();
        let login = (!grant.login.is_empty() && !grant.smtp_auth).then_some(&grant.login[..]);
        let command = xclient::command(smtp, self.session, &name, login, &more);
        self.send(Step::SendingXclient, &line(&[command.as_bytes()]))?;
        self.read_reply(&[b"220", b"250"], RefusalKind::Other, Some(xclient::HINT))?;
        let Some(helo) = &smtp.helo else {
            return Ok(());
        };
        let word: &[u8] = if smtp.esmtp { b"EHLO " } else { b"HELO " };
        self.say_hello(Step::SendingClientHelo, &line(&[word, helo]))
    }

    fn send_auth(&mut self, grant: &Grant) -> Result<(), Cause> {
        let offered = self.capability("AUTH").unwrap_or_default();
        let offers = |mechanism: Mechanism| offered.iter().any(|offer| offer == mechanism.name());
        let mechanism = match grant.mechanism {
            AuthMechanism::Plain => Mechanism::Plain,
            AuthMechanism::Login => Mechanism::Login,
            AuthMechanism::Xoauth2 => Mechanism::Xoauth2,
            AuthMechanism::Oauthbearer => Mechanism::OauthBearer,
            // As Angie: PLAIN, whether it is listed or not, unless only others are. A configured
            // backend is given a token as a token first.
            AuthMechanism::Auto | AuthMechanism::Off => {
                let is_listed = offered.is_empty() || offers(Mechanism::Plain);
                let as_token = grant.token_mechanism(offers);
                match as_token.filter(|_| grant.asks_for_token_mechanisms() || !is_listed) {
                    Some(mechanism) => mechanism,
                    None if is_listed || grant.authzid.is_some() => Mechanism::Plain,
                    None if offers(Mechanism::Login) => Mechanism::Login,
                    None => Mechanism::Plain,
                }
            }
        };
        match mechanism {
            Mechanism::Login => self.send_auth_login(&grant.login, grant.password()?),
            Mechanism::Plain
            | Mechanism::CramMd5
            | Mechanism::External
            | Mechanism::Xoauth2
            | Mechanism::OauthBearer => {
                let message = grant.sasl_message(mechanism)?;
                self.send_sasl(mechanism, &message)
            }
        }
    }

    /// One mechanism with an initial response.
    fn send_sasl(&mut self, mechanism: Mechanism, message: &[u8]) -> Result<(), Cause> {
        let encoded = encode(message);
        let command = line(&[b"AUTH ", mechanism.name().as_bytes(), b" ", &encoded]);
        if command.len() <= COMMAND_LINE {
            self.send(Step::SendingAuth, &command)?;
        } else {
            let command = line(&[b"AUTH ", mechanism.name().as_bytes()]);
            self.send(Step::SendingAuth, &command)?;
            self.read_reply(&[b"334"], RefusalKind::Login, None)?;
            self.send(Step::SendingAuth, &line(&[&encoded]))?;
        }
        self.session.credentials_are_out();
        let mut answer = self.read_reply(&[b"235", b"334"], RefusalKind::Login, None)?;
        if answer.code == b"334" {
            // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
            let dummy = line(&[oauth::dummy_answer(mechanism)]);
            self.send(Step::SendingAuth, &dummy)?;
            answer = self.read_reply(&[b"235"], RefusalKind::Login, None)?;
        }
        drop(answer);
        Ok(())
    }

    fn send_auth_login(&mut self, login: &[u8], password: &[u8]) -> Result<(), Cause> {
        self.send(Step::SendingAuth, b"AUTH LOGIN\r\n")?;
        self.read_reply(&[b"334"], RefusalKind::Login, None)?;
        self.send(Step::SendingAuth, &line(&[&encode(login)]))?;
        self.read_reply(&[b"334"], RefusalKind::Login, None)?;
        self.send(Step::SendingAuth, &line(&[&encode(password)]))?;
        self.session.credentials_are_out();
        self.read_reply(&[b"235"], RefusalKind::Login, None)
            .map(drop)
    }

    /// Says again what the client has said, and returns the answer to RCPT, whatever it is.
    fn replay(&mut self, mail: &[u8], rcpt: &[u8]) -> Result<Line, Cause> {
        self.send(Step::SendingMailFrom, &line(&[mail]))?;
        self.read_reply(&[b"250"], RefusalKind::Other, None)?;
        self.send(Step::SendingRcptTo, &line(&[rcpt]))?;
        let reply = self.read_reply(&[], RefusalKind::Other, None)?;
        Ok(Line::new(reply.raw))
    }

    fn send(&mut self, step: Step, command: &[u8]) -> Result<(), Cause> {
        self.session.set_step(step);
        send_to_backend(self.session, self.backend, command)
    }

    /// Reads all lines of a reply whose code is one of `expected`; an empty list takes any.
    fn read_reply(
        &mut self,
        expected: &[&[u8]],
        kind: RefusalKind,
        hint: Option<&'static str>,
    ) -> Result<Reply, Cause> {
        let mut reply = Reply {
            code: Vec::new(),
            raw: Vec::new(),
            texts: Vec::new(),
        };
        loop {
            let text = read_backend_line(self.session, self.backend, &mut self.total)?;
            reply.raw.extend_from_slice(&text);
            let Some((code, last, text)) = reply_line(&text) else {
                return Err(refused(self.session, reply.raw, RefusalKind::Other, None));
            };
            if reply.code.is_empty() {
                reply.code = code.to_vec();
            }
            if reply.code != code {
                return Err(refused(self.session, reply.raw, RefusalKind::Other, None));
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
        Err(refused(
            self.session,
            reply.raw,
            refusal_kind(&reply.code, kind),
            hint,
        ))
    }

    /// The words behind a capability, if the backend's last EHLO lists it.
    fn capability(&self, name: &str) -> Option<Vec<String>> {
        self.capabilities.iter().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(name)).then(|| words.map(str::to_owned).collect())
        })
    }
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
        _ => kind,
    }
}

/// Code, whether it is the last line, and text of a reply's line (RFC 5321, section 4.2).
fn reply_line(line: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let line = crate::net::line::without_end(line);
    let (code, rest) = line.split_at_checked(3)?;
    if !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

fn encode(message: &[u8]) -> Line {
    Line::new(STANDARD.encode(message).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
