//! Which backend a login belongs to: `[routes]`, in file order, first match wins.
//!
//! Map files are read again when they change; a broken new one leaves the old one in use.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Pattern, Route, RouteLine, RouteTarget, read_map};
use crate::log::{Log, Severity};

use super::Backend;

/// How often map files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// All routes of a configuration.
#[derive(Debug)]
pub(crate) struct Router {
    backends: Vec<Arc<Backend>>,
    lines: Vec<Line>,
    looked: Mutex<Instant>,
    log: Log,
}

#[derive(Debug)]
enum Line {
    Route(Route),
    Map(Map),
}

#[derive(Debug)]
struct Map {
    path: PathBuf,
    routes: RwLock<Arc<Vec<Route>>>,
    stamp: Mutex<Option<(SystemTime, u64)>>,
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
            looked: Mutex::new(Instant::now()),
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

    /// The way of a login. Case does not matter.
    pub(crate) fn route(&self, login: &[u8]) -> Way {
        self.refresh();
        let login = String::from_utf8_lossy(login).to_lowercase();
        if let ([], [only]) = (self.lines.as_slice(), self.backends.as_slice()) {
            return Way::To(Arc::clone(only));
        }
        for line in &self.lines {
            let found = match line {
                Line::Route(route) => fits(route, &login).then(|| route.target.clone()),
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

    fn refresh(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < LOOK {
            return;
        }
        *looked = Instant::now();
        drop(looked);
        for line in &self.lines {
            let Line::Map(map) = line else {
                continue;
            };
            let (severity, text) = match map.refresh(&self.backends) {
                Ok(false) => continue,
                Ok(true) => (
                    Severity::Notice,
                    format!("map {} was read again", map.path.display()),
                ),
                Err(error) => (
                    Severity::Error,
                    format!("{error}; the old map stays in use"),
                ),
            };
            self.log.write(severity, file!(), &text, None, None);
        }
    }
}

fn fits(route: &Route, login: &str) -> bool {
    match &route.pattern {
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
        let stamp = stamp(path);
        Ok(Self {
            path: path.to_owned(),
            routes: RwLock::new(Arc::new(read(path, backends)?)),
            stamp: Mutex::new(stamp),
        })
    }

    fn find(&self, login: &str) -> Option<RouteTarget> {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        routes
            .iter()
            .find(|route| fits(route, login))
            .map(|route| route.target.clone())
    }

    /// Reads the file again if it has changed; each change is judged once.
    fn refresh(&self, backends: &[Arc<Backend>]) -> Result<bool, String> {
        let now = stamp(&self.path);
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return Ok(false);
        }
        *known = now;
        drop(known);
        let routes = Arc::new(read(&self.path, backends)?);
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
        Ok(true)
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// The lines of a map; its mistakes in one line, for the log.
fn read(path: &Path, backends: &[Arc<Backend>]) -> Result<Vec<Route>, String> {
    let names = backends.iter().map(|backend| backend.conf.name.as_str());
    let names: Vec<&str> = names.collect();
    read_map(path, &names).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}
