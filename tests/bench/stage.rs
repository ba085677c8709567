//! What all scenarios share: the proxies in turn, the servers behind them, how large and how long.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backends::Backends;
use crate::load::Tally;
use crate::proxies::{Program, Proxy, Setup};
use crate::report;
use crate::servers::certificate::Certificate;

/// By how much a delay may end early: nginx reads the clock once per round of its loop.
pub(crate) const CLOCK: Duration = Duration::from_millis(10);

/// The surroundings of a scenario.
pub(crate) struct Stage {
    pub(crate) programs: Vec<Program>,
    pub(crate) backends: Backends,
    pub(crate) certificate: Certificate,
    /// The operator's choice of postern's `workers`.
    pub(crate) workers: Option<usize>,
    /// The operator's choice of every listener's `backlog`.
    pub(crate) backlog: Option<usize>,
    /// How long logins come in, where that is not part of the scenario.
    pub(crate) seconds: u64,
    /// How long idle sessions are left alone before they are measured.
    pub(crate) settle: Duration,
    /// By how much crowds are made smaller, for a quick look.
    pub(crate) percent: usize,
}

impl Stage {
    /// A size of a crowd, as it is to be today.
    pub(crate) fn scaled(&self, size: usize) -> usize {
        (size * self.percent / 100).max(1)
    }

    /// Runs the same with each proxy, one after another, each started anew.
    pub(crate) fn each(&self, setup: &Setup, mut run: impl FnMut(&Proxy)) {
        let mut setup = setup.clone();
        setup.backlog = self.backlog;
        setup.workers = self.workers.or(setup.workers);
        for program in &self.programs {
            let proxy = program.start(&setup, &self.backends, Some(&self.certificate));
            run(&proxy);
        }
    }
}

/// What was found to be not as it must be, by proxy.
#[derive(Default)]
pub(crate) struct Verdicts {
    broken: BTreeMap<&'static str, Vec<String>>,
}

impl Verdicts {
    /// Remembers `what` unless it is true that it `holds`.
    pub(crate) fn insist(&mut self, proxy: &'static str, holds: bool, what: impl Into<String>) {
        let broken = self.broken.entry(proxy).or_default();
        if !holds {
            broken.push(what.into());
        }
    }

    /// Every login has to succeed, with at most this 99th percentile beside what the configuration
    /// makes it wait.
    pub(crate) fn insist_on_logins(
        &mut self,
        proxy: &Proxy,
        tally: &Tally,
        (delay, limit): (Duration, Duration),
        run: &str,
    ) {
        let (successes, attempted) = (tally.successes.len(), tally.attempted);
        let what = format!("{run}: {successes} of {attempted} logins");
        self.insist(proxy.name, successes == attempted, what);
        let slow = report::percentile(&tally.successes, 99).saturating_sub(delay);
        let what = format!(
            "{run}: p99 is {} ms, not {}",
            report::millis(slow),
            report::millis(limit)
        );
        self.insist(proxy.name, slow <= limit, what);
    }

    /// Prints them.
    pub(crate) fn announce(self) {
        for (proxy, broken) in self.broken {
            report::verdict(proxy, &broken);
        }
    }
}
