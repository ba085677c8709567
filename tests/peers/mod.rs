//! Backends no real server plays, each a function named by what it does, and three small ones that
//! answer properly and remember every byte.

pub(crate) mod dns;
pub(crate) mod imap;
pub(crate) mod pop3;
pub(crate) mod questions;
pub(crate) mod smtp;
pub(crate) mod unruly;

pub(crate) use imap::imap_server;
pub(crate) use pop3::pop3_server;
pub(crate) use smtp::smtp_server;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::line_client::find;
use crate::common::ports::listen;
use crate::common::wait::{self, PATIENCE};

/// A listening peer; it plays its part on each connection, on a thread of its own.
pub(crate) struct Peer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<u8>>,
    accepted: AtomicUsize,
    ended: AtomicUsize,
    stopped: AtomicBool,
    open: Mutex<HashMap<usize, TcpStream>>,
}

impl Peer {
    /// Listens on a port chosen by the system.
    pub(crate) fn start(
        play: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Peer {
        Peer::start_on([127, 0, 0, 1], play)
    }

    /// The same on another address of the loopback interface.
    pub(crate) fn start_on(
        ip: [u8; 4],
        play: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Peer {
        let listener = listen((ip, 0).into());
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State::default());
        let play = Arc::new(play);
        let peer = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if peer.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (play, state) = (Arc::clone(&play), Arc::clone(&peer));
                thread::spawn(move || serve(stream, &*play, &state));
            }
        });
        Peer { address, state }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every byte received so far, of all connections.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.state
            .received
            .lock()
            .expect("no holder panics")
            .clone()
    }

    /// The same as lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let received = self.received();
        let text = String::from_utf8_lossy(&received);
        text.split("\r\n").map(str::to_owned).collect()
    }

    /// Waits until `text` was received.
    pub(crate) fn wait_for(&self, text: &str) {
        wait::until_true(&format!("the backend gets {text:?}"), PATIENCE, || {
            find(&self.received(), text.as_bytes()).is_some()
        });
    }

    /// Forgets what was received.
    pub(crate) fn forget(&self) {
        self.state
            .received
            .lock()
            .expect("no holder panics")
            .clear();
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.accepted() - self.state.ended.load(Ordering::SeqCst)
    }

    /// Breaks every connection, as a killed server does.
    pub(crate) fn kill_connections(&self) {
        let mut open = self.state.open.lock().expect("no holder panics");
        for (_, stream) in open.drain() {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // The accepting thread looks at the flag after its next connection.
        drop(TcpStream::connect(self.address));
        self.kill_connections();
    }
}

/// A peer that answers a line by what it begins with; a line that nobody expects is BAD.
pub(crate) fn answering(
    greeting: &'static str,
    answers: &'static [(&'static str, &'static str)],
) -> Peer {
    Peer::start(move |talk: &mut Talk| {
        talk.say(greeting)?;
        loop {
            let line = talk.line()?;
            let answer = answers.iter().find(|(begin, _)| line.starts_with(begin));
            talk.say(answer.map_or("BAD", |(_, answer)| answer))?;
        }
    })
}

/// The small server of a protocol that answers properly.
pub(crate) fn server_of(protocol: &str) -> fn(&mut Talk) -> io::Result<()> {
    match protocol {
        "imap" => imap::imap_server,
        "pop3" => pop3::pop3_server,
        "smtp" => smtp::smtp_server,
        _ => panic!("no protocol {protocol}"),
    }
}

fn serve(
    stream: TcpStream,
    play: &(impl Fn(&mut Talk) -> io::Result<()> + ?Sized),
    state: &Arc<State>,
) {
    let number = state.accepted.fetch_add(1, Ordering::SeqCst);
    drop(stream.set_nodelay(true));
    if let Ok(handle) = stream.try_clone() {
        let mut open = state.open.lock().expect("no holder panics");
        open.insert(number, handle);
    }
    let mut talk = Talk {
        stream,
        buffer: Vec::new(),
        state: Arc::clone(state),
    };
    // The proxy may go away at any time; that is its business.
    drop(play(&mut talk));
    // A duplicate is kept among those that are open: only a shutdown ends the connection.
    let _ = talk.stream.shutdown(Shutdown::Both);
    let mut open = state.open.lock().expect("no holder panics");
    open.remove(&number);
    drop(open);
    state.ended.fetch_add(1, Ordering::SeqCst);
}

/// One connection, as its peer sees it.
pub(crate) struct Talk {
    stream: TcpStream,
    buffer: Vec<u8>,
    state: Arc<State>,
}

impl Talk {
    /// Sends a line.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        self.send(format!("{line}\r\n").as_bytes())
    }

    /// Sends these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a line, each byte in a segment of its own.
    pub(crate) fn say_bytewise(&mut self, line: &str) -> io::Result<()> {
        for byte in format!("{line}\r\n").as_bytes() {
            self.send(std::slice::from_ref(byte))?;
            thread::yield_now();
        }
        Ok(())
    }

    /// The next line without its CRLF; `UnexpectedEof` when there is none.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()?;
        }
    }

    /// The next so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads on until the other side has ended its stream.
    pub(crate) fn wait_for_end(&mut self) -> io::Result<()> {
        loop {
            match self.fill() {
                Ok(()) => self.buffer.clear(),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&buffer[..count]);
        let mut received = self.state.received.lock().expect("no holder panics");
        received.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}
