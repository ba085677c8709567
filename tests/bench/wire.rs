//! One connection of the load generator: non-blocking, from an address of its own, plain or TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use nix::sys::socket::{setsockopt, sockopt};
use openssl::ssl::{ErrorCode, Ssl, SslContext, SslMethod, SslStream, SslVerifyMode};
use socket2::{Domain, Socket, Type};

/// A connection, with or without TLS. The unencrypted variant holds the bare socket.
pub(crate) enum Wire {
    Plain(TcpStream),
    /// `true` once the handshake is done.
    Tls(SslStream<TcpStream>, bool),
}

/// A TLS client that believes every certificate and resumes no session.
pub(crate) fn tls_client() -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls_client()).expect("OpenSSL has a client");
    context.set_verify(SslVerifyMode::NONE);
    context.build()
}

impl Wire {
    /// Begins to connect. The kernel chooses the port when it knows both addresses, so that many
    /// connections of one address do not run out of them.
    pub(crate) fn open(
        from: Ipv4Addr,
        target: SocketAddr,
        tls: Option<&SslContext>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        match socket.connect(&target.into()) {
            Err(error) if !is_in_progress(&error) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        let Some(context) = tls else {
            return Ok(Self::Plain(stream));
        };
        let stream = SslStream::new(Ssl::new(context)?, stream)?;
        Ok(Self::Tls(stream, false))
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream, _) => stream.get_ref(),
        }
    }

    /// Takes the handshake further; `WouldBlock` when the other side's turn is next.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        if let Self::Tls(stream, shaken) = self
            && !*shaken
        {
            stream.connect().map_err(io_error)?;
            *shaken = true;
        }
        Ok(())
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream, _) => match stream.ssl_read(buffer) {
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
                other => other.map_err(io_error),
            },
        }
    }

    /// Writes what fits.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream, _) => stream.ssl_write(bytes).map_err(io_error),
        }
    }

    /// Says goodbye in TLS; the socket is closed on drop.
    pub(crate) fn close(mut self) {
        if let Self::Tls(stream, true) = &mut self {
            // The other side may be gone already.
            let _ = stream.shutdown();
        }
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32)
}

fn io_error(error: openssl::ssl::Error) -> io::Error {
    match error.code() {
        ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => ErrorKind::WouldBlock.into(),
        ErrorCode::SYSCALL => error
            .into_io_error()
            .unwrap_or_else(|_| ErrorKind::UnexpectedEof.into()),
        _ => io::Error::other(error),
    }
}
