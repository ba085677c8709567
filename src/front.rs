//! The listeners of the process: which sockets there are, who accepts from each, and how they change
//! at a reload without refusing anybody.
//!
//! A change has two halves. [`Fronts::bind`] and [`Fronts::prepare`] do all that can fail, with the open
//! listeners still at work; [`Fronts::change_to`] cannot fail.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use nix::unistd::{Gid, Uid};
use socket2::Socket;

use crate::accept::{AcceptLoop, Bell, Entrance, Entrances};
use crate::config::{Listen, ListenAddress, Starttls};
use crate::log::{Log, Severity};
use crate::net::listen::Listener;
use crate::protocol::Protocol;
use crate::service::Service;
use crate::session::Runtime;
use crate::system::keeper;
use crate::system::service_manager::{self, Passed};
use crate::system::threads::spawn;

/// How long handshakes that have begun may take until their listener closes.
const HANDSHAKES: Duration = Duration::from_millis(100);

/// A listener at work.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    /// NAME of its server.
    pub server: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// TLS from the first byte.
    pub ssl: bool,
    /// Whether TLS is offered or required later on.
    pub starttls: Starttls,
    /// Where it really listens: port 0 has become a port.
    pub address: String,
}

/// The listeners at work.
#[derive(Default)]
pub(crate) struct Fronts {
    open: Vec<Front>,
    /// What the service manager has handed over and no line has asked for yet.
    passed: Vec<(String, Socket)>,
}

/// A socket and the servers that it is to lead to.
pub(crate) struct Bound {
    socket: BoundSocket,
    entrances: Arc<[Entrance]>,
}

enum BoundSocket {
    New(Arc<Listener>),
    /// That of the front of this number, which stays open.
    Kept(usize),
}

/// A change that cannot fail any more. Dropped, it changes nothing.
pub(crate) struct Prepared {
    /// Fronts that stay, by number, and where they lead from now on.
    kept: Vec<(usize, Arc<[Entrance]>)>,
    new: Vec<Front>,
}

impl Fronts {
    /// None yet; `passed` are sockets that may serve for some.
    pub(crate) fn new(passed: Vec<Passed>) -> Fronts {
        let passed = passed.into_iter();
        Fronts {
            open: Vec::new(),
            passed: passed
                .map(|passed| (passed.name, passed.socket.into()))
                .collect(),
        }
    }

    /// Binds what the servers listen on; what is bound already stays. A specific address whose port is
    /// also bound by a wildcard shares the wildcard's socket.
    ///
    /// # Errors
    /// What cannot be bound; then nothing has changed.
    pub(crate) fn bind(&mut self, services: &[Arc<Service>]) -> Result<Vec<Bound>, String> {
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
        let mut stays = vec![false; self.open.len()];
        let mut sockets = Vec::new();
        for entrance in &own {
            let same = |(at, front): (usize, &Front)| {
                !stays[at] && front.listener.is_for(&entrance.listen)
            };
            let known = self.open.iter().enumerate().position(same);
            sockets.push(match known {
                Some(at) => {
                    stays[at] = true;
                    Some(BoundSocket::Kept(at))
                }
                None => self.adopt(entrance)?.map(BoundSocket::New),
            });
        }
        // What is in the way of a new one, and about to close.
        let fronts = self.open.iter().zip(&stays).filter(|(_, stays)| !**stays);
        let fronts = fronts.map(|(front, _)| &front.listener.socket);
        let going: Vec<&Socket> = fronts
            .chain(self.passed.iter().map(|(_, socket)| socket))
            .collect();
        let bound = own.into_iter().zip(sockets).map(|(entrance, socket)| {
            let socket = match socket {
                Some(socket) => socket,
                None => BoundSocket::New(Arc::new(bind_one(&entrance, &going)?)),
            };
            let covered = shared
                .iter()
                .filter(|other| covers(&entrance.listen, &other.listen));
            let covered: Vec<_> = covered.cloned().collect();
            let entrances = std::iter::once(entrance).chain(covered).collect();
            Ok(Bound { socket, entrances })
        });
        bound.collect()
    }

    /// The listener for a line, if its socket was handed over.
    fn adopt(&mut self, entrance: &Entrance) -> Result<Option<Arc<Listener>>, String> {
        for _ in 0..self.passed.len() {
            let (name, socket) = self.passed.remove(0);
            let adopted = Listener::adopt(&entrance.listen, socket);
            match adopted.map_err(|error| cannot_listen(entrance, &error))? {
                Ok(listener) => return Ok(Some(Arc::new(listener))),
                Err(socket) => self.passed.push((name, socket)),
            }
        }
        Ok(None)
    }

    /// Makes the rest of what a change needs: threads, which accept nothing yet.
    ///
    /// # Errors
    /// The system has no thread or descriptor left; then nothing has changed.
    pub(crate) fn prepare(
        bound: Vec<Bound>,
        runtime: &Arc<Runtime>,
        log: &Log,
    ) -> Result<Prepared, String> {
        let mut prepared = Prepared {
            kept: Vec::new(),
            new: Vec::new(),
        };
        for Bound { socket, entrances } in bound {
            match socket {
                BoundSocket::Kept(at) => prepared.kept.push((at, entrances)),
                BoundSocket::New(listener) => {
                    let front = Front::new(listener, entrances, runtime, log)?;
                    prepared.new.push(front);
                }
            }
        }
        Ok(prepared)
    }

    /// From here on connections go where the new servers want them. Sockets that stay are not touched,
    /// new ones are open before old ones close, and what waits in the queue of an old one is served.
    pub(crate) fn change_to(&mut self, prepared: Prepared, log: &Log) {
        let mut before: Vec<Option<Front>> = self.open.drain(..).map(Some).collect();
        for (at, entrances) in prepared.kept {
            if let Some(front) = before.get_mut(at).and_then(Option::take) {
                front.lead_to(entrances, log);
                self.open.push(front);
            }
        }
        let told = |done: std::io::Result<()>| {
            if let Err(error) = done {
                let text = "cannot tell the service manager of a socket";
                log.write(Severity::Warn, file!(), text, Some(&error), None);
            }
        };
        for front in prepared.new {
            front.begin();
            let socket = &front.listener.socket;
            told(service_manager::store(
                &front.listener.name(),
                socket.as_fd(),
            ));
            self.open.push(front);
        }
        for listening in self.listening() {
            let text = format!(
                "listening on {} for server \"{}\"",
                listening.address, listening.server
            );
            log.write(Severity::Notice, file!(), &text, None, None);
        }
        let going: Vec<Front> = before.into_iter().flatten().collect();
        self.let_handshakes_end(&going);
        for front in going {
            told(service_manager::forget(&front.listener.name()));
            let listener = Arc::clone(&front.listener);
            if let Some(accept_loop) = front.close() {
                accept_loop.take_the_rest();
            }
            listener.remove_file();
        }
        for (name, _) in self.passed.drain(..) {
            let text =
                format!("the socket \"{name}\" that was handed over is for no `listen` line");
            log.write(Severity::Warn, file!(), &text, None, None);
            told(service_manager::forget_name(&name));
        }
    }

    /// Where a port moves from one address to another, whoever is being connected to the old socket still
    /// gets in, and whoever comes meanwhile asks once more and finds the new one.
    fn let_handshakes_end(&self, going: &[Front]) {
        let port = |front: &Front| {
            front
                .listener
                .listen
                .address
                .port()
                .filter(|port| *port != 0)
        };
        let moves = |front: &&Front| {
            let old = port(front);
            old.is_some() && self.open.iter().any(|open| port(open) == old)
        };
        let moving: Vec<&Front> = going.iter().filter(moves).collect();
        for front in &moving {
            front.listener.turn_newcomers_away();
        }
        if !moving.is_empty() {
            std::thread::sleep(HANDSHAKES);
        }
    }

    /// Ends accepting. Sockets go with it, unless somebody else holds them.
    pub(crate) fn close(&mut self) {
        self.open.iter().for_each(|front| front.bell.end());
        for front in self.open.drain(..) {
            front.close();
        }
    }

    /// Whether every thread that accepts has answered since this was asked last; asks them again.
    pub(crate) fn are_awake(&self) -> bool {
        let slept = self.open.iter().filter(|front| !front.bell.ask());
        slept.count() == 0
    }

    /// The servers that they lead to, each once.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        let mut services: Vec<Arc<Service>> = Vec::new();
        for entrance in self
            .open
            .iter()
            .flat_map(|front| front.entrances.current().to_vec())
        {
            if !services
                .iter()
                .any(|known| Arc::ptr_eq(known, &entrance.service))
            {
                services.push(entrance.service);
            }
        }
        services
    }

    /// The servers that they lead to, each with its real address.
    pub(crate) fn listening(&self) -> Vec<Listening> {
        self.open.iter().flat_map(Front::listening).collect()
    }
}

/// Gives sockets that have just been bound to the user that the process is about to become: the system lets
/// only one user's sockets stand side by side while a reload replaces one by the other.
pub(crate) fn hand_over(bound: &[Bound], user: Uid, group: Gid) {
    for bound in bound {
        if let BoundSocket::New(listener) = &bound.socket {
            hand_over_socket(&listener.socket, user, group);
        }
    }
}

/// The same with one.
pub(crate) fn hand_over_socket(socket: impl AsFd, user: Uid, group: Gid) {
    // Where it fails such a reload says that the address is in use.
    let _ = nix::unistd::fchown(socket, Some(user), Some(group));
}

fn bind_one(entrance: &Entrance, going: &[&Socket]) -> Result<Listener, String> {
    Listener::bind(&entrance.listen, going).map_err(|error| cannot_listen(entrance, &error))
}

fn cannot_listen(entrance: &Entrance, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied if keeper::is_there() => {
            " (after the start this takes an address that stands as such in the file, and folders that \
             the user cannot write to above the file, and above a Unix socket)"
        }
        std::io::ErrorKind::PermissionDenied => {
            " (below 1024 this takes root's rights or CAP_NET_BIND_SERVICE; started as root, with \
             `user`, Postern can do it at HUP too)"
        }
        _ => "",
    };
    format!(
        "server \"{}\" cannot listen on {}: {error}{advice}",
        entrance.service.conf.name, entrance.listen.address
    )
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
    wildcard.takes(at.ip())
}

/// A listener from which a thread accepts.
struct Front {
    listener: Arc<Listener>,
    /// Where it leads; its thread reads this anew for each connection.
    entrances: Arc<Entrances>,
    /// The thread begins when it is told to, and ends when this is dropped before.
    begin: Sender<()>,
    bell: Arc<Bell>,
    thread: JoinHandle<Option<AcceptLoop>>,
}

impl Front {
    fn new(
        listener: Arc<Listener>,
        entrances: Arc<[Entrance]>,
        runtime: &Arc<Runtime>,
        log: &Log,
    ) -> Result<Self, String> {
        let bell = Bell::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
        let bell = Arc::new(bell);
        if let Some(first) = entrances.first() {
            listener.keep_alive(first.listen.so_keepalive);
        }
        let entrances = Arc::new(Entrances::new(entrances));
        let accept_loop = AcceptLoop {
            listener: Arc::clone(&listener),
            entrances: Arc::clone(&entrances),
            runtime: Arc::clone(runtime),
            bell: Arc::clone(&bell),
            log: log.clone(),
        };
        let (begin, begun) = bounded(1);
        let thread = spawn("accept", move || {
            begun.recv().ok()?;
            accept_loop.run();
            Some(accept_loop)
        });
        Ok(Self {
            thread: thread.map_err(|error| format!("cannot start a thread: {error}"))?,
            listener,
            entrances,
            begin,
            bell,
        })
    }

    fn begin(&self) {
        // It waits, and there is room for one.
        let _ = self.begin.send(());
    }

    /// Leads elsewhere from now on, with the settings of the new `listen` line.
    fn lead_to(&self, entrances: Arc<[Entrance]>, log: &Log) {
        let current = self.entrances.current();
        if let (Some(old), Some(new)) = (current.first(), entrances.first()) {
            for text in self.listener.settle(&old.listen, &new.listen) {
                let text = format!("server \"{}\": {text}", new.service.conf.name);
                log.write(Severity::Warn, file!(), &text, None, None);
            }
        }
        self.entrances.change_to(entrances);
    }

    /// Ends accepting, and gives back what accepted.
    fn close(self) -> Option<AcceptLoop> {
        self.bell.end();
        self.thread.join().ok().flatten()
    }

    fn listening(&self) -> Vec<Listening> {
        let shown = |(at, entrance): (usize, &Entrance)| Listening {
            server: entrance.service.conf.name.clone(),
            protocol: entrance.service.conf.protocol,
            ssl: entrance.listen.ssl,
            starttls: entrance.service.conf.starttls,
            address: match at {
                0 => self.listener.name(),
                _ => entrance.listen.address.to_string(),
            },
        };
        let entrances = self.entrances.current();
        entrances.iter().enumerate().map(shown).collect()
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
