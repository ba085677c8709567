//! `auth_cache`: a login that may pass, remembered for a while, in front of any method.
//!
//! What is remembered is a keyed hash of all that the method may have decided by, never the password, and the
//! grant with what it holds for the backend, in types that wipe themselves. The key is the process's own, and
//! random. Only what was granted is kept, so a stranger fills nothing. A login is forgotten when its time is
//! over, when a backend refuses it, when the method's data have changed, and with the configuration.
//!
//! Passwords and tokens alone are remembered: an answer to a challenge never comes again.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{AuthError, Authenticator, Note, Request, Verdict};
use crate::backend::grant::Grant;
use crate::log::Severity;
use crate::sasl::Proof;

/// Entries share a set by a part of their hash, so that no step walks all of them.
const SETS: usize = 1024;

/// Most entries of a set; `SETS` times this is the most that is remembered for one server.
const WAYS: usize = 16;

/// A method with a memory.
pub(crate) struct Cached {
    inner: Box<dyn Authenticator>,
    /// `auth_cache`
    time: Duration,
    key: Zeroizing<[u8; 32]>,
    sets: Mutex<Vec<Vec<Kept>>>,
}

/// By what a login is known again.
type Tag = [u8; 32];

struct Kept {
    tag: Tag,
    grant: Box<Grant>,
    until: Instant,
    /// Of the method, when it was asked.
    generation: u64,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cached({:?}, {:?})", self.inner, self.time)
    }
}

impl Cached {
    /// Remembers for `time` what `inner` grants.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(inner: Box<dyn Authenticator>, time: Duration) -> Result<Self, String> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut key[..]).map_err(|error| format!("no random numbers: {error}"))?;
        let mut sets = Vec::new();
        sets.resize_with(SETS, Vec::new);
        Ok(Self {
            inner,
            time,
            key,
            sets: Mutex::new(sets),
        })
    }

    /// The tag of a login; `None` for one that is not to be remembered.
    fn tag(&self, request: &Request<'_>) -> Option<Tag> {
        let credentials = request.credentials;
        match credentials.method.proof {
            Proof::Password | Proof::Token { .. } => {}
            Proof::Answer(_) | Proof::Nothing => return None,
        }
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.key[..]).ok()?;
        // Each with its length before it, so that no two logins have the same fields.
        let mut add = |field: &[u8]| {
            hmac.update(&(field.len() as u64).to_be_bytes());
            hmac.update(field);
        };
        add(credentials.method.name.as_bytes());
        add(&credentials.login);
        add(credentials.authzid.as_deref().unwrap_or_default());
        add(&[u8::from(credentials.authzid.is_some())]);
        add(credentials.secret.expose());
        let ip = request.client.ip().map(|ip| ip.to_string());
        add(ip.unwrap_or_default().as_bytes());
        let host = request.client_host.as_ref().map(ToString::to_string);
        add(host.unwrap_or_default().as_bytes());
        let proxied = request
            .proxied
            .map(|(source, destination)| (source.ip(), destination));
        add(format!("{proxied:?}").as_bytes());
        add(&[u8::from(request.tls.is_some())]);
        if let Some(tls) = request.tls {
            add(tls.protocol.as_bytes());
            add(tls.cipher.as_bytes());
            add(tls.verdict.to_string().as_bytes());
            let peer = tls.peer.as_ref();
            add(peer
                .map(|peer| peer.pem.as_str())
                .unwrap_or_default()
                .as_bytes());
        }
        Some(hmac.finalize().into_bytes().into())
    }

    /// Does something with the set of a tag, from which old entries are gone.
    fn with_set<T>(&self, tag: &Tag, act: impl FnOnce(&mut Vec<Kept>) -> T) -> T {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = usize::from(u16::from_be_bytes([tag[0], tag[1]])) % SETS;
        self.drop_old(&mut sets[set]);
        act(&mut sets[set])
    }

    fn drop_old(&self, set: &mut Vec<Kept>) {
        let (now, generation) = (Instant::now(), self.inner.generation());
        set.retain(|kept| kept.until > now && kept.generation == generation);
    }

    fn remember(&self, tag: Tag, grant: Box<Grant>, generation: u64) {
        self.with_set(&tag, |set| {
            set.retain(|kept| kept.tag != tag);
            if set.len() == WAYS {
                // The oldest is the first.
                set.remove(0);
            }
            set.push(Kept {
                tag,
                grant,
                until: Instant::now() + self.time,
                generation,
            });
        });
    }
}

impl Authenticator for Cached {
    fn authenticate(
        &self,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<Verdict, AuthError> {
        // What changes while it is asked may have come too late for its answer.
        let generation = self.inner.generation();
        let verdict = self.inner.authenticate(request, note)?;
        if let (Verdict::Granted(grant), Some(tag)) = (&verdict, self.tag(request)) {
            self.remember(tag, grant.clone(), generation);
        }
        Ok(verdict)
    }

    fn look_up(&self, login: &[u8]) -> Result<Option<crate::secret::Secret>, AuthError> {
        self.inner.look_up(login)
    }

    fn recall(&self, request: &Request<'_>) -> Option<Box<Grant>> {
        let tag = self.tag(request)?;
        self.with_set(&tag, |set| {
            let known = set.iter().find(|kept| openssl::memcmp::eq(&kept.tag, &tag));
            known.map(|kept| kept.grant.clone())
        })
    }

    fn forget(&self, request: &Request<'_>) {
        if let Some(tag) = self.tag(request) {
            self.with_set(&tag, |set| set.retain(|kept| kept.tag != tag));
        }
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    fn tend(&self) -> Vec<(Severity, String)> {
        let told = self.inner.tend();
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter_mut().for_each(|set| self.drop_old(set));
        told
    }

    fn is_own(&self) -> bool {
        self.inner.is_own()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::backend::grant::AddressSettings;
    use crate::config::{ProxyProtocol, ProxySsl, SendClientId, Xclient};
    use crate::net::address::Address;
    use crate::sasl::shown::LoginSecrets;
    use crate::sasl::{Credentials, Method};

    /// Grants everything.
    #[derive(Debug, Default)]
    struct Generous {
        generation: AtomicU64,
    }

    impl Authenticator for std::sync::Arc<Generous> {
        fn authenticate(
            &self,
            request: &Request<'_>,
            _: &dyn Fn(&Note),
        ) -> Result<Verdict, AuthError> {
            let settings = AddressSettings {
                proxy_protocol: ProxyProtocol::Off,
                xclient: Xclient::Off,
                ssl: ProxySsl::Off,
                connector: Err(String::new()),
                smtp_auth: false,
                master: None,
                send_client_id: SendClientId::Off,
            };
            let host = "192.0.2.1".to_owned();
            let grant = Grant::to_address(host, 143, &settings, request.credentials);
            Ok(Verdict::Granted(Box::new(grant)))
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::SeqCst)
        }

        fn is_own(&self) -> bool {
            true
        }
    }

    struct Trial {
        inner: std::sync::Arc<Generous>,
        cache: Cached,
    }

    impl Trial {
        fn new(time: Duration) -> Self {
            let inner = std::sync::Arc::new(Generous::default());
            let cache = Cached::new(Box::new(std::sync::Arc::clone(&inner)), time);
            Self {
                inner,
                cache: cache.expect("random numbers"),
            }
        }

        fn with<T>(
            &self,
            credentials: &Credentials,
            client: [u8; 4],
            act: impl FnOnce(&Cached, &Request<'_>) -> T,
        ) -> T {
            let request = Request {
                credentials,
                attempt: 1,
                client: Address::from(std::net::SocketAddr::from((client, 4711))),
                client_host: None,
                proxied: None,
                tls: None,
                secrets: &LoginSecrets::default(),
                is_debugged: false,
            };
            act(&self.cache, &request)
        }

        fn log_in(&self, credentials: &Credentials) {
            self.with(credentials, [192, 0, 2, 7], |cache, request| {
                let verdict = cache.authenticate(request, &|_| ());
                assert!(matches!(verdict, Ok(Verdict::Granted(_))));
            });
        }

        fn knows(&self, credentials: &Credentials) -> bool {
            self.with(credentials, [192, 0, 2, 7], |cache, request| {
                cache.recall(request).is_some()
            })
        }

        fn count(&self) -> usize {
            let sets = self.cache.sets.lock().expect("no holder panics");
            sets.iter().map(Vec::len).sum()
        }
    }

    fn login(login: &str, password: &str) -> Credentials {
        let (login, password) = (login.as_bytes().to_vec(), password.as_bytes().into());
        Credentials::new(Method::PLAIN, login, password)
    }

    #[test]
    fn a_login_is_known_by_all_of_it() {
        let trial = Trial::new(Duration::from_secs(3600));
        let anna = login("anna", "pw");
        trial.log_in(&anna);
        assert!(trial.knows(&anna));
        for other in [
            login("anna", "pW"),
            login("annap", "w"),
            login("ann", "apw"),
            login("Anna", "pw"),
            Credentials {
                authzid: Some(b"bert".to_vec()),
                ..login("anna", "pw")
            },
            Credentials {
                method: Method::APOP,
                ..login("anna", "pw")
            },
        ] {
            assert!(!trial.knows(&other), "{other:?}");
        }
        let elsewhere = |cache: &Cached, request: &Request<'_>| cache.recall(request).is_some();
        assert!(!trial.with(&anna, [192, 0, 2, 8], elsewhere));
        trial.with(&anna, [192, 0, 2, 7], |cache, request| {
            cache.forget(request)
        });
        assert!(!trial.knows(&anna));
    }

    #[test]
    fn answers_to_a_challenge_are_not_kept() {
        let trial = Trial::new(Duration::from_secs(3600));
        for method in [Method::APOP, Method::NONE] {
            trial.log_in(&Credentials {
                method,
                ..login("anna", "pw")
            });
        }
        assert_eq!(trial.count(), 0);
    }

    #[test]
    fn all_are_forgotten_when_the_method_changes_and_when_their_time_is_over() {
        let trial = Trial::new(Duration::from_secs(3600));
        let anna = login("anna", "pw");
        trial.log_in(&anna);
        trial.inner.generation.fetch_add(1, Ordering::SeqCst);
        assert!(!trial.knows(&anna));
        let trial = Trial::new(Duration::from_millis(1));
        trial.log_in(&anna);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(trial.count(), 1);
        trial.cache.tend();
        assert_eq!(trial.count(), 0);
        assert!(!trial.knows(&anna));
    }

    #[test]
    fn the_number_of_logins_is_bounded_and_the_last_is_always_known() {
        let trial = Trial::new(Duration::from_secs(3600));
        for number in 0..40_000 {
            let credentials = login(&number.to_string(), "pw");
            trial.log_in(&credentials);
            assert!(trial.knows(&credentials));
        }
        assert!(trial.count() <= SETS * WAYS);
        assert!(trial.count() > SETS * WAYS * 3 / 4);
    }
}
