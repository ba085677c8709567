//! Where requests come in: one listener, one thread that accepts, and a thread for each of a few
//! connections, which are answered once and closed.
//!
//! Nobody here is known, so the newest is served: when there are as many connections as there may be, the
//! oldest is closed. Who opens connections and says nothing holds nobody up, and who takes a request's
//! time and more is closed as well.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Site;
use super::answer::Answer;
use super::request::{self, Method, Request};
use crate::config::{Listen, Status};
use crate::net::address::Address;
use crate::net::listen::Listener;
use crate::net::socket::{Deadline, Socket, Waited};
use crate::system::threads::spawn;

/// Connections at a time.
const MOST: usize = 16;

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);

/// How long its answer may take to be taken.
const ANSWER: Duration = Duration::from_secs(10);

/// How long to wait where the system has no descriptor or thread left.
const PAUSE: Duration = Duration::from_millis(200);

/// The listener of `status`.
pub(crate) struct Door {
    inside: Arc<Inside>,
    /// The thread begins when it is told what to show, and ends when this is dropped before.
    begin: Option<Sender<Arc<Site>>>,
    thread: Option<JoinHandle<()>>,
}

struct Inside {
    listener: Listener,
    /// Wakes the thread that accepts, to end.
    wake: EventFd,
    open: Mutex<Open>,
}

/// The connections that are open.
#[derive(Default)]
struct Open {
    last: u64,
    /// The oldest first.
    sockets: VecDeque<(u64, Arc<Socket>)>,
    /// Threads that serve them, or have not noticed yet that theirs was closed.
    threads: usize,
}

impl Door {
    /// Binds, and starts a thread that accepts nothing yet. `before` is the one whose place it takes.
    ///
    /// # Errors
    /// For people: it cannot be bound, or the system has no thread left.
    pub(crate) fn open(status: &Status, before: Option<&Door>) -> Result<Self, String> {
        let going: Vec<_> = before
            .iter()
            .map(|door| &door.inside.listener.socket)
            .collect();
        let at = &status.listen.address;
        let bound = Listener::bind(&status.listen, &going);
        let listener = bound.map_err(|error| format!("`status` cannot listen on {at}: {error}"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags);
        let inside = Arc::new(Inside {
            listener,
            wake: wake.map_err(|error| format!("cannot make an eventfd: {error}"))?,
            open: Mutex::default(),
        });
        let (begin, begun) = bounded(1);
        let of_thread = Arc::clone(&inside);
        let thread = spawn("status", move || {
            if let Ok(site) = begun.recv() {
                of_thread.run(&site);
            }
        });
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self {
            inside,
            begin: Some(begin),
            thread: Some(thread),
        })
    }

    /// Answers from now on.
    pub(crate) fn begin(&self, site: &Arc<Site>) {
        if let Some(begin) = &self.begin {
            // It waits, and there is room for one.
            let _ = begin.try_send(Arc::clone(site));
        }
    }

    /// Whether this is the listener that a line asks for.
    pub(crate) fn is_for(&self, listen: &Listen) -> bool {
        self.inside.listener.is_for(listen)
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> String {
        self.inside.listener.name()
    }

    /// The listener, for the user that the process is about to become.
    pub(crate) fn socket(&self) -> impl AsFd {
        &self.inside.listener.socket
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A new eventfd always has room for this.
        let _ = self.inside.wake.write(1);
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for (_, socket) in self.inside.lock().sockets.drain(..) {
            socket.shutdown(Shutdown::Both);
        }
    }
}

impl Inside {
    /// Accepts until it is woken.
    fn run(self: &Arc<Self>, site: &Arc<Site>) {
        loop {
            let mut fds = [
                PollFd::new(self.listener.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            // Want of memory, say. Whoever listens must not stop listening for that.
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                std::thread::sleep(PAUSE);
                continue;
            }
            if fds[1].any().unwrap_or(true) {
                return;
            }
            match self.listener.accept() {
                Ok((socket, peer)) => self.let_in(site, Arc::new(Socket::accepted(socket)), peer),
                Err(error) if is_passing(&error) => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn let_in(self: &Arc<Self>, site: &Arc<Site>, socket: Arc<Socket>, peer: Address) {
        let mut open = self.lock();
        while open.sockets.len() >= MOST || open.threads >= 2 * MOST {
            if let Some((_, oldest)) = open.sockets.pop_front() {
                oldest.shutdown(Shutdown::Both);
            }
            if open.threads >= 2 * MOST {
                // Those whose connection was closed need a moment to notice.
                drop(open);
                std::thread::sleep(Duration::from_millis(1));
                open = self.lock();
            }
        }
        open.last += 1;
        let number = open.last;
        open.sockets.push_back((number, Arc::clone(&socket)));
        open.threads += 1;
        drop(open);
        let guard = Guard {
            inside: Arc::clone(self),
            number,
        };
        let site = Arc::clone(site);
        let served = spawn("status", move || {
            serve(&site, &socket, peer);
            drop(guard);
        });
        if served.is_err() {
            // The guard is gone with the closure.
            std::thread::sleep(PAUSE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that are open, given back whatever happens.
struct Guard {
    inside: Arc<Inside>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut open = self.inside.lock();
        open.sockets.retain(|(number, _)| *number != self.number);
        open.threads -= 1;
    }
}

/// The client is gone already, or nobody came.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

/// Answers one request. Who breaks off is not answered.
fn serve(site: &Site, socket: &Socket, peer: Address) {
    let deadline = Deadline::after(REQUEST, "status");
    let (answer, with_body) = match read(socket, deadline) {
        None => return,
        Some(Ok(request)) => {
            let answer = site.answer(&request, peer);
            (answer, request.method != Method::Head)
        }
        Some(Err(refusal)) => {
            let (status, text) = refusal.answer();
            (Answer::text(status, text), true)
        }
    };
    let bytes = answer.bytes(with_body);
    if write(socket, &bytes, Deadline::after(ANSWER, "status")) {
        socket.close_after_line();
    }
}

/// The whole request, or nothing if it does not come.
fn read(socket: &Socket, deadline: Deadline) -> Option<Result<Request, request::Refusal>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer, deadline.remaining()?);
        match read {
            Ok(Waited::Done(count)) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            Ok(Waited::TimedOut) => continue,
            Ok(Waited::Done(_)) | Err(_) => return None,
        }
        if let Some(request) = request::parse(&bytes).transpose() {
            return Some(request);
        }
    }
}

/// Whether all of it was taken in time.
fn write(socket: &Socket, mut bytes: &[u8], deadline: Deadline) -> bool {
    while !bytes.is_empty() {
        let Some(left) = deadline.remaining() else {
            return false;
        };
        match socket.write(bytes, left) {
            Ok(Waited::Done(count)) => bytes = &bytes[count..],
            Ok(Waited::TimedOut) => {}
            Err(_) => return false,
        }
    }
    true
}
