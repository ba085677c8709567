//! Listening sockets, bound as `listen` says. Accepting from them is `accept`'s business.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

use super::address::Address;
use super::socket::keep_alive;
use crate::config::{Keepalive, Listen, ListenAddress};
use crate::system::confinement::{self, Use};
use crate::system::{keeper, service_manager};

/// What this process listens on now, without Unix sockets: real addresses, and the lines they were bound
/// for. A connection to one of them would come back to us.
static OPEN: Mutex<Vec<(SocketAddr, Listen)>> = Mutex::new(Vec::new());

/// The listener of ours that gets connections to this address, if there is one.
pub(crate) fn own_listener_at(address: SocketAddr) -> Option<SocketAddr> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut of_port = open.iter().filter(|(own, _)| own.port() == address.port());
    let takes = |(own, listen): &&(SocketAddr, Listen)| {
        own.ip() == address.ip() || listen.takes(address.ip()) && is_of_this_machine(address.ip())
    };
    of_port.find(takes).map(|(own, _)| *own)
}

fn is_of_this_machine(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    let Ok(interfaces) = getifaddrs() else {
        return false;
    };
    let mut addresses = interfaces.filter_map(|interface| interface.address);
    addresses.any(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(ip)
    })
}

/// A bound listener. A Unix socket's file goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket; accepting from it does not block.
    pub socket: Socket,
    /// The line it was bound for.
    pub listen: Listen,
    /// Whether somebody else holds the socket too, who needs its file after our end.
    outlives_us: bool,
}

impl Listener {
    /// Binds and listens. An address that one of `going` is in the way of is bound beside it: these are
    /// listeners of ours that are about to close.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn bind(listen: &Listen, going: &[&Socket]) -> io::Result<Self> {
        match Listener::bind_alone(listen, Beside::None) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let port = |other: &Socket| Some(other.local_addr().ok()?.as_socket()?.port());
                let same = |other: &&&Socket| {
                    port(other).is_some_and(|at| Some(at) == listen.address.port())
                };
                let others: Vec<_> = going.iter().filter(same).collect();
                if others.is_empty() {
                    return Err(error);
                }
                for other in &others {
                    other.set_reuse_port(true)?;
                }
                let bound = Listener::bind_alone(listen, Beside::OfOurs);
                // Another process that wants the address is to hear that it is taken, also where the old
                // ones stay after all.
                for other in &others {
                    other.set_reuse_port(false)?;
                }
                let bound = bound?;
                bound.socket.set_reuse_port(false)?;
                Ok(bound)
            }
            bound => bound,
        }
    }

    fn bind_alone(listen: &Listen, beside: Beside) -> io::Result<Self> {
        let bound = bind_socket(listen, beside, |_| Ok(()));
        let kind = match beside {
            Beside::None => keeper::Kind::Bind,
            Beside::OfOurs => keeper::Kind::BindBeside,
        };
        let bound = keeper::or_bound(bound, kind, &listen.address.to_string());
        let socket = bound.map_err(|error| match &listen.address {
            ListenAddress::Unix(path) => confinement::explain(error, path, Use::Socket),
            ListenAddress::Tcp(_) => error,
        })?;
        Self::open(socket, listen, service_manager::listens())
    }

    /// Takes over a socket that was opened for us, if it is one that this line asks for; otherwise gives it
    /// back.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn adopt(listen: &Listen, socket: Socket) -> io::Result<Result<Self, Socket>> {
        if !is_asked_for(&socket, listen) {
            return Ok(Err(socket));
        }
        Self::open(socket, listen, true).map(Ok)
    }

    /// Listens, and notes that it is ours.
    fn open(socket: Socket, listen: &Listen, outlives_us: bool) -> io::Result<Self> {
        // What is accepted inherits them; the window scale must be known before listen.
        if let Some(size) = listen.rcvbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = listen.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        if listen.address.port().is_some() {
            socket.set_tcp_nodelay(true)?;
        }
        socket.listen(listen.backlog)?;
        socket.set_nonblocking(true)?;
        let listener = Self {
            socket,
            listen: listen.clone(),
            outlives_us,
        };
        if let Some(address) = listener.address() {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.push((address, listen.clone()));
        }
        Ok(listener)
    }

    /// Removes the file of a Unix socket: it is not to be used again.
    pub(crate) fn remove_file(&self) {
        if let ListenAddress::Unix(path) = &self.listen.address {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Whether this is the socket that a `listen` line asks for.
    pub(crate) fn is_for(&self, listen: &Listen) -> bool {
        let own = &self.listen;
        let is_v6 = matches!(own.address, ListenAddress::Tcp(at) if at.is_ipv6());
        own.address == listen.address && (!is_v6 || own.ipv6only == listen.ipv6only)
    }

    /// From now on the kernel drops the first packet of each new connection, so that its client sends it again
    /// later; handshakes that have begun go on.
    pub(crate) fn turn_newcomers_away(&self) {
        // Classic BPF over the TCP header, whose byte 13 has the flags: SYN without ACK is dropped.
        let program = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        // Where the kernel cannot, those who come in this very moment are reset.
        let _ = self.socket.attach_filter(&program);
    }

    /// Changes what can be changed of an open socket from one `listen` line to the next; what takes
    /// effect at the next start only, for people. Connections that are there already stay as they are.
    pub(crate) fn settle(&self, before: &Listen, now: &Listen) -> Vec<String> {
        let mut later = Vec::new();
        let mut tell = |name: &str, done: io::Result<()>| {
            if let Err(error) = done {
                let at = &now.address;
                later.push(format!(
                    "`{name}` of listen {at} takes effect at the next start: {error}"
                ));
            }
        };
        let to_default = || io::Error::other("the system's own size cannot be restored");
        if now.rcvbuf != before.rcvbuf {
            let set = |size| self.socket.set_recv_buffer_size(size);
            tell("rcvbuf", now.rcvbuf.map_or_else(|| Err(to_default()), set));
        }
        if now.sndbuf != before.sndbuf {
            let set = |size| self.socket.set_send_buffer_size(size);
            tell("sndbuf", now.sndbuf.map_or_else(|| Err(to_default()), set));
        }
        if now.backlog != before.backlog {
            tell("backlog", self.socket.listen(now.backlog));
        }
        self.keep_alive(now.so_keepalive);
        later
    }

    /// How the peers of what is accepted from now on are found out that are gone without a word.
    pub(crate) fn keep_alive(&self, keepalive: Keepalive) {
        keep_alive(&self.socket, keepalive);
    }

    /// Where it really listens: port 0 has become a port.
    pub(crate) fn name(&self) -> String {
        match &self.listen.address {
            ListenAddress::Unix(path) => format!("unix:{}", path.display()),
            ListenAddress::Tcp(asked) => self.address().unwrap_or(*asked).to_string(),
        }
    }

    /// The same; `None` for a Unix socket.
    fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// The next connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<(Socket, Address)> {
        let (socket, peer) = self.socket.accept()?;
        Ok((socket, (&peer).into()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(address) = self.address() {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            // Another one may stand beside it, bound for another line.
            let this = (address, self.listen.clone());
            if let Some(at) = open.iter().position(|one| *one == this) {
                open.swap_remove(at);
            }
        }
        if !self.outlives_us {
            self.remove_file();
        }
    }
}

/// Whether a socket of ours, which is about to close, is in the way of a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing is.
    None,
    /// One is.
    OfOurs,
}

/// Makes a socket and binds it where a line says; `before` sees it when it is not bound yet.
///
/// # Errors
/// The system's, or those of `before`.
pub(crate) fn bind_socket(
    listen: &Listen,
    beside: Beside,
    before: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let (domain, address) = match &listen.address {
        ListenAddress::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        ListenAddress::Unix(path) => {
            remove_stale(path)?;
            (Domain::UNIX, SockAddr::unix(path)?)
        }
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(beside == Beside::OfOurs)?;
    }
    if domain == Domain::IPV6 {
        socket.set_only_v6(listen.ipv6only)?;
    }
    before(&socket)?;
    socket.bind(&address)?;
    if let ListenAddress::Unix(path) = &listen.address {
        // As nginx: who may connect is decided by the folder.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    }
    Ok(socket)
}

/// Whether a socket listens where this line says.
fn is_asked_for(socket: &Socket, listen: &Listen) -> bool {
    let Ok(at) = socket.local_addr() else {
        return false;
    };
    let is_there = match &listen.address {
        ListenAddress::Tcp(address) => at.as_socket() == Some(*address),
        ListenAddress::Unix(path) => at.as_pathname() == Some(path),
    };
    let has_family = !at.is_ipv6() || socket.only_v6().is_ok_and(|only| only == listen.ipv6only);
    is_there && has_family && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
}

/// Removes a socket file on which nobody listens, as an unclean end leaves it behind.
///
/// # Errors
/// Somebody listens there (`AddrInUse`), as far as can be seen; it is no socket; or the system's.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file exists and is no socket",
        ));
    }
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Who listens there, and accepts nobody, is not waited for.
    client.set_nonblocking(true)?;
    match client.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}
