//! Connecting to a name with several addresses (RFC 8305, section 5): each next one is tried as well
//! when those before it have not answered for a moment, and at once when they have failed. The first
//! that answers is taken.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockAddr;

use super::socket::Socket;

/// How long an address is waited for alone.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first of these TCP addresses that answers.
///
/// # Errors
/// The last failure; `TimedOut` when there was none before `end`.
pub(crate) fn connect_first(addresses: &[SockAddr], end: Instant) -> io::Result<Socket> {
    if let [only] = addresses {
        return Socket::connect(only, end.saturating_duration_since(Instant::now()));
    }
    let mut untried = addresses.iter();
    let mut pending = Vec::new();
    let mut failure = io::Error::from(ErrorKind::TimedOut);
    let mut next_at = Instant::now();
    while Instant::now() < end {
        if (pending.is_empty() || Instant::now() >= next_at)
            && let Some(address) = untried.next()
        {
            match begin(address) {
                Ok(socket) => pending.push(socket),
                Err(error) => failure = error,
            }
            next_at = Instant::now() + HEAD_START;
            continue;
        }
        if pending.is_empty() {
            return Err(failure);
        }
        let until = match untried.len() {
            0 => end,
            _ => next_at.min(end),
        };
        for at in answered(&pending, until)?.into_iter().rev() {
            let socket = pending.remove(at);
            match socket.take_error()? {
                None => {
                    socket.set_tcp_nodelay(true)?;
                    return Socket::new(socket);
                }
                Some(error) => failure = error,
            }
        }
    }
    // Some have failed perhaps, but it is the silence of the others that used up the time.
    Err(ErrorKind::TimedOut.into())
}

fn begin(address: &SockAddr) -> io::Result<socket2::Socket> {
    let kind = socket2::Type::STREAM.nonblocking();
    let socket = socket2::Socket::new(address.domain(), kind, None)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        Ok(()) | Err(_) => Ok(socket),
    }
}

/// Which of them have connected or failed, in their order; none when time is over.
fn answered(pending: &[socket2::Socket], until: Instant) -> io::Result<Vec<usize>> {
    let left = until.saturating_duration_since(Instant::now());
    // poll counts whole milliseconds, and zero would not wait for the last one.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
    let fds = pending.iter();
    let mut fds: Vec<_> = fds
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
        .collect();
    match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    let fds = fds.iter().enumerate();
    Ok(fds
        .filter(|(_, fd)| fd.any() != Some(false))
        .map(|(at, _)| at)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use socket2::{Domain, Type};

    use super::*;

    /// An address that does not answer, and what keeps it so: its queue is full.
    fn silent() -> (SockAddr, Vec<socket2::Socket>) {
        let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut held = vec![listener];
        for _ in 0..4 {
            held.push(begin(&address).expect("a connection"));
        }
        (address, held)
    }

    fn good() -> (SockAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        (address.into(), listener)
    }

    fn within(limit: Duration) -> Instant {
        Instant::now() + limit
    }

    #[test]
    fn the_next_address_is_tried_while_the_first_is_silent() {
        let ((silent, _held), (good, _listener)) = (silent(), good());
        let start = Instant::now();
        let addresses = [silent, good];
        connect_first(&addresses, within(Duration::from_secs(20))).expect("a connection");
        let took = start.elapsed();
        assert!(
            took >= HEAD_START && took < Duration::from_secs(5),
            "{took:?}"
        );
    }

    #[test]
    fn a_failed_address_costs_no_time() {
        let (gone, listener) = good();
        drop(listener);
        let (good, _listener) = good();
        let start = Instant::now();
        let addresses = [gone, good];
        connect_first(&addresses, within(Duration::from_secs(20))).expect("a connection");
        assert!(start.elapsed() < HEAD_START);
    }

    #[test]
    fn it_ends_in_time_and_with_the_last_failure() {
        let (silent, _held) = silent();
        let error = connect_first(&[silent], within(Duration::from_millis(100)));
        let error = error.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let (gone, listener) = good();
        drop(listener);
        let error = connect_first(&[gone], within(Duration::from_secs(20)));
        let error = error.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
