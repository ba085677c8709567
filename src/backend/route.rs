//! Which backend a login belongs to: `[routes]`, in file order, first match wins.
//!
//! Map files are read again when they change, by one thread for all of them: no login waits for it, and
//! no second thread's heap holds a copy. A broken new one leaves the old one in use.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::config::{Pattern, Route, RouteLine, RouteMap, RouteTarget, parse_map, read_map};
use crate::log::{Log, Severity};
use crate::system::files::Followed;
use crate::system::threads::spawn;

use super::{Backend, Visits, wait_between};

/// How often map files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// All routes of a configuration.
#[derive(Debug)]
pub(crate) struct Router {
    backends: Vec<Arc<Backend>>,
    lines: Vec<Line>,
    /// How often a map was read again.
    changes: AtomicU64,
    log: Log,
}

#[derive(Debug)]
enum Line {
    Route(Route),
    Map(Map),
}

#[derive(Debug)]
struct Map {
    routes: RwLock<RouteMap>,
    file: Mutex<Followed>,
}

/// Where a login goes.
#[derive(Debug)]
pub(crate) enum Way {
    /// To this backend.
    To(Arc<Backend>),
    /// Nowhere, with this text.
    Rejected(String),
    /// No route fits.
    None,
}

impl Router {
    /// The routes of a configuration; without any, a single backend takes everyone.
    ///
    /// # Errors
    /// A map file cannot be read, or has a mistake.
    pub(crate) fn new(
        backends: Vec<Arc<Backend>>,
        lines: &[RouteLine],
        log: Log,
    ) -> Result<Self, String> {
        let line = |line: &RouteLine| match line {
            RouteLine::Route(route) => Ok(Line::Route(route.clone())),
            RouteLine::Map(path) => Map::open(path, &backends).map(Line::Map),
        };
        let lines = lines.iter().map(line).collect::<Result<_, String>>()?;
        Ok(Self {
            backends,
            lines,
            changes: AtomicU64::new(0),
            log,
        })
    }

    /// The backend of this name.
    pub(crate) fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        self.backends
            .iter()
            .find(|backend| backend.conf.name == name)
            .cloned()
    }

    /// All backends.
    pub(crate) fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// How often the ways of logins have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The way of a login. Case does not matter.
    pub(crate) fn route(&self, login: &[u8]) -> Way {
        let login = String::from_utf8_lossy(login).to_lowercase();
        if let ([], [only]) = (self.lines.as_slice(), self.backends.as_slice()) {
            return Way::To(Arc::clone(only));
        }
        for line in &self.lines {
            let found = match line {
                Line::Route(route) => {
                    fits(route.pattern.map(String::as_str), &login).then(|| route.target.clone())
                }
                Line::Map(map) => map.find(&login),
            };
            match found {
                None => {}
                Some(RouteTarget::Reject(text)) => return Way::Rejected(text),
                Some(RouteTarget::Backend(name)) => {
                    return self.backend(&name).map_or(Way::None, Way::To);
                }
            }
        }
        Way::None
    }

    /// Starts the thread that reads maps again, if there are any; it ends with the visits.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(crate) fn follow_maps(self: &Arc<Self>, visits: Weak<Visits>) -> std::io::Result<()> {
        if self.maps().next().is_none() {
            return Ok(());
        }
        let router = Arc::clone(self);
        let follow = move || {
            while wait_between(&visits, LOOK) {
                for map in router.maps() {
                    router.refresh(map);
                }
            }
        };
        spawn("maps", follow).map(drop)
    }

    fn maps(&self) -> impl Iterator<Item = &Map> {
        self.lines.iter().filter_map(|line| match line {
            Line::Map(map) => Some(map),
            Line::Route(_) => None,
        })
    }

    /// Reads a file again if it has changed.
    fn refresh(&self, map: &Map) {
        let mut file = map.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(changed) = file.changed(read_map) else {
            return;
        };
        let path = &file.path;
        let routes = changed
            .map_err(|error| format!("{}: {error}", path.display()))
            .and_then(|bytes| parse(path, &bytes, &self.backends));
        match routes {
            Ok(routes) => {
                *map.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
                self.changes.fetch_add(1, Ordering::Release);
                let text = format!("map {} was read again", path.display());
                self.log.write(Severity::Notice, file!(), &text, None, None);
            }
            Err(error) => self.keep_old(&error),
        }
    }

    fn keep_old(&self, error: &str) {
        let text = format!("{error}; the old map stays in use");
        self.log.write(Severity::Error, file!(), &text, None, None);
    }
}

fn fits(pattern: Pattern<&str>, login: &str) -> bool {
    match pattern {
        Pattern::Any => true,
        Pattern::Address(address) => login == address,
        Pattern::Domain(domain) => login
            .rsplit_once('@')
            .is_some_and(|(_, of_login)| of_login == domain),
        Pattern::User(user) => login.rsplit_once('@').map_or(login, |(user, _)| user) == user,
    }
}

impl Map {
    fn open(path: &Path, backends: &[Arc<Backend>]) -> Result<Self, String> {
        let file = Followed::new(path);
        let bytes = read_map(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            routes: RwLock::new(parse(path, &bytes, backends)?),
            file: Mutex::new(file),
        })
    }

    fn find(&self, login: &str) -> Option<RouteTarget> {
        let map = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        map.routes()
            .find(|(pattern, _)| fits(*pattern, login))
            .map(|(_, target)| target.clone())
    }
}

/// The lines of a map; its mistakes in one line, for the log.
fn parse(path: &Path, bytes: &[u8], backends: &[Arc<Backend>]) -> Result<RouteMap, String> {
    let names = backends.iter().map(|backend| backend.conf.name.as_str());
    let names: Vec<&str> = names.collect();
    parse_map(path, bytes, &names).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}
