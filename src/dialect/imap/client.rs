//! IMAP towards the client, from the greeting to the credentials.

use super::Imap;
use super::parse::{Argument, Parsed, WORDS, Word, parse};
use crate::dialect::{
    announced, authenticate, count_command, fill_command, mechanism, offers_starttls, refuse_line,
    reply, requires_tls, start_tls,
};
use crate::net::conn::Conn;
use crate::net::line::{Line, line};
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;
use crate::session::error::Cause;
use crate::session::{Session, Step};

/// Answers commands until one of them presents credentials.
pub(super) fn read_login(
    imap: &mut Imap,
    session: &mut Session,
    client: &mut Conn,
) -> Result<Credentials, Cause> {
    session.step = Step::InAuth;
    loop {
        let (word, arguments) = read_command(imap, session, client)?;
        match word {
            Word::Capability => {
                let answer = capability(imap, session, client);
                reply(session, client, &answer)?;
            }
            Word::Noop => reply(session, client, &completed(imap))?,
            Word::Id => {
                let answer = [&b"* ID NIL\r\n"[..], &completed(imap)].concat();
                reply(session, client, &answer)?;
            }
            Word::Logout => {
                let answer = [&b"* BYE\r\n"[..], &completed(imap)].concat();
                reply(session, client, &answer)?;
                return Err(Cause::Quit);
            }
            Word::StartTls if offers_starttls(session, client) => {
                session.step = Step::InStarttls;
                reply(session, client, &completed(imap))?;
                start_tls(session, client)?;
                imap.tag.clear();
            }
            Word::Login if !requires_tls(session, client) => match arguments.as_slice() {
                [login, password] if !login.is_empty() => {
                    let password = Secret::from(password.as_slice());
                    return Ok(Credentials::new(Method::Plain, login.to_vec(), password));
                }
                _ => refuse(imap, session, client)?,
            },
            Word::Authenticate if !requires_tls(session, client) => {
                if let Some(credentials) = start_sasl(imap, session, client, &arguments)? {
                    return Ok(credentials);
                }
            }
            Word::StartTls | Word::Login | Word::Authenticate => refuse(imap, session, client)?,
        }
    }
}

/// The next command that can be parsed; answers synchronizing literals and refuses everything else.
fn read_command(
    imap: &mut Imap,
    session: &mut Session,
    client: &mut Conn,
) -> Result<(Word, Vec<Argument>), Cause> {
    imap.tag.clear();
    let known = WORDS.map(|(name, _)| name);
    let mut answered = 0;
    loop {
        let limit = session.service.client_buffer();
        match parse(client.buffered(), answered, limit) {
            Parsed::Incomplete { tag, needs } => {
                imap.tag = tag;
                // Only a line end, the end of a literal or of the buffer can make a difference.
                loop {
                    let held = client.buffered().len();
                    fill_command(imap, session, client, &known)?;
                    let new = client.buffered().get(held..).unwrap_or_default();
                    let ends = if needs == 0 {
                        new.contains(&b'\n')
                    } else {
                        held + new.len() >= needs
                    };
                    // The tag of what is too long is still to be found.
                    if ends || client.is_full() {
                        break;
                    }
                }
            }
            Parsed::Literal { at, size } => {
                // The line end behind the literal must fit as well.
                let fits = at
                    .checked_add(size)
                    .is_some_and(|end| end.checked_add(2).is_some_and(|end| end <= limit));
                if fits {
                    answered = at;
                    reply(session, client, b"+ OK\r\n")?;
                    continue;
                }
                take_tag(imap, client.buffered());
                client.consume(at);
                answered = 0;
                count_command(imap, session, client)?;
                refuse(imap, session, client)?;
            }
            Parsed::TooLong { tag } => {
                imap.tag = tag;
                refuse(imap, session, client)?;
                let text = "client sent too long command: a literal does not fit";
                return Err(Cause::ClientProtocol(text.into()));
            }
            Parsed::Command {
                tag,
                word,
                arguments,
                len,
            } => {
                imap.tag = tag;
                client.consume(len);
                count_command(imap, session, client)?;
                return Ok((word, arguments));
            }
            Parsed::Bad { tag, len, runs_on } => {
                imap.tag = tag;
                client.consume(len);
                answered = 0;
                refuse_line(imap, session, client)?;
                if runs_on {
                    return Err(Cause::ClientProtocol(
                        "client sent invalid command with a literal that cannot be skipped".into(),
                    ));
                }
            }
        }
    }
}

/// The tag of a command of which the rest does not matter.
fn take_tag(imap: &mut Imap, command: &[u8]) {
    imap.tag = command
        .split(|&byte| byte == b' ')
        .next()
        .unwrap_or_default()
        .to_vec();
}

fn start_sasl(
    imap: &mut Imap,
    session: &mut Session,
    client: &mut Conn,
    arguments: &[Argument],
) -> Result<Option<Credentials>, Cause> {
    match mechanism(arguments, session.service.conf.imap_auth) {
        Some((mechanism, initial)) => authenticate(imap, session, client, mechanism, initial),
        None => {
            refuse(imap, session, client)?;
            Ok(None)
        }
    }
}

/// RFC 3501, section 6.1.1: what may be used changes with TLS.
fn capability(imap: &Imap, session: &Session, client: &Conn) -> Vec<u8> {
    let conf = &session.service.conf;
    let mut answer = String::from("* CAPABILITY");
    for capability in session.service.capabilities().iter() {
        answer.push(' ');
        answer.push_str(capability);
    }
    if requires_tls(session, client) {
        answer.push_str(" STARTTLS LOGINDISABLED");
    } else {
        for mechanism in announced(conf.imap_auth) {
            answer.push_str(" AUTH=");
            answer.push_str(mechanism);
        }
        if offers_starttls(session, client) {
            answer.push_str(" STARTTLS");
        }
    }
    [&line(&[answer.as_bytes()])[..], &completed(imap)].concat()
}

fn completed(imap: &Imap) -> Line {
    imap.tagged(b"OK completed")
}

/// A well-formed command that is refused for what it says; not counted as an error.
fn refuse(imap: &Imap, session: &Session, client: &mut Conn) -> Result<(), Cause> {
    reply(session, client, &imap.tagged(b"BAD invalid command"))
}
