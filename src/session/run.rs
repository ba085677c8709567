//! THE script: a session from its first byte to the relay, one call a step.
//!
//! Runs on a worker, blocking on everything but its own client. A session that has to wait for its client,
//! or for a time, returns `Halt::Asleep` and sleeps as one value (`turn`); when that has come, the
//! same script runs again from the top, and each step that is done passes at once. What lies
//! between two lines of a client is kept in the values of `Script`, never on the stack.
//!
//! Longer than other files, so that the path of a session can be read in one of them. The helpers stand
//! below in the order in which they are used. What the protocols say is in
//! `dialect`; what is asked of whom in `auth` and `backend`.

use std::time::{Duration, Instant};

use crate::admission::SleepsFor;
use crate::auth::{ATTEMPTS, LoginRefusal, Note, Request, Verdict};
use crate::backend::error::{BackendError, RefusalKind};
use crate::backend::grant::Grant;
use crate::backend::talk::BackendStep;
use crate::config::{AuthKind, Xclient};
use crate::dialect::{self, Dialect};
use crate::log::{Severity, escape};
use crate::metrics::Outcome;
use crate::net::client_conn::{ClientConn, Stall};
use crate::net::conn::Conn;
use crate::net::line::Line;
use crate::net::proxy_protocol::{self, Header, Parsed};
use crate::net::resolve::HostName;
use crate::net::socket::{Deadline, Seen, WaitFor};
use crate::sasl::external::{NotNamed, name_by_certificate};
use crate::sasl::{Credentials, Method};
use crate::service::LoginTarget;
use crate::session::check::{self, Check};
use crate::session::dial::{Entered, try_hosts};
use crate::session::error::{Cause, Halt};
use crate::session::slot::Slot;
use crate::session::user_place::Reached;
use crate::session::{Session, Step, quoted};

/// Longest sequence of WAIT answers about one login.
const WAITS: u32 = 1000;

/// A session before its relay, as one value.
pub(super) struct Script {
    pub(super) session: Box<Session>,
    pub(super) client: ClientConn,
    pub(super) dialect: Box<dyn Dialect>,
    pub(super) opening: Opening,
    pub(super) login: Login,
}

/// What of a session's beginning is done.
#[derive(Default)]
pub(super) struct Opening {
    is_announced: bool,
    proxy_header_is_due: bool,
    /// When a delayed greeting goes out.
    greeting_at: Option<Deadline>,
    is_greeted: bool,
}

impl Opening {
    /// Nothing is done yet.
    pub(super) fn new(proxy_header_is_due: bool) -> Self {
        Self {
            proxy_header_is_due,
            ..Self::default()
        }
    }

    /// Whether the greeting waits for its time.
    pub(super) fn holds_greeting_back(&self) -> bool {
        self.greeting_at.is_some() && !self.is_greeted
    }
}

/// What lies between a client's login command and its answer. What few logins have is in a box: thousands
/// of these sleep.
#[derive(Default)]
pub(super) struct Login {
    /// What the client has presented.
    presented: Option<Credentials>,
    /// Its place among those of its address that are checked at a time.
    check: Option<Check>,
    /// WAIT: when to ask again, and how often that was said.
    ask_again: Option<Deadline>,
    waits: u32,
    /// It may pass, to this backend.
    grant: Option<Box<Grant>>,
    /// A place among the logins in progress towards whoever is asked next.
    slot: Option<Claim>,
    /// It may not pass, and the client has not been told so yet.
    refused: Option<Box<Refused>>,
    /// Nothing comes after it any more, but not before this time.
    ends: Option<Box<(Cause, Deadline)>>,
}

impl Login {
    /// Whether the client has presented something that is not decided about yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.presented.is_some()
    }

    /// Whether it is the client's turn to say something.
    pub(super) fn is_at_client(&self) -> bool {
        self.presented.is_none() && self.refused.is_none()
    }

    /// Whether it sleeps for its client, or is held back.
    pub(super) fn sleeps_for(&self) -> SleepsFor {
        match self.is_under_way() {
            _ if self.waits_for_a_time() => SleepsFor::Us,
            true => SleepsFor::Others,
            false => SleepsFor::Client,
        }
    }

    /// `Auth-Wait` and its like: somebody else may have its place meanwhile.
    fn waits_for_a_time(&self) -> bool {
        let refused = self.refused.as_ref();
        self.ask_again.is_some()
            || self.ends.is_some()
            || self.check.as_ref().is_some_and(Check::waits)
            || refused.is_some_and(|refused| refused.not_before.is_some())
    }

    /// Whether the session can go when others need its place: nobody is at work for it, and its client has
    /// nothing to say that would be heard now.
    fn may_make_room(&self, client: &ClientConn) -> Result<bool, Halt> {
        if self.waits_for_a_time() {
            return Ok(true);
        }
        Ok(self.presented.is_none() && !client.has_something_to_say()?)
    }
}

/// A place that is claimed, until when.
struct Claim {
    slot: Slot,
    deadline: Deadline,
}

/// A refusal that is on its way to the client.
struct Refused {
    refusal: LoginRefusal,
    method: Method,
    /// Not before: `Auth-Wait`, the time that a backend would have taken, or what failed logins of the address
    /// cost.
    not_before: Option<Deadline>,
    /// The error challenge of an OAuth mechanism is out, and the client's answer to it awaited.
    is_challenged: bool,
}

/// What the authentication method says in the end.
enum Decision {
    Granted(Box<Grant>),
    Refused(LoginRefusal),
}

/// The session up to the end of its backend login; what is done is passed over.
pub(super) fn run(script: &mut Script) -> Result<Conn, Halt> {
    let Script {
        session,
        client,
        dialect,
        opening,
        login,
    } = script;
    let dialect = dialect.as_mut();
    session.end_if_told()?;
    if session.entry.makes_room() {
        if login.may_make_room(client)? {
            return Err(Cause::MadeRoom.into());
        }
        session.entry.stays();
        session.runtime.admission.stays(session.entry.number);
    }
    client.flush()?;
    open_client(session, client, dialect, opening)?;
    loop {
        log_in(session, client, dialect, login)?;
        match enter_backend(session, client, dialect, login) {
            Ok((backend, answer)) => {
                // Before the client knows it: who has been told that he is in is not sent away at QUIT.
                session.entry.set_backend(backend.socket());
                if let Some(check) = login.check.take() {
                    check.succeed();
                }
                session.say(client, &answer)?;
                return Ok(backend);
            }
            Err(Halt::Ended(cause)) => refuse_as_backend(session, login, cause)?,
            Err(asleep) => return Err(asleep),
        }
    }
}

/// PROXY header, TLS, greeting; later on the TLS that STARTTLS has announced.
fn open_client(
    session: &mut Session,
    client: &mut ClientConn,
    dialect: &dyn Dialect,
    opening: &mut Opening,
) -> Result<(), Halt> {
    if !opening.is_announced {
        end_if_blocked(session)?;
        const CONNECTED: &str = "client connected";
        if session.may_log(Severity::Info, CONNECTED) {
            session.log_event(file!(), CONNECTED);
        }
        opening.is_announced = true;
        if !opening.proxy_header_is_due {
            session.begin_host_name();
        }
    }
    if opening.proxy_header_is_due {
        read_proxy_header(session, client)?;
        opening.proxy_header_is_due = false;
        session.begin_host_name();
    }
    session.start_tls(client)?;
    if !opening.is_greeted {
        delay_greeting(session, client, dialect, &mut opening.greeting_at)?;
        session.set_step(Step::SendingGreeting);
        let greeting = dialect.greeting(session)?;
        session.say(client, &greeting)?;
        opening.is_greeted = true;
    }
    Ok(())
}

/// A ban may have come since the connection was accepted.
fn end_if_blocked(session: &Session) -> Result<(), Cause> {
    let trusted = &session.service.conf.set_real_ip_from;
    let blocklist = &session.runtime.blocklist;
    let block = blocklist.block_peer(session.entry.peer, trusted);
    block.map_or(Ok(()), |block| Err(Cause::Blocked(block)))
}

/// On such a listener every connection begins with a header; it is believed from trusted peers only.
fn read_proxy_header(session: &mut Session, client: &mut ClientConn) -> Result<(), Halt> {
    session.set_step(Step::ReadingProxyProtocol);
    client.set_limit(proxy_protocol::MAX_HEADER);
    let header = loop {
        match proxy_protocol::parse(client.buffered()) {
            Parsed::Header(header) => break header,
            Parsed::Malformed => {
                let shown = quoted::of_broken_header(client.buffered());
                return Err(Cause::BrokenProxyHeader(shown).into());
            }
            Parsed::Incomplete => client.fill(session.budget.deadline())?,
        }
    };
    client.consume(header.len);
    client.set_limit(session.service.client_buffer());
    take_real_client(session, &header)?;
    Ok(())
}

/// The header says who the client is, if it comes from a trusted peer. He may be one that is not let in.
fn take_real_client(session: &mut Session, header: &Header) -> Result<(), Cause> {
    session.proxied = header.addresses;
    let Some((source, destination)) = header.addresses else {
        return Ok(());
    };
    let trusted = &session.service.conf.set_real_ip_from;
    let is_trusted = session.entry.peer.is_trusted(trusted);
    session.log_debug(file!(), || {
        let whose = if is_trusted { "trusted" } else { "other" };
        format!("PROXY header of a peer that is {whose}: from {source} to {destination}")
    });
    if is_trusted {
        session.entry.facts().client = source.into();
        session.place.moved_to(source.into());
        if let Some(block) = session.runtime.blocklist.block(source.into()) {
            session.service.metrics.turned_away.count(block.word());
            return Err(Cause::Blocked(block));
        }
    }
    Ok(())
}

/// `smtp_greeting_delay`: who talks before the greeting does not speak SMTP but sends spam.
fn delay_greeting(
    session: &Session,
    client: &mut ClientConn,
    dialect: &dyn Dialect,
    greeting_at: &mut Option<Deadline>,
) -> Result<(), Halt> {
    let Some((delay, refusal)) = dialect.greeting_delay(session) else {
        return Ok(());
    };
    session.set_step(Step::InDelayPipelining);
    let deadline = || Deadline::after(delay, "smtp_greeting_delay");
    let deadline = *greeting_at.get_or_insert_with(deadline);
    // Over TLS there can be something to read without anything in it.
    while client.buffered().is_empty() && !client.read_ahead()? {
        match client.wait(WaitFor::Data, deadline)? {
            Seen::Nothing => return Ok(()),
            Seen::Ready | Seen::HangUp if client.read_ahead()? => {}
            Seen::Ready => {}
            Seen::HangUp => return Err(Cause::ClientGone.into()),
        }
    }
    let said = quoted::before_greeting(client.buffered());
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let said: Vec<u8> = said
        .iter()
        .map(|byte| if is_line_end(byte) { b'_' } else { *byte })
        .collect();
    session.say(client, &refusal)?;
    Err(Halt::Ended(Cause::ClientProtocol(format!(
        "client was rejected before greeting: \"{}\"",
        escape(&said)
    ))))
}

/// Commands, and the authentication method's word on each login, until one may pass.
fn log_in(
    session: &mut Session,
    client: &mut ClientConn,
    dialect: &mut dyn Dialect,
    login: &mut Login,
) -> Result<(), Halt> {
    while login.grant.is_none() {
        end_late(client, login)?;
        if let Some(refused) = &mut login.refused {
            tell_refusal(session, client, dialect, refused)?;
            login.refused = None;
            session.secrets.clear();
        }
        if login.presented.is_none() {
            let credentials = dialect.read_login(session, client)?;
            session.attempts += 1;
            session.method = Some(credentials.method);
            session.set_login(&credentials.login);
            session.secrets.clear();
            session.secrets.add(
                &credentials.login,
                credentials.authzid.as_deref(),
                &credentials.secret,
            );
            session.auth_time = None;
            login.waits = 0;
            login.presented = Some(credentials);
        }
        match authenticate(session, client, login)? {
            Decision::Granted(grant) => {
                session.set_login(&grant.login);
                if let Ok(said) = grant.identity() {
                    session.secrets.add(&said.login, said.authzid, said.secret);
                }
                session.log_debug(file!(), || format!("login goes to {}", grant.way()));
                session.begin_login();
                login.grant = Some(grant);
            }
            Decision::Refused(refusal) => refuse(session, login, refusal),
        }
    }
    Ok(())
}

/// Asks until there is a decision.
fn authenticate(
    session: &mut Session,
    client: &mut ClientConn,
    login: &mut Login,
) -> Result<Decision, Halt> {
    if let Err(NotNamed) = take_certificates_name(session, login) {
        let text = "the client's certificate does not name the login that it asks for";
        session.log(Severity::Info, file!(), text);
        let refusal = LoginRefusal::failed();
        return Ok(Decision::Refused(allow_retry(session, refusal)));
    }
    loop {
        if let Some(time) = login.ask_again {
            client.pause(time)?;
            login.ask_again = None;
        }
        if let Some(credentials) = &login.presented {
            check::await_place(session, client, credentials, &mut login.check)?;
        }
        match ask(session, client, login)? {
            Verdict::Granted(grant) => return Ok(check_sayable(session, login, grant)?),
            Verdict::Refused(refusal) => {
                return Ok(Decision::Refused(allow_retry(session, refusal)));
            }
            Verdict::Wait(_) if login.waits == WAITS => {
                let text = format!("auth http server said WAIT {WAITS} times");
                return Err(Cause::AuthService(text, None).into());
            }
            Verdict::Wait(time) => {
                login.waits += 1;
                login.check = None;
                session.log_debug(file!(), || {
                    format!("auth http server says WAIT for {} s", time.as_secs())
                });
                login.ask_again = Some(Deadline::after(time, "Auth-Wait"));
            }
        }
    }
}

/// `ssl_login_from`: the certificate says whose login it is, if the client leaves the proof to it.
fn take_certificates_name(session: &mut Session, login: &mut Login) -> Result<(), NotNamed> {
    let Some(credentials) = &mut login.presented else {
        return Ok(());
    };
    let from = session.service.conf.tls.ssl_login_from;
    name_by_certificate(credentials, session.tls.as_ref(), from)?;
    if credentials.by_certificate {
        session.set_login(&credentials.login);
        session.log_debug(file!(), || {
            "the client's certificate names the login".into()
        });
    }
    Ok(())
}

/// Asks the authentication method once, unless it remembers the login.
fn ask(session: &mut Session, client: &mut ClientConn, login: &mut Login) -> Result<Verdict, Halt> {
    let client_host = await_names(session, client)?;
    if let Some(grant) = recall(session, login, &client_host) {
        session.log_debug(file!(), || {
            "the login is remembered (auth_cache)".to_owned()
        });
        session.auth_time.get_or_insert_default();
        login.slot = None;
        return Ok(Verdict::Granted(grant));
    }
    if let Some(target) = session.service.auth_target.clone() {
        let deadline = auth_deadline(session);
        if !take_slot(session, client, login, Some(target), deadline)? {
            let who = match session.service.conf.auth {
                AuthKind::Http => "auth http server has too many logins in progress",
                AuthKind::File | AuthKind::Passthrough => "too many passwords are to be checked",
            };
            return Err(Cause::AuthService(who.to_owned(), None).into());
        }
    }
    let Some(credentials) = &login.presented else {
        return Err(Cause::Internal("a login without credentials".into()).into());
    };
    let request = request(session, credentials, client_host);
    let note = |note: &Note| {
        session.log_failure(note.severity, note.src, &note.text, note.error.as_ref());
    };
    let began = Instant::now();
    let verdict = session.service.auth.authenticate(&request, &note);
    let asked = session.auth_time.unwrap_or_default() + began.elapsed();
    session.auth_time = Some(asked);
    login.slot = None;
    verdict.map_err(|error| Cause::from(error).into())
}

/// Waits for the client's host name where it is needed: by an auth server, which is told it, or by backends
/// of our own. A login that has no route shall not be refused earlier, so that comes first.
fn await_names(session: &mut Session, client: &mut ClientConn) -> Result<Option<HostName>, Halt> {
    let is_needed = match session.service.conf.auth {
        AuthKind::Http => session.service.conf.protocol.record().looks_up_client,
        AuthKind::Passthrough | AuthKind::File => session.service.backends_are_told_names(),
    };
    if is_needed {
        session.await_host_name(client)?;
    }
    if session.service.conf.auth == AuthKind::Http {
        session.set_step(Step::InHttpAuth);
    }
    Ok(told_name(session))
}

/// The question about the login that was presented.
fn request<'a>(
    session: &'a Session,
    credentials: &'a Credentials,
    client_host: Option<HostName>,
) -> Request<'a> {
    Request {
        credentials,
        attempt: session.attempts,
        client: session.client(),
        client_host,
        proxied: session.proxied,
        tls: session.tls.as_ref(),
        secrets: &session.secrets,
        is_debugged: session.service.log.enabled(Severity::Debug),
    }
}

/// What was granted to the same login a while ago.
fn recall(session: &Session, login: &Login, client_host: &Option<HostName>) -> Option<Box<Grant>> {
    let credentials = login.presented.as_ref()?;
    let request = request(session, credentials, client_host.clone());
    session.service.auth.recall(&request)
}

/// The client's host name, where auth servers are told it.
fn told_name(session: &mut Session) -> Option<HostName> {
    let conf = &session.service.conf;
    let is_told = conf.auth == AuthKind::Http && conf.protocol.record().looks_up_client;
    is_told.then(|| session.host_name())
}

/// Until when a login may wait for its turn to be decided about.
fn auth_deadline(session: &Session) -> Deadline {
    let conf = &session.service.conf;
    match conf.auth {
        AuthKind::Http => Deadline::after(conf.auth_http_timeout, "auth_http_timeout"),
        AuthKind::Passthrough | AuthKind::File => Deadline::after(conf.timeout, "timeout"),
    }
}

/// Sleeps until there is a place among the logins in progress towards a target; false if there was none
/// in time. Without a name there is no limit.
fn take_slot(
    session: &Session,
    client: &mut ClientConn,
    login: &mut Login,
    target: Option<LoginTarget>,
    deadline: Deadline,
) -> Result<bool, Halt> {
    let Some(target) = target else {
        return Ok(true);
    };
    let claim = login.slot.get_or_insert_with(|| Claim {
        slot: Slot::new(session, target),
        deadline,
    });
    if claim.slot.take() {
        return Ok(true);
    }
    match claim.deadline.remaining() {
        None => Ok(false),
        Some(_) => Err(client.sleep_unless_gone(claim.deadline).into()),
    }
}

/// Nothing that would break a line goes to a backend. If it is the client's, its login has failed; if
/// it is the auth server's, the answer is unusable.
fn check_sayable(session: &Session, login: &Login, grant: Box<Grant>) -> Result<Decision, Cause> {
    let protocol = session.service.conf.protocol;
    if grant.is_sayable(protocol) {
        return Ok(Decision::Granted(grant));
    }
    let presented = login.presented.as_ref();
    if presented.is_some_and(|credentials| grant.client_is_sayable(protocol, credentials)) {
        let text = "auth http server sent a login or password that breaks the line";
        return Err(Cause::AuthService(text.into(), None));
    }
    let refusal = match grant.passthrough {
        true => LoginRefusal::failed_unseen(),
        false => LoginRefusal::failed(),
    };
    Ok(Decision::Refused(allow_retry(session, refusal)))
}

/// With a method of our own the client may try again, a few times a session.
fn allow_retry(session: &Session, refusal: LoginRefusal) -> LoginRefusal {
    let may_retry = session.service.auth.is_own() && session.attempts < ATTEMPTS;
    LoginRefusal {
        again: refusal.again.or(may_retry.then_some(Duration::ZERO)),
        ..refusal
    }
}

/// The login is refused: its credentials are forgotten, and the client is told in time.
fn refuse(session: &Session, login: &mut Login, refusal: LoginRefusal) {
    let shown = match refusal.is_ours {
        true => escape(&refusal.text),
        false => session.quote(&refusal.text),
    };
    let text = format!("client login failed: \"{shown}\"");
    session.log(Severity::Info, file!(), &text);
    let detail = match refusal.as_if_seen {
        true => "no backend was asked: no route fits the login, it has no password, or it cannot be said \
                 there".to_owned(),
        false => shown,
    };
    session.count_failure(Outcome::Refused, detail);
    hold_refusal(session, login, refusal);
}

/// The login's credentials are forgotten, and its refusal waits for its time.
fn hold_refusal(session: &Session, login: &mut Login, refusal: LoginRefusal) {
    let penalty = penalty_of(session, login);
    let method = login.presented.take().map(|credentials| credentials.method);
    let unseen = refusal
        .as_if_seen
        .then(|| session.service.refusal_time.any());
    let wait = refusal.again.max(unseen).max(penalty);
    login.refused = Some(Box::new(Refused {
        method: method.unwrap_or(Method::PLAIN),
        not_before: wait.map(|wait| Deadline::after(wait, "Auth-Wait")),
        is_challenged: false,
        refusal,
    }));
}

/// What the refusal of the login under way costs.
fn penalty_of(session: &Session, login: &mut Login) -> Option<Duration> {
    let check = login.check.take()?;
    let credentials = login.presented.as_ref()?;
    check.refuse(session, &credentials.secret)
}

/// Tells the client that its login was refused, when it is time. Without `Auth-Wait` the session ends.
fn tell_refusal(
    session: &mut Session,
    client: &mut ClientConn,
    dialect: &mut dyn Dialect,
    refused: &mut Refused,
) -> Result<(), Halt> {
    if let Some(time) = refused.not_before {
        client.pause(time)?;
        refused.not_before = None;
        session.budget.restart_time();
    }
    session.set_step(Step::InAuth);
    if let Some(challenge) = refused.refusal.sasl.take() {
        session.say(client, &dialect.challenge(&challenge))?;
        refused.is_challenged = true;
    }
    let is_answered = !refused.is_challenged
        || dialect::read_error_answer(dialect, session, client, refused.method)?;
    if is_answered {
        let line = dialect.refuse_login(&refused.refusal);
        session.say(client, refused.refusal.line.as_ref().unwrap_or(&line))?;
    }
    if refused.refusal.again.is_none() {
        return Err(Cause::Refused.into());
    }
    session.budget.restart_time();
    Ok(())
}

/// Ends a session that a refusal of its backend has ended, when it is time. A client that is gone before has
/// not changed why.
fn end_late(client: &mut ClientConn, login: &mut Login) -> Result<(), Halt> {
    let Some(ends) = login.ends.take() else {
        return Ok(());
    };
    match client.pause(ends.1) {
        Err(Stall::Asleep(wake)) => {
            login.ends = Some(ends);
            Err(Halt::Asleep(wake))
        }
        Ok(()) | Err(Stall::Failed(_)) => Err(ends.0.into()),
    }
}

/// Connects and logs in to the first host of the backend that serves. A host that refuses the login
/// has served, and one that has the credentials is the last one.
fn enter_backend(
    session: &mut Session,
    client: &mut ClientConn,
    dialect: &mut dyn Dialect,
    login: &mut Login,
) -> Result<(Conn, Line), Halt> {
    prepare_backend(session, client, login)?;
    let Some(grant) = &login.grant else {
        return Err(Cause::Internal("a login without a backend".into()).into());
    };
    let began = Instant::now();
    let entered = try_hosts(session, |session| dialect.talk(session), grant);
    login.slot = None;
    if let Err(BackendError::Refused(reply)) = &entered
        && reply.kind == RefusalKind::Login
    {
        session.service.refusal_time.note(began.elapsed());
        let client_host = told_name(session);
        if let Some(credentials) = &login.presented {
            let request = request(session, credentials, client_host);
            session.service.auth.forget(&request);
        }
    }
    match entered.map_err(Cause::from)? {
        Entered::In(accepted) => {
            session.user_place = accepted.place;
            Ok((accepted.backend, accepted.answer))
        }
        Entered::Full(Reached(directive)) => Err(Cause::UserLimit(directive).into()),
    }
}

/// What has to be there before a worker is held by the backend: a place among its logins in progress,
/// and the client's name, if it is to be told.
fn prepare_backend(
    session: &mut Session,
    client: &mut ClientConn,
    login: &mut Login,
) -> Result<(), Halt> {
    session.set_step(Step::AtBackend(BackendStep::Connecting));
    let Some(grant) = &login.grant else {
        return Ok(());
    };
    if session.service.conf.protocol.record().looks_up_client && grant.xclient != Xclient::Off {
        session.await_host_name(client)?;
    }
    let limits = session.service.limits_targets;
    let target = limits.then(|| LoginTarget::named(grant.target.name()));
    let deadline = session.login_deadline();
    match take_slot(session, client, login, target, deadline)? {
        true => Ok(()),
        false => {
            let text = "upstream has too many logins in progress".to_owned();
            Err(Cause::from(BackendError::Connect(text, None)).into())
        }
    }
}

/// A backend that decides has refused the login: the client is told, and may try again. Any other
/// failure ends the session; where a backend refuses the client's own password, which the auth server has granted,
/// it does so late, if failed logins of the address are answered late.
fn refuse_as_backend(session: &Session, login: &mut Login, cause: Cause) -> Result<(), Cause> {
    let grant = login.grant.take();
    let line = match &cause {
        Cause::Backend(BackendError::Refused(reply))
            if reply.kind == RefusalKind::Login
                && grant.as_ref().is_some_and(|grant| grant.passthrough) =>
        {
            let answer = reply.quoted(&session.secrets);
            let text = format!("backend refused the login: \"{answer}\"");
            session.log(Severity::Info, file!(), &text);
            session.count_failure(Outcome::Refused, answer);
            reply.line().cloned()
        }
        Cause::Backend(BackendError::Refused(reply))
            if reply.kind == RefusalKind::Login
                && grant.is_some_and(|grant| grant.shows_clients_secret()) =>
        {
            let Some(penalty) = penalty_of(session, login) else {
                return Err(cause);
            };
            let deadline = Deadline::after(penalty, "auth_penalty_max");
            login.ends = Some(Box::new((cause, deadline)));
            return Ok(());
        }
        _ => return Err(cause),
    };
    session.set_upstream(None);
    let refusal = LoginRefusal {
        line,
        ..LoginRefusal::failed()
    };
    hold_refusal(session, login, allow_retry(session, refusal));
    Ok(())
}
