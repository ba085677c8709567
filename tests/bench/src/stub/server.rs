//! The loop of the stub servers: one thread and one epoll, which reports a connection for as long as
//! there is something to read, and, only while output waits, something to write.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

use super::auth::Auth;
use super::mail::{self, Login, Reply};
use super::{Files, KINDS, Kind};
use crate::tls;
use crate::wire::Wire;

/// How much is read or written at once.
const PIECE: usize = 65_536;

struct Listener {
    kind: Kind,
    socket: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

struct Server {
    epoll: Epoll,
    listeners: Vec<Listener>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    auth: Auth,
    buffer: Vec<u8>,
    /// What contents are made of.
    content: Vec<u8>,
}

struct Peer {
    kind: Kind,
    wire: Wire,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What the last line has begun and what is not done yet: `content` is sent, or `swallow` awaited,
    /// and then `finally` is said.
    reply: Reply,
    login: Login,
    awaits_room: bool,
}

/// What the process does: says where the servers are, and serves until nobody holds the pipe.
pub(crate) fn serve(files: &Files) -> io::Result<()> {
    let line: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n";
    let mut server = Server {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        listeners: Vec::new(),
        peers: Vec::new(),
        free: Vec::new(),
        auth: Auth {
            servers: Vec::new(),
            guesses: 0,
        },
        buffer: vec![0; PIECE],
        content: line.repeat(PIECE / line.len()),
    };
    let mut said = io::stdout().lock();
    for (index, kind) in KINDS.into_iter().enumerate() {
        let socket = listen()?;
        let address = socket.local_addr()?;
        writeln!(said, "{address}")?;
        server.auth.servers.push((kind, address));
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        server.epoll.add(&socket, event)?;
        let tls = match kind {
            Kind::ImapEcdsa => Some(tls::server(&files.ecdsa.0, &files.ecdsa.1)?),
            Kind::ImapRsa => Some(tls::server(&files.rsa.0, &files.rsa.1)?),
            _ => None,
        };
        server.listeners.push(Listener { kind, socket, tls });
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
                let id = usize::try_from(event.data()).map_err(io::Error::other)?;
                match id.checked_sub(KINDS.len()) {
                    None => self.accept(id),
                    Some(id) => self.progress(id),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        // Nobody waiting any more, or no descriptor left: the next event is the next chance.
        while let Ok((stream, _)) = self.listeners[listener].socket.accept() {
            // Whoever is gone before being greeted is not missed.
            let _ = self.greet(listener, stream);
        }
    }

    fn greet(&mut self, listener: usize, stream: TcpStream) -> io::Result<()> {
        let Listener { kind, tls, .. } = &self.listeners[listener];
        let mut peer = Peer {
            kind: *kind,
            wire: Wire::accepted(stream, tls.as_ref())?,
            input: Vec::new(),
            output: kind.greeting().as_bytes().to_vec(),
            reply: Reply::default(),
            login: None,
            awaits_room: false,
        };
        peer.write(&self.content)?;
        let id = self.free.pop().unwrap_or(self.peers.len());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, (id + KINDS.len()) as u64);
        self.epoll.add(peer.wire.socket(), event)?;
        match self.peers.get_mut(id) {
            Some(place) => *place = Some(peer),
            None => self.peers.push(Some(peer)),
        }
        Ok(())
    }

    fn progress(&mut self, id: usize) {
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        let read = peer.read(&mut self.buffer, &mut self.auth);
        let written = peer.write(&self.content);
        let is_over = read.is_err() || written.is_err() || peer.has_ended();
        if !is_over && peer.is_full() == peer.awaits_room {
            return;
        }
        if !is_over {
            peer.awaits_room = !peer.awaits_room;
            let mut interest = EpollFlags::EPOLLIN;
            interest.set(EpollFlags::EPOLLOUT, peer.awaits_room);
            let mut event = EpollEvent::new(interest, (id + KINDS.len()) as u64);
            if self.epoll.modify(peer.wire.socket(), &mut event).is_ok() {
                return;
            }
        }
        // Closing takes it out of the epoll.
        if let Some(peer) = self.peers[id].take() {
            peer.wire.close();
        }
        self.free.push(id);
    }
}

impl Kind {
    fn greeting(self) -> &'static str {
        match self {
            Self::Imap | Self::ImapEcdsa | Self::ImapRsa => "* OK backend ready\r\n",
            Self::Pop3 => "+OK backend ready\r\n",
            Self::Smtp => "220 backend ESMTP\r\n",
            Self::Mute | Self::Auth => "",
        }
    }

    /// What ends a line, or a request.
    fn separator(self) -> &'static [u8] {
        match self {
            Self::Auth => b"\r\n\r\n",
            _ => b"\r\n",
        }
    }
}

impl Peer {
    /// Reads all that is there and takes in each whole line, or each whole request.
    fn read(&mut self, buffer: &mut [u8], auth: &mut Auth) -> io::Result<()> {
        loop {
            match self.wire.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.take_in(&buffer[..count], auth),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_in(&mut self, mut bytes: &[u8], auth: &mut Auth) {
        let swallowed = self.reply.swallow.min(bytes.len());
        if swallowed > 0 {
            bytes = &bytes[swallowed..];
            self.reply.swallow -= swallowed;
        }
        self.input.extend_from_slice(bytes);
        let separator = self.kind.separator();
        while let Some(end) = find(&self.input, separator) {
            let piece: Vec<u8> = self.input.drain(..end + separator.len()).collect();
            let text = String::from_utf8_lossy(&piece[..end]);
            self.reply = match self.kind {
                Kind::Imap | Kind::ImapEcdsa | Kind::ImapRsa => mail::imap(&text, &mut self.login),
                Kind::Pop3 => mail::pop3(&text),
                Kind::Smtp => mail::smtp(&text),
                Kind::Mute => Reply::default(),
                Kind::Auth => {
                    let answer = auth.answer(&text);
                    Reply {
                        text: answer.text,
                        ends: answer.ends,
                        ..Reply::default()
                    }
                }
            };
            self.output.extend_from_slice(self.reply.text.as_bytes());
            let swallowed = self.reply.swallow.min(self.input.len());
            self.input.drain(..swallowed);
            self.reply.swallow -= swallowed;
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Writes what there is to say; of a content one piece, so that others have their turn.
    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.write_output()?;
        if self.output.is_empty() && self.reply.content > 0 {
            let piece = &content[..self.reply.content.min(content.len())];
            match self.wire.write(piece) {
                Ok(count) => self.reply.content -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.reply.content == 0 && self.reply.swallow == 0 && !self.reply.finally.is_empty() {
            let finally = std::mem::take(&mut self.reply.finally);
            self.output.extend_from_slice(finally.as_bytes());
            self.write_output()?;
        }
        Ok(())
    }

    fn write_output(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.wire.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// Whether there is something to write.
    fn is_full(&self) -> bool {
        !self.output.is_empty() || self.reply.content > 0 || self.wire.holds_output()
    }

    /// Whether the last line was the last.
    fn has_ended(&self) -> bool {
        self.reply.ends && !self.is_full()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
