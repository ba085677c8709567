//! What a simulated client says, what it waits for, and what is known of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::tls::{Clients, Handshake};
use crate::wire::Wire;

/// A line to send and how the line that answers it begins. Nothing is sent where `say` is empty: the
/// greeting of a server is an answer to nothing. Where `hear` is empty, the end of the stream is the
/// answer.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) say: &'static str,
    pub(crate) hear: &'static str,
}

/// What a client does when its script is at its end.
#[derive(Clone)]
pub(crate) enum Then {
    /// Closes; the session was a success.
    Leave,
    /// Keeps the connection and says nothing; the session was a success.
    Stay,
    /// Says the line that often, whatever is answered.
    Chat(&'static str, Duration),
    /// Asks again as soon as it is answered, that many times, and leaves.
    Repeat(Exchange, usize),
}

/// What many clients have in common.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) tls: Option<Clients>,
    pub(crate) script: Vec<Exchange>,
    pub(crate) then: Then,
    /// How long a client waits between an answer and its next line: the way there and back.
    pub(crate) rtt: Duration,
    /// When a client whose connection was closed comes back; `None` is an honest one that does not.
    pub(crate) back: Option<Duration>,
    /// How long the script may take before it counts as failed.
    pub(crate) patience: Duration,
}

impl Plan {
    /// An honest client with this script, no way to go, and half a minute of patience.
    pub(crate) fn new(target: SocketAddr, script: &[(&'static str, &'static str)]) -> Self {
        let script = script.iter().map(|&(say, hear)| Exchange { say, hear });
        Self {
            target,
            tls: None,
            script: script.collect(),
            then: Then::Leave,
            rtt: Duration::ZERO,
            back: None,
            patience: Duration::from_secs(30),
        }
    }

    pub(crate) fn with_rtt(mut self, rtt: Duration) -> Self {
        self.rtt = rtt;
        self
    }

    pub(crate) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    pub(crate) fn over(mut self, tls: Option<Handshake>) -> Self {
        self.tls = tls.map(Clients::new);
        self
    }

    pub(crate) fn comes_back(mut self, after: Duration) -> Self {
        self.back = Some(after);
        self
    }
}

/// What a client says to log in, and what it hears.
pub(crate) type Script = &'static [(&'static str, &'static str)];

pub(crate) const IMAP_LOGIN: Script = &[("", "* OK"), ("a LOGIN bob pw\r\n", "a OK")];
pub(crate) const LOGOUT: &str = "b LOGOUT\r\n";
pub(crate) const POP3_LOGIN: Script =
    &[("", "+OK"), ("USER bob\r\n", "+OK"), ("PASS pw\r\n", "+OK")];
pub(crate) const SMTP_LOGIN: Script = &[
    ("", "220 "),
    ("EHLO client.test\r\n", "250 "),
    ("AUTH PLAIN AGJvYgBwdw==\r\n", "235 "),
];

/// One simulated client; it may open several connections, one after another.
pub(crate) struct Client {
    pub(crate) plan: Rc<Plan>,
    pub(crate) from: Ipv4Addr,
    /// The tally that its results go to.
    pub(crate) group: usize,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) wire: Option<Wire>,
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    /// Which exchange it is at; behind the script's end those of `Then::Repeat` count on.
    pub(crate) at: usize,
    /// A question besides the script, asked of those that stay.
    pub(crate) question: Option<Rc<Exchange>>,
    /// Since when it waits for an answer.
    pub(crate) asked: Option<Instant>,
    /// The sum of those waits, without those that it had between.
    pub(crate) waited: Duration,
    /// Alarms of earlier connections are known by an older number.
    pub(crate) generation: u32,
    /// Whether its success or failure has been counted.
    pub(crate) counted: bool,
}

impl Client {
    pub(crate) fn new(plan: &Rc<Plan>, from: Ipv4Addr, group: usize) -> Self {
        let tls = plan.tls.as_ref().map(Clients::one);
        Self {
            plan: Rc::clone(plan),
            from,
            group,
            tls,
            wire: None,
            input: Vec::new(),
            output: Vec::new(),
            at: 0,
            question: None,
            asked: None,
            waited: Duration::ZERO,
            generation: 0,
            counted: false,
        }
    }

    /// The exchange it is at, unless it has nothing more to ask.
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        if let Some(question) = &self.question {
            return Some(question);
        }
        let plan = &self.plan;
        match (plan.script.get(self.at), &plan.then) {
            (Some(exchange), _) => Some(exchange),
            (None, Then::Repeat(exchange, times)) if self.at - plan.script.len() < *times => {
                Some(exchange)
            }
            (None, _) => None,
        }
    }

    /// Whether it repeats its last question.
    pub(crate) fn is_repeating(&self) -> bool {
        self.at >= self.plan.script.len()
    }

    /// Whether it has asked for the end of its session.
    pub(crate) fn is_leaving(&self) -> bool {
        self.exchange()
            .is_some_and(|exchange| exchange.say == LOGOUT)
    }

    /// The next whole line of what was received, without its end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Forgets the connection; alarms that were set for it are void.
    pub(crate) fn forget_connection(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.close();
        }
        self.input = Vec::new();
        self.output = Vec::new();
        self.at = 0;
        self.question = None;
        self.asked = None;
        self.waited = Duration::ZERO;
        self.generation += 1;
    }
}

/// Whether a line of any of the three protocols turns a client away.
pub(crate) fn is_refusal(line: &str) -> bool {
    let reply = line.as_bytes();
    let is_negative_reply = reply.len() > 3
        && matches!(reply[0], b'4' | b'5')
        && reply[1].is_ascii_digit()
        && reply[2].is_ascii_digit();
    let words = ["* BYE", "a NO", "a BAD", "-ERR"];
    is_negative_reply || words.iter().any(|word| line.starts_with(word))
}
