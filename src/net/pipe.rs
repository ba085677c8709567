//! A pipe in the kernel, through which bytes go from one socket to another without coming into the program
//! (splice(2)). For much of them at a time: a pipe costs two descriptors, and three system calls to make.
//!
//! Who may be copied so, and when, is the relay's business.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::socket::{Socket, Waited};

/// What a pipe may hold, as far as the system allows: its own 64 KiB are less than a socket has at a time.
const SIZE: usize = 256 * 1024;

/// A pipe, and what is in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A user who has too many pipes is refused that, and then it stays as it is.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE as i32));
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes what a socket has, without waiting, as much as there is room for.
    ///
    /// # Errors
    /// As those of `Socket::read_now`.
    pub(crate) fn take_from(&mut self, socket: &Socket) -> io::Result<Waited> {
        let took = socket.read_into(&self.write, SIZE)?;
        if let Waited::Done(n) = took {
            self.held += n;
        }
        Ok(took)
    }

    /// Gives a socket what it takes, waiting for `limit` at most.
    ///
    /// # Errors
    /// As those of `Socket::write`.
    pub(crate) fn give_to(&mut self, socket: &Socket, limit: Duration) -> io::Result<Waited> {
        let gave = socket.write_from(&self.read, self.held, limit)?;
        if let Waited::Done(n) = gave {
            self.held = self.held.saturating_sub(n);
        }
        Ok(gave)
    }
}
