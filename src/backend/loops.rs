//! Logins that come back: a backend that is, round some corners, the proxy itself.
//!
//! Two signs are looked for. The connection that a client came over is one of our own to a backend, which
//! everybody between has passed on with its addresses (PROXY header, or nobody between). Or peers have counted
//! the proxies that the login went through (`x-proxy-ttl`, `TTL`), and there are too many. A listener of our
//! own that is named as a backend is found earlier (`net::listen`).

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most proxies that a login goes through, one after another, as with Dovecot.
pub(crate) const PROXIES: u32 = 5;

/// Our connections to backends that are not relays yet.
static LEGS: Mutex<Option<HashSet<Ends>>> = Mutex::new(None);

/// Where a connection comes from, and where it goes.
type Ends = (SocketAddr, SocketAddr);

/// A connection of ours to a backend, up to the end of its login.
#[derive(Debug)]
pub(crate) struct Leg(Ends);

impl Leg {
    /// A connection from our end to that of the backend.
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let ends = (local, remote);
        legs().get_or_insert_default().insert(ends);
        Self(ends)
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if let Some(legs) = legs().as_mut() {
            legs.remove(&self.0);
        }
    }
}

fn legs() -> MutexGuard<'static, Option<HashSet<Ends>>> {
    LEGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a login goes in circles; `None` where nothing says so. `ends` are those of the client's connection as
/// far as they are known, `ttl` is how many more proxies it may go through, `upstream` where it would go.
pub(crate) fn found(ends: Option<Ends>, ttl: u32, upstream: impl Display) -> Option<String> {
    let is_ours = ends.is_some_and(|ends| legs().as_ref().is_some_and(|legs| legs.contains(&ends)));
    let sign = if is_ours {
        "this connection is one of our own to a backend".to_owned()
    } else if ttl <= 1 {
        let passed = PROXIES - 1;
        format!("as its peer counts, the login has come through {passed} proxies")
    } else {
        return None;
    };
    Some(format!(
        "proxies in a loop: {upstream} leads back here ({sign}); name the mail server behind it in hosts of the \
         backend, or in the answer of the auth server"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_a_connection_of_ours_or_too_many_proxies() {
        let [ours, other, host] = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 143)));
        assert_eq!(found(None, 2, "x"), None);
        assert!(found(None, 1, "x").is_some_and(|text| text.contains("through 4 proxies")));
        let leg = Leg::new(ours, host);
        assert_eq!(found(Some((other, host)), PROXIES, "x"), None);
        assert_eq!(found(Some((ours, other)), PROXIES, "x"), None);
        assert!(found(Some((ours, host)), PROXIES, "x").is_some());
        drop(leg);
        assert_eq!(found(Some((ours, host)), PROXIES, "x"), None);
    }
}
