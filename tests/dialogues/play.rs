//! Plays one dialogue against a proxy of its own, with an auth server and a backend of its own.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::script::{Script, Step};
use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::common::line_client::find;
use crate::common::postern::Postern;
use crate::common::service;
use crate::peers::{Peer, server_of};

/// How long one line may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the proxy must stay silent where the dialogue ends without a close.
const SILENCE: Duration = Duration::from_millis(30);

/// How long the session may take to fall asleep before the next byte; where it does not, it waits for a
/// time, or for somebody else.
const UNTIL_ASLEEP: Duration = Duration::from_millis(100);
/// Of a longer piece the middle is sent in parts of so many bytes, with a sleep before each part.
const PART: usize = 256;

/// How the client's bytes are sent.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Lines,
    AtOnce,
    Bytes,
    Asleep,
}

const WAYS: [(&str, Way); 4] = [
    ("lines", Way::Lines),
    ("at-once", Way::AtOnce),
    ("bytes", Way::Bytes),
    ("asleep", Way::Asleep),
];

impl Script {
    /// What restricts a dialogue to bytes, or keeps it from them, does the same to sleeps.
    fn is_played(&self, name: &str) -> bool {
        let name = if name == "asleep" { "bytes" } else { name };
        self.ways.is_empty() || self.ways.iter().any(|wanted| wanted == name)
    }
}

/// # Errors
/// The first way in which it went otherwise, with what was said and what the proxy logged.
pub(super) fn all_ways(protocol: &str, script: &Script) -> Result<(), String> {
    let backend = Peer::start(server_of(protocol));
    let turn = Arc::new(AtomicUsize::new(0));
    let auth = AuthServer::start(answers(script, backend.address(), Arc::clone(&turn)));
    let mut config = script.config.join("\n");
    config.push_str("\nerror_log = stderr debug");
    let server = service(protocol, &auth, &config);
    let patient = Postern::start(&server);
    let sleepy = Postern::start(&format!(
        "[postern]\nclient_wait = 0\n{server}\nhibernate_timeout = 1ms\n"
    ));
    for (name, way) in WAYS.into_iter().filter(|(name, _)| script.is_played(name)) {
        let postern = match way {
            Way::Asleep => &sleepy,
            Way::Lines | Way::AtOnce | Way::Bytes => &patient,
        };
        turn.store(0, Ordering::SeqCst);
        backend.forget();
        let seen = Before {
            requests: auth.requests().len(),
            connections: backend.accepted(),
        };
        let mut player = Player::connect(postern, protocol);
        player
            .play(&script.steps, way)
            .and_then(|()| check_afterwards(script, &player, &auth, &backend, &seen))
            .map_err(|why| {
                let log = postern.log();
                format!("{name}: {why}\n{}--- log\n{log}\n", player.transcript)
            })?;
    }
    Ok(())
}

struct Before {
    requests: usize,
    connections: usize,
}

fn answers(
    script: &Script,
    backend: SocketAddr,
    turn: Arc<AtomicUsize>,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let answers = script.auth.clone();
    move |_| {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        let Some(headers) = answers.get(turn).or(answers.last()) else {
            return Answer::ok(backend);
        };
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        match headers.split_first() {
            Some((&"OK", more)) => Answer::ok_with(backend, more),
            _ => Answer::headers(&headers),
        }
    }
}

struct Player<'a> {
    postern: &'a Postern,
    stream: TcpStream,
    received: Vec<u8>,
    salt: Option<String>,
    transcript: String,
    /// How much of the log is from before the last byte that was sent.
    logged: usize,
    /// How often something was sent while the session slept, and how often while it did not although it
    /// slept again later: one that has been refused does not any more.
    asleep: usize,
    awake: usize,
    awake_lately: usize,
}

impl Player<'_> {
    fn connect<'a>(postern: &'a Postern, protocol: &str) -> Player<'a> {
        let logged = postern.lines_from(0).len();
        let stream = TcpStream::connect(postern.address(protocol)).expect("the proxy listens");
        stream.set_nodelay(true).expect("TCP has no delay to set");
        Player {
            postern,
            stream,
            received: Vec::new(),
            salt: None,
            transcript: String::new(),
            logged,
            asleep: 0,
            awake: 0,
            awake_lately: 0,
        }
    }

    fn play(&mut self, steps: &[Step], way: Way) -> Result<(), String> {
        let mut rest = steps;
        while !rest.is_empty() {
            let next = rest.iter().position(|step| matches!(step, Step::Sync));
            let (scene, after) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
            if way != Way::Lines {
                self.send_scene(scene, way);
            }
            for step in scene {
                self.step(step, way)?;
            }
            rest = after;
        }
        let never_slept = self.asleep == 0 && self.awake_lately > 0;
        if never_slept || self.awake > self.asleep {
            let (asleep, awake) = (self.asleep, self.awake + self.awake_lately);
            return Err(format!(
                "asleep before {asleep} bytes, awake before {awake}"
            ));
        }
        if matches!(steps.last(), Some(Step::Close)) {
            return Ok(());
        }
        self.expect_silence()
    }

    /// Everything the client says up to the next `sync`, as one piece.
    fn send_scene(&mut self, scene: &[Step], way: Way) {
        let mut bytes = Vec::new();
        for step in scene {
            match step {
                Step::Send(some) => bytes.extend_from_slice(some),
                Step::End => {
                    self.send(&bytes, way);
                    bytes.clear();
                    // The proxy may have closed already.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                _ => {}
            }
        }
        self.send(&bytes, way);
    }

    /// A failure to send is no failure yet: the proxy may have closed, and what it said shows why.
    fn send(&mut self, bytes: &[u8], way: Way) {
        match way {
            Way::Lines | Way::AtOnce => drop(self.stream.write_all(bytes)),
            Way::Bytes => self.send_bytewise(bytes),
            Way::Asleep => self.send_to_a_sleeper(bytes),
        }
    }

    /// The session is put to sleep before each byte.
    fn send_to_a_sleeper(&mut self, bytes: &[u8]) {
        let (begin, rest) = bytes.split_at(bytes.len().min(PART));
        let (middle, end) = rest.split_at(rest.len().saturating_sub(PART));
        let parts = begin.chunks(1).chain(middle.chunks(PART));
        for part in parts.chain(end.chunks(1)) {
            if self.waits_until_asleep() {
                self.asleep += 1;
                self.awake += std::mem::take(&mut self.awake_lately);
            } else {
                self.awake_lately += 1;
            }
            if self.stream.write_all(part).is_err() {
                return;
            }
        }
    }

    /// Waits until the session has fallen asleep, since the last byte that was sent; whether it has.
    fn waits_until_asleep(&mut self) -> bool {
        let end = Instant::now() + UNTIL_ASLEEP;
        loop {
            let lines = self.postern.lines_from(self.logged);
            let says = |text| lines.iter().any(|line: &String| line.contains(text));
            let (sleeps, is_closed) = (says(" sleeps"), says("session closed"));
            if sleeps || is_closed || Instant::now() > end {
                // What follows the close, if it is sent at all, is not waited for.
                self.logged += if is_closed { 0 } else { lines.len() };
                return sleeps;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.stream.write_all(std::slice::from_ref(byte)).is_err() {
                return;
            }
            if matches!(byte, b'\r' | b'}') {
                // Long enough for the proxy to have read up to here.
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn step(&mut self, step: &Step, way: Way) -> Result<(), String> {
        match step {
            Step::Send(bytes) => {
                self.note("C", &bytes.escape_ascii().to_string());
                if way == Way::Lines {
                    self.send(bytes, way);
                }
                Ok(())
            }
            Step::End => {
                if way == Way::Lines {
                    // The proxy may have closed already.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                Ok(())
            }
            Step::Expect(wanted) => {
                let line = self
                    .line()
                    .map_err(|why| format!("{why} instead of {wanted:?}"))?;
                self.note("S", &line);
                if self.matches(&line, wanted) {
                    return Ok(());
                }
                Err(format!("{line:?} instead of {wanted:?}"))
            }
            Step::Close => self.expect_close(),
            Step::Sync => Ok(()),
        }
    }

    fn note(&mut self, who: &str, what: &str) {
        let short: String = what.chars().take(200).collect();
        writeln!(self.transcript, "  {who}: {short}").expect("a String takes everything");
    }

    fn matches(&mut self, line: &str, wanted: &str) -> bool {
        for (placeholder, coded) in [("<SALT>", false), ("<SALT64>", true)] {
            let Some((before, after)) = wanted.split_once(placeholder) else {
                continue;
            };
            let inner = line
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after));
            let Some(inner) = inner else { return false };
            self.salt = if coded {
                let decoded = STANDARD.decode(inner).ok();
                decoded.and_then(|bytes| String::from_utf8(bytes).ok())
            } else {
                Some(inner.to_owned())
            };
            return self.salt.as_deref().is_some_and(is_salt);
        }
        fits(line, wanted)
    }

    fn line(&mut self) -> Result<String, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill(end)? {
                return Err(format!("a close after {:?}", self.so_far()));
            }
        }
    }

    fn expect_close(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while self.fill(end)? {}
        if self.received.is_empty() {
            return Ok(());
        }
        Err(format!("{:?} before the close", self.so_far()))
    }

    fn expect_silence(&mut self) -> Result<(), String> {
        let end = Instant::now() + SILENCE;
        while self.received.is_empty() && Instant::now() < end {
            match self.fill(end) {
                Ok(false) => return Err("a close at the end".to_owned()),
                Ok(true) => {}
                Err(_) => return Ok(()),
            }
        }
        if self.received.is_empty() {
            return Ok(());
        }
        Err(format!("{:?} at the end", self.so_far()))
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Reads once; false at the end of the stream.
    fn fill(&mut self, end: Instant) -> Result<bool, String> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("silence after {:?}", self.so_far()));
        }
        let timeout = self.stream.set_read_timeout(Some(left));
        timeout.map_err(|error| error.to_string())?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    Err(format!("silence after {:?}", self.so_far()))
                }
                kind => Err(format!("{kind} after {:?}", self.so_far())),
            },
        }
    }
}

/// `<DIGITS.SECONDS@proxy.test>`
fn is_salt(text: &str) -> bool {
    let inner = text
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix("@proxy.test>"));
    let Some((random, seconds)) = inner.and_then(|inner| inner.split_once('.')) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(random) && digits(seconds)
}

/// Whether `line` is `wanted`, in which `<ANY>` stands for any text.
fn fits(line: &str, wanted: &str) -> bool {
    let mut parts = wanted.split("<ANY>");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || line.ends_with(part),
    }
}

fn check_afterwards(
    script: &Script,
    player: &Player,
    auth: &AuthServer,
    backend: &Peer,
    before: &Before,
) -> Result<(), String> {
    let requests = auth.requests().split_off(before.requests);
    for (number, wanted) in &script.requests {
        let salt = player.salt.as_deref().unwrap_or_default();
        let wanted = wanted.replace("<SALT>", salt);
        let request = requests
            .get(number - 1)
            .ok_or(format!("only {} auth requests", requests.len()))?;
        if !request.headers().contains(&wanted.as_str()) {
            return Err(format!("no `{wanted}` in auth request\n{}", request.raw));
        }
    }
    if script
        .request_count
        .is_some_and(|count| count != requests.len())
    {
        return Err(format!("{} auth requests", requests.len()));
    }
    if script.backend_unused && backend.accepted() != before.connections {
        return Err("a connection to the backend".to_owned());
    }
    check_backend(&script.backend, backend)
}

/// The lines may still be under way to the backend.
fn check_backend(wanted: &[String], backend: &Peer) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let lines = backend.lines();
        let mut got = lines.iter();
        let missing = wanted
            .iter()
            .find(|wanted| !got.any(|line| fits(line, wanted)));
        let Some(missing) = missing else {
            return Ok(());
        };
        if Instant::now() > end {
            return Err(format!(
                "the backend did not get `{missing}` in order: {lines:#?}"
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
