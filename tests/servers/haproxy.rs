//! HAProxy in TCP mode in front of the proxy, as a source of PROXY headers.

use std::net::SocketAddr;

use super::{local, wait_until_listening};
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;

/// A running HAProxy with one way in.
pub(crate) struct Haproxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl Haproxy {
    /// Starts one that passes everything to `target`, headed by what `send` says: `send-proxy` or
    /// `send-proxy-v2`.
    pub(crate) fn start(target: SocketAddr, send: &str) -> Haproxy {
        Haproxy::start_on(free_port(), target, send)
    }

    /// The same on a port that was chosen before.
    pub(crate) fn start_on(port: u16, target: SocketAddr, send: &str) -> Haproxy {
        Haproxy::start_with(
            port,
            &format!(
                "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1m\n    \
                 timeout server 1m\nlisten front\n    bind 127.0.0.1:{port}\n    \
                 server proxy {target} {send}\n"
            ),
        )
    }

    /// Starts one with these sections, which listen on this port.
    pub(crate) fn start_with(port: u16, sections: &str) -> Haproxy {
        let folder = TempDir::new("haproxy");
        let config = format!("global\n    maxconn 1000\n{sections}\n");
        let file = folder.write("haproxy.cfg", config);
        let arguments = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
        let mut process = Process::start_silent("haproxy", arguments);
        // The connection made here to see that it listens reaches the proxy too, and ends at once.
        wait_until_listening(&mut process, &[port], &file);
        Haproxy {
            address: local(port),
            _folder: folder,
            _process: process,
        }
    }
}
