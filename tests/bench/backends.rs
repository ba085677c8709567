//! The servers behind the proxies, in a process of their own: an auth server, an IMAP, a POP3 and an
//! SMTP server that let everybody in, and one that accepts and never speaks.
//!
//! One thread and one epoll. The process ends when its standard input does.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

/// The argument that makes this program the servers.
pub(crate) const COMMAND: &str = "serve-backends";

/// A login whose backend never greets.
pub(crate) const STUCK: &str = "stuck@slow.test";

/// A password that is refused, with `Auth-Wait: 3`, and counted.
pub(crate) const GUESS: &str = "guess";

/// The path under which the auth server says how often it was.
const GUESSES: &str = "/guesses";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Imap,
    Pop3,
    Smtp,
    Mute,
    Auth,
}

const KINDS: [Kind; 5] = [Kind::Imap, Kind::Pop3, Kind::Smtp, Kind::Mute, Kind::Auth];

/// The running servers.
pub(crate) struct Backends {
    pub(crate) imap: SocketAddr,
    pub(crate) mute: SocketAddr,
    pub(crate) auth: SocketAddr,
    child: Child,
    input: Option<ChildStdin>,
}

impl Backends {
    /// Starts the process.
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let output = child.stdout.take().expect("the pipe was asked for");
        let addresses: Vec<SocketAddr> = BufReader::new(output)
            .lines()
            .take(KINDS.len())
            .map(|line| line.expect("the servers say where they are"))
            .map(|line| line.parse().expect("each line is an address"))
            .collect();
        let [imap, _pop3, _smtp, mute, auth] = *addresses else {
            panic!("the servers have not started");
        };
        Self {
            imap,
            mute,
            auth,
            input: child.stdin.take(),
            child,
        }
    }
}

impl Backends {
    /// How many guesses the auth server has judged so far.
    pub(crate) fn guesses(&self) -> usize {
        let mut stream = TcpStream::connect(self.auth).expect("the auth server listens");
        let request = format!("GET {GUESSES} HTTP/1.0\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .expect("the auth server reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("the auth server answers");
        answer.trim().parse().expect("it answers with a number")
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends by itself now.
        let _ = self.child.wait();
    }
}

struct Server {
    epoll: Epoll,
    listeners: Vec<(Kind, TcpListener)>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    auth: Auth,
}

/// What the auth server knows.
struct Auth {
    servers: Vec<(Kind, SocketAddr)>,
    guesses: usize,
}

struct Peer {
    kind: Kind,
    stream: TcpStream,
    input: Vec<u8>,
    /// The tag of an IMAP login whose name or password is still to come, and how many of the two.
    login: Option<(String, usize)>,
    ends: bool,
}

/// What the process does: says where the servers are, and serves until nobody holds the pipe.
pub(crate) fn serve() -> io::Result<()> {
    let mut server = Server {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        listeners: Vec::new(),
        peers: Vec::new(),
        free: Vec::new(),
        auth: Auth {
            servers: Vec::new(),
            guesses: 0,
        },
    };
    let mut said = io::stdout().lock();
    for (index, kind) in KINDS.into_iter().enumerate() {
        let listener = listen()?;
        let address = listener.local_addr()?;
        writeln!(said, "{address}")?;
        server.auth.servers.push((kind, address));
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        server.epoll.add(&listener, event)?;
        server.listeners.push((kind, listener));
    }
    said.flush()?;
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    server.run()
}

fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); 1024];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            for event in &events[..count] {
                let id = usize::try_from(event.data()).expect("it was an index");
                match id.checked_sub(KINDS.len()) {
                    None => self.accept(id),
                    Some(id) => self.progress(id),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        // Nobody waiting any more, or no descriptor left: the next event is the next chance.
        while let Ok((stream, _)) = self.listeners[listener].1.accept() {
            let kind = self.listeners[listener].0;
            if self.greet(kind, stream).is_err() {
                continue;
            }
        }
    }

    fn greet(&mut self, kind: Kind, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        stream.write_all(kind.greeting().as_bytes())?;
        let id = self.free.pop().unwrap_or(self.peers.len());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, (id + KINDS.len()) as u64);
        self.epoll.add(&stream, event)?;
        let peer = Some(Peer {
            kind,
            stream,
            input: Vec::new(),
            login: None,
            ends: false,
        });
        match self.peers.get_mut(id) {
            Some(place) => *place = peer,
            None => self.peers.push(peer),
        }
        Ok(())
    }

    fn progress(&mut self, id: usize) {
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        if peer.converse(&mut self.auth).is_err() || peer.ends {
            // Closing takes it out of the epoll.
            self.peers[id] = None;
            self.free.push(id);
        }
    }
}

impl Kind {
    fn greeting(self) -> &'static str {
        match self {
            Self::Imap => "* OK backend ready\r\n",
            Self::Pop3 => "+OK backend ready\r\n",
            Self::Smtp => "220 backend ESMTP\r\n",
            Self::Mute | Self::Auth => "",
        }
    }
}

impl Peer {
    /// Reads once and answers each whole line, or each whole request. Answers are so short that a
    /// socket's buffer always has room for them.
    fn converse(&mut self, auth: &mut Auth) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let separator: &[u8] = match self.kind {
            Kind::Auth => b"\r\n\r\n",
            _ => b"\r\n",
        };
        while let Some(end) = find(&self.input, separator) {
            let piece: Vec<u8> = self.input.drain(..end + separator.len()).collect();
            let text = String::from_utf8_lossy(&piece[..end]).into_owned();
            let answer = self.answer(&text, auth)?;
            self.stream.write_all(answer.as_bytes())?;
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(())
    }

    fn answer(&mut self, text: &str, auth: &mut Auth) -> io::Result<String> {
        match self.kind {
            Kind::Imap => Ok(self.answer_imap(text)),
            Kind::Pop3 => Ok(self.answer_pop3(text)),
            Kind::Smtp => Ok(self.answer_smtp(text)),
            Kind::Mute => Ok(String::new()),
            Kind::Auth => self.answer_auth(text, auth),
        }
    }

    fn answer_imap(&mut self, line: &str) -> String {
        // A literal of these clients has no line end in it: one line holds it and what follows.
        if let Some((tag, missing)) = self.login.take() {
            if missing > 1 && line.ends_with('}') {
                self.login = Some((tag, missing - 1));
                return continuation(line);
            }
            return format!("{tag} OK [CAPABILITY IMAP4rev1] backend login\r\n");
        }
        let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
        let word = rest.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "LOGIN" if line.ends_with('}') => {
                self.login = Some((tag.to_owned(), 2));
                continuation(line)
            }
            "LOGIN" => format!("{tag} OK [CAPABILITY IMAP4rev1] backend login\r\n"),
            "CAPABILITY" => {
                format!("* CAPABILITY IMAP4rev1 IDLE\r\n{tag} OK backend CAPABILITY\r\n")
            }
            "LOGOUT" => {
                self.ends = true;
                format!("* BYE backend\r\n{tag} OK backend LOGOUT\r\n")
            }
            _ => format!("{tag} OK backend\r\n"),
        }
    }

    fn answer_pop3(&mut self, line: &str) -> String {
        match line {
            "CAPA" => "+OK\r\nUSER\r\nUIDL\r\n.\r\n".to_owned(),
            "QUIT" => {
                self.ends = true;
                "+OK backend QUIT\r\n".to_owned()
            }
            _ => "+OK backend\r\n".to_owned(),
        }
    }

    fn answer_smtp(&mut self, line: &str) -> String {
        let word = line.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "EHLO" => "250-backend\r\n250-XCLIENT NAME ADDR PROTO HELO LOGIN\r\n\
                       250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n"
                .to_owned(),
            "XCLIENT" => "220 backend ESMTP again\r\n".to_owned(),
            "AUTH" => "235 2.7.0 backend\r\n".to_owned(),
            "QUIT" => {
                self.ends = true;
                "221 2.0.0 backend\r\n".to_owned()
            }
            _ => "250 2.0.0 backend\r\n".to_owned(),
        }
    }

    fn answer_auth(&mut self, request: &str, auth: &mut Auth) -> io::Result<String> {
        if request.starts_with(&format!("GET {GUESSES} ")) {
            self.ends = true;
            return Ok(format!("{}\r\n", auth.guesses));
        }
        let header = |name: &str| {
            let mut lines = request.lines().filter_map(|line| line.split_once(": "));
            lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
        };
        let is_kept = request.contains(" HTTP/1.1") && header("Connection") != Some("close");
        self.ends = !is_kept;
        let verdict = if header("Auth-Pass") == Some(GUESS) {
            auth.guesses += 1;
            "Auth-Status: Invalid login or password\r\nAuth-Wait: 3".to_owned()
        } else {
            let kind = match header("Auth-Protocol") {
                _ if header("Auth-User") == Some(STUCK) => Kind::Mute,
                Some("pop3") => Kind::Pop3,
                Some("smtp") => Kind::Smtp,
                _ => Kind::Imap,
            };
            let server = auth.servers.iter().find(|(of, _)| *of == kind);
            let port = server.ok_or(ErrorKind::NotFound)?.1.port();
            format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}")
        };
        let connection = if is_kept { "keep-alive" } else { "close" };
        Ok(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n{verdict}\r\n\r\n"
        ))
    }
}

/// What a server says to an announced literal: nothing if the client does not wait for it.
fn continuation(line: &str) -> String {
    if line.ends_with("+}") {
        String::new()
    } else {
        "+ backend waits\r\n".to_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
