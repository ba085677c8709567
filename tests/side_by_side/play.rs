//! Plays a dialogue to one proxy and writes down every line that comes back.
//!
//! Which lines those should be is not known here: the dialogue tells only how many to wait for, and
//! a proxy that says fewer costs a bounded wait.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::dialogue::{Dialogue, Identity, Step};
use crate::common::line_client::find;
use crate::common::tls::{Client, Got, Tls};
use crate::dialogues::script::Step as Said;
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};

/// How the client's bytes are sent.
pub(crate) const WAYS: [&str; 3] = ["lines", "at-once", "bytes"];

/// What stands in a client's lines instead of a handshake that failed.
pub(crate) const NO_TLS: &str = "(no TLS)";

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a line that should come.
    pub(crate) line: Duration,
    /// For a line or a close that should not.
    pub(crate) silence: Duration,
}

/// Plays it and gives the lines the client saw; at last `(closed)` or `(open)`.
pub(crate) fn play(
    dialogue: &Dialogue,
    way: &str,
    address: SocketAddr,
    patience: Patience,
) -> Vec<String> {
    let mut client = Player::connect(address, way, patience);
    let mut rest = dialogue.steps.as_slice();
    while !rest.is_empty() && !client.closed {
        let pause = |step: &Step| matches!(step, Step::Tls(_) | Step::Said(Said::Sync));
        let end = rest.iter().position(pause).map_or(rest.len(), |at| at + 1);
        client.scene(&rest[..end]);
        rest = &rest[end..];
    }
    client.finish()
}

struct Player {
    socket: TcpStream,
    tls: Option<Tls>,
    way: String,
    patience: Patience,
    received: Vec<u8>,
    lines: Vec<String>,
    /// Lines waited for in vain: what comes late must not be waited for again.
    late: bool,
    closed: bool,
}

impl Player {
    fn connect(address: SocketAddr, way: &str, patience: Patience) -> Player {
        let socket = TcpStream::connect(address).expect("the proxy listens");
        socket.set_nodelay(true).expect("TCP has no delay to set");
        Player {
            socket,
            tls: None,
            way: way.to_owned(),
            patience,
            received: Vec::new(),
            lines: Vec::new(),
            late: false,
            closed: false,
        }
    }

    /// Steps up to a pause; at once, everything is said before anything is waited for.
    fn scene(&mut self, steps: &[Step]) {
        let at_once = self.way == "at-once";
        let mut bytes = Vec::new();
        for step in steps {
            match step {
                Step::Said(Said::Send(some)) if at_once => bytes.extend_from_slice(some),
                Step::Said(Said::End) if at_once => {
                    self.send(&std::mem::take(&mut bytes));
                    self.end();
                }
                _ => {}
            }
        }
        self.send(&bytes);
        for step in steps {
            match step {
                Step::Said(Said::Send(bytes)) if !at_once => self.send(bytes),
                Step::Said(Said::End) if !at_once => self.end(),
                Step::Said(Said::Expect(_)) => self.line(),
                Step::Said(Said::Close) => self.wait(self.patience.line),
                Step::Tls(identity) => self.start_tls(*identity),
                Step::Said(_) => {}
            }
        }
    }

    /// A failure to send shows in what comes back.
    fn send(&mut self, bytes: &[u8]) {
        if self.way != "bytes" {
            drop(self.write(bytes));
            return;
        }
        for byte in bytes {
            if self.write(std::slice::from_ref(byte)).is_err() {
                return;
            }
            if matches!(byte, b'\r' | b'}') {
                // Long enough for the proxy to have read up to here.
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &self.tls {
            Some(tls) => tls.write(bytes),
            None => self.socket.write_all(bytes),
        }
    }

    fn end(&mut self) {
        // The proxy may have closed already.
        drop(match &self.tls {
            Some(tls) => tls.half_close(),
            None => self.socket.shutdown(Shutdown::Write),
        });
    }

    fn line(&mut self) {
        let limit = if self.late {
            self.patience.silence
        } else {
            self.patience.line
        };
        let end = Instant::now() + limit;
        while find(&self.received, b"\r\n").is_none() {
            if !self.fill(end) {
                self.late = true;
                return;
            }
        }
        self.take_line();
    }

    fn take_line(&mut self) -> bool {
        let Some(at) = find(&self.received, b"\r\n") else {
            return false;
        };
        let line: Vec<u8> = self.received.drain(..at + 2).collect();
        let line = String::from_utf8_lossy(&line[..at]).into_owned();
        self.lines.push(line);
        true
    }

    /// Reads on until the end or silence.
    fn wait(&mut self, limit: Duration) {
        while self.fill(Instant::now() + limit) {}
    }

    fn finish(mut self) -> Vec<String> {
        self.wait(self.patience.silence);
        while self.take_line() {}
        if !self.received.is_empty() {
            let rest = self.received.escape_ascii();
            self.lines.push(format!("(unfinished) {rest}"));
        }
        let end = if self.closed { "(closed)" } else { "(open)" };
        self.lines.push(end.to_owned());
        self.lines
    }

    fn start_tls(&mut self, identity: Identity) {
        while self.take_line() {}
        let plain = std::mem::take(&mut self.received);
        let socket = self.socket.try_clone().expect("it can be duplicated");
        let told = match client(identity).handshake(socket) {
            Ok(tls) => {
                self.tls = Some(tls);
                "(TLS)"
            }
            Err(_) => {
                self.closed = true;
                NO_TLS
            }
        };
        let plain = String::from_utf8_lossy(&plain);
        self.lines.push(format!("{told}{plain}"));
    }

    /// Reads once; false at the end of the stream or of the time.
    fn fill(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        if self.closed || left.is_zero() {
            return false;
        }
        let timeout = self.socket.set_read_timeout(Some(left));
        timeout.expect("the time left is not zero");
        let mut buffer = [0; 4096];
        let count = match &self.tls {
            None => self.socket.read(&mut buffer),
            Some(tls) => match tls.read(&mut buffer) {
                Ok(Got::Bytes(count)) => Ok(count),
                Ok(_) => Ok(0),
                Err(error) => Err(error),
            },
        };
        match count {
            Ok(count @ 1..) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                false
            }
            _ => {
                self.closed = true;
                false
            }
        }
    }
}

/// TLS 1.3, and 1.2 with a certificate, whose refusal the handshake itself would then show.
fn client(identity: Identity) -> Client {
    let pki = Pki::shared();
    let client = Client::trusting(&pki.authority());
    match identity {
        Identity::Nobody => client,
        Identity::Known => with(client.only_1_2(), pair(State::Good)),
        Identity::Stranger => with(client.only_1_2(), pair(State::SelfSigned)),
    }
}

fn with(client: Client, pair: Pair) -> Client {
    client.with(&pair.certificate, &pair.key)
}

/// The same for both proxies: what they tell of it is compared.
fn pair(state: State) -> Pair {
    use std::sync::OnceLock;
    static KNOWN: OnceLock<Pair> = OnceLock::new();
    static STRANGER: OnceLock<Pair> = OnceLock::new();
    let cell = if state == State::Good {
        &KNOWN
    } else {
        &STRANGER
    };
    let made = cell.get_or_init(|| Pki::shared().issue("client", NAMES, Key::Ec, state));
    made.clone()
}
