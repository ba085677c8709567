//! DNS behind blocking functions: the name of a client, the addresses of a backend or auth server.
//!
//! One thread of ours runs hickory's futures (`thread`); nobody outside this folder sees them. What
//! is asked of whom is `ask`, what an answer means is `answer`, what is remembered is `cache`, the
//! hosts file and resolv.conf are `system`. What is done with a name is not decided here.

mod answer;
mod ask;
mod cache;
mod lookup;
mod system;
mod thread;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, TryRecvError};

use crate::config;
use lookup::{Failure, Resolver};

/// Most sockets that questions for names of clients use at once.
pub(crate) const MOST_FOR_CLIENTS: usize = ask::MOST_FOR_CLIENTS;

/// The resolver of one `resolver` directive, or the system's. Cheap to clone; equal settings share
/// one, with its cache.
#[derive(Clone)]
pub(crate) struct Dns {
    resolver: Arc<Resolver>,
    /// Whether there is a `resolver` directive.
    configured: bool,
}

/// All resolvers in use, so that servers and reloads with equal settings find the same cache.
static IN_USE: Mutex<Vec<(Option<config::Resolver>, Weak<Resolver>)>> = Mutex::new(Vec::new());

impl Dns {
    /// The resolver for a `resolver` directive; `None` is `off`: the system's configuration, hosts
    /// file and search list included, and no names of clients.
    ///
    /// # Errors
    /// `resolver = system` where resolv.conf names no server; the text is for people.
    pub(crate) fn new(settings: Option<&config::Resolver>) -> Result<Dns, String> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(_, resolver)| resolver.strong_count() > 0);
        let known = in_use
            .iter()
            .find(|(known, _)| known.as_ref() == settings)
            .and_then(|(_, resolver)| resolver.upgrade());
        let configured = settings.is_some();
        if let Some(resolver) = known {
            return Ok(Dns {
                resolver,
                configured,
            });
        }
        let resolver = Arc::new(Resolver::new(settings)?);
        in_use.push((settings.cloned(), Arc::downgrade(&resolver)));
        Ok(Dns {
            resolver,
            configured,
        })
    }

    /// Starts to resolve a client's address to its name and back; does not block.
    ///
    /// `timeout` (`resolver_timeout`) holds for each of the two look-ups. The servers alone are
    /// asked, also for loopback: no hosts file, no search list. With `resolver` off the name is
    /// `[UNAVAILABLE]`.
    /// `done` is called when the answer is there, or never will be.
    pub(crate) fn begin_client_name(
        &self,
        address: IpAddr,
        timeout: Duration,
        done: impl FnOnce() + Send + 'static,
    ) -> PendingName {
        if !self.configured {
            return PendingName::known(HostName::Unavailable);
        }
        let resolver = Arc::clone(&self.resolver);
        let address = address.to_canonical();
        let look_up = async move { resolver.client_name(address, timeout).await };
        match thread::start_and_tell(look_up, done) {
            Ok(running) => PendingName {
                running: Some(running),
                answer: None,
            },
            Err(error) => PendingName {
                running: None,
                answer: Some(ClientName::failed(Failure::Thread(error.to_string()))),
            },
        }
    }

    /// The addresses of a backend or auth server, each with `port`; blocks until `deadline` at most.
    ///
    /// An IP literal (with or without brackets) is returned at once. A configured `resolver` is
    /// asked for the name as it stands; the system's knows the hosts file and the search list.
    ///
    /// # Errors
    /// The name cannot be one, does not exist, has no address, or nobody said so before `deadline`.
    pub(crate) fn lookup_host(
        &self,
        name: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<HostAddresses, ResolveError> {
        let literal = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(name).parse::<IpAddr>() {
            return Ok(HostAddresses {
                addresses: vec![SocketAddr::new(address, port)],
                valid_until: Instant::now() + lookup::LONGEST_VALID,
            });
        }
        let candidates = self.resolver.candidates(name)?;
        if let Some(addresses) = self.resolver.static_addresses(name) {
            return Ok(HostAddresses {
                addresses: in_order(&addresses, port),
                valid_until: Instant::now() + system::REREAD,
            });
        }
        let resolver = Arc::clone(&self.resolver);
        let running =
            thread::start(async move { resolver.host_addresses(&candidates, deadline).await });
        let found = match running {
            Ok(running) => match running.answer.recv_deadline(deadline) {
                Ok(found) => found,
                Err(RecvTimeoutError::Timeout) => Err(Failure::TimedOut),
                Err(RecvTimeoutError::Disconnected) => Err(Failure::Thread("it ended".to_owned())),
            },
            Err(error) => Err(Failure::Thread(error.to_string())),
        };
        match found {
            Ok((addresses, valid_until)) => Ok(HostAddresses {
                addresses: in_order(&addresses, port),
                valid_until,
            }),
            Err(failure) => Err(ResolveError::new(name, failure)),
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dns").finish_non_exhaustive()
    }
}

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAddresses {
    /// Never empty; in the order to try them: the families in turn, IPv6 first (RFC 8305, section 4).
    pub addresses: Vec<SocketAddr>,
    /// When to ask again.
    pub valid_until: Instant,
}

/// A client's name as XCLIENT `NAME` and `Client-Host` want it; Display writes it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostName {
    /// The name, whose addresses include the client's: lower case letters, digits, `-` and `.`,
    /// without a final dot, at most 253 bytes.
    Name(String),
    /// There is no name, or it belongs to other addresses.
    Unavailable,
    /// Nobody could say.
    TempUnavail,
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            HostName::Name(name) => name,
            HostName::Unavailable => "[UNAVAILABLE]",
            HostName::TempUnavail => "[TEMPUNAVAIL]",
        })
    }
}

/// A look-up of a client's name under way; dropping it ends the look-up.
#[derive(Debug)]
pub(crate) struct PendingName {
    running: Option<thread::Running<ClientName>>,
    answer: Option<ClientName>,
}

impl PendingName {
    /// A name that needs no look-up: `[TEMPUNAVAIL]` for a Unix socket, say.
    pub(crate) fn known(name: HostName) -> PendingName {
        PendingName {
            running: None,
            answer: Some(ClientName {
                name,
                failure: None,
            }),
        }
    }

    /// The name if it is there; never blocks.
    pub(crate) fn try_get(&mut self) -> Option<HostName> {
        if let Some(running) = &self.running {
            match running.answer.try_recv() {
                Ok(answer) => self.finish(answer),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => self.finish(ClientName::abandoned()),
            }
        }
        self.answer.as_ref().map(|answer| answer.name.clone())
    }

    /// Waits until `moment` for the name; whether it is there.
    pub(crate) fn is_known_by(&mut self, moment: Instant) -> bool {
        if let Some(running) = &self.running {
            match running.answer.recv_deadline(moment) {
                Ok(answer) => self.finish(answer),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => self.finish(ClientName::abandoned()),
            }
        }
        true
    }

    /// Waits for the name; `[TEMPUNAVAIL]` if it is not there at `deadline`.
    #[cfg(test)]
    pub(crate) fn wait(&mut self, deadline: Instant) -> HostName {
        self.is_known_by(deadline);
        self.try_get().unwrap_or(HostName::TempUnavail)
    }

    /// Why the name is `[TEMPUNAVAIL]`, for the log; holds text from the network.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.answer.as_ref()?.failure.as_deref()
    }

    fn finish(&mut self, answer: ClientName) {
        self.answer = Some(answer);
        self.running = None;
    }
}

/// Why a host has no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// Not a host name: letters, digits, `-` and `_` in labels of 63 bytes, 253 in all.
    NotAName(String),
    /// No such name, or it has no addresses of an allowed family.
    NotFound(String),
    /// No server answered in time.
    TimedOut(String),
    /// A server failed, refused, or sent nonsense.
    Failed {
        /// The name asked for.
        name: String,
        /// What went wrong where.
        cause: String,
    },
}

impl ResolveError {
    fn new(name: &str, failure: Failure) -> ResolveError {
        let name = name.to_owned();
        match failure {
            Failure::NotFound => ResolveError::NotFound(name),
            Failure::TimedOut => ResolveError::TimedOut(name),
            failure => ResolveError::Failed {
                name,
                cause: failure.to_string(),
            },
        }
    }
}

impl std::error::Error for ResolveError {}

impl fmt::Display for ResolveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::NotAName(name) => write!(formatter, "\"{name}\" is no host name"),
            ResolveError::NotFound(name) => {
                write!(formatter, "host \"{name}\" not found, or it has no address")
            }
            ResolveError::TimedOut(name) => {
                write!(
                    formatter,
                    "host \"{name}\" not resolved: no DNS server answered in time"
                )
            }
            ResolveError::Failed { name, cause } => {
                write!(formatter, "host \"{name}\" not resolved: {cause}")
            }
        }
    }
}

/// What the look-up of a client's name came to.
#[derive(Debug)]
struct ClientName {
    name: HostName,
    failure: Option<String>,
}

impl ClientName {
    fn failed(failure: Failure) -> ClientName {
        match failure {
            Failure::NotFound => ClientName {
                name: HostName::Unavailable,
                failure: None,
            },
            failure => ClientName {
                name: HostName::TempUnavail,
                failure: Some(failure.to_string()),
            },
        }
    }

    /// The DNS thread is gone, or the look-up panicked.
    fn abandoned() -> ClientName {
        ClientName::failed(Failure::Thread("it ended".to_owned()))
    }
}

/// The families in turn, IPv6 first; within a family the server's order.
fn in_order(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().copied().partition(IpAddr::is_ipv6);
    let turns = 0..v6.len().max(v4.len());
    turns
        .flat_map(|turn: usize| [v6.get(turn), v4.get(turn)])
        .flatten()
        .map(|address| SocketAddr::new(*address, port))
        .collect()
}

#[cfg(test)]
mod tests;
