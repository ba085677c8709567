//! The store of a process: always in memory, and besides where `limits_store` says, as long as that is there.
//!
//! What other nodes know counts as well as what this one knows; where nobody else can be asked, this one goes on
//! with its own. So nothing fails here, and a store that is gone, emptied or slow refuses nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;

use super::memory::MemoryStore;
use super::redis::{Link, Prepared, Surroundings, random_name};
use super::store::{Begun, FailuresOf, SessionLimits, Store, StoreError, UserSession};
use crate::blocklist::Blocklist;
use crate::config::StoreUrl;
use crate::log::Log;

/// The sessions of this node that are counted: what a store that has lost them is told again.
#[derive(Debug, Default)]
pub(crate) struct Own(Mutex<HashMap<u64, UserSession>>);

impl Own {
    /// All of this moment.
    pub(super) fn all(&self) -> Vec<UserSession> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UserSession>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In memory, and perhaps shared.
#[derive(Debug)]
pub(crate) struct SharedStore {
    memory: MemoryStore,
    own: Arc<Own>,
    blocklist: Arc<Blocklist>,
    /// What this process is called among the nodes.
    node: String,
    in_use: RwLock<Option<InUse>>,
}

#[derive(Debug)]
struct InUse {
    url: StoreUrl,
    certificate: Option<std::path::PathBuf>,
    link: Arc<Link>,
}

impl SharedStore {
    /// One that shares nothing yet; `blocklist` has the bans.
    pub(crate) fn new(blocklist: &Arc<Blocklist>) -> Self {
        Self {
            memory: MemoryStore::new(),
            own: Arc::default(),
            blocklist: Arc::clone(blocklist),
            node: random_name(),
            in_use: RwLock::default(),
        }
    }

    /// From now on this store is shared, or none. One that is in use already stays so. `banned` is told of
    /// ranges that another node has banned.
    ///
    /// # Errors
    /// The system starts no more threads; then all is as before.
    pub(crate) fn share(
        &self,
        prepared: Option<Prepared>,
        log: &Log,
        banned: impl Fn(&[IpNet]) + Send + 'static,
    ) -> std::io::Result<()> {
        let link = self.link();
        let is_same = {
            let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
            match (&*in_use, &prepared) {
                (Some(in_use), Some(prepared)) => {
                    in_use.url == *prepared.url()
                        && in_use.certificate.as_deref() == prepared.certificate()
                }
                (None, None) => true,
                _ => false,
            }
        };
        if is_same {
            if let Some(link) = link {
                link.set_log(log);
            }
            return Ok(());
        }
        let surroundings = Surroundings {
            own: Arc::clone(&self.own),
            blocklist: Arc::clone(&self.blocklist),
            banned: Box::new(banned),
        };
        let new = match prepared {
            None => {
                self.blocklist.keep_to_itself();
                None
            }
            Some(prepared) => Some(InUse {
                url: prepared.url().clone(),
                certificate: prepared.certificate().map(std::path::Path::to_owned),
                link: Link::begin(prepared, &self.node, surroundings)?,
            }),
        };
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = new;
        if let Some(before) = link {
            before.finish(Duration::ZERO);
        }
        Ok(())
    }

    /// Tells the store which sessions have ended, for so long at most: the process is about to end.
    pub(crate) fn finish(&self, limit: Duration) {
        if let Some(link) = self.link() {
            link.finish(limit);
        }
    }

    /// What the store is called that is shared, and whether it is in use; `None` where none is shared.
    pub(crate) fn state(&self) -> Option<(String, bool)> {
        let link = self.link()?;
        Some((link.name().to_owned(), link.is_up()))
    }

    fn link(&self) -> Option<Arc<Link>> {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        in_use.as_ref().map(|in_use| Arc::clone(&in_use.link))
    }

    /// The count of all nodes, and never less than this one knows: the store may have been emptied.
    fn with_others(&self, own: u32, asked: impl FnOnce(&Link) -> Result<u32, StoreError>) -> u32 {
        let of_all = self.link().and_then(|link| asked(&link).ok());
        of_all.map_or(own, |of_all| of_all.max(own))
    }
}

impl Store for SharedStore {
    fn add_failure(&self, of: FailuresOf<'_>, most: u32) -> Result<u32, StoreError> {
        let own = self.memory.add_failure(of, most)?;
        Ok(self.with_others(own, |link| link.failures(of, most, 1)))
    }

    fn failures(&self, of: FailuresOf<'_>) -> Result<u32, StoreError> {
        let own = self.memory.failures(of)?;
        Ok(self.with_others(own, |link| link.failures(of, u32::MAX, 0)))
    }

    fn begin_session(
        &self,
        session: &UserSession,
        limits: SessionLimits,
    ) -> Result<Begun, StoreError> {
        let own = self.memory.begin_session(session, limits)?;
        if own != Begun::Counted {
            return Ok(own);
        }
        // First: it is to be renewed from the moment on at which the store has it.
        self.own.lock().insert(session.number, session.clone());
        let Some(link) = self.link() else {
            return Ok(own);
        };
        match link.begin_session(session, limits) {
            Ok(reached @ Begun::Reached(_)) => {
                self.own.lock().remove(&session.number);
                self.memory.end_session(session)?;
                // A renewal may have come between.
                link.end_session(session);
                Ok(reached)
            }
            Ok(Begun::Counted) | Err(_) => Ok(Begun::Counted),
        }
    }

    fn end_session(&self, session: &UserSession) -> Result<(), StoreError> {
        self.own.lock().remove(&session.number);
        self.memory.end_session(session)?;
        if let Some(link) = self.link() {
            link.end_session(session);
        }
        Ok(())
    }
}
