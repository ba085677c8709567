//! The three protocols as a proxy speaks them: a client-facing half up to the login, a
//! backend-facing half that repeats the login, and a parser without I/O.
//!
//! `client`, `backend` and `parse` have the same function names in all three; `capabilities` is the list of
//! what may be told before the login. When which half runs is decided in `session::run`; visits run the
//! backend-facing one without a client (`dialogue`).

mod blotted;
mod caller;
pub(crate) mod imap;
pub(crate) mod pop3;
pub(crate) mod smtp;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::auth::LoginRefusal;
use crate::backend::error::{BackendError, RefusalKind};
use crate::backend::loops::PROXIES;
use crate::backend::talk::{Dialogue, Talk};
use crate::config::{PlainLoginAnswer, Server, Starttls};
use crate::log::{Severity, escape};
use crate::net::client_conn::{ClientConn, Stall};
use crate::net::error::NetError;
use crate::net::line::{Line, line, without_end};
use crate::protocol::{Protocol, Record};
use crate::sasl::{
    Credentials, Exchange, Malformed, Mechanism, Method, Next, Offer, Opening, PLAIN,
};
use crate::session::budget::Allowance;
use crate::session::error::{Cause, Halt};
use crate::session::live::Ending;
use crate::session::{Session, Step, TlsDue};

use self::blotted::Arguments;

/// The dialogue of a new session.
pub(crate) fn begin(protocol: Protocol) -> Box<dyn Dialect> {
    match protocol {
        Protocol::Imap => Box::new(imap::Imap::default()),
        Protocol::Pop3 => Box::new(pop3::Pop3::default()),
        Protocol::Smtp => Box::new(smtp::Smtp::default()),
    }
}

/// How visits without a client speak the protocol.
pub(crate) fn dialogue(protocol: Protocol) -> Dialogue {
    match protocol {
        Protocol::Imap => imap::DIALOGUE,
        Protocol::Pop3 => pop3::DIALOGUE,
        Protocol::Smtp => smtp::DIALOGUE,
    }
}

/// One session's dialogue. Order of calls: `greeting`; then `read_login` and `refuse_login` as often
/// as logins fail; `talk` for each host that is tried; `failure_line` whenever the session ends with an
/// error.
pub(crate) trait Dialect: Send {
    /// The first line.
    fn greeting(&self, session: &mut Session) -> Result<Line, Cause>;

    /// How long the greeting is held back, and the line for a client that talks before it; `None` where it
    /// is not held back.
    fn greeting_delay(&self, session: &Session) -> Option<(Duration, Line)> {
        let _ = session;
        None
    }

    /// Answers commands until the client has presented credentials. When it has to wait for the client in
    /// between, it can be called again, and goes on where it was.
    fn read_login(
        &mut self,
        session: &mut Session,
        client: &mut ClientConn,
    ) -> Result<Credentials, Halt>;

    /// The SASL exchange that awaits the client's next line.
    fn exchange(&mut self) -> &mut Option<Exchange>;

    /// The line for a login that was refused; what belonged to it is forgotten.
    fn refuse_login(&mut self, refusal: &LoginRefusal) -> Line;

    /// The line for a command that is none, or has wrong arguments.
    fn bad_command(&self) -> Line;

    /// The line for a SASL exchange that the client cancelled.
    fn cancelled(&self) -> Line;

    /// The line with a SASL challenge (base64 already).
    fn challenge(&self, challenge: &[u8]) -> Line;

    /// The dialogue with a host that the login is repeated to.
    fn talk(&self, session: &mut Session) -> Box<dyn Talk>;

    /// The last line before a close, if there is one to be said; it carries no reason of ours.
    /// `own_method` is true for Postern's own methods of authentication: then a backend that fails is
    /// told of as one that is not available.
    fn failure_line(&self, cause: &Cause, own_method: bool) -> Option<Line>;
}

/// Writes a client's command to the log, on level debug.
fn log_command(session: &Session, word: &[u8], arguments: Arguments<'_>) {
    session.log_debug(file!(), || {
        let shown = blotted::command(word, arguments);
        format!("received from client: \"{shown}\"")
    });
}

/// Counts a parsed command; one too many is answered and ends the session.
fn count_command(
    dialect: &dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<(), Halt> {
    session.end_if_told()?;
    if session.budget.count_command() == Allowance::Left {
        return Ok(());
    }
    session.say(client, &dialect.bad_command())?;
    let text = "client sent too many commands";
    Err(Cause::ClientProtocol(text.into()).into())
}

/// Counts and answers a line that could not be parsed; the last one ends the session.
fn refuse_line(
    dialect: &dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<(), Halt> {
    session.end_if_told()?;
    // It could be a password.
    session.log_debug(file!(), || {
        "received from client: a line that is no command".into()
    });
    session.say(client, &dialect.bad_command())?;
    if session.budget.count_error() == Allowance::Left {
        return Ok(());
    }
    let text = "client sent too many invalid commands";
    Err(Cause::ClientProtocol(text.into()).into())
}

/// Reads more of a command; one that does not fit is answered and ends the session. `known` are the
/// words that may be shown in the log: anything else could be a password.
fn fill_command(
    dialect: &dyn Dialect,
    session: &Session,
    client: &mut ClientConn,
    known: &[&str],
) -> Result<(), Halt> {
    match client.fill(session.budget.deadline()) {
        Err(Stall::Failed(NetError::TooLong)) => {
            let shown = shown_word(client.buffered(), known);
            session.say(client, &dialect.bad_command())?;
            let text = format!("client sent too long command \"{shown}\"");
            Err(Cause::ClientProtocol(text).into())
        }
        other => Ok(other?),
    }
}

/// The first word of a line that is a known command.
fn shown_word<'a>(line: &[u8], known: &[&'a str]) -> &'a str {
    let known_word = |word: &[u8]| {
        known
            .iter()
            .find(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    line.split(|&byte| byte == b' ')
        .take(2)
        .find_map(known_word)
        .copied()
        .unwrap_or_default()
}

/// Reads one line of the client, its end cut off, without counting it. Nothing is read before the client
/// has taken what it was told.
fn read_client_line(
    dialect: &dyn Dialect,
    session: &Session,
    client: &mut ClientConn,
    known: &[&str],
) -> Result<Line, Halt> {
    client.next_line()?;
    loop {
        let input = client.buffered();
        if let Some(at) = input.iter().position(|&byte| byte == b'\n') {
            let line = Line::new(without_end(&input[..=at]).to_vec());
            client.consume(at + 1);
            return Ok(line);
        }
        fill_command(dialect, session, client, known)?;
    }
}

/// What AUTH or AUTHENTICATE asks for: a mechanism that may be used, and the initial response. `None`
/// if the command is to be refused.
fn mechanism<'a>(
    arguments: &'a [Zeroizing<Vec<u8>>],
    conf: &Server,
) -> Option<(&'static Mechanism, Option<&'a [u8]>)> {
    let (name, initial) = match arguments {
        [name] => (name, None),
        [name, initial] => (name, Some(initial.as_slice())),
        _ => return None,
    };
    let mechanism = Mechanism::by_name(name)?;
    is_understood(mechanism, conf).then_some((mechanism, initial))
}

/// Begins a SASL exchange; credentials if the initial response has them already. If it failed, the client
/// has been told so.
fn begin_sasl(
    dialect: &mut dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
    mechanism: &'static Mechanism,
    initial: Option<&[u8]>,
) -> Result<Option<Credentials>, Halt> {
    let salt = match mechanism.opening {
        Opening::Server => session.salt()?,
        Opening::Client(_) => String::new(),
    };
    let mut exchange = Exchange::new(mechanism, salt);
    let next = exchange.begin(initial);
    step_sasl(dialect, session, client, exchange, next)
}

/// Goes on with the exchange that awaits an answer, if there is one, until there are credentials, or it
/// has failed and the client been told so.
fn go_on_with_sasl(
    dialect: &mut dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<Option<Credentials>, Halt> {
    while dialect.exchange().is_some() {
        let answer = read_sasl_answer(dialect, session, client)?;
        let Some(mut exchange) = dialect.exchange().take() else {
            break;
        };
        if *answer == b"*" {
            session.say(client, &dialect.cancelled())?;
            break;
        }
        let next = exchange.answer(&answer);
        if let Some(credentials) = step_sasl(dialect, session, client, exchange, next)? {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

/// Reads a client's answer to a challenge, which counts as a command. Spaces and tabs behind it are cut.
fn read_sasl_answer(
    dialect: &dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
) -> Result<Line, Halt> {
    let mut answer = read_client_line(dialect, session, client, &[])?;
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let length = answer.iter().rposition(is_text).map_or(0, |last| last + 1);
    answer.truncate(length);
    match &**answer {
        b"*" => log_command(session, b"*", Arguments::Shown(b"")),
        _ => log_command(session, b"an answer of SASL:", Arguments::Blotted),
    }
    count_command(dialect, session, client)?;
    Ok(answer)
}

/// What follows from one step: a question to the authenticator and a further step, credentials, a
/// challenge that is kept for the client's answer, or a line that refuses.
fn step_sasl(
    dialect: &mut dyn Dialect,
    session: &Session,
    client: &mut ClientConn,
    mut exchange: Exchange,
    next: Result<Next, Malformed>,
) -> Result<Option<Credentials>, Halt> {
    let mut next = next;
    loop {
        match next {
            Ok(Next::Ask(login)) => {
                let known = session.service.auth.look_up(&login).map_err(Cause::from)?;
                next = exchange.told(known);
            }
            Ok(Next::Challenge(text)) => {
                let encoded = Line::new(STANDARD.encode(text).into_bytes());
                session.say(client, &dialect.challenge(&encoded))?;
                *dialect.exchange() = Some(exchange);
                return Ok(None);
            }
            Ok(Next::Done(credentials)) => return Ok(Some(credentials)),
            Err(Malformed) => {
                session.say(client, &dialect.bad_command())?;
                return Ok(None);
            }
        }
    }
}

/// Waits for the answer that an OAuth mechanism prescribes to an auth server's error challenge. Whether it
/// came; if not, the client has been told.
///
/// # Errors
/// The connection failed, or the answer was one command too many.
pub(crate) fn read_error_answer(
    dialect: &mut dyn Dialect,
    session: &mut Session,
    client: &mut ClientConn,
    method: Method,
) -> Result<bool, Halt> {
    let Some(prescribed) = method.error_answer() else {
        return Ok(true);
    };
    let answer = read_sasl_answer(dialect, session, client)?;
    if *answer != prescribed {
        session.say(client, &dialect.bad_command())?;
        return Ok(false);
    }
    Ok(true)
}

/// Whether a client may use the mechanism.
fn is_understood(mechanism: &Mechanism, conf: &Server) -> bool {
    match mechanism.offer[conf.protocol] {
        Offer::Always | Offer::WithPlain => true,
        Offer::IfConfigured => conf.mechanisms().has(mechanism),
    }
}

/// The names of the mechanisms that are announced, in their fixed order.
fn announced(conf: &Server) -> impl Iterator<Item = &'static str> {
    let listed = conf.mechanisms();
    let announced = Mechanism::all().filter(|row| match row.offer[conf.protocol] {
        Offer::Always | Offer::IfConfigured => listed.has(row),
        Offer::WithPlain => listed.has(&PLAIN),
    });
    announced.map(|row| row.name)
}

/// Whether STARTTLS is to be announced and accepted now.
fn offers_starttls(session: &Session, client: &ClientConn) -> bool {
    session.service.conf.starttls != Starttls::Off && !client.is_tls()
}

/// Whether logins are refused until TLS runs.
fn requires_tls(session: &Session, client: &ClientConn) -> bool {
    session.service.conf.starttls == Starttls::Only && !client.is_tls()
}

/// Refuses a login that came before TLS, which is required; `answer` says so. What it presented may have been
/// read by others, and is not looked at.
fn refuse_plain_login(
    dialect: &dyn Dialect,
    session: &Session,
    client: &mut ClientConn,
    answer: &[u8],
) -> Result<(), Halt> {
    match session.service.conf.plain_login_answer {
        PlainLoginAnswer::Bad => session.say(client, &dialect.bad_command())?,
        PlainLoginAnswer::Said => {
            let text = "client tried to log in before TLS";
            session.log(Severity::Info, file!(), text);
            session.say(client, &line(&[answer]))?;
        }
    }
    Ok(())
}

/// Answers STARTTLS; the handshake comes next, and the caller forgets what it knows of the client. What
/// the client sent before the handshake is thrown away.
fn accept_starttls(
    session: &mut Session,
    client: &mut ClientConn,
    answer: &[u8],
) -> Result<(), Halt> {
    session.set_step(Step::InStarttls);
    session.say(client, answer)?;
    client.clear();
    session.tls_due = TlsDue::Starttls;
    session.proxy_ttl = PROXIES;
    Ok(())
}

/// Logs a command that is refused, as nginx does.
fn log_rejected(session: &Session, command: &[u8]) {
    const REJECTED: &str = "client was rejected";
    if session.may_log(Severity::Info, REJECTED) {
        let text = format!("{REJECTED}: \"{}\"", escape(command));
        session.log(Severity::Info, file!(), &text);
    }
}

/// Lines that answer the client's command, and that each protocol has for itself.
struct FailureLines {
    /// A backend does not serve.
    unavailable: Line,
    /// The user has too many sessions.
    user_limit: Line,
}

/// The line for a failure, of which only a refusal that may be passed on shows anything.
fn failure_line(
    record: &Record,
    cause: &Cause,
    own_method: bool,
    lines: FailureLines,
) -> Option<Line> {
    let fixed = |line: &[u8]| Some(Line::new(line.to_vec()));
    if let Cause::Backend(BackendError::Refused(reply)) = cause
        && let Some(line) = reply.last_line(own_method)
    {
        return fixed(line);
    }
    match cause {
        Cause::Quit | Cause::Refused | Cause::ClientProtocol(_) => None,
        Cause::ClientGone | Cause::ClientTimeout | Cause::ClientIo(_) => None,
        Cause::ClientTls(_) | Cause::BrokenProxyHeader(_) => None,
        Cause::Blocked(_) | Cause::Stopped(Ending::Banned) => None,
        Cause::ClientCertificate { missing: true, .. } => fixed(record.certificate_missing),
        Cause::ClientCertificate { missing: false, .. } => fixed(record.certificate_error),
        Cause::MadeRoom | Cause::TooManyLogins | Cause::Stopped(_) => fixed(record.busy),
        Cause::UserLimit(_) => Some(lines.user_limit),
        Cause::Backend(BackendError::Refused(reply)) if reply.kind == RefusalKind::RawGreeting => {
            Some(lines.unavailable)
        }
        Cause::Backend(error) if own_method && error.is_without_service() => {
            Some(lines.unavailable)
        }
        Cause::Backend(BackendError::Refused(reply))
            if own_method
                && matches!(
                    reply.kind,
                    RefusalKind::LoginForNow | RefusalKind::LoginHere(_)
                ) =>
        {
            Some(lines.unavailable)
        }
        Cause::AuthService(..) | Cause::Backend(_) | Cause::Internal(_) => {
            fixed(record.internal_error)
        }
    }
}

/// Longest refusal that is handed on, in bytes: it may have to wait with a sleeping session.
const HANDED_ON: usize = 4096;

/// Lines of a backend as a client may be shown them; `None` if they are too many. What they say must have
/// been found harmless.
fn handed_on<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Line> {
    let lines: Vec<u8> = lines.into_iter().flat_map(printable).collect();
    (lines.len() <= HANDED_ON).then(|| Line::new(lines))
}

/// A backend's line with `?` for control characters, ended as lines are.
fn printable(text: &[u8]) -> Vec<u8> {
    let shown = |byte: &u8| if byte.is_ascii_control() { b'?' } else { *byte };
    let shown = without_end(text).iter().map(shown);
    shown.chain(*b"\r\n").collect()
}

#[cfg(test)]
mod tests;
