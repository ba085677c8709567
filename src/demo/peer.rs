//! Connections to the servers of the demonstration: a listener on loopback, a thread for each
//! connection, lines in and answers out, all of it bounded.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::net::conn::Conn;
use crate::net::error::NetError;
use crate::net::line::without_end;
use crate::net::socket::{Deadline, Socket};
use crate::system::threads::spawn;

/// Longest line, in bytes.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// Longest silence; RFC 3501, section 5.4, wants at least 30 minutes.
const SILENCE: Duration = Duration::from_secs(31 * 60);

/// Longest time an answer may take to be written.
const WRITING: Duration = Duration::from_secs(60);

/// Most connections of one server.
const CONNECTIONS: usize = 64;

/// The connection is of no more use: closed, broken, silent for too long or full of rubbish.
#[derive(Debug)]
pub(super) struct Gone;

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    conn: Conn,
}

/// Starts a server on a loopback port that the system chooses; `serve` has a connection until it is
/// over.
///
/// # Errors
/// For people: there is no port, or no thread.
pub(super) fn start(
    name: &'static str,
    serve: impl Fn(&mut Peer) -> Result<(), Gone> + Send + Sync + 'static,
) -> Result<SocketAddr, String> {
    let failed = |error: std::io::Error| format!("cannot start the demo's {name} server: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let accept = move || accept(name, &listener, &Arc::new(serve));
    spawn(&format!("demo {name}"), accept).map_err(failed)?;
    Ok(address)
}

/// Runs until the process ends. Each connection holds a clone of `serve`, which counts them.
fn accept(
    name: &str,
    listener: &TcpListener,
    serve: &Arc<impl Fn(&mut Peer) -> Result<(), Gone> + Send + Sync + 'static>,
) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors: there will be some again.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if Arc::strong_count(serve) > CONNECTIONS {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let Ok(socket) = Socket::new(stream.into()) else {
            continue;
        };
        let serve = Arc::clone(serve);
        // Without a thread the connection closes, which says it all.
        let _ = spawn(&format!("demo {name} peer"), move || {
            let mut peer = Peer {
                conn: Conn::new(Arc::new(socket), MAX_LINE),
            };
            // Whoever is gone has nothing more to hear.
            let _ = serve(&mut peer);
            peer.conn.socket().close_after_line();
        });
    }
}

impl Peer {
    /// The next line, without its end.
    pub(super) fn read_line(&mut self) -> Result<Vec<u8>, Gone> {
        self.read_raw_line().map(|line| without_end(&line).to_vec())
    }

    /// The next line as it came.
    pub(super) fn read_raw_line(&mut self) -> Result<Vec<u8>, Gone> {
        self.read_within(SILENCE)?.ok_or(Gone)
    }

    /// The next line without its end, or nothing if it does not come within `limit`.
    pub(super) fn read_line_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Gone> {
        let line = self.read_within(limit)?;
        Ok(line.map(|line| without_end(&line).to_vec()))
    }

    fn read_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Gone> {
        match self.conn.fill_line(Deadline::after(limit, "demo")) {
            Ok(length) => Ok(Some(self.take(length))),
            Err(NetError::Timeout(_)) => Ok(None),
            Err(_) => Err(Gone),
        }
    }

    /// Exactly so many bytes; the caller has judged the number.
    pub(super) fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        let deadline = Deadline::after(SILENCE, "demo");
        let mut bytes = Vec::new();
        while bytes.len() < count {
            if self.conn.buffered().is_empty() {
                self.conn.fill(deadline).map_err(|_| Gone)?;
            }
            let wanted = count - bytes.len();
            let part = self.take(wanted.min(self.conn.buffered().len()));
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.conn.buffered()[..count].to_vec();
        self.conn.consume(count);
        bytes
    }

    /// What has come already and was not read yet.
    pub(super) fn buffered(&self) -> &[u8] {
        self.conn.buffered()
    }

    /// Reads until there is more than there was.
    pub(super) fn read_more(&mut self) -> Result<(), Gone> {
        let deadline = Deadline::after(SILENCE, "demo");
        self.conn.fill(deadline).map_err(|_| Gone)
    }

    /// Forgets the first `count` bytes of what has come.
    pub(super) fn consume(&mut self, count: usize) {
        self.conn.consume(count);
    }

    /// Writes all of it.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Gone> {
        let deadline = Deadline::after(WRITING, "demo");
        self.conn.send(bytes.as_ref(), deadline).map_err(|_| Gone)
    }
}
