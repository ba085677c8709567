//! SMTP towards the client, from the greeting to the credentials or, where no login is asked for, to
//! the first RCPT.

use super::Smtp;
use super::parse::{Argument, Parsed, WORDS, Word, parse};
use crate::dialect::blotted::Arguments;
use crate::dialect::caller::{proxy_ttl, take_proxy_ttl};
use crate::dialect::{
    accept_starttls, announced, begin_sasl, count_command, go_on_with_sasl, log_command,
    log_rejected, mechanism, offers_starttls, read_client_line, refuse_line, refuse_plain_login,
    requires_tls,
};
use crate::net::client_conn::ClientConn;
use crate::net::line::Line;
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;
use crate::session::error::{Cause, Halt};
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
    client: &mut ClientConn,
) -> Result<Credentials, Halt> {
    loop {
        session.start_tls(client)?;
        session.set_step(Step::InAuth);
        if let Some(credentials) = go_on_with_sasl(smtp, session, client)? {
            return Ok(credentials);
        }
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
                session.say(client, OK)?;
            }
            Word::Noop => session.say(client, OK)?,
            Word::Quit => {
                session.say(client, BYE)?;
                return Err(Cause::Quit.into());
            }
            Word::StartTls if offers_starttls(session, client) => {
                accept_starttls(session, client, START_TLS)?;
                *smtp = Smtp::default();
            }
            Word::StartTls | Word::Other => refuse(session, client)?,
        }
    }
}

/// The next command that can be parsed, with its line.
fn read_command(
    smtp: &mut Smtp,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<(Line, Word, Vec<Argument>), Halt> {
    let known = WORDS.map(|(name, _)| name);
    loop {
        skip_text(smtp, session, client)?;
        let line = read_client_line(smtp, session, client, &known)?;
        match parse(&line) {
            Parsed::Command(word, arguments) => {
                log(session, &line, word, &arguments);
                count_command(smtp, session, client)?;
                return Ok((line, word, arguments));
            }
            Parsed::Http => {
                log_rejected(session, &line);
                return Err(Cause::ClientProtocol("client speaks HTTP".into()).into());
            }
            Parsed::Bdat(size) => {
                refuse_line(smtp, session, client)?;
                smtp.text_left = size;
            }
            Parsed::Bad => {
                take_proxy_ttl(session, proxy_ttl(&line));
                refuse_line(smtp, session, client)?;
            }
        }
    }
}

/// Writes a command to the log, on level debug.
fn log(session: &Session, line: &[u8], word: Word, arguments: &[Argument]) {
    match word {
        Word::Auth => {
            let mechanism = arguments.first().map(|argument| argument.as_slice());
            log_command(session, b"AUTH", Arguments::Mechanism(mechanism));
        }
        Word::Helo | Word::Ehlo | Word::Mail | Word::Rcpt | Word::Rset | Word::Noop => {
            log_command(session, line, Arguments::Shown(b""));
        }
        Word::Quit | Word::StartTls | Word::Other => {
            log_command(session, line, Arguments::Shown(b""));
        }
    }
}

/// Throws away what follows a refused BDAT: it is text of a message, not commands.
fn skip_text(smtp: &mut Smtp, session: &Session, client: &mut ClientConn) -> Result<(), Halt> {
    while smtp.text_left > 0 {
        if client.buffered().is_empty() {
            client.fill(session.budget.deadline())?;
        }
        let held = client.buffered().len();
        let taken = usize::try_from(smtp.text_left).map_or(held, |left| left.min(held));
        client.consume(taken);
        smtp.text_left -= taken as u64;
    }
    Ok(())
}

fn say_hello(
    smtp: &mut Smtp,
    session: &Session,
    client: &mut ClientConn,
    word: Word,
    arguments: &[Argument],
) -> Result<(), Halt> {
    let [name] = arguments else {
        return Ok(session.say(client, INVALID_ARGUMENT)?);
    };
    if has_control(name) {
        return Ok(session.say(client, INVALID_ARGUMENT)?);
    }
    smtp.helo = Some(name.to_vec());
    smtp.mail = None;
    if word == Word::Helo {
        let answer = format!("250 {}\r\n", session.service.conf.server_name);
        return Ok(session.say(client, answer.as_bytes())?);
    }
    smtp.esmtp = true;
    Ok(session.say(client, ehlo_answer(session, client).as_bytes())?)
}

/// RFC 5321, section 4.1.1.1: the last line has a space where the others have a hyphen.
fn ehlo_answer(session: &Session, client: &ClientConn) -> String {
    let conf = &session.service.conf;
    let mut lines = vec![conf.server_name.clone()];
    lines.extend(session.capabilities().iter().cloned());
    if !requires_tls(session, client) {
        let mechanisms: Vec<_> = announced(conf).collect();
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
    smtp: &mut Smtp,
    session: &mut Session,
    client: &mut ClientConn,
    arguments: &[Argument],
) -> Result<Option<Credentials>, Halt> {
    if requires_tls(session, client) {
        // RFC 3207, section 4.
        let answer = b"530 5.7.0 Must issue a STARTTLS command first";
        refuse_plain_login(smtp, session, client, answer)?;
        return Ok(None);
    }
    if arguments.is_empty() {
        session.say(client, INVALID_ARGUMENT)?;
        return Ok(None);
    }
    match mechanism(arguments, &session.service.conf) {
        Some((mechanism, initial)) => begin_sasl(smtp, session, client, mechanism, initial),
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
    client: &mut ClientConn,
    line: &[u8],
    arguments: &[Argument],
) -> Result<(), Halt> {
    if !session.service.conf.mechanisms().own_login {
        log_rejected(session, line);
        return Ok(session.say(client, AUTH_REQUIRED)?);
    }
    if smtp.mail.is_some() {
        return Ok(session.say(client, BAD_SEQUENCE)?);
    }
    if arguments.is_empty() || has_control(line) {
        return Ok(session.say(client, INVALID_ARGUMENT)?);
    }
    smtp.mail = Some(line.trim_ascii_end().to_vec());
    Ok(session.say(client, OK)?)
}

/// RCPT: its answer will be the backend's, if the auth server lets it through.
fn take_rcpt(
    smtp: &mut Smtp,
    session: &Session,
    client: &mut ClientConn,
    line: &[u8],
    arguments: &[Argument],
) -> Result<Option<Credentials>, Halt> {
    if smtp.mail.is_none() {
        session.say(client, BAD_SEQUENCE)?;
        return Ok(None);
    }
    if arguments.is_empty() || has_control(line) {
        session.say(client, INVALID_ARGUMENT)?;
        return Ok(None);
    }
    smtp.rcpt = Some(line.trim_ascii_end().to_vec());
    let mut credentials = Credentials::new(Method::NONE, Vec::new(), Secret::default());
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
fn refuse(session: &Session, client: &mut ClientConn) -> Result<(), Halt> {
    Ok(session.say(client, b"500 5.5.1 Invalid command\r\n")?)
}
