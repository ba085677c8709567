//! A client that sends exactly what it is told and reads until what it expects is there.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// How long an expected answer may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// One TCP connection to the proxy, or straight to a server.
pub(crate) struct LineClient {
    stream: TcpStream,
    received: Vec<u8>,
}

impl LineClient {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> LineClient {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).expect("TCP has no delay to set");
        LineClient {
            stream,
            received: Vec::new(),
        }
    }

    /// Connects from this address of the loopback interface.
    pub(crate) fn connect_from(source: [u8; 4], address: SocketAddr) -> LineClient {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets can be had");
        let source = SocketAddr::from((source, 0));
        socket
            .bind(&source.into())
            .expect("all of 127.0.0.0/8 is ours");
        socket
            .connect_timeout(&address.into(), DEADLINE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        LineClient {
            stream: socket.into(),
            received: Vec::new(),
        }
    }

    /// Connects and reads the greeting line.
    pub(crate) fn greeted(address: SocketAddr) -> (LineClient, String) {
        let mut client = LineClient::connect(address);
        let greeting = client.line();
        (client, greeting)
    }

    /// The address the server sees.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// Sends a line; CRLF is added.
    pub(crate) fn send(&mut self, line: &str) {
        self.send_raw(format!("{line}\r\n").as_bytes());
    }

    /// Sends these bytes.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends each byte in a segment of its own.
    pub(crate) fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send_raw(std::slice::from_ref(byte));
            std::thread::yield_now();
        }
    }

    /// The next line, without its CRLF.
    pub(crate) fn line(&mut self) -> String {
        self.line_within(DEADLINE)
    }

    /// The next line, which may take `limit`.
    pub(crate) fn line_within(&mut self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(
                self.fill(end),
                "the connection ended instead of a line; before: {}",
                self.received.escape_ascii()
            );
        }
    }

    /// Reads a line and insists on what it is.
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Sends a line and insists on the one-line answer.
    pub(crate) fn ask(&mut self, line: &str, answer: &str) {
        self.send(line);
        assert_eq!(self.line(), answer, "the answer to {line:?}");
    }

    /// Reads lines up to and including the one that begins with `prefix`.
    pub(crate) fn lines_until(&mut self, prefix: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line());
            if lines.last().is_some_and(|line| line.starts_with(prefix)) {
                return lines;
            }
        }
    }

    /// Reads exactly so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let end = Instant::now() + DEADLINE.max(Duration::from_secs(60));
        while self.received.len() < count {
            assert!(
                self.fill(end),
                "the connection ended {} bytes early",
                count - self.received.len()
            );
        }
        self.received.drain(..count).collect()
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        while self.fill(end) {}
        std::mem::take(&mut self.received)
    }

    /// Insists that the stream ends here.
    pub(crate) fn expect_close(&mut self) {
        let rest = self.rest();
        assert_eq!(rest.escape_ascii().to_string(), "", "before the close");
    }

    /// Insists that nothing arrives and nothing closes for this long.
    pub(crate) fn expect_silence(&mut self, limit: Duration) {
        assert_eq!(self.received.escape_ascii().to_string(), "");
        let mut byte = [0];
        self.stream
            .set_read_timeout(Some(limit))
            .expect("the limit is not zero");
        match self.stream.peek(&mut byte) {
            Err(error) if is_timeout(&error) => {}
            Ok(0) => panic!("the connection was closed"),
            Ok(_) => panic!("it said something"),
            Err(error) => panic!("the connection broke: {error}"),
        }
    }

    /// Reads nothing for this long; the connection must still be there afterwards.
    pub(crate) fn expect_no_end_for(&mut self, time: Duration) {
        std::thread::sleep(time);
        let count = self.stream.peek(&mut [0]);
        assert!(matches!(count, Ok(1)), "the connection ended: {count:?}");
    }

    /// Presents a login after the greeting; the answer is still to come.
    pub(crate) fn present_login(&mut self, protocol: &str, login: &str, password: &str) {
        match protocol {
            "imap" => self.send(&format!("a LOGIN {login} {password}")),
            "pop3" => {
                self.ask(&format!("USER {login}"), "+OK");
                self.send(&format!("PASS {password}"));
            }
            _ => {
                let message = format!("\0{login}\0{password}");
                let message = openssl::base64::encode_block(message.as_bytes());
                self.send(&format!("AUTH PLAIN {message}"));
            }
        }
    }

    /// Logs in to IMAP as alice and reads up to the tagged answer, which must be OK.
    pub(crate) fn imap_login(address: SocketAddr) -> LineClient {
        let (mut client, _) = LineClient::greeted(address);
        client.send("in LOGIN alice secret");
        let lines = client.lines_until("in ");
        let last = lines.last().expect("there is at least the last line");
        assert!(last.starts_with("in OK"), "{lines:?}");
        client
    }

    /// Closes our sending direction only.
    pub(crate) fn half_close(&mut self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("a connected socket can be half closed");
    }

    /// A second handle of the connection, for another thread.
    pub(crate) fn stream(&self) -> TcpStream {
        self.stream
            .try_clone()
            .expect("a descriptor can be duplicated")
    }

    /// Reads once; false at the end of the stream. A reset counts as the end.
    fn fill(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "nothing more in time; so far: {}",
            self.received.escape_ascii()
        );
        self.stream
            .set_read_timeout(Some(left))
            .expect("the time left is not zero");
        let mut buffer = vec![0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Where `needle` begins in `hay`.
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len())
        .position(|window| window == needle)
}
