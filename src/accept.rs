//! The accept threads, one per listener: accept, ask for admission, and go on. They never wait for a
//! client, and they never shut a listener down, which somebody else may hold as well.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::admission::{Admission, Turned};
use crate::config::{Listen, ListenAddress};
use crate::log::{Log, Seldom, Severity, escape};
use crate::net::address::Address;
use crate::net::listen::Listener;
use crate::net::socket::Socket;
use crate::service::Service;

/// How long to wait until descriptors may be free again.
const PAUSE: Duration = Duration::from_millis(100);

/// A server that a listener belongs to, and the line that says so.
#[derive(Debug, Clone)]
pub struct Entrance {
    /// The server.
    pub service: Arc<Service>,
    /// Its `listen` line.
    pub listen: Listen,
}

/// The loop that accepts on one listener, and what it needs to let connections in.
pub struct AcceptLoop {
    /// The socket.
    pub listener: Arc<Listener>,
    /// Whose it is. The first takes every connection that is not to the very address of another: a
    /// wildcard and specific addresses share its socket, since the system binds only one of them.
    pub entrances: Vec<Entrance>,
    /// The door.
    pub admission: Arc<Admission>,
    /// Becomes readable when accepting is to end.
    pub wake: Arc<EventFd>,
    /// For lines about connections that are no sessions.
    pub log: Log,
}

impl AcceptLoop {
    /// Accepts until it is woken.
    pub fn run(&self) {
        let refusals = Seldom::new();
        let mut out_of_descriptors = false;
        while self.wait() {
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    if out_of_descriptors {
                        out_of_descriptors = false;
                        self.log(Severity::Notice, "accepting connections again", None);
                    }
                    if let Some(turned) = self.let_in(socket, peer) {
                        self.turn_away(&turned, &refusals);
                    }
                }
                Err(error) if is_exhaustion(&error) => {
                    if !out_of_descriptors {
                        out_of_descriptors = true;
                        let text = "accept() failed; pausing until descriptors are free, \
                                    see `max_sessions` and the limit of open files";
                        self.log(Severity::Crit, text, Some(&error));
                    }
                    std::thread::sleep(PAUSE);
                }
                // Somebody else was faster, or the client is gone already.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    if refusals.allow().is_some() {
                        self.log(Severity::Error, "accept() failed", Some(&error));
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Waits for a connection; false when accepting is to end.
    fn wait(&self) -> bool {
        let mut fds = [
            PollFd::new(self.listener.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => !fds[1].any().unwrap_or(true),
            Err(_) => false,
        }
    }

    fn let_in(&self, socket: socket2::Socket, peer: Address) -> Option<Turned> {
        if peer.socket().is_some() {
            let _ = socket.set_tcp_nodelay(true);
        }
        let socket = Socket::new(socket).ok()?;
        let entrance = self.entrance(&socket)?;
        socket.keep_alive(entrance.listen.so_keepalive);
        self.admission.enter(
            Arc::clone(&entrance.service),
            entrance.listen.ssl,
            entrance.listen.proxy_protocol,
            Arc::new(socket),
            peer,
        )
    }

    fn entrance(&self, socket: &Socket) -> Option<&Entrance> {
        let (first, others) = self.entrances.split_first()?;
        if others.is_empty() {
            return Some(first);
        }
        let local = socket.local().ok()?.socket();
        let is_local = |entrance: &&Entrance| match entrance.listen.address {
            ListenAddress::Tcp(address) => Some(address) == local,
            ListenAddress::Unix(_) => false,
        };
        Some(others.iter().find(is_local).unwrap_or(first))
    }

    /// Says that there is no room, without waiting for the client to hear it.
    fn turn_away(&self, turned: &Turned, refusals: &Seldom) {
        if !turned.implicit_tls {
            let _ = turned.socket.write_now(turned.service.record.busy);
        }
        turned.socket.shutdown(std::net::Shutdown::Write);
        if let Some(before) = refusals.allow() {
            let text = format!(
                "no room for {} at server \"{}\": `{}` is reached ({before} more refused since the \
                 last such line)",
                turned.peer,
                escape(turned.service.conf.name.as_bytes()),
                turned.limit
            );
            self.log(Severity::Warn, &text, None);
        }
    }

    fn log(&self, severity: Severity, text: &str, error: Option<&io::Error>) {
        self.log.write(severity, file!(), text, error, None);
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    codes
        .iter()
        .any(|&code| error.raw_os_error() == Some(code as i32))
}
