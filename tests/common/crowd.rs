//! Crowds: hundreds of connections that all stand at the same point of their session, and honest clients
//! who come beside them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::line_client::{LineClient, find};
use super::wait;

/// How often a member repeats itself.
const EVERY: Duration = Duration::from_millis(100);

/// How its members behave.
#[derive(Clone)]
pub(crate) struct Manner {
    /// How many they are.
    pub(crate) members: u16,
    /// One is 127.0.0.1; more are of 127.1.0.0/16.
    pub(crate) addresses: u16,
    /// What each says as soon as it is connected.
    pub(crate) says: Vec<u8>,
    /// What it has heard when it stands where it is to stand.
    pub(crate) heard: &'static str,
    /// What it says every 100 ms from then on.
    pub(crate) repeats: &'static [u8],
    /// Whether it takes what it is told.
    pub(crate) reads: bool,
    /// When it comes back after it was closed.
    pub(crate) back_after: Duration,
}

impl Manner {
    /// A thousand of as many addresses who are silent, and come back after a second.
    pub(crate) fn silent() -> Manner {
        Manner {
            members: 1000,
            addresses: 1000,
            says: Vec::new(),
            heard: "",
            repeats: b"",
            reads: true,
            back_after: Duration::from_secs(1),
        }
    }
}

/// A crowd that stands there until it is dispersed.
pub(crate) struct Crowd {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    /// Returns when every member has stood where it is to stand.
    pub(crate) fn gather(target: SocketAddr, manner: &Manner) -> Crowd {
        const THREADS: u16 = 4;
        let end = Arc::new(AtomicBool::new(false));
        let standing = Arc::new(AtomicUsize::new(0));
        let threads = (0..THREADS).map(|group| {
            let (end, standing) = (Arc::clone(&end), Arc::clone(&standing));
            let manner = manner.clone();
            thread::spawn(move || {
                let numbers = (0..manner.members).filter(|number| number % THREADS == group);
                let members = numbers.map(|number| Member::new(number, target, &manner));
                let mut members: Vec<Member> = members.collect();
                while !end.load(Ordering::SeqCst) {
                    let busy = await_any(&members, &manner);
                    let busy = members.iter_mut().zip(busy).filter(|(_, busy)| *busy);
                    let stand = busy.filter_map(|(member, _)| member.stand(target, &manner));
                    standing.fetch_add(stand.count(), Ordering::SeqCst);
                }
            })
        });
        let threads = threads.collect();
        let members = usize::from(manner.members);
        let what = format!("a crowd stands that has heard {:?}", manner.heard);
        wait::until_true(&what, Duration::from_secs(30), || {
            standing.load(Ordering::SeqCst) == members
        });
        Crowd { end, threads }
    }

    /// Closes all of its connections.
    pub(crate) fn disperse(self) {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no member of the crowd panics");
        }
    }
}

struct Member {
    number: u16,
    stream: TcpStream,
    reads: bool,
    /// How much of its words the kernel has taken.
    said: usize,
    heard: Vec<u8>,
    /// Whether it has stood where it is to stand, be it in an earlier connection.
    has_stood: bool,
    repeat_at: Instant,
    closed: Option<Instant>,
}

impl Member {
    fn new(number: u16, target: SocketAddr, manner: &Manner) -> Member {
        Member {
            number,
            stream: connect(number % manner.addresses, target, manner.reads),
            reads: manner.reads,
            said: 0,
            heard: Vec::new(),
            has_stood: false,
            repeat_at: Instant::now() + EVERY,
            closed: None,
        }
    }

    /// Whether it has something to do, whatever it hears.
    fn is_due(&self, manner: &Manner) -> bool {
        let repeats = !manner.repeats.is_empty() && self.repeat_at <= Instant::now();
        let stands = self.has_stood || !manner.heard.is_empty();
        let comes_back = |since: Instant| since.elapsed() >= manner.back_after;
        match self.closed {
            Some(since) => comes_back(since),
            None => self.said < manner.says.len() || repeats || !stands,
        }
    }

    /// Does what is due; says so when it stands where it is to stand for the first time.
    fn stand(&mut self, target: SocketAddr, manner: &Manner) -> Option<()> {
        match self.closed {
            Some(since) if since.elapsed() >= manner.back_after => {
                let has_stood = self.has_stood;
                *self = Member::new(self.number, target, manner);
                self.has_stood = has_stood;
            }
            Some(_) => return None,
            None => {}
        }
        if !self.speak(manner) || !self.listen() {
            self.closed = Some(Instant::now());
        }
        let is_there =
            || manner.heard.is_empty() || find(&self.heard, manner.heard.as_bytes()).is_some();
        let is_first = !self.has_stood && is_there();
        self.has_stood |= is_first;
        is_first.then_some(())
    }

    /// False when the connection is gone.
    fn speak(&mut self, manner: &Manner) -> bool {
        if self.said < manner.says.len() {
            match self.stream.write(&manner.says[self.said..]) {
                Ok(count) => self.said += count,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        } else if !manner.repeats.is_empty() && self.repeat_at <= Instant::now() {
            self.repeat_at = Instant::now() + EVERY;
            if let Err(error) = self.stream.write(manner.repeats) {
                return error.kind() == ErrorKind::WouldBlock;
            }
        }
        true
    }

    /// False when the connection is gone.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while self.reads {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                // Once it stands there, nothing more is to be learnt.
                Ok(_) if self.has_stood => {}
                Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// Waits until one of them hears something, or for a moment; who has something to do.
fn await_any(members: &[Member], manner: &Manner) -> Vec<bool> {
    let flags = match manner.reads {
        true => PollFlags::POLLIN,
        false => PollFlags::empty(),
    };
    let mut fds: Vec<_> = members
        .iter()
        .map(|member| PollFd::new(member.stream.as_fd(), flags))
        .collect();
    // One that is closed has something to say at any time: others are to get on as well.
    thread::sleep(Duration::from_millis(2));
    let _ = poll(&mut fds, PollTimeout::from(10_u8));
    let heard = fds.iter().map(|fd| fd.any().unwrap_or(true));
    let due = members.iter().map(|member| member.is_due(manner));
    heard.zip(due).map(|(heard, due)| heard || due).collect()
}

fn connect(address: u16, target: SocketAddr, reads: bool) -> TcpStream {
    let [high, low] = address.to_be_bytes();
    let from = match address {
        0 => Ipv4Addr::LOCALHOST,
        _ => Ipv4Addr::new(127, 1, high, low),
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if !reads {
        // What the kernel takes in our stead shall be little.
        socket.set_recv_buffer_size(4096).expect("a socket");
    }
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .expect("an address of loopback");
    socket
        .connect(&target.into())
        .expect("the proxy's kernel queue has room");
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true).expect("a socket");
    stream
}

/// An honest client: how long it needs from connect to its login's answer. It takes a breath before each
/// of its lines, as one does that is far away.
pub(crate) fn log_in_from_afar(target: SocketAddr, protocol: &str, rtt: Duration) -> Duration {
    let began = Instant::now();
    let (mut client, greeting) = LineClient::greeted(target);
    let mut say = |line: &str, answer: &str| {
        thread::sleep(rtt);
        client.send(line);
        loop {
            let heard = client.line();
            if heard.starts_with(answer) {
                break;
            }
            // IMAP may tell something else first.
            let is_aside = heard.starts_with("* CAPABILITY") || heard.starts_with("* OK");
            assert!(is_aside, "{heard:?} instead of {answer:?}");
        }
    };
    match protocol {
        "imap" => {
            assert_eq!(greeting, "* OK IMAP4 ready");
            say("a LOGIN bob pw", "a OK");
        }
        "pop3" => {
            assert!(greeting.starts_with("+OK"), "{greeting}");
            say("USER bob", "+OK");
            say("PASS pw", "+OK");
        }
        _ => {
            assert!(greeting.starts_with("220 "), "{greeting}");
            say("AUTH PLAIN AGJvYgBwdw==", "235 2.0.0 OK");
        }
    }
    began.elapsed()
}

/// The same from nearby.
pub(crate) fn log_in(target: SocketAddr, protocol: &str) -> Duration {
    log_in_from_afar(target, protocol, Duration::ZERO)
}
