//! Asking the keeper: the small process that keeps root's rights and opens for us what we no longer may.
//! What it gives to whom is decided on its side, in the module `keeper` at the top of the tree.
//!
//! Everything here is tried with our own rights first. Where there is no keeper the system's answer stands.
//!
//! A request is a datagram: its [`Kind`], four bytes that its answer repeats, and a path or an address. An
//! answer is those four bytes and an error number, 0 with a descriptor, both in the machine's own order. The
//! first answer belongs to no request: it says that the keeper is there.

use std::fs::{File, Metadata};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};

use super::confinement::{self, Use};

/// How long an answer may take: a file system may be slow.
const ANSWER: Duration = Duration::from_secs(5);

/// Longest path of a request in bytes (PATH_MAX).
const LONGEST: usize = 4096;

/// Kind and number in front of it.
const HEAD: usize = 5;

/// The number of the answer that belongs to no request.
const GREETING: u32 = 0;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file, for reading.
    Read,
    /// A log, for appending.
    Log,
    /// A socket that is bound to an address.
    Bind,
    /// The same beside one of ours that is about to close.
    BindBeside,
}

impl Kind {
    const ALL: [(u8, Kind); 4] = [
        (b'r', Kind::Read),
        (b'l', Kind::Log),
        (b'b', Kind::Bind),
        (b's', Kind::BindBeside),
    ];

    fn byte(self) -> u8 {
        let mut all = Kind::ALL.into_iter();
        all.find(|(_, kind)| *kind == self)
            .map_or(0, |(byte, _)| byte)
    }
}

/// The keeper of this process, if it has one.
static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

struct Keeper {
    socket: OwnedFd,
    last: u32,
}

/// Starts the keeper for this configuration file and the user that we are about to become, and waits until it
/// is there. It ends when we do.
///
/// # Errors
/// For people: it does not run.
pub(crate) fn start(file: &Path, user: &str, group: Option<&str>) -> Result<Child, String> {
    let failed = |error: io::Error| format!("cannot start the keeper: {error}");
    let (ours, theirs) = pair().map_err(failed)?;
    let file = std::path::absolute(file).map_err(failed)?;
    // Not by its name: what lies there may have been replaced.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("postern").arg("keeper").arg("--config");
    command.arg(file).arg("--user").arg(user);
    if let Some(group) = group {
        command.arg("--group").arg(group);
    }
    // What it has to complain of, it says at its start, where we would.
    command.env_clear().current_dir("/").stdin(theirs);
    let child = command.stdout(Stdio::null()).spawn().map_err(failed)?;
    // Our copy of its end would keep it from ending.
    drop(command);
    match receive(ours.as_fd()).map_err(told).map_err(failed)? {
        Some((GREETING, Ok(None))) => {}
        _ => return Err("the keeper did not start".to_owned()),
    }
    *KEEPER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Keeper {
        socket: ours,
        last: GREETING,
    });
    Ok(child)
}

/// Whether there is one.
pub(crate) fn is_there() -> bool {
    let keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    keeper.is_some()
}

/// Opens a file for reading; a FIFO is not waited for.
///
/// # Errors
/// The system's, or the keeper's.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let opened = or_ask(options.open(path), Kind::Read, || of_path(path));
    opened.map_err(|error| confinement::explain(error, path, Use::Read))
}

/// What is known of a file, links followed.
///
/// # Errors
/// The system's, or the keeper's.
pub(crate) fn metadata(path: &Path) -> io::Result<Metadata> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(path)?.metadata(),
        found => found,
    }
}

/// Gives the log that was opened, or asks for it where that was denied.
///
/// # Errors
/// The system's, or the keeper's.
pub(crate) fn or_log(opened: io::Result<File>, path: &Path) -> io::Result<File> {
    let opened = or_ask(opened, Kind::Log, || of_path(path));
    opened.map_err(|error| confinement::explain(error, path, Use::Log))
}

/// Gives the socket that was bound, or asks for it where that was denied; `kind` is one of the two for that,
/// and `address` the text of a [`ListenAddress`](crate::config::ListenAddress).
///
/// # Errors
/// The system's, or the keeper's.
pub(crate) fn or_bound<T: From<OwnedFd>>(
    bound: io::Result<T>,
    kind: Kind,
    address: &str,
) -> io::Result<T> {
    or_ask(bound, kind, || Ok(address.as_bytes().to_owned()))
}

fn of_path(path: &Path) -> io::Result<Vec<u8>> {
    Ok(std::path::absolute(path)?.as_os_str().as_bytes().to_owned())
}

fn or_ask<T: From<OwnedFd>>(
    own: io::Result<T>,
    kind: Kind,
    what: impl FnOnce() -> io::Result<Vec<u8>>,
) -> io::Result<T> {
    let denied = match own {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        own => return own,
    };
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *keeper {
        None => Err(denied),
        Some(keeper) => keeper.ask(kind, &what()?).map(T::from),
    }
}

impl Keeper {
    fn ask(&mut self, kind: Kind, what: &[u8]) -> io::Result<OwnedFd> {
        if what.len() > LONGEST {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.last = self.last.checked_add(1).unwrap_or(GREETING + 1);
        let mut request = vec![kind.byte()];
        request.extend_from_slice(&self.last.to_ne_bytes());
        request.extend_from_slice(what);
        let end = Instant::now() + ANSWER;
        // A call with a time limit is not gone on with behind a signal (signal(7)), and there are some: the
        // keeper's own changes of state among them.
        let is_signal = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        loop {
            match send(&self.socket, &request, SendFlags::NOSIGNAL).map_err(io::Error::from) {
                Ok(_) => break,
                Err(error) if is_signal(&error) && Instant::now() < end => {}
                Err(error) => return Err(told(error)),
            }
        }
        // An answer that came too late for an earlier request may stand in front of ours.
        while Instant::now() < end {
            let gone = || io::Error::other("the keeper is gone");
            let received = match receive(self.socket.as_fd()) {
                Err(error) if is_signal(&error) => continue,
                received => received.map_err(told)?,
            };
            match received.ok_or_else(gone)? {
                (number, answer) if number == self.last => {
                    let without = || io::Error::other("the keeper sent no descriptor");
                    return answer?.ok_or_else(without);
                }
                _ => {}
            }
        }
        Err(told(io::ErrorKind::WouldBlock.into()))
    }
}

/// The limit of a socket shows itself as this.
fn told(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("the keeper does not answer"),
        _ => error,
    }
}

/// Both ends; the first is the asking one.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(ANSWER))?;
    set_socket_timeout(&ours, Timeout::Send, Some(ANSWER))?;
    Ok((ours, theirs))
}

type Answer = (u32, io::Result<Option<OwnedFd>>);

/// The next answer; `None` when the other side is gone.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Answer>> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    );
    if received?.bytes < bytes.len() {
        return Ok(None);
    }
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    let [a, b, c, d, e, f, g, h] = bytes;
    let answer = match i32::from_ne_bytes([e, f, g, h]) {
        0 => Ok(descriptor),
        error => Err(io::Error::from_raw_os_error(error)),
    };
    Ok(Some((u32::from_ne_bytes([a, b, c, d]), answer)))
}

/// A request as the keeper gets it.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// The path or address; never empty.
    pub what: Vec<u8>,
    number: u32,
}

/// The keeper's side: says that it is there.
///
/// # Errors
/// The system's.
pub(crate) fn greet(socket: BorrowedFd<'_>) -> io::Result<()> {
    send_answer(socket, GREETING, 0, None)
}

/// The keeper's side: the next request, or `None` at the end.
///
/// # Errors
/// The system's; or it is no request, and nobody of ours sent it. Descriptors that come along are closed by
/// the system.
pub(crate) fn next_request(socket: BorrowedFd<'_>) -> io::Result<Option<Request>> {
    let mut bytes = [0; HEAD + LONGEST];
    let (_, length) = recv(socket, &mut bytes, RecvFlags::TRUNC)?;
    if length == 0 {
        return Ok(None);
    }
    let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
    let request = bytes.get(..length).ok_or_else(nonsense)?;
    let [kind, a, b, c, d, what @ ..] = request else {
        return Err(nonsense());
    };
    let mut kinds = Kind::ALL.into_iter();
    let kind = kinds.find(|(byte, _)| byte == kind);
    if what.is_empty() || what.contains(&0) {
        return Err(nonsense());
    }
    Ok(Some(Request {
        kind: kind.ok_or_else(nonsense)?.1,
        what: what.to_owned(),
        number: u32::from_ne_bytes([*a, *b, *c, *d]),
    }))
}

/// The keeper's side: what was asked for, or why not.
///
/// # Errors
/// The system's.
pub(crate) fn answer(
    socket: BorrowedFd<'_>,
    request: &Request,
    given: &io::Result<OwnedFd>,
) -> io::Result<()> {
    match given {
        Ok(descriptor) => send_answer(socket, request.number, 0, Some(descriptor.as_fd())),
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::AddrInUse => nix::libc::EADDRINUSE,
                _ => error.raw_os_error().unwrap_or(nix::libc::EIO),
            };
            send_answer(socket, request.number, code, None)
        }
    }
}

fn send_answer(
    socket: BorrowedFd<'_>,
    number: u32,
    error: i32,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = [number.to_ne_bytes(), error.to_ne_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [IoSlice::new(&bytes)];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
