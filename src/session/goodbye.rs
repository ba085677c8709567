//! The end of a session before its relay: the last line to the client, the lines in the log, and a close
//! that lets the line arrive.
//!
//! A socket that is closed with unread input sends a reset, which can destroy the last line before it is
//! read. So our direction is ended first, and what the client still sends is read for a moment,
//! asleep.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::Session;
use super::error::Cause;
use super::hibernate::{Sleeper, Watched};
use crate::log::Severity;
use crate::net::client_conn::ClientConn;
use crate::net::line::Line;
use crate::net::socket::{Deadline, WaitFor, Waited};
use crate::session::TlsDue;

/// Longest time a last line may take to be written.
const LAST_LINE: Duration = Duration::from_millis(500);

/// Longest time and most bytes that are read behind it.
pub(super) const LINGER: Duration = Duration::from_millis(200);
const MOST: usize = 64 * 1024;

/// A session that has said its last line.
struct Leaving {
    session: Box<Session>,
    client: ClientConn,
    reason: &'static str,
    /// Whether the client ended it, as it can as often as it likes.
    is_of_client: bool,
    /// Until when the line must be out.
    line_until: Deadline,
    /// How long the client may go on talking, once the line is out.
    linger: Duration,
    /// Until when that is.
    linger_until: Option<Instant>,
    read: usize,
}

/// Says why, to the log and with `line` to the client, and closes. Where others need the place at once,
/// `linger` is zero.
pub(super) fn say(
    session: Box<Session>,
    mut client: ClientConn,
    cause: &Cause,
    line: Option<Line>,
    linger: Duration,
) {
    let (severity, kind) = (cause.severity(), cause.reason());
    let is_of_client = cause.is_of_client();
    session.entry.note_goodbye();
    if !is_of_client || session.may_log(severity, kind) {
        let text = session.describe(cause);
        session.log_failure(severity, file!(), &text, cause.io_error());
    }
    if let Some(line) = line.filter(|_| session.tls_due == TlsDue::No) {
        // The client may be gone; then it hears nothing.
        let _ = session.say(&mut client, &line);
    }
    client.say_last();
    let leaving = Leaving {
        session,
        client,
        reason: cause.reason(),
        is_of_client,
        line_until: Deadline::after(LAST_LINE, "timeout"),
        linger,
        linger_until: None,
        read: 0,
    };
    Box::new(leaving).go_on();
}

impl Leaving {
    /// Goes as far as the client lets it, and sleeps or closes then.
    fn go_on(mut self: Box<Self>) {
        if self.linger_until.is_none() {
            if self.is_line_pending() {
                let until = self.line_until.at;
                return self.sleep(WaitFor::Room, until);
            }
            self.client.socket().shutdown(Shutdown::Write);
            self.linger_until = Some(Instant::now() + self.linger);
        }
        let end = self.linger_until.unwrap_or_else(Instant::now);
        if self.may_say_more() && Instant::now() < end {
            return self.sleep(WaitFor::Data, end);
        }
        self.session.count_end(self.reason);
        if !self.is_of_client || self.session.may_log(Severity::Info, "session closed") {
            self.session.log_closing(self.reason, None);
        }
    }

    /// Whether the client may still take the line.
    fn is_line_pending(&mut self) -> bool {
        !self.client.is_flushed_now() && self.line_until.remaining().is_some()
    }

    /// Reads what is there; whether more may come.
    fn may_say_more(&mut self) -> bool {
        let mut sink = Zeroizing::new([0; 4096]);
        while self.read < MOST {
            match self.client.socket().read_now(&mut sink[..]) {
                Ok(Waited::TimedOut) => return !self.client.socket().ends_reading(),
                Ok(Waited::Done(n)) if n > 0 => self.read += n,
                _ => return false,
            }
        }
        false
    }

    fn sleep(self: Box<Self>, on: WaitFor, until: Instant) {
        let runtime = Arc::clone(&self.session.runtime);
        let number = self.session.entry.number;
        let watched = [Watched {
            socket: Arc::clone(self.client.socket()),
            on,
        }];
        runtime.hibernation.sleep(number, &watched, until, self);
    }
}

impl Sleeper for Leaving {
    fn wake(self: Box<Self>) {
        let runtime = Arc::clone(&self.session.runtime);
        let turn = self.session.place.last_turn();
        runtime.queue(turn, Box::new(move || self.go_on()));
    }
}
