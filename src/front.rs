//! The listeners of the process: which sockets there are, who accepts from each, and how they change
//! at a reload without refusing anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::eventfd::EventFd;

use crate::accept::{AcceptLoop, Entrance};
use crate::config::{Listen, ListenAddress};
use crate::log::{Log, Severity};
use crate::net::listen::Listener;
use crate::service::Service;
use crate::session::Runtime;
use crate::system::threads::spawn;

/// A listener at work.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    /// NAME of its server.
    pub server: String,
    /// Where it really listens: port 0 has become a port.
    pub address: String,
}

/// A socket and the servers that it leads to.
pub(crate) struct Bound {
    listener: Arc<Listener>,
    entrances: Vec<Entrance>,
}

/// Binds what the servers listen on, or takes over what `open` has bound already. A specific address
/// whose port is also bound by a wildcard shares the wildcard's socket.
///
/// # Errors
/// What cannot be bound; then nothing has changed.
pub(crate) fn bind(
    services: &[Arc<Service>],
    open: &[Front],
    log: &Log,
) -> Result<Vec<Bound>, String> {
    let mut entrances: Vec<Entrance> = Vec::new();
    for service in services {
        let listens = service.conf.listen.iter().cloned();
        entrances.extend(listens.map(|listen| Entrance {
            service: Arc::clone(service),
            listen,
        }));
    }
    let (shared, own): (Vec<_>, Vec<_>) = entrances.iter().cloned().partition(|entrance| {
        entrances
            .iter()
            .any(|other| covers(&other.listen, &entrance.listen))
    });
    let mut taken = vec![false; open.len()];
    let mut bound = Vec::new();
    for entrance in own {
        let known = open.iter().enumerate().position(|(at, front)| {
            !taken[at] && front.listener.listen.address == entrance.listen.address
        });
        let listener = match known {
            Some(at) => {
                taken[at] = true;
                Arc::clone(&open[at].listener)
            }
            None => Arc::new(bind_one(&entrance)?),
        };
        let mut entrances = vec![entrance];
        let covered = shared
            .iter()
            .filter(|other| covers(&entrances[0].listen, &other.listen));
        let covered: Vec<_> = covered.cloned().collect();
        entrances.extend(covered);
        bound.push(Bound {
            listener,
            entrances,
        });
    }
    for bound in &bound {
        bound
            .listening()
            .iter()
            .for_each(|listening| announce(listening, log));
    }
    Ok(bound)
}

fn bind_one(entrance: &Entrance) -> Result<Listener, String> {
    let name = &entrance.service.conf.name;
    let address = &entrance.listen.address;
    Listener::bind(&entrance.listen)
        .map_err(|error| format!("server \"{name}\" cannot listen on {address}: {error}"))
}

fn announce(listening: &Listening, log: &Log) {
    let text = format!(
        "listening on {} for server \"{}\"",
        listening.address, listening.server
    );
    log.write(Severity::Notice, file!(), &text, None, None);
}

/// Whether the socket of one line gets the connections to the other's address.
fn covers(wildcard: &Listen, specific: &Listen) -> bool {
    let (ListenAddress::Tcp(wildcard_at), ListenAddress::Tcp(at)) =
        (&wildcard.address, &specific.address)
    else {
        return false;
    };
    if wildcard_at.port() == 0 || wildcard_at.port() != at.port() || at.ip().is_unspecified() {
        return false;
    }
    match wildcard_at.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => at.is_ipv4(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => at.is_ipv6() || !wildcard.ipv6only,
        _ => false,
    }
}

impl Bound {
    /// What it leads to, each with its real address.
    fn listening(&self) -> Vec<Listening> {
        let shown = |(at, entrance): (usize, &Entrance)| Listening {
            server: entrance.service.conf.name.clone(),
            address: match at {
                0 => self.listener.name(),
                _ => entrance.listen.address.to_string(),
            },
        };
        self.entrances.iter().enumerate().map(shown).collect()
    }
}

/// A listener from which a thread accepts.
pub(crate) struct Front {
    listener: Arc<Listener>,
    listening: Vec<Listening>,
    wake: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Front {
    /// Starts accepting.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn open(bound: Bound, runtime: &Arc<Runtime>, log: &Log) -> Result<Self, String> {
        let wake = EventFd::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
        let wake = Arc::new(wake);
        let listening = bound.listening();
        let listener = Arc::clone(&bound.listener);
        if let Some(first) = bound.entrances.first() {
            listener.keep_alive(first.listen.so_keepalive);
        }
        let accept_loop = AcceptLoop {
            listener: bound.listener,
            entrances: bound.entrances,
            runtime: Arc::clone(runtime),
            wake: Arc::clone(&wake),
            log: log.clone(),
        };
        Ok(Self {
            thread: spawn("accept", move || accept_loop.run())
                .map_err(|error| format!("cannot start a thread: {error}"))?,
            listener,
            listening,
            wake,
        })
    }

    /// Ends accepting. The socket goes with it, unless somebody has taken it over.
    pub(crate) fn close(self) {
        // Cannot fail: the counter does not overflow from one.
        let _ = self.wake.write(1);
        let _ = self.thread.join();
    }

    /// The servers that it leads to.
    pub(crate) fn listening(&self) -> Vec<Listening> {
        self.listening.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Keepalive;

    fn listen(address: &str, ipv6only: bool) -> Listen {
        let address: SocketAddr = address.parse().expect("a literal");
        Listen {
            address: ListenAddress::Tcp(address),
            ssl: false,
            proxy_protocol: false,
            backlog: 1,
            rcvbuf: None,
            sndbuf: None,
            ipv6only,
            so_keepalive: Keepalive::Unset,
        }
    }

    #[test]
    fn a_wildcard_covers_specific_addresses_of_its_port_and_family() {
        let any = listen("0.0.0.0:143", true);
        assert!(covers(&any, &listen("127.0.0.1:143", true)));
        assert!(!covers(&any, &listen("127.0.0.1:144", true)));
        assert!(!covers(&any, &listen("[::1]:143", true)));
        assert!(!covers(&any, &any));
        let any6 = listen("[::]:143", false);
        assert!(covers(&any6, &listen("[::1]:143", true)));
        assert!(covers(&any6, &listen("127.0.0.1:143", true)));
        assert!(!covers(
            &listen("[::]:143", true),
            &listen("127.0.0.1:143", true)
        ));
        assert!(!covers(
            &listen("127.0.0.1:143", true),
            &listen("127.0.0.1:143", true)
        ));
    }
}
