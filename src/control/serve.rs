//! The connections to the control socket: who may have how many, how long each may take, and what is done
//! for it.
//!
//! Members of the group are no enemies of root's, but a script of theirs may hang or run wild: a line is
//! bounded in size, each connection in time, and those of one user in number, so that nobody keeps root out.

use std::collections::HashMap;
use std::io::{self, BufWriter, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, never};
use ipnet::IpNet;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, User};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::request::{COMMANDS, Request};
use super::socket::ControlSocket;
use super::{Asked, Desk, VERSION, Wanted};
use crate::log::{self, Severity};
use crate::session::live::Ending;
use crate::session::rawlog::Wanted as WantedRawlog;
use crate::session::snapshot::{Filter, Snapshot};
use crate::system::threads::spawn;

/// Connections of one user at a time.
const OF_USER: usize = 8;

/// Connections at a time.
const IN_ALL: usize = 64;

/// Longest request, in bytes.
const LONGEST: usize = 4096;

/// How long a request may take to arrive, and what is written to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a whole answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How long accepting rests where the system lacks something.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the socket is closed.
pub(super) fn run(socket: &ControlSocket, desk: &Arc<Desk>) {
    let counts = Arc::new(Counts::default());
    while !socket.is_closed() {
        match socket.listener.accept() {
            Ok((stream, _)) => begin(stream, desk, &counts),
            // Its other end is gone, or descriptors are short.
            Err(_) if !socket.is_closed() => std::thread::sleep(PAUSE),
            Err(_) => {}
        }
    }
}

fn begin(stream: UnixStream, desk: &Arc<Desk>, counts: &Arc<Counts>) {
    let Ok(peer) = getsockopt(&stream, PeerCredentials) else {
        return;
    };
    let user = Uid::from_raw(peer.uid());
    let Some(place) = Counts::take(counts, user) else {
        // What it does not take at once it does not hear.
        let _ = stream.set_nonblocking(true);
        let told = refusal("too many connections to the control socket at a time");
        let _ = (&stream).write_all(format!("{told}\n").as_bytes());
        return;
    };
    let desk = Arc::clone(desk);
    // Where no thread is to be had the connection is closed.
    let _ = spawn("control", move || {
        let _place = place;
        // Who is not there any more hears nothing.
        let _ = Connection { stream, desk, user }.serve();
    });
}

/// How many connections each user has.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<Uid, usize>>);

struct Place {
    counts: Arc<Counts>,
    user: Uid,
}

impl Counts {
    fn take(counts: &Arc<Self>, user: Uid) -> Option<Place> {
        let mut of_users = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = of_users.values().sum();
        // The last of them are root's.
        let limit = match user.is_root() {
            true => IN_ALL,
            false => IN_ALL - OF_USER,
        };
        let own = of_users.entry(user).or_default();
        if *own >= OF_USER || all >= limit {
            return None;
        }
        *own += 1;
        Some(Place {
            counts: Arc::clone(counts),
            user,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_users = (self.counts.0.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = of_users.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                of_users.remove(&self.user);
            }
        }
    }
}

/// One connection, which is one request.
struct Connection {
    stream: UnixStream,
    desk: Arc<Desk>,
    user: Uid,
}

impl Connection {
    fn serve(&self) -> io::Result<()> {
        let (line, file) = self.read_line()?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        let mut answer = Answer {
            lines: BufWriter::new(&self.stream),
            until: Instant::now() + ANSWER,
        };
        let line = line.ok_or("the line is too long".to_owned());
        match line.and_then(|line| Request::parse(&line)) {
            Ok(request) => self.carry_out(request, file, &mut answer),
            Err(error) => {
                answer.line(&refusal(&error))?;
                answer.lines.flush()
            }
        }
    }

    /// The request, `None` where it is too long; and the descriptor that came with it, if one did.
    fn read_line(&self) -> io::Result<(Option<Vec<u8>>, Option<OwnedFd>)> {
        let until = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        let mut file = None;
        let mut buffer = [0; LONGEST];
        while line.len() <= LONGEST {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let (n, came) = self.receive(&mut buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file = came.or(file);
            line.extend_from_slice(&buffer[..n]);
            if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                line.truncate(end);
                return Ok(((end <= LONGEST).then_some(line), file));
            }
        }
        Ok((None, None))
    }

    /// Reads, and takes a descriptor that comes along. More than one are closed by the system.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg(
            &self.stream,
            &mut parts,
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut file = None;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                file = descriptors.next();
            }
        }
        Ok((received.bytes, file))
    }

    fn carry_out(
        &self,
        request: Request,
        file: Option<OwnedFd>,
        answer: &mut Answer<'_>,
    ) -> io::Result<()> {
        match request {
            Request::Status => answer.line(&self.ask_main(Wanted::Status)),
            Request::Sessions(filter) => self.list(&filter, answer),
            Request::Kick(filter) => self.kick(&filter, answer),
            Request::Ban(net, time) => answer.line(&self.ban(net, time)),
            Request::Unban(net) => answer.line(&self.unban(net)),
            Request::Bans => self.list_bans(answer),
            Request::Reload => {
                self.note("a reload");
                answer.line(&self.ask_main(Wanted::Reload))
            }
            Request::Stop => self.end("a stop", Wanted::Stop, answer),
            Request::Drain => self.end("a graceful stop", Wanted::Drain, answer),
            Request::LogLevel(level) => {
                let name = level.map_or("configured", Severity::name);
                self.note(&format!("the log level {name}"));
                log::set_level(level);
                answer.line(&json!({ "ok": true, "level": name }))
            }
            Request::Rawlog(wanted) => {
                let (size, time) = (wanted.size, wanted.time.as_secs());
                answer.line(&match self.begin_rawlog(wanted, file) {
                    Ok(()) => json!({ "ok": true, "size": size, "time": time }),
                    Err(error) => refusal(&error),
                })
            }
            Request::RawlogOff(filter) => {
                self.note(&format!("the end of rawlogs: {filter}"));
                let ended = self.desk.runtime.rawlogs.end(&filter);
                answer.line(&json!({ "ok": true, "rawlogs": ended }))
            }
        }?;
        answer.lines.flush()
    }

    fn begin_rawlog(&self, wanted: WantedRawlog, file: Option<OwnedFd>) -> Result<(), String> {
        let file = file.ok_or("a file must come along, as a descriptor (SCM_RIGHTS)")?;
        let is_file = |file: &OwnedFd| -> io::Result<bool> {
            let writes = fcntl_getfl(file)? & (OFlags::WRONLY | OFlags::RDWR);
            let kind = FileType::from_raw_mode(fstat(file)?.st_mode);
            Ok(!writes.is_empty() && kind == FileType::RegularFile)
        };
        if !is_file(&file).unwrap_or(false) {
            return Err("what came along is no file to be written".to_owned());
        }
        let content = match wanted.with_content {
            true => "with all content",
            false => "without content",
        };
        self.note(&format!("a rawlog {content}: {}", wanted.filter));
        let log = self.desk.current_log();
        self.desk.runtime.rawlogs.begin(wanted, file.into(), &log)
    }

    fn list(&self, filter: &Filter, answer: &mut Answer<'_>) -> io::Result<()> {
        let mut count = 0_u64;
        for session in self.desk.runtime.live.snapshots(filter) {
            answer.line(&json!({ "session": of_session(&session) }))?;
            count += 1;
        }
        answer.line(&json!({ "ok": true, "sessions": count }))
    }

    fn ban(&self, net: IpNet, time: Option<Duration>) -> Value {
        let runtime = &self.desk.runtime;
        let address = in_words(net);
        self.note(&format!("a ban of {address}"));
        match runtime.blocklist.ban(net, time) {
            Err(error) => refusal(&error),
            Ok(()) => {
                let ended = runtime.end_banned(&[net]);
                let time = time.map(|time| time.as_secs());
                json!({ "ok": true, "address": address, "time": time, "sessions": ended })
            }
        }
    }

    fn unban(&self, net: IpNet) -> Value {
        let blocklist = &self.desk.runtime.blocklist;
        let address = in_words(net);
        self.note(&format!("the end of the ban of {address}"));
        if blocklist.unban(net) {
            return json!({ "ok": true, "address": address });
        }
        let around = blocklist.bans().into_iter().map(|ban| ban.net);
        let around = around.filter(|ban| ban.contains(&net)).map(in_words);
        let around: Vec<String> = around.collect();
        match around.is_empty() {
            true => refusal(&format!("{address} is not banned")),
            false => {
                let around = around.join(", ");
                refusal(&format!(
                    "{address} is not banned by itself, but with {around}"
                ))
            }
        }
    }

    fn list_bans(&self, answer: &mut Answer<'_>) -> io::Result<()> {
        let bans = self.desk.runtime.blocklist.bans();
        for ban in &bans {
            let left = ban.left.map(|left| left.as_secs());
            let address = in_words(ban.net);
            answer.line(&json!({ "ban": { "address": address, "left": left } }))?;
        }
        answer.line(&json!({ "ok": true, "bans": bans.len() }))
    }

    /// Ends those that fit.
    fn kick(&self, filter: &Filter, answer: &mut Answer<'_>) -> io::Result<()> {
        let runtime = &self.desk.runtime;
        let chosen = runtime.live.that_fit(filter);
        let shown: Vec<Value> = chosen
            .iter()
            .map(|entry| of_session(&Snapshot::of(entry)))
            .collect();
        self.note(&format!("the end of {} sessions: {filter}", chosen.len()));
        runtime.end_all(&chosen, Ending::Kicked);
        // Whoever takes his time to read must not keep their descriptors open.
        drop(chosen);
        for session in &shown {
            answer.line(&json!({ "session": session }))?;
        }
        answer.line(&json!({ "ok": true, "sessions": shown.len() }))
    }

    /// The connection stays open until the process is gone, or its other end has seen enough.
    fn end(&self, what: &str, wanted: Wanted, answer: &mut Answer<'_>) -> io::Result<()> {
        self.note(what);
        let (writing, written) = bounded(0);
        answer.line(&self.ask_main_with(wanted, written))?;
        answer.lines.flush()?;
        drop(writing);
        self.stream.set_read_timeout(None)?;
        let mut sink = [0; 64];
        while (&self.stream).read(&mut sink)? > 0 {}
        Ok(())
    }

    /// What the main thread answers, which may be busy with another reload.
    fn ask_main(&self, wanted: Wanted) -> Value {
        self.ask_main_with(wanted, never())
    }

    fn ask_main_with(&self, wanted: Wanted, written: Receiver<()>) -> Value {
        let (answer, answered) = bounded(1);
        let asked = Asked {
            wanted,
            answer,
            written,
        };
        if self.desk.to_main.send(asked).is_err() {
            return refusal("the process is about to end");
        }
        match answered.recv_timeout(ANSWER) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => refusal("the process is about to end"),
            Err(RecvTimeoutError::Timeout) => refusal("the process is busy; the log may say more"),
        }
    }

    /// Says in the log who wants something.
    fn note(&self, what: &str) {
        let uid = self.user.as_raw();
        let name = match User::from_uid(self.user) {
            Ok(Some(user)) => log::escape(user.name.as_bytes()),
            _ => "no name".to_owned(),
        };
        let text = format!("control socket: uid {uid} ({name}) asks for {what}");
        self.desk.log(Severity::Notice, &text);
    }
}

/// Lines to a client that takes them in time.
struct Answer<'a> {
    lines: BufWriter<&'a UnixStream>,
    until: Instant,
}

impl Answer<'_> {
    fn line(&mut self, value: &Value) -> io::Result<()> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        writeln!(self.lines, "{value}")
    }
}

fn refusal(error: &str) -> Value {
    json!({ "error": error, "versions": [VERSION], "commands": COMMANDS })
}

/// A range, and an address without the length of its prefix.
fn in_words(net: IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

fn of_session(session: &Snapshot) -> Value {
    let seconds = |time: Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    json!({
        "id": session.number,
        "protocol": session.protocol,
        "server": session.server,
        "client": session.client.to_string(),
        "user": session.user,
        "state": session.state.name(),
        "action": session.action,
        "backend": session.backend,
        "tls": session.tls,
        "backend_tls": session.backend_tls,
        "age": seconds(session.age),
        "idle": seconds(session.idle),
        "bytes_in": session.bytes_up,
        "bytes_out": session.bytes_down,
    })
}
