//! One connected socket, TCP or Unix, whose every wait has an end.
//!
//! The only place that turns the kernel's Interrupted, WouldBlock and zero into retry, timeout
//! and end of stream. It knows nothing of TLS or of lines: that is `conn`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockAddr, TcpKeepalive};

use super::address::Address;
use crate::config::Keepalive;

/// Until when something may take, and the directive that says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// The moment.
    pub at: Instant,
    /// Name of the directive it comes from, for the log.
    pub directive: &'static str,
}

impl Deadline {
    /// `limit` from now on.
    pub(crate) fn after(limit: Duration, directive: &'static str) -> Self {
        Self {
            at: Instant::now() + limit,
            directive,
        }
    }

    /// What is left; `None` when it is over.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.at
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }
}

/// A connected stream socket. Shared by the threads that read, write and end it.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: socket2::Socket,
    /// What SO_RCVTIMEO and SO_SNDTIMEO are set to, in milliseconds: most reads need no system call
    /// to set them again.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    /// We have ended reading ourselves: an end of stream means nothing any more.
    ends_reading: AtomicBool,
    /// We have ended writing: that is said once.
    ends_writing: AtomicBool,
    /// The peer has ended its stream: nothing more will come.
    has_ended: AtomicBool,
    /// A read has failed: the kernel tells that once, and an end of stream afterwards.
    is_broken: AtomicBool,
    /// Whether it is known to the epoll instance of those who wait without a thread.
    in_epoll: AtomicBool,
}

/// What a blocking call on a socket came to.
#[derive(Debug)]
pub(crate) enum Waited {
    /// That many bytes; 0 is the end of the stream.
    Done(usize),
    /// Nothing happened in time.
    TimedOut,
}

impl Socket {
    /// Takes over a connected socket and makes its calls block.
    pub(crate) fn new(inner: socket2::Socket) -> io::Result<Self> {
        // The standard library needs one system call for it, socket2 two.
        let inner = std::net::TcpStream::from(inner);
        inner.set_nonblocking(false)?;
        Ok(Self::accepted(inner.into()))
    }

    /// The same for one whose calls block anyway, such as one that was accepted.
    pub(crate) fn accepted(inner: socket2::Socket) -> Self {
        Self {
            inner,
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
            ends_reading: AtomicBool::new(false),
            ends_writing: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            in_epoll: AtomicBool::new(false),
        }
    }

    /// Connects within `limit`, to an address of TCP or a Unix socket.
    pub(crate) fn connect(address: &SockAddr, limit: Duration) -> io::Result<Self> {
        let inner = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
        let socket = Self::accepted(inner);
        // A blocking connect waits as long as a write may (socket(7)). A Unix socket whose queue is full would
        // refuse one that does not block.
        socket.limit_writes(limit)?;
        let end = Instant::now() + limit;
        while let Err(error) = socket.inner.connect(address) {
            if error.kind() != ErrorKind::Interrupted {
                return Err(match is_unanswered(&error) {
                    true => ErrorKind::TimedOut.into(),
                    false => error,
                });
            }
            // It goes on by itself, and the next call waits for what is left of it.
            socket.limit_writes(end.saturating_duration_since(Instant::now()))?;
        }
        if address.as_socket().is_some() {
            socket.inner.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }

    /// As the function of this name.
    pub(crate) fn keep_alive(&self, keepalive: Keepalive) {
        keep_alive(&self.inner, keepalive);
    }

    /// Our own end.
    pub(crate) fn local(&self) -> io::Result<Address> {
        self.inner.local_addr().map(|address| (&address).into())
    }

    /// Reads what is there, waiting for `limit` at most.
    pub(crate) fn read(&self, buf: &mut [u8], limit: Duration) -> io::Result<Waited> {
        self.remember(retry_within(limit, |left| {
            self.limit_reads(left)?;
            (&self.inner).read(buf)
        }))
    }

    /// How long a blocking read may take from now on; a millisecond at least.
    fn limit_reads(&self, limit: Duration) -> io::Result<()> {
        let millis = coarse_millis(limit);
        match self.read_timeout.swap(millis, Ordering::Relaxed) == millis {
            true => Ok(()),
            false => (self.inner).set_read_timeout(Some(Duration::from_millis(millis))),
        }
    }

    fn remember(&self, read: io::Result<Waited>) -> io::Result<Waited> {
        match read {
            Ok(Waited::Done(0)) if self.is_broken.load(Ordering::Relaxed) => {
                Err(ErrorKind::ConnectionReset.into())
            }
            Ok(Waited::Done(0)) => {
                let has_ended = !self.ends_reading.load(Ordering::Relaxed);
                self.has_ended.fetch_or(has_ended, Ordering::Relaxed);
                read
            }
            Err(error) => {
                self.is_broken.store(true, Ordering::Relaxed);
                Err(error)
            }
            read => read,
        }
    }

    /// Reads what is there, waiting for `limit` at most; zero is not at all.
    pub(crate) fn read_for(&self, buf: &mut [u8], limit: Duration) -> io::Result<Waited> {
        match limit.is_zero() {
            true => self.read_now(buf),
            false => self.read(buf, limit),
        }
    }

    /// Reads what is there without waiting; `TimedOut` when there is nothing.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> io::Result<Waited> {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd;
        let read =
            || recv(self.inner.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from);
        self.remember(retry(read))
    }

    /// Moves what is there into a pipe without waiting; `TimedOut` when there is nothing, or no room.
    pub(super) fn read_into(&self, pipe: impl AsFd, most: usize) -> io::Result<Waited> {
        // For TCP the flag is about the pipe alone: without data it would wait as long as a read.
        if self.wait(WaitFor::Data, Duration::ZERO)? == Seen::Nothing {
            return Ok(Waited::TimedOut);
        }
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let read = || Ok(splice(self, None, &pipe, None, most, flags)?);
        self.remember(retry(read))
    }

    /// Moves so many bytes out of a pipe, as far as they fit, without waiting for longer than a moment.
    pub(super) fn write_from(&self, pipe: impl AsFd, held: usize) -> io::Result<Waited> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        // The flag is about the pipe alone here as well: a full socket would be waited for as long as a
        // write may take, and at first that is for ever.
        self.limit_writes(Duration::ZERO)?;
        retry(|| Ok(splice(&pipe, None, self, None, held, flags)?))
    }

    /// Writes what fits, waiting for `limit` at most; zero is not at all.
    pub(crate) fn write(&self, buf: &[u8], limit: Duration) -> io::Result<Waited> {
        // There is room nearly always, and then no limit has to be set.
        let wrote = self.write_now(buf)?;
        if matches!(wrote, Waited::Done(_)) || limit.is_zero() {
            return Ok(wrote);
        }
        retry_within(limit, |left| {
            self.limit_writes(left)?;
            (&self.inner).write(buf)
        })
    }

    /// How long a blocking write may take from now on; a millisecond at least.
    fn limit_writes(&self, limit: Duration) -> io::Result<()> {
        let millis = coarse_millis(limit);
        match self.write_timeout.swap(millis, Ordering::Relaxed) == millis {
            true => Ok(()),
            false => (self.inner).set_write_timeout(Some(Duration::from_millis(millis))),
        }
    }

    /// Writes what fits without waiting.
    pub(crate) fn write_now(&self, buf: &[u8]) -> io::Result<Waited> {
        use nix::sys::socket::{MsgFlags, send};
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        retry(|| send(self.inner.as_raw_fd(), buf, flags).map_err(io::Error::from))
    }

    /// Waits until the socket can be read (the end of the stream included), or its peer has hung up.
    pub(crate) fn wait(&self, what: WaitFor, limit: Duration) -> io::Result<Seen> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.inner.as_fd(), what.flags())];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => return Ok(Seen::Nothing),
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(Seen::Nothing),
            Ok(_) => {}
        }
        // Anything that nix cannot name, or that was not waited for, is a hang-up.
        match fds[0].revents() {
            Some(PollFlags::POLLIN | PollFlags::POLLOUT) => Ok(Seen::Ready),
            _ => Ok(Seen::HangUp),
        }
    }

    /// Whether it was in epoll's set before; from now on it counts as being there.
    pub(crate) fn enter_epoll(&self) -> bool {
        self.in_epoll.swap(true, Ordering::AcqRel)
    }

    /// Ends one or both directions; wakes whoever is blocked there.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.ends_reading.store(true, Ordering::Relaxed);
        }
        if how != Shutdown::Read
            && self.ends_writing.swap(true, Ordering::Relaxed)
            && how == Shutdown::Write
        {
            return;
        }
        // Fails only when the peer was faster.
        let _ = self.inner.shutdown(how);
    }

    /// Bytes that lie in the kernel because the peer has not acknowledged them yet; 0 if it cannot say.
    pub(crate) fn unacknowledged(&self) -> u64 {
        use std::os::fd::AsRawFd;
        outq::unacknowledged(self.inner.as_raw_fd())
    }

    /// Whether we have ended reading ourselves.
    pub(crate) fn ends_reading(&self) -> bool {
        self.ends_reading.load(Ordering::Relaxed)
    }

    /// Ends our direction and lets the peer finish reading: a socket closed with unread input sends a
    /// reset, which can destroy the last line before it is read.
    pub(crate) fn close_after_line(&self) {
        const MOST: usize = 64 * 1024;
        const LONGEST: Duration = Duration::from_millis(200);
        self.shutdown(Shutdown::Write);
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        let end = Instant::now() + LONGEST;
        let waits = !self.ends_reading.load(Ordering::Relaxed);
        let mut sink = [0; 1024];
        let mut total = 0;
        while total < MOST {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            // Mostly the peer has ended its side already.
            let read = match self.read_now(&mut sink) {
                Ok(Waited::TimedOut) if waits => self.read(&mut sink, left),
                read => read,
            };
            match read {
                Ok(Waited::Done(n)) if n > 0 => total += n,
                _ => return,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Waits until one of two sockets can be read (the end of the stream included), or its peer has hung up;
/// which of them. `None` in place of a socket is not waited for.
pub(crate) fn wait_for_either(
    sockets: [Option<&Socket>; 2],
    limit: Duration,
) -> io::Result<[bool; 2]> {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let flags = WaitFor::Data.flags();
    let mut fds: Vec<_> = sockets
        .iter()
        .flatten()
        .map(|socket| PollFd::new(socket.as_fd(), flags))
        .collect();
    match poll(&mut fds, timeout) {
        Err(Errno::EINTR) | Ok(0) => return Ok([false; 2]),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    // What nix cannot name is a hang-up.
    let mut seen = fds.iter().map(|fd| fd.any().unwrap_or(true));
    Ok(sockets.map(|socket| socket.is_some() && seen.next().unwrap_or(false)))
}

/// SIOCOUTQ (tcp(7)), which nobody wraps.
mod outq {
    #![expect(unsafe_code, reason = "an ioctl that writes one int, where we say")]

    // For sockets TIOCOUTQ is called SIOCOUTQ.
    nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);

    pub(super) fn unacknowledged(socket: std::os::fd::RawFd) -> u64 {
        let mut bytes = 0;
        // Sound: the pointer is to an int that lives until the call is over.
        let asked = unsafe { siocoutq(socket, &raw mut bytes) };
        asked.map_or(0, |_| u64::try_from(bytes).unwrap_or(0))
    }
}

/// Keepalive, which finds peers that are gone without a word. On Unix sockets it does nothing: there the kernel
/// knows at once. No TCP_USER_TIMEOUT: it would also end a peer that is there and does not read.
/// What is accepted from a listener inherits its setting.
pub(crate) fn keep_alive(socket: &socket2::Socket, keepalive: Keepalive) {
    /// 120 seconds of silence, then a probe every 30, four of them.
    const OURS: TcpKeepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30))
        .with_retries(4);
    let probes = match keepalive {
        Keepalive::Unset => OURS,
        Keepalive::Off => {
            let _ = socket.set_keepalive(false);
            return;
        }
        Keepalive::On {
            idle,
            interval,
            count,
        } => {
            let mut probes = TcpKeepalive::new();
            probes = idle.into_iter().fold(probes, TcpKeepalive::with_time);
            probes = interval
                .into_iter()
                .fold(probes, TcpKeepalive::with_interval);
            count.into_iter().fold(probes, TcpKeepalive::with_retries)
        }
    };
    // Turns it on as well. A connection that is gone already cannot be set, which is found out at once
    // elsewhere; nor can a Unix socket.
    let _ = socket.set_tcp_keepalive(&probes);
}

/// What is waited for on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Something to read, or a hang-up.
    Data,
    /// Room for something to write, or a reset.
    Room,
    /// The end of the peer's stream, or a reset; data alone does not count.
    HangUp,
    /// A reset alone.
    Reset,
}

impl WaitFor {
    /// poll's flags for it.
    fn flags(self) -> PollFlags {
        // nix has no name for the end of the peer's stream.
        let end = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        match self {
            Self::Data => PollFlags::POLLIN | end,
            Self::Room => PollFlags::POLLOUT,
            Self::HangUp => end,
            Self::Reset => PollFlags::empty(),
        }
    }
}

/// What `Socket::wait` saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Time is over, or a signal came.
    Nothing,
    /// There is something to read, or room to write.
    Ready,
    /// The peer ended its stream or is gone.
    HangUp,
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Waited> {
    loop {
        match call() {
            Ok(n) => return Ok(Waited::Done(n)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Waited::TimedOut),
            Err(error) => return Err(error),
        }
    }
}

/// The same for a call that waits, given how long it still may.
fn retry_within(
    limit: Duration,
    mut call: impl FnMut(Duration) -> io::Result<usize>,
) -> io::Result<Waited> {
    let began = Instant::now();
    let mut left = limit;
    retry(|| call(left).inspect_err(|_| left = limit.saturating_sub(began.elapsed())))
}

/// Whether a blocking connect has waited for as long as it may: on a Unix socket, on one of TCP, or on one
/// of TCP that was connecting already because the call before it was interrupted.
fn is_unanswered(error: &io::Error) -> bool {
    let codes = [Errno::EAGAIN, Errno::EINPROGRESS, Errno::EALREADY];
    let code = error.raw_os_error();
    codes.iter().any(|&other| code == Some(other as i32))
}

/// A limit for SO_RCVTIMEO and SO_SNDTIMEO, where zero would mean for ever. It is rounded up, by a
/// sixty-fourth at most: so what is left of one deadline stays the same for a while, and need not be set for
/// every call.
fn coarse_millis(limit: Duration) -> u64 {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    let grain = (millis / 64).checked_ilog2().map_or(1, |power| 1 << power);
    millis.checked_next_multiple_of(grain).unwrap_or(millis)
}

/// Whether a failed call says that this process or system has no descriptors or memory left, which is
/// nobody's fault at the other end.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    codes
        .iter()
        .any(|&code| error.raw_os_error() == Some(code as i32))
}
