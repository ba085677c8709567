//! IMAP towards the client, from the greeting to the credentials.

use super::id::{self, Fields};
use super::parse::{Argument, Parsed, WORDS, Word, parse};
use super::{Awaited, Identity, Imap};
use crate::dialect::blotted::Arguments;
use crate::dialect::caller::take_proxy_ttl;
use crate::dialect::{
    accept_starttls, announced, begin_sasl, count_command, fill_command, go_on_with_sasl,
    log_command, mechanism, offers_starttls, refuse_line, refuse_plain_login, requires_tls,
};
use crate::net::client_conn::ClientConn;
use crate::net::line::{Line, line};
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;
use crate::session::error::{Cause, Halt};
use crate::session::{Session, Step};

/// Answers commands until one of them presents credentials.
pub(super) fn read_login(
    imap: &mut Imap,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<Credentials, Halt> {
    loop {
        session.start_tls(client)?;
        session.set_step(Step::InAuth);
        if let Some(credentials) = go_on_with_sasl(imap, session, client)? {
            return Ok(credentials);
        }
        let (word, arguments) = read_command(imap, session, client)?;
        match word {
            Word::Capability => {
                let answer = capability(imap, session, client);
                session.say(client, &answer)?;
            }
            Word::Noop => session.say(client, &completed(imap))?,
            Word::Id => {
                let answer = take_id(imap, session, &arguments);
                session.say(client, &answer)?;
            }
            Word::Logout => {
                let answer = [&b"* BYE\r\n"[..], &completed(imap)].concat();
                session.say(client, &answer)?;
                return Err(Cause::Quit.into());
            }
            Word::StartTls if offers_starttls(session, client) => {
                accept_starttls(session, client, &completed(imap))?;
                *imap = Imap::default();
            }
            Word::Login | Word::Authenticate if requires_tls(session, client) => {
                // RFC 5530
                let answer = [&imap.tag, &b" NO [PRIVACYREQUIRED] Use STARTTLS first"[..]].concat();
                refuse_plain_login(imap, session, client, &answer)?;
            }
            Word::Login => match arguments.as_slice() {
                [login, password] if !login.is_empty() => {
                    let password = Secret::from(password.as_slice());
                    return Ok(Credentials::new(Method::PLAIN, login.to_vec(), password));
                }
                _ => refuse(imap, session, client)?,
            },
            Word::Authenticate => {
                if let Some(credentials) = start_sasl(imap, session, client, &arguments)? {
                    return Ok(credentials);
                }
            }
            Word::StartTls => refuse(imap, session, client)?,
        }
    }
}

/// The next command that can be parsed; answers synchronizing literals and refuses everything else.
fn read_command(
    imap: &mut Imap,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<(Word, Vec<Argument>), Halt> {
    let known = WORDS.map(|(name, _)| name);
    let limit = session.service.client_buffer();
    loop {
        // Nothing is read before the client has taken what it was told.
        client.next_line()?;
        await_more(imap, session, client, &known)?;
        match parse(client.buffered(), imap.answered, limit) {
            Parsed::Incomplete { tag, needs } => {
                imap.tag = tag;
                imap.awaited = Some(Awaited {
                    needs,
                    held: client.buffered().len(),
                });
            }
            Parsed::Literal { at, size } => {
                // The line end behind the literal must fit as well.
                let fits = at
                    .checked_add(size)
                    .is_some_and(|end| end.checked_add(2).is_some_and(|end| end <= limit));
                if fits {
                    imap.answered = at;
                    session.say(client, b"+ OK\r\n")?;
                    continue;
                }
                take_tag(imap, client.buffered());
                client.consume(at);
                imap.answered = 0;
                count_command(imap, session, client)?;
                refuse(imap, session, client)?;
            }
            Parsed::TooLong { tag } => {
                imap.tag = tag;
                refuse(imap, session, client)?;
                let text = "client sent too long command: a literal does not fit";
                return Err(Cause::ClientProtocol(text.into()).into());
            }
            Parsed::Command {
                tag,
                word,
                arguments,
                len,
            } => {
                imap.tag = tag;
                imap.answered = 0;
                client.consume(len);
                log(imap, session, word, &arguments);
                count_command(imap, session, client)?;
                return Ok((word, arguments));
            }
            Parsed::Bad { tag, len, runs_on } => {
                imap.tag = tag;
                client.consume(len);
                imap.answered = 0;
                refuse_line(imap, session, client)?;
                if runs_on {
                    let text = "client sent invalid command with a literal that cannot be skipped";
                    return Err(Cause::ClientProtocol(text.into()).into());
                }
            }
        }
    }
}

/// Writes a command to the log, on level debug.
fn log(imap: &Imap, session: &Session, word: Word, arguments: &[Argument]) {
    let name = WORDS.iter().find(|(_, known)| *known == word);
    let name = name.map_or("", |(name, _)| name);
    let behind = match word {
        Word::Login => Arguments::Blotted,
        Word::Authenticate => {
            Arguments::Mechanism(arguments.first().map(|argument| argument.as_slice()))
        }
        Word::Capability | Word::Noop | Word::Logout | Word::StartTls | Word::Id => {
            Arguments::Shown(b"")
        }
    };
    let word = [&imap.tag, &b" "[..], name.as_bytes()].concat();
    log_command(session, &word, behind);
}

/// Waits until there is enough of an incomplete command to look at it again: only a line end, the end of
/// a literal or of the buffer can make a difference.
fn await_more(
    imap: &mut Imap,
    session: &Session,
    client: &mut ClientConn,
    known: &[&str],
) -> Result<(), Halt> {
    while let Some(Awaited { needs, held }) = imap.awaited {
        let new = client.buffered().get(held..).unwrap_or_default();
        let ends = match needs {
            0 => new.contains(&b'\n'),
            needs => held + new.len() >= needs,
        };
        // The tag of what is too long is still to be found.
        if ends || client.is_full() && !new.is_empty() {
            imap.awaited = None;
            return Ok(());
        }
        let held = held + new.len();
        imap.awaited = Some(Awaited { needs, held });
        fill_command(imap, session, client, known)?;
    }
    Ok(())
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
    client: &mut ClientConn,
    arguments: &[Argument],
) -> Result<Option<Credentials>, Halt> {
    match mechanism(arguments, &session.service.conf) {
        Some((mechanism, initial)) => begin_sasl(imap, session, client, mechanism, initial),
        None => {
            refuse(imap, session, client)?;
            Ok(None)
        }
    }
}

/// Keeps what the client says of itself for its backend, and answers as its backends have done lately. Before a
/// login there is none to ask.
fn take_id(imap: &mut Imap, session: &mut Session, arguments: &[Argument]) -> Vec<u8> {
    take_proxy_ttl(session, id::proxy_ttl(arguments));
    let known = session.service.identities.common();
    let told = known.map_or_else(|| b"NIL".to_vec(), |known| known.to_vec());
    let answer = line(&[b"* ID ", &told]);
    imap.id = Some(Identity {
        fields: Fields::of(arguments),
        told,
    });
    [&answer[..], &completed(imap)].concat()
}

/// RFC 3501, section 6.1.1: what may be used changes with TLS.
fn capability(imap: &Imap, session: &Session, client: &ClientConn) -> Vec<u8> {
    let conf = &session.service.conf;
    let mut answer = String::from("* CAPABILITY");
    for capability in session.capabilities().iter() {
        answer.push(' ');
        answer.push_str(capability);
    }
    if requires_tls(session, client) {
        answer.push_str(" STARTTLS LOGINDISABLED");
    } else {
        for mechanism in announced(conf) {
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
fn refuse(imap: &Imap, session: &Session, client: &mut ClientConn) -> Result<(), Halt> {
    Ok(session.say(client, &imap.tagged(b"BAD invalid command"))?)
}
