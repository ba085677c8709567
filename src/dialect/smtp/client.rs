//! SMTP towards the client, from the greeting to the credentials or, where no login is asked for, to
//! the first RCPT.

use super::Smtp;
use super::parse::{Argument, Parsed, WORDS, Word, parse};
use crate::dialect::{
    announced, authenticate, count_command, log_rejected, mechanism, offers_starttls,
    read_client_line, refuse_line, reply, requires_tls, start_tls,
};
use crate::net::conn::Conn;
use crate::net::line::Line;
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;
use crate::session::error::Cause;
use crate::session::{Session, Step};

const OK: &[u8] = b"250 2.0.0 OK\r\n";
const BYE: &[u8] = b"221 2.0.0 Bye\r\n";
const START_TLS: &[u8] = b"220 2.0.0 Start TLS\r\n";
const INVALID_ARGUMENT: &[u8] = b"501 5.5.4 Invalid argument\r\n";
const AUTH_REQUIRED: &[u8] = b"530 5.7.1 Authentication required\r\n";
const BAD_SEQUENCE: &[u8] = b"503 5.5.1 Bad sequence of commands\r\n";

/// Answers commands until one of them presents credentials.
pub(super) fn read_login(
    smtp: &mut Smtp,
    session: &mut Session,
    client: &mut Conn,
) -> Result<Credentials, Cause> {
    session.step = Step::InAuth;
    smtp.rcpt = None;
    loop {
        let (line, word, arguments) = read_command(smtp, session, client)?;
        match word {
            Word::Helo | Word::Ehlo => say_hello(smtp, session, client, word, &arguments)?,
            Word::Auth => {
                if let Some(credentials) = start_sasl(smtp, session, client, &arguments)? {
                    return Ok(credentials);
                }
            }
            Word::Mail => take_mail(smtp, session, client, &line, &arguments)?,
            Word::Rcpt => {
                if let Some(credentials) = take_rcpt(smtp, session, client, &line, &arguments)? {
                    return Ok(credentials);
                }
            }
            Word::Rset => {
                smtp.mail = None;
                reply(session, client, OK)?;
            }
            Word::Noop => reply(session, client, OK)?,
            Word::Quit => {
                reply(session, client, BYE)?;
                return Err(Cause::Quit);
            }
            Word::StartTls if offers_starttls(session, client) => {
                session.step = Step::InStarttls;
                reply(session, client, START_TLS)?;
                start_tls(session, client)?;
                *smtp = Smtp::default();
            }
            Word::StartTls | Word::Other => refuse(session, client)?,
        }
    }
}

/// The next command that can be parsed, with its line.
fn read_command(
    smtp: &Smtp,
    session: &mut Session,
    client: &mut Conn,
) -> Result<(Line, Word, Vec<Argument>), Cause> {
    let known = WORDS.map(|(name, _)| name);
    loop {
        let line = read_client_line(smtp, session, client, &known)?;
        match parse(&line) {
            Parsed::Command(word, arguments) => {
                count_command(smtp, session, client)?;
                return Ok((line, word, arguments));
            }
            Parsed::Http => {
                log_rejected(session, &line);
                return Err(Cause::ClientProtocol("client speaks HTTP".into()));
            }
            Parsed::Bdat(size) => {
                refuse_line(smtp, session, client)?;
                discard(session, client, size)?;
            }
            Parsed::Bad => refuse_line(smtp, session, client)?,
        }
    }
}

/// Throws away what follows a refused BDAT: it is text of a message, not commands.
fn discard(session: &Session, client: &mut Conn, size: u64) -> Result<(), Cause> {
    let mut left = size;
    while left > 0 {
        if client.buffered().is_empty() {
            client.fill(session.budget.deadline())?;
        }
        let held = client.buffered().len();
        let taken = usize::try_from(left).map_or(held, |left| left.min(held));
        client.consume(taken);
        left -= taken as u64;
    }
    Ok(())
}

fn say_hello(
    smtp: &mut Smtp,
    session: &Session,
    client: &mut Conn,
    word: Word,
    arguments: &[Argument],
) -> Result<(), Cause> {
    let [name] = arguments else {
        return reply(session, client, INVALID_ARGUMENT);
    };
    if has_control(name) {
        return reply(session, client, INVALID_ARGUMENT);
    }
    smtp.helo = Some(name.to_vec());
    smtp.mail = None;
    if word == Word::Helo {
        let answer = format!("250 {}\r\n", session.service.conf.server_name);
        return reply(session, client, answer.as_bytes());
    }
    smtp.esmtp = true;
    reply(session, client, ehlo_answer(session, client).as_bytes())
}

/// RFC 5321, section 4.1.1.1: the last line has a space where the others have a hyphen.
fn ehlo_answer(session: &Session, client: &Conn) -> String {
    let conf = &session.service.conf;
    let mut lines = vec![conf.server_name.clone()];
    lines.extend(session.service.capabilities().iter().cloned());
    if !requires_tls(session, client) {
        let mechanisms: Vec<_> = announced(conf.smtp_auth).collect();
        if !mechanisms.is_empty() {
            lines.push(format!("AUTH {}", mechanisms.join(" ")));
        }
    }
    if offers_starttls(session, client) {
        lines.push("STARTTLS".into());
    }
    let last = lines.len() - 1;
    let mut answer = String::new();
    for (at, line) in lines.iter().enumerate() {
        answer.push_str(if at == last { "250 " } else { "250-" });
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer
}

fn start_sasl(
    smtp: &Smtp,
    session: &mut Session,
    client: &mut Conn,
    arguments: &[Argument],
) -> Result<Option<Credentials>, Cause> {
    if requires_tls(session, client) {
        refuse(session, client)?;
        return Ok(None);
    }
    if arguments.is_empty() {
        reply(session, client, INVALID_ARGUMENT)?;
        return Ok(None);
    }
    match mechanism(arguments, session.service.conf.smtp_auth) {
        Some((mechanism, initial)) => authenticate(smtp, session, client, mechanism, initial),
        None => {
            refuse(session, client)?;
            Ok(None)
        }
    }
}

/// MAIL: kept for the backend where no login is asked for.
fn take_mail(
    smtp: &mut Smtp,
    session: &Session,
    client: &mut Conn,
    line: &[u8],
    arguments: &[Argument],
) -> Result<(), Cause> {
    if !session.service.conf.smtp_auth.none {
        log_rejected(session, line);
        return reply(session, client, AUTH_REQUIRED);
    }
    if smtp.mail.is_some() {
        return reply(session, client, BAD_SEQUENCE);
    }
    if arguments.is_empty() || has_control(line) {
        return reply(session, client, INVALID_ARGUMENT);
    }
    smtp.mail = Some(line.trim_ascii_end().to_vec());
    reply(session, client, OK)
}

/// RCPT: its answer will be the backend's, if the auth server lets it through.
fn take_rcpt(
    smtp: &mut Smtp,
    session: &Session,
    client: &mut Conn,
    line: &[u8],
    arguments: &[Argument],
) -> Result<Option<Credentials>, Cause> {
    if smtp.mail.is_none() {
        reply(session, client, BAD_SEQUENCE)?;
        return Ok(None);
    }
    if arguments.is_empty() || has_control(line) {
        reply(session, client, INVALID_ARGUMENT)?;
        return Ok(None);
    }
    smtp.rcpt = Some(line.trim_ascii_end().to_vec());
    let mut credentials = Credentials::new(Method::None, Vec::new(), Secret::default());
    credentials.envelope = Some(crate::sasl::Envelope {
        helo: smtp.helo.clone().unwrap_or_default(),
        from: smtp.mail.clone().unwrap_or_default(),
        to: smtp.rcpt.clone().unwrap_or_default(),
    });
    Ok(Some(credentials))
}

/// These texts go into HTTP headers and back onto SMTP lines, where a control character could end
/// them.
fn has_control(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_control)
}

/// A well-formed command that is refused for what it says; not counted as an error.
fn refuse(session: &Session, client: &mut Conn) -> Result<(), Cause> {
    reply(session, client, b"500 5.5.1 Invalid command\r\n")
}
