//! How a session gets from accept through its turns to its relay or its end: a turn on a worker as far as
//! its client lets it go, a sleep, and the next turn.
//!
//! What is done in a turn is the script in `run`; whose turn it is, `admission` decides; who sleeps is
//! held by `hibernate`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Cause, Halt};
use super::goodbye;
use super::hibernate::{Sleeper, Watched};
use super::live::MOMENT;
use super::relay::Relay;
use super::run::{Login, Opening, Script, run};
use super::{Runtime, Session, TlsDue};
use crate::admission::{Place, SleepsFor};
use crate::dialect;
use crate::log::Severity;
use crate::net::address::Address;
use crate::net::client_conn::{ClientConn, Wake};
use crate::net::socket::{Deadline, Socket};
use crate::service::Service;
use crate::system::threads::rename;

/// What the log says on level debug of a session that gives its thread back, and gets one again.
pub(crate) const SLEEPS: &str = "session sleeps";
pub(crate) const WAKES: &str = "session wakes";

/// A connection that was accepted and let in.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The server it came to.
    pub service: Arc<Service>,
    /// TLS from the first byte on.
    pub implicit_tls: bool,
    /// A PROXY header comes first.
    pub proxy_protocol: bool,
    /// The connection.
    pub socket: Arc<Socket>,
    /// Its other end.
    pub peer: Address,
    /// Its place among all sessions.
    pub place: Place,
}

/// Begins the session of an accepted connection.
pub(crate) fn begin(runtime: &Arc<Runtime>, arrival: Arrival) {
    let Arrival {
        service,
        implicit_tls,
        proxy_protocol,
        socket,
        peer,
        place,
    } = arrival;
    let waits = Arc::clone(runtime.admission.waits());
    let client = ClientConn::new(Arc::clone(&socket), service.client_buffer(), waits);
    let dialect = dialect::begin(service.conf.protocol);
    let mut session = Session::new(runtime, service, place, peer, &socket);
    if implicit_tls {
        session.tls_due = TlsDue::Implicit;
    }
    queue(Box::new(Script {
        session: Box::new(session),
        client,
        dialect,
        opening: Opening::new(proxy_protocol),
        login: Login::default(),
    }));
}

/// Asks for a turn. A client whose time runs out before the turn comes need not wait for it.
fn queue(mut script: Box<Script>) {
    let runtime = Arc::clone(&script.session.runtime);
    let number = script.session.entry.number;
    let turn = script.session.place.next_turn();
    let is_at_client = script.login.is_at_client();
    let deadline = is_at_client.then(|| script.session.budget.deadline());
    let queued = Arc::new(Mutex::new(Some(script)));
    if let Some(deadline) = deadline {
        let late = Box::new(Queued {
            script: Arc::clone(&queued),
            deadline,
        });
        runtime.hibernation.sleep(number, &[], deadline.at, late);
    }
    let of_turn = Arc::clone(&runtime);
    let turn_comes = move || {
        if let Some(script) = take(&queued) {
            drop(of_turn.hibernation.take(number));
            serve(script);
        }
    };
    runtime.queue(turn, Box::new(turn_comes));
}

/// A session that waits for its turn.
struct Queued {
    script: Arc<Mutex<Option<Box<Script>>>>,
    deadline: Deadline,
}

impl Sleeper for Queued {
    /// Its time is over, or it was told to end. Otherwise it was an event that came too late, and its turn
    /// will come.
    fn wake(self: Box<Self>) {
        let is_over = self.deadline.remaining().is_none();
        let script = Arc::clone(&self.script);
        // Held until this is asleep again: whoever takes the script takes the sleeper behind it.
        let mut queued = script.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = queued.as_deref() else {
            return;
        };
        let ending = waiting.session.entry.ending();
        if !is_over && ending.is_none() {
            let runtime = Arc::clone(&waiting.session.runtime);
            let number = waiting.session.entry.number;
            let until = self.deadline.at;
            return runtime.hibernation.sleep_on(number, until, self);
        }
        let waiting = queued.take();
        drop(queued);
        if let Some(script) = waiting {
            end(script, ending.map_or(Cause::ClientTimeout, Cause::from));
        }
    }
}

fn take(queued: &Mutex<Option<Box<Script>>>) -> Option<Box<Script>> {
    queued.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One turn of a session: as far as its client lets it go.
fn serve(script: Box<Script>) {
    rename(&script.session.to_string());
    let number = script.session.entry.number;
    let service = Arc::clone(&script.session.service);
    // A panic costs this session alone.
    let turn = AssertUnwindSafe(|| take_turn(script));
    if catch_unwind(turn).is_err() {
        let text = format!("*{number} session ended by a fault in the program");
        let log = &service.log;
        log.write(Severity::Alert, file!(), &text, None, None);
        service.metrics.ended.count("internal error");
    }
}

fn take_turn(mut script: Box<Script>) {
    script.session.entry.note_activity();
    match run(&mut script) {
        Ok(backend) => {
            script.session.log_event(file!(), "client logged in");
            Relay::begin(script.session, script.client, backend);
        }
        Err(Halt::Asleep(wake)) => sleep(script, wake),
        Err(Halt::Ended(cause)) => end(script, cause),
    }
}

fn end(script: Box<Script>, cause: Cause) {
    end_within(script, cause, goodbye::LINGER);
}

fn end_within(script: Box<Script>, cause: Cause, linger: Duration) {
    let Script {
        session,
        client,
        dialect,
        login,
        ..
    } = *script;
    let cause = match (cause, session.entry.ending()) {
        // Whoever ends it from outside ends its stream.
        (Cause::ClientGone, Some(ending)) => ending.into(),
        (cause, _) => cause,
    };
    if login.is_under_way() {
        session.count_ended_login(&cause);
    }
    let line = dialect.failure_line(&cause, session.service.auth.is_own());
    goodbye::say(session, client, &cause, line, linger);
}

fn sleep(mut script: Box<Script>, wake: Wake) {
    let runtime = Arc::clone(&script.session.runtime);
    let number = script.session.entry.number;
    let watched = [Watched {
        socket: Arc::clone(script.client.socket()),
        on: wake.on,
    }];
    script.session.log(Severity::Debug, file!(), SLEEPS);
    let mut until = wake.until;
    if script.session.entry.makes_room() && script.login.sleeps_for() != SleepsFor::Others {
        until = until.min(Instant::now() + MOMENT);
    }
    let sleeps_for = match script.opening.holds_greeting_back() {
        true => SleepsFor::Us,
        false => script.login.sleeps_for(),
    };
    script.session.place.falls_asleep(sleeps_for);
    script.session.entry.note_sleep(true);
    runtime.hibernation.sleep(number, &watched, until, script);
}

impl Sleeper for Script {
    fn wake(mut self: Box<Self>) {
        self.session.place.wakes();
        self.session.entry.note_sleep(false);
        if let Some(ending) = self.session.entry.ending() {
            return end(self, ending.into());
        }
        self.session.log(Severity::Debug, file!(), WAKES);
        queue(self);
    }

    fn make_room(self: Box<Self>) {
        self.session.entry.note_sleep(false);
        end_within(self, Cause::MadeRoom, Duration::ZERO);
    }
}
