//! POP3 towards the client, from the greeting to the credentials.

use super::Pop3;
use super::parse::{Argument, WORDS, Word, parse};
use crate::config::Server;
use crate::dialect::blotted::Arguments;
use crate::dialect::caller::{proxy_ttl, take_proxy_ttl};
use crate::dialect::{
    accept_starttls, announced, begin_sasl, count_command, go_on_with_sasl, log_command, mechanism,
    offers_starttls, read_client_line, refuse_line, refuse_plain_login, requires_tls,
};
use crate::net::client_conn::ClientConn;
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;
use crate::session::error::{Cause, Halt};
use crate::session::{Session, Step};

const OK: &[u8] = b"+OK\r\n";

/// Answers commands until one of them presents credentials.
pub(super) fn read_login(
    pop3: &mut Pop3,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<Credentials, Halt> {
    loop {
        session.start_tls(client)?;
        session.set_step(Step::InAuth);
        if let Some(credentials) = go_on_with_sasl(pop3, session, client)? {
            return Ok(credentials);
        }
        let (word, arguments) = read_command(pop3, session, client)?;
        let user = pop3.user.take();
        match (word, arguments.as_slice(), user) {
            (Word::Noop, _, user) => {
                pop3.user = user;
                ok(session, client)?;
            }
            (Word::Capa, _, user) => {
                let answer = capa(session, client, user.is_none());
                pop3.user = user;
                session.say(client, answer.as_bytes())?;
            }
            (Word::Quit, ..) => {
                ok(session, client)?;
                return Err(Cause::Quit.into());
            }
            (Word::Pass, [password], Some(user)) => {
                let password = Secret::from(password.as_slice());
                return Ok(Credentials::new(Method::PLAIN, user, password));
            }
            (Word::Stls, _, None) if offers_starttls(session, client) => {
                accept_starttls(session, client, OK)?;
            }
            (Word::User | Word::Apop | Word::Auth, _, None) if requires_tls(session, client) => {
                refuse_plain_login(pop3, session, client, b"-ERR [AUTH] Use STLS first")?;
            }
            (Word::User, [user], None) => {
                pop3.user = Some(user.to_vec());
                ok(session, client)?;
            }
            (Word::Apop, [login, digest], None) if session.service.conf.mechanisms().own_login => {
                return apop(session, login, digest);
            }
            (Word::Auth, [], None) => {
                let answer = methods(&session.service.conf);
                session.say(client, answer.as_bytes())?;
            }
            (Word::Auth, arguments, None) => {
                if let Some(credentials) = start_sasl(pop3, session, client, arguments)? {
                    return Ok(credentials);
                }
            }
            (Word::User | Word::Pass | Word::Apop | Word::Auth | Word::Stls, ..) => {
                refuse(session, client)?;
            }
        }
    }
}

/// The next command that can be parsed; a line that is none makes USER forgotten.
fn read_command(
    pop3: &mut Pop3,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<(Word, Vec<Argument>), Halt> {
    let known = WORDS.map(|(name, _)| name);
    loop {
        let line = read_client_line(pop3, session, client, &known)?;
        if let Some(command) = parse(&line) {
            log(session, &command);
            count_command(pop3, session, client)?;
            return Ok(command);
        }
        pop3.user = None;
        take_proxy_ttl(session, proxy_ttl(&line));
        refuse_line(pop3, session, client)?;
    }
}

/// Writes a command to the log, on level debug.
fn log(session: &Session, (word, arguments): &(Word, Vec<Argument>)) {
    let name = WORDS.iter().find(|(_, known)| known == word);
    let name = name.map_or("", |(name, _)| name);
    let first = arguments.first().map(|argument| argument.as_slice());
    let behind = match word {
        Word::User => Arguments::Shown(first.unwrap_or_default()),
        Word::Pass | Word::Apop => Arguments::Blotted,
        Word::Auth => Arguments::Mechanism(first),
        Word::Capa | Word::Quit | Word::Noop | Word::Stls => Arguments::Shown(b""),
    };
    log_command(session, name.as_bytes(), behind);
}

/// RFC 1939, section 7: the digest answers the greeting's timestamp.
fn apop(session: &mut Session, login: &[u8], digest: &[u8]) -> Result<Credentials, Halt> {
    let mut credentials = Credentials::new(Method::APOP, login.to_vec(), digest.into());
    credentials.salt = Some(session.salt()?);
    Ok(credentials)
}

fn start_sasl(
    pop3: &mut Pop3,
    session: &mut Session,
    client: &mut ClientConn,
    arguments: &[Argument],
) -> Result<Option<Credentials>, Halt> {
    match mechanism(arguments, &session.service.conf) {
        Some((mechanism, initial)) => begin_sasl(pop3, session, client, mechanism, initial),
        None => {
            refuse(session, client)?;
            Ok(None)
        }
    }
}

/// RFC 2449, section 5. STLS is left out between USER and PASS.
fn capa(session: &Session, client: &ClientConn, before_user: bool) -> String {
    let conf = &session.service.conf;
    let only_tls = requires_tls(session, client);
    let mut answer = String::from("+OK Capability list follows\r\n");
    for capability in session.capabilities().iter() {
        if !(only_tls && capability.eq_ignore_ascii_case("USER")) {
            answer.push_str(capability);
            answer.push_str("\r\n");
        }
    }
    if !only_tls {
        answer.push_str("SASL");
        for mechanism in announced(conf) {
            answer.push(' ');
            answer.push_str(mechanism);
        }
        answer.push_str("\r\n");
    }
    if before_user && offers_starttls(session, client) {
        answer.push_str("STLS\r\n");
    }
    answer.push_str(".\r\n");
    answer
}

/// AUTH without argument lists the mechanisms (an older way than CAPA).
fn methods(conf: &Server) -> String {
    let mut answer = String::from("+OK methods supported:\r\n");
    for mechanism in announced(conf) {
        answer.push_str(mechanism);
        answer.push_str("\r\n");
    }
    answer.push_str(".\r\n");
    answer
}

fn ok(session: &Session, client: &mut ClientConn) -> Result<(), Halt> {
    Ok(session.say(client, OK)?)
}

/// A well-formed command that is refused for what it says; not counted as an error.
fn refuse(session: &Session, client: &mut ClientConn) -> Result<(), Halt> {
    Ok(session.say(client, b"-ERR invalid command\r\n")?)
}
