//! `postern rawlog`: what both sides say of chosen sessions, in a file of its own, for as long as somebody
//! wants to look at it.
//!
//! Up to its login a session says there what level debug says of it, with the same blots. Of a relay only words
//! of its protocol are shown, and of the rest how much it was; with content, everything. A session never waits
//! for the file: what the writing thread does not take in time is left out and counted. Who asks for a rawlog
//! opens the file himself and passes it on, so there is nothing here that makes one.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::live::Entry;
use super::snapshot::Filter;
use crate::log::{Log, Severity};
use crate::protocol::Record;
use crate::sasl::shown::BLOT;
use crate::system::threads::spawn;

/// Rawlogs at a time.
const MOST: usize = 4;

/// Pieces that wait to be written, and most bytes of one: 8 MiB of a rawlog at most lie in memory.
const PIECES: usize = 256;
const PIECE: usize = 32 * 1024;

/// Bytes of a line's beginning that are looked at, and words.
const HEAD: usize = 128;
const WORDS: usize = 3;

/// Directions whose lines are held together at a time.
const DIRECTIONS: usize = 4096;

/// How long a line waits for others to be written with, and the end for being noticed.
const PAUSE: Duration = Duration::from_millis(200);

/// What is wanted of a rawlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Whose sessions.
    pub filter: Filter,
    /// Whether all of a relay is shown.
    pub with_content: bool,
    /// Most bytes of the file.
    pub size: u64,
    /// How long it goes on.
    pub time: Duration,
}

/// Who says something in a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Backend,
}

/// The rawlogs of the process.
#[derive(Debug, Default)]
pub(crate) struct Rawlogs {
    /// Whether there is any: all that a session looks at where there is none.
    is_any: AtomicBool,
    running: Mutex<Vec<Arc<Rawlog>>>,
    /// Threads that write, or hang in it: a file may lie anywhere.
    threads: AtomicUsize,
}

#[derive(Debug)]
struct Rawlog {
    wanted: Wanted,
    pieces: Sender<Piece>,
    left_out: AtomicU64,
}

/// What one session has to say.
struct Piece {
    session: u64,
    record: &'static Record,
    at: Timestamp,
    what: What,
}

enum What {
    /// A line as it is.
    Line(String),
    /// Bytes of a relay.
    Relayed(Side, Zeroizing<Vec<u8>>),
}

impl Rawlogs {
    /// Writes into `file` from now on. Its beginning is the caller's to tell in the log; its end is told here.
    ///
    /// # Errors
    /// For people: there are too many, or the system starts no more threads.
    pub(crate) fn begin(
        self: &Arc<Self>,
        wanted: Wanted,
        file: File,
        log: &Log,
    ) -> Result<(), String> {
        let (pieces, to_write) = bounded(PIECES);
        let rawlog = Arc::new(Rawlog {
            wanted,
            pieces,
            left_out: AtomicU64::new(0),
        });
        let mut running = self.lock();
        if self.threads.load(Ordering::Relaxed) >= MOST {
            return Err(format!("there are {MOST} rawlogs already"));
        }
        let (all, of_thread, log) = (Arc::clone(self), Arc::clone(&rawlog), log.clone());
        let write = move || {
            let mut writing = Writing::new(file, &of_thread.wanted);
            let why = writing.run(&to_write, &all, &of_thread);
            all.remove(&of_thread);
            let left_out = of_thread.left_out.load(Ordering::Relaxed);
            let (filter, bytes) = (&of_thread.wanted.filter, writing.written);
            let text = format!(
                "the rawlog of {filter} has ended: {why}; {bytes} bytes written, {left_out} pieces left out"
            );
            all.threads.fetch_sub(1, Ordering::Relaxed);
            log.write(Severity::Notice, file!(), &text, None, None);
        };
        let started = spawn("rawlog", write);
        started.map_err(|error| format!("cannot start a thread: {error}"))?;
        self.threads.fetch_add(1, Ordering::Relaxed);
        running.push(rawlog);
        self.is_any.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends those with this filter, or all; how many.
    pub(crate) fn end(&self, filter: &Filter) -> usize {
        let mut running = self.lock();
        let before = running.len();
        running.retain(|rawlog| !filter.is_empty() && rawlog.wanted.filter != *filter);
        self.is_any.store(!running.is_empty(), Ordering::Relaxed);
        before - running.len()
    }

    fn remove(&self, rawlog: &Arc<Rawlog>) {
        let mut running = self.lock();
        running.retain(|other| !Arc::ptr_eq(other, rawlog));
        self.is_any.store(!running.is_empty(), Ordering::Relaxed);
    }

    fn is_running(&self, rawlog: &Arc<Rawlog>) -> bool {
        self.lock().iter().any(|other| Arc::ptr_eq(other, rawlog))
    }

    pub(super) fn are_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// Whether anybody wants to know what this session says.
    pub(super) fn want(&self, entry: &Entry) -> bool {
        let fits = |rawlog: &Arc<Rawlog>| rawlog.wanted.filter.fits(entry, &entry.facts());
        self.are_any() && self.lock().iter().any(fits)
    }

    /// A line before the relay, without secrets.
    pub(super) fn say(&self, entry: &Entry, line: &str) {
        self.give(entry, || What::Line(line.to_owned()));
    }

    /// What a relay is about to pass on.
    pub(super) fn relayed(&self, entry: &Entry, side: Side, data: &[u8]) {
        if self.are_any() && !data.is_empty() {
            for piece in data.chunks(PIECE) {
                let copy = || What::Relayed(side, Zeroizing::new(piece.to_vec()));
                self.give(entry, copy);
            }
        }
    }

    fn give(&self, entry: &Entry, what: impl Fn() -> What) {
        let running: Vec<Arc<Rawlog>> = self.lock().clone();
        for rawlog in running {
            if !rawlog.wanted.filter.fits(entry, &entry.facts()) {
                continue;
            }
            let piece = Piece {
                session: entry.number,
                record: entry.service.record,
                at: Timestamp::now(),
                what: what(),
            };
            if rawlog.pieces.try_send(piece).is_err() {
                rawlog.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Rawlog>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing thread's side.
struct Writing<W> {
    file: W,
    written: u64,
    size: u64,
    end: Instant,
    with_content: bool,
    /// The line under way in each direction.
    lines: HashMap<(u64, bool), Begun>,
    /// What was blotted out since something was written.
    hidden: Option<Hidden>,
}

/// The beginning of a line, and its length so far.
#[derive(Default)]
struct Begun {
    head: Zeroizing<Vec<u8>>,
    length: u64,
}

/// Lines of side nothing is shown, one behind the other.
struct Hidden {
    session: u64,
    side: Side,
    at: Timestamp,
    lines: u64,
    bytes: u64,
}

impl<W: Write> Writing<W> {
    fn new(file: W, wanted: &Wanted) -> Self {
        Self {
            file,
            written: 0,
            size: wanted.size,
            end: Instant::now() + wanted.time,
            with_content: wanted.with_content,
            lines: HashMap::new(),
            hidden: None,
        }
    }

    /// Until the end, the reason for side is returned.
    fn run(&mut self, pieces: &Receiver<Piece>, all: &Rawlogs, own: &Arc<Rawlog>) -> String {
        loop {
            if Instant::now() >= self.end {
                return "its time is over".to_owned();
            }
            let wrote = match pieces.recv_timeout(PAUSE) {
                Ok(piece) => self.write(piece),
                Err(RecvTimeoutError::Timeout) => self.write_hidden(),
                Err(RecvTimeoutError::Disconnected) => return "nobody wants it".to_owned(),
            };
            match wrote {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    return format!("it has {} bytes", self.size);
                }
                Err(error) => return format!("it cannot be written: {error}"),
            }
            if pieces.is_empty() && !all.is_running(own) {
                return "it was told to".to_owned();
            }
        }
    }

    fn write(&mut self, piece: Piece) -> io::Result<()> {
        let (session, at) = (piece.session, piece.at);
        match piece.what {
            What::Line(line) => self.line(at, session, &line),
            What::Relayed(side, data) if self.with_content => {
                let line = format!("{side}: \"{}\"", data.escape_ascii());
                self.line(at, session, &line)
            }
            What::Relayed(side, data) => {
                let mut data = data.as_slice();
                if self.lines.len() >= DIRECTIONS {
                    self.lines.clear();
                }
                while !data.is_empty() {
                    let end = data.iter().position(|&byte| byte == b'\n');
                    let (part, rest) = data.split_at(end.map_or(data.len(), |end| end + 1));
                    data = rest;
                    let key = (session, side == Side::Client);
                    let begun = self.lines.entry(key).or_default();
                    let room = HEAD.saturating_sub(begun.head.len()).min(part.len());
                    begun.head.extend_from_slice(&part[..room]);
                    begun.length += part.len() as u64;
                    if end.is_some() {
                        let begun = self.lines.remove(&key).unwrap_or_default();
                        self.relayed_line(at, session, side, &begun, piece.record)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn relayed_line(
        &mut self,
        at: Timestamp,
        session: u64,
        side: Side,
        begun: &Begun,
        record: &Record,
    ) -> io::Result<()> {
        let length = begun.length;
        if let Some(shown) = shown(&begun.head, record) {
            let line = format!("{side}: {shown} ({length} bytes)");
            return self.line(at, session, &line);
        }
        match &mut self.hidden {
            Some(hidden) if (hidden.session, hidden.side) == (session, side) => {
                hidden.lines += 1;
                hidden.bytes += length;
                Ok(())
            }
            _ => {
                self.write_hidden()?;
                self.hidden = Some(Hidden {
                    session,
                    side,
                    at,
                    lines: 1,
                    bytes: length,
                });
                Ok(())
            }
        }
    }

    fn write_hidden(&mut self) -> io::Result<()> {
        let Some(hidden) = self.hidden.take() else {
            return Ok(());
        };
        let (lines, bytes) = (hidden.lines, hidden.bytes);
        let line = format!("{}: {BLOT} ({lines} lines, {bytes} bytes)", hidden.side);
        self.put(hidden.at, hidden.session, &line)
    }

    fn line(&mut self, at: Timestamp, session: u64, line: &str) -> io::Result<()> {
        self.write_hidden()?;
        self.put(at, session, line)
    }

    fn put(&mut self, at: Timestamp, session: u64, line: &str) -> io::Result<()> {
        let line = format!("{at:.6} *{session} {line}\n");
        if self.written + line.len() as u64 > self.size {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(line.as_bytes())?;
        self.written += line.len() as u64;
        Ok(())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
        })
    }
}

/// The first words of a line, as far as they belong to the protocol; nothing where none does. A text that
/// passes by can look like a command: then it shows no more of itself than words that stand in the list.
fn shown(head: &[u8], record: &Record) -> Option<String> {
    let words = head.split(|byte| byte.is_ascii_whitespace());
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).take(WORDS).collect();
    let is_known = |word: &[u8]| {
        let mut known = record.relayed_words.iter();
        known.any(|known| known.as_bytes().eq_ignore_ascii_case(word))
    };
    let is_code = |word: &[u8]| word.len() == 3 && word.iter().all(u8::is_ascii_digit);
    if !words.iter().any(|word| is_known(word)) && !words.first().is_some_and(|word| is_code(word))
    {
        return None;
    }
    let shown = words.iter().enumerate().map(|(at, word)| {
        let is_shown = is_known(word) || at == 0 && is_code(word);
        match std::str::from_utf8(word) {
            Ok(word) if is_shown => word,
            _ => BLOT,
        }
    });
    let mut shown: Vec<&str> = shown.collect();
    shown.push(BLOT);
    shown.dedup_by(|one, other| *one == BLOT && *other == BLOT);
    Some(shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    fn wanted(size: u64, with_content: bool) -> Wanted {
        Wanted {
            filter: Filter::default(),
            with_content,
            size,
            time: Duration::from_secs(60),
        }
    }

    fn said(with_content: bool, protocol: Protocol, pieces: &[(Side, &str)]) -> Vec<String> {
        let mut out = Vec::new();
        let mut writing = Writing::new(&mut out, &wanted(100_000, with_content));
        for (side, text) in pieces {
            let data = Zeroizing::new(text.as_bytes().to_vec());
            let piece = Piece {
                session: 7,
                record: protocol.record(),
                at: Timestamp::UNIX_EPOCH,
                what: What::Relayed(*side, data),
            };
            writing.write(piece).expect("there is room");
        }
        writing.write_hidden().expect("there is room");
        let text = String::from_utf8(out).expect("text");
        let lines = text.lines().map(|line| {
            let line = line.strip_prefix("1970-01-01T00:00:00.000000Z *7 ");
            line.expect("time and session").to_owned()
        });
        lines.collect()
    }

    #[test]
    fn of_a_relay_only_words_of_its_protocol_are_shown() {
        use Side::{Backend, Client};
        let of_imap = said(
            false,
            Protocol::ALL[0],
            &[
                (Client, "a1 UID FETCH 1:* BODY[]\r\na2 LOGIN b"),
                (Client, "ob hunter2\r\n"),
                (
                    Backend,
                    "* 1 FETCH (BODY[] {30}\r\nSubject: secret\r\nhunter2 OK\r\n",
                ),
                (Backend, "\r\n)\r\na1 OK well\r\n"),
            ],
        );
        assert_eq!(
            of_imap,
            [
                "client: *** UID FETCH *** (25 bytes)",
                "client: *** LOGIN *** (22 bytes)",
                "backend: * *** FETCH *** (24 bytes)",
                "backend: *** (1 lines, 17 bytes)",
                "backend: *** OK *** (12 bytes)",
                "backend: *** (2 lines, 5 bytes)",
                "backend: *** OK *** (12 bytes)",
            ]
        );
        let of_smtp = said(
            false,
            Protocol::ALL[2],
            &[
                (
                    Client,
                    "MAIL FROM:<a@b>\r\nDATA\r\nDear Bob,\r\nmy 123 secret\r\n.\r\n",
                ),
                (Backend, "250 2.0.0 queued as secret\r\n"),
            ],
        );
        assert_eq!(
            of_smtp,
            [
                "client: MAIL *** (17 bytes)",
                "client: DATA *** (6 bytes)",
                "client: *** (3 lines, 29 bytes)",
                "backend: 250 *** (28 bytes)",
            ]
        );
    }

    #[test]
    fn with_content_everything_is_shown_on_one_line_each() {
        let said = said(true, Protocol::ALL[1], &[(Side::Client, "TOP 1 5\r\n\x1b")]);
        assert_eq!(said, [r#"client: "TOP 1 5\r\n\x1b""#]);
    }

    #[test]
    fn a_file_gets_no_larger_than_it_may() {
        let mut out = Vec::new();
        let mut writing = Writing::new(&mut out, &wanted(100, false));
        let mut put = |text: &str| writing.put(Timestamp::UNIX_EPOCH, 1, text);
        put("x").expect("there is room");
        let full = put(&"y".repeat(100)).expect_err("there is none");
        assert_eq!(full.kind(), io::ErrorKind::FileTooLarge);
        assert!(out.len() <= 100);
    }
}
