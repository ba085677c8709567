//! Sessions that can be resumed: kept by clients in encrypted tickets, or by us in bounded caches.
//! Both enforce `ssl_session_timeout`, and neither crosses to a server with other rules for client
//! certificates: those rules' digest, the [`Scope`], is part of what is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ::rustls::server::{ProducesTickets, StoresServerSessions};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::symm::{self, Cipher};
use zeroize::{Zeroize, Zeroizing};

use super::error::Problem;
use super::settings::ServerSettings;

/// Digest of what two servers must have in common to share sessions.
pub(super) type Scope = [u8; 32];

const NAME_LENGTH: usize = 16;
const IV_LENGTH: usize = 16;
const MAC_LENGTH: usize = 32;
/// Time of issue and scope, in front of each ticket's session.
const PREFIX_LENGTH: usize = 8 + 32;
/// Longest session in a ticket: a client with a longer certificate chain gets none.
const LONGEST_SESSION: usize = 16 * 1024;
/// RFC 8446, section 4.6.1: a week.
const LONGEST_LIFETIME: u64 = 7 * 24 * 60 * 60;

/// What the servers of one configuration resume sessions with. Those of the next configuration go on
/// with it, so that a reload does not void what clients hold.
#[derive(Debug, Default)]
pub(crate) struct SessionCaches {
    own: Mutex<Kept>,
    /// Of the configuration before, while this one's servers are built.
    before: Kept,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    shared: HashMap<String, Arc<Cache>>,
    servers: HashMap<String, OfServer>,
}

/// What one server alone resumes sessions with, and its settings.
#[derive(Debug, Clone)]
pub(super) struct OfServer {
    pub(super) settings: ServerSettings,
    pub(super) random_keys: Arc<TicketKeys>,
    /// `builtin` or `shared`.
    pub(super) cache: Option<Arc<Cache>>,
}

impl SessionCaches {
    /// Those of the next configuration.
    pub(crate) fn next(&self) -> SessionCaches {
        SessionCaches {
            own: Mutex::default(),
            before: locked(&self.own).clone(),
        }
    }

    /// All servers are built: what none of them has taken over from the configuration before is let go.
    pub(crate) fn forget_before(&mut self) {
        self.before = Kept::default();
    }

    /// The cache `name`, made if it is not there; one name has one size.
    pub(super) fn shared(&self, name: &str, bytes: usize) -> Result<Arc<Cache>, Problem> {
        let mut own = locked(&self.own);
        let cache = own.shared.entry(name.to_owned()).or_insert_with(|| {
            let before = self.before.shared.get(name);
            match before.filter(|cache| cache.most_bytes == bytes) {
                Some(cache) => Arc::clone(cache),
                None => Arc::new(Cache::new(bytes, usize::MAX)),
            }
        });
        if cache.most_bytes == bytes {
            return Ok(Arc::clone(cache));
        }
        let text = format!(
            "session cache `{name}` has {} bytes elsewhere and {bytes} here",
            cache.most_bytes
        );
        Err(Problem::new("ssl_session_cache", text))
    }

    /// The random keys and the `builtin` cache that `server` had before, if its settings are the same.
    pub(super) fn of_before(&self, server: &str, settings: &ServerSettings) -> Option<&OfServer> {
        let known = self.before.servers.get(server)?;
        (known.settings == *settings).then_some(known)
    }

    /// Remembers what `server` uses, for the next configuration.
    pub(super) fn remember(&self, server: &str, used: OfServer) {
        locked(&self.own).servers.insert(server.to_owned(), used);
    }
}

/// Sessions in memory, the oldest making room for the newest.
pub(super) struct Cache {
    most_bytes: usize,
    most_sessions: usize,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_key: HashMap<Vec<u8>, Session>,
    /// Keys with the number of the `put` that brought them, oldest first.
    order: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    bytes: usize,
}

struct Session {
    number: u64,
    expires: SystemTime,
    value: Zeroizing<Vec<u8>>,
}

impl Cache {
    /// What one session costs besides its key and value: places in the map and the queue.
    const OVERHEAD: usize = 192;

    pub(super) fn new(most_bytes: usize, most_sessions: usize) -> Cache {
        Cache {
            most_bytes,
            most_sessions,
            sessions: Mutex::default(),
        }
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>, expires: SystemTime) -> bool {
        let cost = Self::cost(&key, &value);
        if cost > self.most_bytes {
            return false;
        }
        let mut sessions = locked(&self.sessions);
        sessions.remove(&key);
        while sessions.bytes + cost > self.most_bytes
            || sessions.by_key.len() >= self.most_sessions
            // Sessions taken out early leave their places in the queue behind.
            || sessions.order.len() > 2 * sessions.by_key.len() + 64
        {
            let Some((number, oldest)) = sessions.order.pop_front() else {
                break;
            };
            if sessions
                .by_key
                .get(&oldest)
                .is_some_and(|s| s.number == number)
            {
                sessions.remove(&oldest);
            }
        }
        let number = sessions.next;
        sessions.next += 1;
        sessions.bytes += cost;
        sessions.order.push_back((number, key.clone()));
        let value = Zeroizing::new(value);
        sessions.by_key.insert(
            key,
            Session {
                number,
                expires,
                value,
            },
        );
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let sessions = locked(&self.sessions);
        let session = sessions.by_key.get(key)?;
        (SystemTime::now() < session.expires).then(|| session.value.to_vec())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.get(key);
        locked(&self.sessions).remove(key);
        found
    }

    fn cost(key: &[u8], value: &[u8]) -> usize {
        2 * key.len() + value.len() + Self::OVERHEAD
    }
}

impl Sessions {
    fn remove(&mut self, key: &[u8]) {
        if let Some(session) = self.by_key.remove(key) {
            self.bytes -= Cache::cost(key, &session.value);
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} sessions)", locked(&self.sessions).by_key.len())
    }
}

/// A cache as one server uses it.
#[derive(Debug)]
pub(super) struct ScopedCache {
    /// `None` keeps nothing.
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) scope: Scope,
    pub(super) timeout: Duration,
    /// Whether clients are told that their session may be reused.
    pub(super) announced: bool,
}

impl ScopedCache {
    fn key(&self, id: &[u8]) -> Vec<u8> {
        [&self.scope[..], id].concat()
    }
}

impl StoresServerSessions for ScopedCache {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let expires = SystemTime::now() + self.timeout;
        let cache = self.cache.as_ref();
        cache.is_some_and(|cache| cache.put(self.key(&key), value, expires))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.as_ref()?.get(&self.key(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.as_ref()?.take(&self.key(key))
    }

    fn can_cache(&self) -> bool {
        self.announced
    }
}

/// The keys tickets are made with: from files, or random ones that change by themselves.
pub(super) struct TicketKeys(Mutex<Keys>);

struct Keys {
    /// The first encrypts, all decrypt.
    keys: Vec<TicketKey>,
    /// When the first random key was made; `None` for keys from files, which stay.
    born: Option<SystemTime>,
}

struct TicketKey {
    name: [u8; NAME_LENGTH],
    cipher: Cipher,
    aes: Zeroizing<Vec<u8>>,
    mac: PKey<Private>,
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKeys")
    }
}

impl TicketKeys {
    /// Random keys, known to this process alone.
    pub(super) fn random() -> Result<TicketKeys, ErrorStack> {
        Ok(TicketKeys(Mutex::new(Keys {
            keys: vec![TicketKey::random()?],
            born: Some(SystemTime::now()),
        })))
    }

    /// Keys from the contents of `ssl_session_ticket_key` files, of 48 or 80 bytes each.
    pub(super) fn from_files(contents: &[Zeroizing<Vec<u8>>]) -> Result<TicketKeys, ErrorStack> {
        let keys = contents.iter().map(|bytes| TicketKey::parse(bytes));
        Ok(TicketKeys(Mutex::new(Keys {
            keys: keys.collect::<Result<_, _>>()?,
            born: None,
        })))
    }

    fn encrypt(&self, plain: &[u8], lifetime: Duration) -> Result<Vec<u8>, ErrorStack> {
        let mut keys = locked(&self.0);
        keys.change(lifetime)?;
        match keys.keys.first() {
            Some(key) => key.encrypt(plain),
            None => Err(ErrorStack::get()),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let keys = locked(&self.0);
        let key = keys.keys.iter().find(|key| ticket.starts_with(&key.name))?;
        key.decrypt(ticket)
    }
}

impl Keys {
    /// Replaces a random key that has served for `lifetime`, or an hour; its predecessor still
    /// opens the tickets it made.
    fn change(&mut self, lifetime: Duration) -> Result<(), ErrorStack> {
        const SHORTEST_SERVICE: Duration = Duration::from_secs(60 * 60);
        let Some(born) = self.born else {
            return Ok(());
        };
        let age = born.elapsed().unwrap_or_default();
        if age > lifetime.max(SHORTEST_SERVICE) {
            self.keys.insert(0, TicketKey::random()?);
            self.keys.truncate(2);
            self.born = Some(SystemTime::now());
        }
        Ok(())
    }
}

impl TicketKey {
    fn random() -> Result<TicketKey, ErrorStack> {
        let mut bytes = Zeroizing::new([0; 80]);
        openssl::rand::rand_bytes(&mut bytes[..])?;
        TicketKey::parse(&bytes[..])
    }

    /// nginx's files: 48 bytes are name, AES-128 key, MAC key; 80 bytes name, MAC key, AES-256 key.
    fn parse(bytes: &[u8]) -> Result<TicketKey, ErrorStack> {
        let (cipher, aes, mac) = match bytes.len() {
            48 => (Cipher::aes_128_cbc(), &bytes[16..32], &bytes[32..48]),
            80 => (Cipher::aes_256_cbc(), &bytes[48..80], &bytes[16..48]),
            _ => return Err(ErrorStack::get()),
        };
        let mut name = [0; NAME_LENGTH];
        name.copy_from_slice(&bytes[..NAME_LENGTH]);
        Ok(TicketKey {
            name,
            cipher,
            aes: Zeroizing::new(aes.to_vec()),
            mac: PKey::hmac(mac)?,
        })
    }

    /// RFC 5077, section 4: name, IV, encrypted state, MAC over all three.
    fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut iv = [0; IV_LENGTH];
        openssl::rand::rand_bytes(&mut iv)?;
        let state = symm::encrypt(self.cipher, &self.aes, Some(&iv), plain)?;
        let mut ticket = [&self.name[..], &iv, &state].concat();
        let mac = self.mac_of(&ticket)?;
        ticket.extend_from_slice(&mac);
        Ok(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (sealed, mac) = ticket.split_at_checked(ticket.len().checked_sub(MAC_LENGTH)?)?;
        let expected = self.mac_of(sealed).ok()?;
        if expected.len() != mac.len() || !openssl::memcmp::eq(&expected, mac) {
            return None;
        }
        let iv = sealed.get(NAME_LENGTH..NAME_LENGTH + IV_LENGTH)?;
        let state = sealed.get(NAME_LENGTH + IV_LENGTH..)?;
        let plain = symm::decrypt(self.cipher, &self.aes, Some(iv), state).ok()?;
        Some(Zeroizing::new(plain))
    }

    fn mac_of(&self, bytes: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.mac)?;
        signer.update(bytes)?;
        signer.sign_to_vec()
    }
}

/// Tickets as one server makes them.
#[derive(Debug)]
pub(super) struct ScopedTickets {
    /// `None` makes and takes no tickets.
    pub(super) keys: Option<Arc<TicketKeys>>,
    pub(super) scope: Scope,
    pub(super) timeout: Duration,
}

impl ProducesTickets for ScopedTickets {
    fn enabled(&self) -> bool {
        self.keys.is_some()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.timeout.as_secs().min(LONGEST_LIFETIME)).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self
            .keys
            .as_ref()
            .filter(|_| plain.len() <= LONGEST_SESSION)?;
        let mut session = Vec::with_capacity(PREFIX_LENGTH + plain.len());
        session.extend_from_slice(&seconds_now().to_be_bytes());
        session.extend_from_slice(&self.scope);
        session.extend_from_slice(plain);
        let ticket = keys.encrypt(&session, self.timeout);
        session.zeroize();
        ticket.ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let session = self.keys.as_ref()?.decrypt(ticket)?;
        let (prefix, session) = session.split_at_checked(PREFIX_LENGTH)?;
        let (issued, scope) = prefix.split_at(8);
        if !openssl::memcmp::eq(scope, &self.scope) {
            return None;
        }
        let issued = u64::from_be_bytes(issued.try_into().ok()?);
        let age = seconds_now().saturating_sub(issued);
        (age < self.timeout.as_secs()).then(|| session.to_vec())
    }
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &Arc<TicketKeys>, scope: u8, seconds: u64) -> ScopedTickets {
        ScopedTickets {
            keys: Some(Arc::clone(keys)),
            scope: [scope; 32],
            timeout: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_ticket_opens_only_in_its_scope_and_time() {
        let keys = Arc::new(TicketKeys::random().expect("keys"));
        let ticket = tickets(&keys, 1, 60).encrypt(b"session").expect("ticket");
        assert_eq!(
            tickets(&keys, 1, 60).decrypt(&ticket).as_deref(),
            Some(&b"session"[..])
        );
        assert_eq!(tickets(&keys, 2, 60).decrypt(&ticket), None);
        assert_eq!(tickets(&keys, 1, 0).decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(tickets(&keys, 1, 60).decrypt(&forged), None, "byte {at}");
            assert_eq!(
                tickets(&keys, 1, 60).decrypt(&ticket[..at]),
                None,
                "first {at}"
            );
        }
    }

    #[test]
    fn keys_from_files_open_what_an_older_one_made() {
        for length in [48, 80] {
            let old = Zeroizing::new((0..length).collect::<Vec<u8>>());
            let new = Zeroizing::new(vec![7; 80]);
            let first = Arc::new(TicketKeys::from_files(std::slice::from_ref(&old)).expect("keys"));
            let second = Arc::new(TicketKeys::from_files(&[new, old]).expect("keys"));
            let ticket = tickets(&first, 1, 60).encrypt(b"x").expect("ticket");
            assert!(tickets(&second, 1, 60).decrypt(&ticket).is_some());
            let ticket = tickets(&second, 1, 60).encrypt(b"x").expect("ticket");
            assert!(tickets(&first, 1, 60).decrypt(&ticket).is_none());
        }
    }

    #[test]
    fn a_cache_never_exceeds_its_size_and_forgets_the_oldest() {
        let cache = Cache::new(32 * 1024, usize::MAX);
        let later = SystemTime::now() + Duration::from_secs(60);
        for number in 0..10_000_u32 {
            assert!(cache.put(number.to_be_bytes().to_vec(), vec![0; 100], later));
            if number % 3 == 0 {
                cache.take(&number.to_be_bytes());
            }
        }
        assert!(cache.get(&0_u32.to_be_bytes()).is_none());
        assert!(cache.get(&9_998_u32.to_be_bytes()).is_some());
        let sessions = locked(&cache.sessions);
        assert!(sessions.bytes <= 32 * 1024);
        assert!(sessions.order.len() <= 2 * sessions.by_key.len() + 66);
        drop(sessions);
        assert!(!cache.put(vec![1], vec![0; 64 * 1024], later));
    }

    #[test]
    fn expired_sessions_are_not_found() {
        let cache = Cache::new(32 * 1024, 2);
        let earlier = SystemTime::now() - Duration::from_secs(1);
        assert!(cache.put(vec![1], vec![1], earlier));
        assert!(cache.get(&[1]).is_none());
        let later = SystemTime::now() + Duration::from_secs(60);
        for key in 2..5 {
            cache.put(vec![key], vec![1], later);
        }
        assert!(cache.get(&[2]).is_none());
        assert!(cache.take(&[4]).is_some());
        assert!(cache.take(&[4]).is_none());
    }
}
