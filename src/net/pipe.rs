//! A pipe in the kernel, through which bytes go from one socket to another without coming into the program
//! (splice(2)). For much of them at a time: a pipe costs two descriptors, and three system calls to make.
//!
//! Who may be copied so, and when, is the relay's business.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

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

    /// Gives a socket what it takes without waiting; whether that was all.
    ///
    /// # Errors
    /// As those of `Socket::write_now`.
    pub(crate) fn give_to(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.held > 0 {
            match socket.write_from(&self.read, self.held)? {
                Waited::Done(n) => self.held = self.held.saturating_sub(n),
                Waited::TimedOut => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What is still in it, taken out.
    ///
    /// # Errors
    /// None that is known: it is there.
    pub(crate) fn into_held(mut self) -> io::Result<Vec<u8>> {
        let mut held = vec![0; std::mem::take(&mut self.held)];
        File::from(self.read).read_exact(&mut held)?;
        Ok(held)
    }
}
