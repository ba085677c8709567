//! Listening sockets, bound as `listen` says. Accepting from them is `accept`'s business.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::address::Address;
use super::socket::keep_alive;
use crate::config::{Keepalive, Listen, ListenAddress};

/// A bound listener. A Unix socket's file goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket; accepting from it does not block.
    pub socket: Socket,
    /// The line it was bound for.
    pub listen: Listen,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn bind(listen: &Listen) -> io::Result<Self> {
        let (domain, address) = match &listen.address {
            ListenAddress::Tcp(address) => {
                (Domain::for_address(*address), SockAddr::from(*address))
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                (Domain::UNIX, SockAddr::unix(path)?)
            }
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if domain != Domain::UNIX {
            socket.set_reuse_address(true)?;
        }
        if domain == Domain::IPV6 {
            socket.set_only_v6(listen.ipv6only)?;
        }
        // What is accepted inherits them; the window scale must be known before listen.
        if let Some(size) = listen.rcvbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = listen.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        socket.bind(&address)?;
        if let ListenAddress::Unix(path) = &listen.address {
            // As nginx: who may connect is decided by the folder.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        }
        socket.listen(listen.backlog)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            listen: listen.clone(),
        })
    }

    /// How the peers of what is accepted from now on are found out that are gone without a word.
    pub(crate) fn keep_alive(&self, keepalive: Keepalive) {
        keep_alive(&self.socket, keepalive);
    }

    /// Where it really listens: port 0 has become a port.
    pub(crate) fn name(&self) -> String {
        match &self.listen.address {
            ListenAddress::Unix(path) => format!("unix:{}", path.display()),
            ListenAddress::Tcp(asked) => self
                .socket
                .local_addr()
                .ok()
                .and_then(|address| address.as_socket())
                .unwrap_or(*asked)
                .to_string(),
        }
    }

    /// The next connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<(Socket, Address)> {
        let (socket, peer) = self.socket.accept()?;
        Ok((socket, (&peer).into()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenAddress::Unix(path) = &self.listen.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file on which nobody listens is what an unclean end leaves behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file exists and is no socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => std::fs::remove_file(path),
    }
}
