//! Many at once: herds of honest clients, and honest clients beside crowds that are not.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{IMAP_LOGIN, Plan, Then};
use crate::load::{Load, address};
use crate::memory;
use crate::proxies::{Proxy, Setup};
use crate::report;
use crate::stage::{Stage, Verdicts};

/// What the 99th percentile may be where thousands come at once.
const HERD_LIMIT: Duration = Duration::from_secs(1);

/// What it may be beside a crowd that does nothing of use.
const BESIDE_LIMIT: Duration = Duration::from_millis(20);

/// Honest logins a second beside a crowd.
const HONEST_RATE: u64 = 20;

/// Addresses from here on belong to honest clients.
const HONEST: usize = 40_000;

pub(crate) fn herd(stage: &Stage) {
    report::title("herd: honest clients that connect at the same moment, and stay");
    let mut verdicts = Verdicts::default();
    for (size, rtt, addresses, whence) in [
        (1000, 20, 1000, "as many addresses"),
        (2000, 50, 2000, "as many addresses"),
        (3000, 100, 3000, "as many addresses"),
        (200, 50, 1, "one address"),
    ] {
        let size = stage.scaled(size);
        let run = format!("{size} clients of {whence}, rtt {rtt} ms");
        report::run(&run);
        stage.each(&Setup::imap(), |proxy| {
            let plan = Plan::new(proxy.address("imap"), IMAP_LOGIN)
                .with_rtt(Duration::from_millis(rtt))
                .then(Then::Stay);
            let plan = Rc::new(plan);
            let overflows = memory::listen_overflows();
            let mut load = Load::new();
            let group = load.group();
            let now = Instant::now();
            for client in 0..size {
                load.add(group, &plan, address(client % addresses + 1), now);
            }
            load.run_until(Duration::from_secs(60), |load| load.is_complete(group));
            let tally = load.tally(group);
            report::logins(proxy.name, tally, Duration::ZERO);
            report::overflows(overflows);
            verdicts.insist_on_logins(proxy, tally, (Duration::ZERO, HERD_LIMIT), &run);
        });
    }
    verdicts.announce();
}

pub(crate) fn silent(stage: &Stage) {
    let size = stage.scaled(5000);
    report::title(&format!(
        "silent: {size} connections, each of an address of its own, that say nothing; \
         {HONEST_RATE} honest logins a second"
    ));
    let mut verdicts = Verdicts::default();
    for (back, when) in [(0, "at once"), (1000, "after a second")] {
        for rtt in [0, 20] {
            let run = format!("closed ones come back {when}, honest rtt {rtt} ms");
            report::run(&run);
            stage.each(&Setup::imap(), |proxy| {
                let crowd = Plan::new(proxy.address("imap"), &[])
                    .then(Then::Stay)
                    .comes_back(Duration::from_millis(back));
                beside(stage, proxy, (crowd, size, size), rtt, &mut verdicts, &run);
            });
        }
    }
    verdicts.announce();
}

pub(crate) fn chatty(stage: &Stage) {
    report::title(&format!(
        "chatty: connections of 5 addresses that say NOOP every 100 ms; {HONEST_RATE} honest \
         logins a second"
    ));
    let mut verdicts = Verdicts::default();
    for size in [132, 1000] {
        let size = stage.scaled(size);
        for rtt in [0, 20] {
            let run = format!("{size} connections, honest rtt {rtt} ms");
            report::run(&run);
            stage.each(&Setup::imap(), |proxy| {
                let every = Duration::from_millis(100);
                let crowd = Plan::new(proxy.address("imap"), &[("", "* OK")])
                    .then(Then::Chat("a NOOP\r\n", every))
                    .comes_back(every);
                beside(stage, proxy, (crowd, size, 5), rtt, &mut verdicts, &run);
            });
        }
    }
    verdicts.announce();
}

/// A crowd on a thread of its own, so that what it does takes no time from the honest clients'.
struct Crowd {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(usize, usize)>,
}

impl Crowd {
    fn gather(plan: Plan, size: usize, addresses: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut load = Load::new();
            let group = load.group();
            let plan = Rc::new(plan);
            let now = Instant::now();
            for member in 0..size {
                load.add(group, &plan, address(member % addresses + 1), now);
            }
            while !ends.load(Ordering::Relaxed) {
                load.run_for(Duration::from_millis(50));
            }
            (load.connected(group), load.tally(group).sent_away)
        });
        Self { end, thread }
    }

    /// How many were connected, and how often one of them was closed.
    fn disperse(self) -> (usize, usize) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("no crowd panics")
    }
}

/// Honest logins beside a crowd of so many connections from so many addresses.
fn beside(
    stage: &Stage,
    proxy: &Proxy,
    (crowd, size, addresses): (Plan, usize, usize),
    rtt: u64,
    verdicts: &mut Verdicts,
    run: &str,
) {
    let overflows = memory::listen_overflows();
    let crowd = Crowd::gather(crowd, size, addresses);
    // It stands before anybody else comes.
    thread::sleep(Duration::from_secs(3));
    let mut load = Load::new();
    let group = load.group();
    let plan = Plan::new(proxy.address("imap"), IMAP_LOGIN).with_rtt(Duration::from_millis(rtt));
    let plan = Rc::new(plan);
    let now = Instant::now();
    for client in 0..stage.seconds * HONEST_RATE {
        let when = now + Duration::from_millis(client * 1000 / HONEST_RATE);
        let index = usize::try_from(client).expect("small");
        load.add(group, &plan, address(HONEST + index), when);
    }
    let limit = Duration::from_secs(stage.seconds + 35);
    load.run_until(limit, |load| load.is_complete(group));
    let (connected, sent_away) = crowd.disperse();
    let tally = load.tally(group);
    report::logins(proxy.name, tally, Duration::ZERO);
    report::overflows(overflows);
    report::remark(&format!(
        "the crowd: {connected} connected at the end, {sent_away} times closed by the proxy"
    ));
    verdicts.insist_on_logins(proxy, tally, (Duration::ZERO, BESIDE_LIMIT), run);
}
