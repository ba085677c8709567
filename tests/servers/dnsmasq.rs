//! dnsmasq as a DNS server that knows exactly the names a test gives it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::local;
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::wait;

/// A running dnsmasq.
pub(crate) struct Dnsmasq {
    /// Where it answers, over UDP and TCP.
    pub(crate) address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Dnsmasq {
    /// Starts one with these configuration lines, such as
    /// `ptr-record=5.0.0.127.in-addr.arpa,client.example.test` and
    /// `host-record=client.example.test,127.0.0.5`. Everything else does not exist.
    pub(crate) fn start(records: &[&str]) -> Dnsmasq {
        let folder = TempDir::new("dnsmasq");
        let port = free_port();
        let mut config = format!(
            "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\n\
             no-daemon\nlog-queries\nlog-facility={dir}/dnsmasq.log\npid-file={dir}/pid\n\
             local=/#/\nlocal-ttl=60\n",
            dir = folder.path().display()
        );
        for record in records {
            config.push_str(record);
            config.push('\n');
        }
        let file = folder.write("dnsmasq.conf", config);
        let option = format!("--conf-file={}", file.display());
        let mut process = Process::start_silent("dnsmasq", [option.as_str(), "--user="]);
        wait::until("dnsmasq answers", Duration::from_secs(10), || {
            if let Some(status) = process.try_status() {
                panic!(
                    "dnsmasq ended with {status}; try it with {}",
                    file.display()
                );
            }
            answers(port).then_some(())
        });
        Dnsmasq {
            address: local(port),
            folder,
            _process: process,
        }
    }

    /// The questions it was asked and what it said.
    pub(crate) fn log(&self) -> String {
        let file = self.folder.path().join("dnsmasq.log");
        std::fs::read_to_string(file).unwrap_or_default()
    }
}

/// The record lines that give 127.0.0.N this name, backwards and forwards.
pub(crate) fn named(last: u8, name: &str) -> Vec<String> {
    let address = Ipv4Addr::new(127, 0, 0, last);
    vec![
        format!("ptr-record={last}.0.0.127.in-addr.arpa,{name}"),
        format!("host-record={name},{address}"),
    ]
}

/// Asks for the root's name servers and waits a moment for any answer.
fn answers(port: u16) -> bool {
    const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01";
    let Ok(socket) = UdpSocket::bind(("127.0.0.1", 0)) else {
        return false;
    };
    let sent = socket.send_to(QUESTION, ("127.0.0.1", port)).is_ok();
    let limit = Some(Duration::from_millis(50));
    sent && socket.set_read_timeout(limit).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}
