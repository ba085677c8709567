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

    /// Gives a socket what it takes without waiting for longer than a moment; whether that was all.
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::system::threads::spawn;

    fn tcp() -> (OwnedFd, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let one = TcpStream::connect(address).expect("it listens");
        let (other, _) = listener.accept().expect("one has connected");
        (one.into(), other.into())
    }

    fn unix() -> (OwnedFd, OwnedFd) {
        let (one, other) = UnixStream::pair().expect("a pair of sockets");
        (one.into(), other.into())
    }

    #[test]
    fn a_socket_that_takes_no_more_is_not_waited_for() {
        for ((ours, _theirs), (source, peer)) in [(tcp(), tcp()), (unix(), unix())] {
            let [destination, source] = [ours, source].map(|fd| Socket::accepted(fd.into()));
            let (tell, told) = crossbeam_channel::bounded(1);
            let given = move || {
                let mut peer = std::fs::File::from(peer);
                let mut pipe = Pipe::new().expect("there are descriptors");
                loop {
                    peer.write_all(&[b'x'; 65536]).expect("it is read");
                    while let Waited::Done(n) = pipe.take_from(&source).expect("it is open") {
                        assert!(n > 0, "nobody has closed it");
                        if !pipe.give_to(&destination).expect("it is open") {
                            let held = pipe.into_held().expect("it is there");
                            // The test may have given up.
                            return tell.send(held.len()).unwrap_or(());
                        }
                    }
                }
            };
            spawn("given", given).expect("a thread");
            let held = told.recv_timeout(Duration::from_secs(10));
            assert!(held.expect("it does not wait") > 0);
        }
    }
}
