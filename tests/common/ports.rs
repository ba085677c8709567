//! Ports for servers that cannot choose one themselves, and listeners for those of our own.

use std::net::{SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// A listener behind whose address the kernel has room for a crowd; the 128 of the standard library's
/// are too few, and who comes too much tries again a second later.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    let listener: std::io::Result<TcpListener> = listen();
    listener.unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"))
}

/// Below the range from which the kernel takes the ports of outgoing connections.
const FIRST: u16 = 12_000;
const COUNT: u16 = 16_000;

/// A TCP port of 127.0.0.1 on which nobody listens; no two calls of one process give the same.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(offset) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
