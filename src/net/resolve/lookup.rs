//! Look-ups as the public functions mean them, made of questions, answers and the cache.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::answer::{self, Reading};
use super::ask::{FOR_CLIENTS, FOR_HOSTS, Sockets, ask};
use super::cache::{Cache, Value};
use super::system::System;
use super::{ClientName, HostName, ResolveError};
use crate::config;

/// Answers are not kept longer than this, whatever their TTL.
pub(super) const LONGEST_VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// Aliases followed with a question of their own.
const MAX_ALIASES: usize = 8;

/// How long the addresses of one family wait for an answer about the other: servers that never
/// answer AAAA questions exist.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// One set of servers with the answers they gave.
pub(super) struct Resolver {
    servers: Servers,
    valid: Option<Duration>,
    ipv4: bool,
    ipv6: bool,
    cache: Mutex<Cache>,
}

enum Servers {
    Listed(Arc<[SocketAddr]>),
    System(System),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is nothing by that name.
    NotFound,
    /// Nobody answered in time.
    TimedOut,
    /// A server failed, refused, or could not be reached.
    Server(SocketAddr, String),
    /// The answer is of no use.
    Unusable,
    /// The DNS thread is not there.
    Thread(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => formatter.write_str("not found"),
            Failure::TimedOut => formatter.write_str("no DNS server answered in time"),
            Failure::Server(server, what) => write!(formatter, "DNS server {server}: {what}"),
            Failure::Unusable => formatter.write_str("unusable DNS answer"),
            Failure::Thread(what) => write!(formatter, "the DNS thread is not there: {what}"),
        }
    }
}

/// Addresses with the time until which they are valid.
type Found = (Arc<[IpAddr]>, Instant);

impl Resolver {
    pub(super) fn new(settings: Option<&config::Resolver>) -> Result<Resolver, String> {
        let system = || System::new("/etc/hosts".into(), "/etc/resolv.conf".into());
        let Some(settings) = settings else {
            return Ok(Resolver::with(Servers::System(system())));
        };
        let servers = if settings.servers.is_empty() {
            let system = system();
            if !system.files().name_a_server() {
                return Err(
                    "/etc/resolv.conf names no DNS server: add a `nameserver` line there, \
                     or give addresses instead of `system`"
                        .to_owned(),
                );
            }
            Servers::System(system)
        } else {
            Servers::Listed(settings.servers.as_slice().into())
        };
        Ok(Resolver {
            // As in nginx, zero is no value of its own.
            valid: settings.valid.filter(|valid| !valid.is_zero()),
            ipv4: settings.ipv4,
            ipv6: settings.ipv6,
            ..Resolver::with(servers)
        })
    }

    fn with(servers: Servers) -> Resolver {
        Resolver {
            servers,
            valid: None,
            ipv4: true,
            ipv6: true,
            cache: Mutex::new(Cache::default()),
        }
    }

    #[cfg(test)]
    pub(super) fn of_system(system: System) -> Resolver {
        Resolver::with(Servers::System(system))
    }

    /// The names to ask for, in turn, to find a host.
    pub(super) fn candidates(&self, text: &str) -> Result<Vec<Name>, ResolveError> {
        let name = parse(text)?;
        Ok(match &self.servers {
            Servers::System(system) => system.files().candidates(&name),
            Servers::Listed(_) => vec![absolute(&name)],
        })
    }

    /// Addresses that need no question: those of the system's hosts file.
    pub(super) fn static_addresses(&self, text: &str) -> Option<Vec<IpAddr>> {
        let Servers::System(system) = &self.servers else {
            return None;
        };
        let mut addresses = system.files().addresses(&parse(text).ok()?);
        addresses.retain(|address| self.allows(family(*address)));
        (!addresses.is_empty()).then_some(addresses)
    }

    /// The address backwards, then the name forwards, each within `limit`.
    pub(super) async fn client_name(&self, address: IpAddr, limit: Duration) -> ClientName {
        let limit = limit.min(LONGEST_VALID);
        let name = match self.pointer(address, Instant::now() + limit).await {
            Ok(name) => name,
            Err(failure) => return ClientName::failed(failure),
        };
        match self
            .is_address_of(address, &name, Instant::now() + limit)
            .await
        {
            Ok(true) => ClientName {
                name: HostName::Name(name.to_string()),
                failure: None,
            },
            Ok(false) => ClientName::failed(Failure::NotFound),
            Err(failure) => ClientName::failed(failure),
        }
    }

    /// Asks for the addresses of all `candidates` until one has some. The families are asked for
    /// separately; one that fails does not spoil the other.
    pub(super) async fn host_addresses(
        self: Arc<Resolver>,
        candidates: &[Name],
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Instant), Failure> {
        let mut outcome = Failure::NotFound;
        for name in candidates {
            match Arc::clone(&self).both_families(name, deadline).await {
                Ok(found) => return Ok(found),
                Err(Failure::NotFound) => {}
                Err(failure) => outcome = failure,
            }
        }
        Err(outcome)
    }

    async fn both_families(
        self: Arc<Resolver>,
        name: &Name,
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Instant), Failure> {
        let mut running = JoinSet::new();
        for kind in [RecordType::AAAA, RecordType::A] {
            if self.allows(kind) {
                let (resolver, name) = (Arc::clone(&self), name.clone());
                running.spawn(async move {
                    resolver.addresses(&name, kind, deadline, &FOR_HOSTS).await
                });
            }
        }
        let mut addresses = Vec::new();
        let mut valid_until = Instant::now() + LONGEST_VALID;
        let mut outcome = Failure::NotFound;
        let mut wait_until = deadline;
        while let Ok(Some(ended)) = timeout_at(wait_until.into(), running.join_next()).await {
            match ended {
                Ok(Ok((some, until))) => {
                    addresses.extend_from_slice(&some);
                    valid_until = valid_until.min(until);
                    wait_until = deadline.min(Instant::now() + OTHER_FAMILY);
                }
                Ok(Err(Failure::NotFound)) => {}
                Ok(Err(failure)) => outcome = failure,
                Err(panicked) => outcome = Failure::Thread(panicked.to_string()),
            }
        }
        match addresses.is_empty() {
            false => Ok((addresses, valid_until)),
            true if !running.is_empty() => Err(Failure::TimedOut),
            true => Err(outcome),
        }
    }

    /// The name that the reverse zone has for an address.
    async fn pointer(&self, address: IpAddr, deadline: Instant) -> Result<Arc<str>, Failure> {
        let question = Query::query(absolute(&Name::from(address)), RecordType::PTR);
        if let Some((Value::HostName(name), _)) = self.remembered(&question) {
            return Ok(name);
        }
        let message = ask(&self.servers(), &question, deadline.into(), &FOR_CLIENTS).await?;
        let (pointers, ttl) = match answer::read(&message, &question) {
            Reading::Found(pointers, ttl) => (pointers, ttl),
            Reading::NotFound => return Err(Failure::NotFound),
            Reading::Alias(..) | Reading::Unusable => return Err(Failure::Unusable),
        };
        let name: Arc<str> = answer::host_name(&pointers)
            .ok_or(Failure::Unusable)?
            .into();
        self.remember(&question, Value::HostName(Arc::clone(&name)), ttl);
        Ok(name)
    }

    /// Whether a name leads back to an address. Its family is asked for; where that is switched off
    /// the other one tells a name with other addresses from one that cannot be resolved.
    async fn is_address_of(
        &self,
        address: IpAddr,
        name: &str,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let name = Name::from_ascii(name).map_err(|_| Failure::Unusable)?;
        let kinds = [family(address), RecordType::A, RecordType::AAAA];
        let Some(kind) = kinds.into_iter().find(|kind| self.allows(*kind)) else {
            return Ok(false);
        };
        let name = absolute(&name);
        let (addresses, _) = self.addresses(&name, kind, deadline, &FOR_CLIENTS).await?;
        Ok(addresses.contains(&address))
    }

    /// The addresses of one family.
    async fn addresses(
        &self,
        name: &Name,
        kind: RecordType,
        deadline: Instant,
        sockets: &'static Sockets,
    ) -> Result<Found, Failure> {
        let question = Query::query(name.to_lowercase(), kind);
        if let Some((Value::Addresses(addresses), valid_until)) = self.remembered(&question) {
            return Ok((addresses, valid_until));
        }
        let mut ttl = LONGEST_VALID;
        let mut alias = question.clone();
        for _ in 0..=MAX_ALIASES {
            let message = ask(&self.servers(), &alias, deadline.into(), sockets).await?;
            match answer::read(&message, &alias) {
                Reading::Found(records, its_ttl) => {
                    let addresses: Arc<[IpAddr]> = answer::addresses(&records).into();
                    let value = Value::Addresses(Arc::clone(&addresses));
                    let valid_until = self.remember(&question, value, ttl.min(its_ttl));
                    return Ok((addresses, valid_until));
                }
                Reading::Alias(target, its_ttl) => {
                    ttl = ttl.min(its_ttl);
                    alias = Query::query(target, kind);
                }
                Reading::NotFound => return Err(Failure::NotFound),
                Reading::Unusable => return Err(Failure::Unusable),
            }
        }
        Err(Failure::Unusable)
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        match &self.servers {
            Servers::Listed(servers) => Arc::clone(servers),
            Servers::System(system) => system.files().servers(),
        }
    }

    fn allows(&self, kind: RecordType) -> bool {
        match kind {
            RecordType::A => self.ipv4,
            _ => self.ipv6,
        }
    }

    fn remembered(&self, question: &Query) -> Option<(Value, Instant)> {
        let key = (question.name().clone(), question.query_type());
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.find(&key, Instant::now())
    }

    /// Keeps an answer for its TTL or `valid=`; returns when that ends.
    fn remember(&self, question: &Query, value: Value, ttl: Duration) -> Instant {
        let key = (question.name().clone(), question.query_type());
        let now = Instant::now();
        let valid_until = now + self.valid.unwrap_or(ttl).min(LONGEST_VALID);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(key, value, valid_until, now);
        valid_until
    }
}

/// A host name as people write it, perhaps with a final dot.
fn parse(text: &str) -> Result<Name, ResolveError> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let is_name = bare.len() <= 253
        && bare.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
    if !is_name {
        return Err(ResolveError::NotAName(text.to_owned()));
    }
    Name::from_ascii(text).map_err(|_| ResolveError::NotAName(text.to_owned()))
}

fn absolute(name: &Name) -> Name {
    let mut name = name.clone();
    name.set_fqdn(true);
    name
}

fn family(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}
