//! What it costs to pass contents on, down to the client or up from it. Each stream is a session and a
//! thread here, in plain blocking code.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::meter::Meter;
use crate::proxies::{Protocol, Proxy, Setup};
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::tls::{self, Clients, Handshake};

const MIB: usize = 1 << 20;

/// Bytes of all streams together.
const SIZE: usize = 1024 * MIB;
const SIZE_WITH_TLS: usize = 512 * MIB;

/// How long a stream may stand still, and how long it may take in all.
const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(120);

const PIECE: usize = 65_536;

static CPU: Figure = Figure::headline("CPU", "s per GiB");
static RATE: Figure = Figure::detail("rate", "MiB/s");
static OTHERS: Figure = Figure::detail("CPU of generator and servers", "s per GiB");

#[derive(Clone, Copy)]
enum Direction {
    Down,
    Up,
}

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let setup = Setup::of(Protocol::Imap);
    for (direction, way) in [(Direction::Down, "down"), (Direction::Up, "up")] {
        for (tls, how) in [(None, "plain"), (Some(Handshake::Full), "TLS")] {
            for streams in [1, 4] {
                let plural = if streams == 1 { "" } else { "s" };
                let case = Case {
                    measure: "relay",
                    name: &format!("{way}, {how}, {streams} stream{plural}"),
                    setup: &setup,
                    start: Start::Once,
                };
                let size = stage.scaled(if tls.is_some() { SIZE_WITH_TLS } else { SIZE });
                stage.play(&case, results, |proxy| {
                    pass(stage, proxy, tls, (direction, streams, size / streams))
                });
            }
        }
    }
}

fn pass(
    stage: &Stage,
    proxy: &Proxy,
    tls: Option<Handshake>,
    (direction, streams, bytes): (Direction, usize, usize),
) -> Result<Values, String> {
    let clients = tls.map(Clients::new);
    let target = match tls {
        None => proxy.address(),
        Some(_) => proxy.tls_address(),
    };
    let sessions = (0..streams).map(|_| Session::log_in(target, clients.as_ref()));
    let sessions: io::Result<Vec<Session>> = sessions.collect();
    let sessions = sessions.map_err(|error| format!("no login succeeded: {error}"))?;
    let meter = Meter::start(proxy, stage);
    let outcome: io::Result<()> = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .into_iter()
            .map(|session| scope.spawn(move || session.pass(direction, bytes)))
            .collect();
        let ended = running.into_iter().map(|one| match one.join() {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::other("a stream's thread panicked")),
        });
        ended.collect()
    });
    let used = meter.stop();
    outcome.map_err(|error| format!("a stream was not passed on whole: {error}"))?;
    let mib = (streams * bytes) as f64 / MIB as f64;
    let mut values = used.values(proxy, (&CPU, &OTHERS), mib / 1024.0);
    values.push((&RATE, mib / used.elapsed.as_secs_f64()));
    Ok(values)
}

/// A session that is logged in.
enum Session {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Session {
    fn log_in(target: SocketAddr, clients: Option<&Clients>) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = match clients {
            None => Self::Plain(stream),
            Some(clients) => {
                let connection = tls::begin(&clients.one())?;
                Self::Tls(Box::new(StreamOwned::new(connection, stream)))
            }
        };
        session.hear("* OK")?;
        session.say(b"a LOGIN bob pw\r\n")?;
        session.hear("a OK")?;
        Ok(session)
    }

    fn pass(mut self, direction: Direction, bytes: usize) -> io::Result<()> {
        let began = Instant::now();
        let in_time = || {
            if began.elapsed() < LIMIT {
                Ok(())
            } else {
                Err(io::Error::from(ErrorKind::TimedOut))
            }
        };
        match direction {
            Direction::Down => {
                self.say(format!("d DOWN {bytes}\r\n").as_bytes())?;
                let mut buffer = vec![0; PIECE];
                let mut left = bytes;
                while left > 0 {
                    in_time()?;
                    // What comes behind the content stays in the stream.
                    let most = left.min(PIECE);
                    match self.stream().read(&mut buffer[..most])? {
                        0 => return Err(ErrorKind::UnexpectedEof.into()),
                        count => left -= count,
                    }
                }
                self.hear("d OK")
            }
            Direction::Up => {
                self.say(format!("u UP {bytes}\r\n").as_bytes())?;
                let buffer = vec![b'u'; PIECE];
                let mut left = bytes;
                while left > 0 {
                    in_time()?;
                    let count = left.min(PIECE);
                    self.say(&buffer[..count])?;
                    left -= count;
                }
                self.hear("u OK")
            }
        }
    }

    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes)?;
        self.stream().flush()
    }

    /// Reads a line, which has to begin so.
    fn hear(&mut self, beginning: &str) -> io::Result<()> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.stream().read_exact(&mut byte)?;
            line.extend(byte);
        }
        let line = String::from_utf8_lossy(&line);
        if line.starts_with(beginning) {
            Ok(())
        } else {
            Err(io::Error::other(format!("it said: {}", line.trim_end())))
        }
    }
}

/// What both kinds of session are.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}
