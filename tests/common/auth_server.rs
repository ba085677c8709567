//! An HTTP auth server that keeps what it was asked, byte by byte, and answers as a closure says.
//!
//! HTTP/1.1 with keep-alive over TCP or a Unix socket; it can stall, die and send garbage.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::{fs, thread};

use super::line_client::find;
use super::ports::listen;
use super::wait::{self, PATIENCE};

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Every byte up to and including the empty line.
    pub(crate) raw: String,
    /// Which request of the server's life it is, from 1.
    pub(crate) number: usize,
}

impl Request {
    /// The request line.
    pub(crate) fn line(&self) -> &str {
        self.raw.lines().next().unwrap_or_default()
    }

    /// The request target.
    pub(crate) fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Header lines as they stand.
    pub(crate) fn headers(&self) -> Vec<&str> {
        let lines = self.raw.split("\r\n").skip(1);
        lines.filter(|line| !line.is_empty()).collect()
    }

    /// The value of the header spelt exactly so.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers().into_iter();
        headers.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A 200 response with these header lines.
    Headers(Vec<String>),
    /// These bytes, then the connection stays open.
    Raw(Vec<u8>),
    /// These bytes, then the connection is closed.
    RawThenClose(Vec<u8>),
    /// Nothing for ever.
    Stall,
    /// The connection is closed without an answer.
    Close,
}

impl Answer {
    /// `Auth-Status: OK` and this backend.
    pub(crate) fn ok(backend: SocketAddr) -> Answer {
        Answer::ok_with(backend, &[])
    }

    /// The same with more header lines.
    pub(crate) fn ok_with(backend: SocketAddr, more: &[&str]) -> Answer {
        let mut lines = vec![
            "Auth-Status: OK".to_owned(),
            format!("Auth-Server: {}", backend.ip()),
            format!("Auth-Port: {}", backend.port()),
        ];
        lines.extend(more.iter().map(ToString::to_string));
        Answer::Headers(lines)
    }

    /// These header lines and no others.
    pub(crate) fn headers(lines: &[&str]) -> Answer {
        Answer::Headers(lines.iter().map(ToString::to_string).collect())
    }

    /// A refusal with this text.
    pub(crate) fn refuse(text: &str) -> Answer {
        Answer::Headers(vec![format!("Auth-Status: {text}")])
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: Mutex<HashMap<usize, Connection>>,
    stopped: AtomicBool,
}

/// A running auth server; dropped, it closes everything it has.
pub(crate) struct AuthServer {
    shared: Arc<Shared>,
    place: Place,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl AuthServer {
    /// Listens on a port chosen by the system.
    pub(crate) fn start(
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> AuthServer {
        AuthServer::start_at(([127, 0, 0, 1], 0).into(), handler)
    }

    /// Listens at this address, say where another one has just been.
    pub(crate) fn start_at(
        address: SocketAddr,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> AuthServer {
        let listener = listen(address);
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Shared::new(handler);
        let server = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                drop(stream.set_nodelay(true));
                if !server.take(Connection::Tcp(stream)) {
                    return;
                }
            }
        });
        AuthServer {
            shared,
            place: Place::Tcp(address),
            accepting: Some(accepting),
        }
    }

    /// Listens on a Unix socket that anybody may use.
    pub(crate) fn start_unix(
        path: &Path,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> AuthServer {
        let listener = UnixListener::bind(path)
            .unwrap_or_else(|error| panic!("cannot listen on {}: {error}", path.display()));
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))
            .expect("the socket is ours to open");
        let shared = Shared::new(handler);
        let server = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !server.take(Connection::Unix(stream)) {
                    return;
                }
            }
        });
        AuthServer {
            shared,
            place: Place::Unix(path.to_owned()),
            accepting: Some(accepting),
        }
    }

    /// The value for `auth_http`.
    pub(crate) fn url(&self) -> String {
        match &self.place {
            Place::Tcp(address) => format!("http://{address}/auth"),
            Place::Unix(path) => format!("unix:{}:/auth", path.display()),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared
            .requests
            .lock()
            .expect("no holder panics")
            .clone()
    }

    /// Waits for the request of this number, from 1.
    pub(crate) fn wait_for_request(&self, number: usize) -> Request {
        wait::until(&format!("auth request {number}"), PATIENCE, || {
            self.requests().get(number - 1).cloned()
        })
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.lock().expect("no holder panics").len()
    }

    /// Closes the connections that are open, as a server does that finds them idle.
    pub(crate) fn close_connections(&self) {
        let mut open = self.shared.open.lock().expect("no holder panics");
        for (_, connection) in open.drain() {
            connection.shut();
        }
    }
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // The accepting thread looks at the flag after its next connection.
        match &self.place {
            Place::Tcp(address) => drop(TcpStream::connect(address)),
            Place::Unix(path) => drop(UnixStream::connect(path)),
        }
        // Afterwards the address is free for another server.
        drop(self.accepting.take().map(JoinHandle::join));
        self.close_connections();
    }
}

impl Shared {
    fn new(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Arc<Shared> {
        Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            open: Mutex::new(HashMap::new()),
            stopped: AtomicBool::new(false),
        })
    }

    /// Serves a connection on a thread of its own; false once the server has stopped.
    fn take(self: &Arc<Self>, connection: Connection) -> bool {
        if self.stopped.load(Ordering::SeqCst) {
            return false;
        }
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if let Ok(handle) = connection.duplicate() {
            let mut open = self.open.lock().expect("no holder panics");
            open.insert(number, handle);
        }
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let handle = connection.duplicate();
            // The peer may go away at any time; that is its business.
            drop(shared.serve(connection));
            // A duplicate is kept among those that are open: only a shutdown ends the connection.
            if let Ok(handle) = handle {
                handle.shut();
            }
            let mut open = shared.open.lock().expect("no holder panics");
            open.remove(&number);
        });
        true
    }

    fn serve(&self, mut connection: Connection) -> io::Result<()> {
        let mut received = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&received, b"\r\n\r\n") {
                    break at + 4;
                }
                let mut buffer = [0; 4096];
                let count = connection.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                received.extend_from_slice(&buffer[..count]);
            };
            let raw: Vec<u8> = received.drain(..end).collect();
            let request = self.record(&raw);
            match (self.handler)(&request) {
                Answer::Headers(lines) => {
                    connection.write_all(response(&lines).as_bytes())?;
                }
                Answer::Raw(bytes) => connection.write_all(&bytes)?,
                Answer::RawThenClose(bytes) => return connection.write_all(&bytes),
                Answer::Stall => {
                    let mut ignored = [0; 64];
                    while connection.read(&mut ignored)? > 0 {}
                    return Ok(());
                }
                Answer::Close => return Ok(()),
            }
            if request.line().ends_with("HTTP/1.0") {
                return Ok(());
            }
        }
    }

    fn record(&self, raw: &[u8]) -> Request {
        let mut requests = self.requests.lock().expect("no holder panics");
        let request = Request {
            raw: String::from_utf8_lossy(raw).into_owned(),
            number: requests.len() + 1,
        };
        requests.push(request.clone());
        request
    }
}

fn response(lines: &[String]) -> String {
    let mut text = "HTTP/1.1 200 OK\r\nServer: test\r\n".to_owned();
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    text
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    fn duplicate(&self) -> io::Result<Connection> {
        Ok(match self {
            Connection::Tcp(stream) => Connection::Tcp(stream.try_clone()?),
            Connection::Unix(stream) => Connection::Unix(stream.try_clone()?),
        })
    }

    fn shut(&self) {
        // It may be gone already.
        drop(match self {
            Connection::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Connection::Unix(stream) => stream.shutdown(Shutdown::Both),
        });
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.read(buffer),
            Connection::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.write(bytes),
            Connection::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
