//! One connection of the load generator or of a stub server: non-blocking, plain or TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ClientConfig, Connection, HandshakeKind, ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};

use crate::tls;

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
}

impl Wire {
    /// Begins to connect. The kernel chooses the port when it knows both addresses, so that many
    /// connections of one address do not run out of them.
    pub(crate) fn open(
        from: Ipv4Addr,
        target: SocketAddr,
        config: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let stream = connect(from, target)?;
        let tls = match config {
            Some(config) => Some(Box::new(tls::begin(config)?.into())),
            None => None,
        };
        Ok(Self { stream, tls })
    }

    /// Takes over a connection that was accepted.
    pub(crate) fn accepted(
        stream: TcpStream,
        config: Option<&Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let tls = match config {
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config));
                Some(Box::new(connection.map_err(io::Error::other)?.into()))
            }
            None => None,
        };
        Ok(Self { stream, tls })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether its TLS session is an earlier one taken up again.
    pub(crate) fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// Reads what is there; 0 at the end. With TLS this also takes a handshake further.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            send_ready(tls, &mut self.stream)?;
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            send_ready(tls, &mut self.stream)?;
        }
    }

    /// Writes what fits. What TLS has taken and the socket has not goes out with
    /// the next `read` or `write`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        send_ready(tls, &mut self.stream)?;
        if tls.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = tls.writer().write(bytes)?;
        send_ready(tls, &mut self.stream)?;
        Ok(count)
    }

    /// Whether TLS has taken something that the socket has not.
    pub(crate) fn holds_output(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says goodbye in TLS; the socket is closed on drop.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The other side may be gone already.
            let _ = send_ready(tls, &mut self.stream);
        }
    }
}

/// A socket of this address that has begun to connect.
fn connect(from: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Writes ciphertext for as long as the socket takes it.
fn send_ready(tls: &mut Connection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
