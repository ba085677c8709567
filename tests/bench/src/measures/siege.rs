//! Many at once: honest clients beside crowds that are not, and herds of honest clients.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{IMAP_LOGIN, Plan, Then};
use crate::load::{Load, address};
use crate::meter::Meter;
use crate::proxies::{Protocol, Proxy, Setup};
use crate::report;
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Extent, Stage, Start};
use crate::system;

use super::honest_values;

/// Honest logins a second beside a crowd, and how long each of them waits between its lines.
const HONEST_RATE: u64 = 20;
const HONEST_RTT: Duration = Duration::from_millis(20);

/// How long a crowd has to gather before anybody else comes; a small one is quicker.
const GATHERING: Duration = Duration::from_secs(2);
const QUICK_GATHERING: Duration = Duration::from_millis(200);

/// Addresses from here on belong to honest clients.
const HONEST: usize = 40_000;

static CPU: Figure = Figure::detail("CPU", "s per s");
static OTHERS: Figure = Figure::detail("CPU of generator and servers", "s per s");
static CONNECTED: Figure = Figure::detail("the crowd's connections at the end", "");
static SENT_AWAY: Figure = Figure::detail("times that the crowd was closed", "1/s");

/// What a member of a crowd does.
#[derive(Clone, Copy)]
enum Habit {
    /// Says nothing, and comes back at once when it is closed.
    Silent,
    /// Says NOOP ten times a second.
    Chatty,
}

/// A crowd that is not honest.
#[derive(Clone, Copy)]
struct Crowd {
    habit: Habit,
    size: usize,
    addresses: usize,
}

/// Honest clients that connect at the same moment, and stay.
#[derive(Clone, Copy)]
struct Herd {
    size: usize,
    addresses: usize,
    /// How long each waits between its lines.
    rtt: Duration,
}

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let setup = Setup::of(Protocol::Imap);
    let case = |name| Case {
        measure: "siege",
        name,
        setup: &setup,
        start: Start::EachRound,
    };
    let crowds = [
        ("5000 silent, 5000 addresses", Habit::Silent, 5000, 5000),
        ("5000 silent, one address", Habit::Silent, 5000, 1),
        ("132 chatty, 5 addresses", Habit::Chatty, 132, 5),
        ("1000 chatty, 5 addresses", Habit::Chatty, 1000, 5),
    ];
    for &(name, habit, size, addresses) in stage.chosen(&crowds, 3) {
        let crowd = Crowd {
            habit,
            size: stage.scaled(size),
            addresses,
        };
        stage.play(&case(name), results, |proxy| beside(stage, proxy, crowd));
    }
    let herds = [
        ("herd of 1000, 20 ms", 1000, 20, 1000),
        ("herd of 2000, 50 ms", 2000, 50, 2000),
        ("herd of 3000, 100 ms", 3000, 100, 3000),
        ("herd of 200, one address, 50 ms", 200, 50, 1),
    ];
    for &(name, size, rtt, addresses) in stage.chosen(&herds, 1) {
        let herd = Herd {
            size: stage.scaled(size),
            addresses,
            rtt: Duration::from_millis(rtt),
        };
        stage.play(&case(name), results, |proxy| come(stage, proxy, herd));
    }
}

fn come(stage: &Stage, proxy: &Proxy, herd: Herd) -> Result<Values, String> {
    let plan = Plan::new(proxy.address(), IMAP_LOGIN)
        .with_rtt(herd.rtt)
        .then(Then::Stay);
    let plan = Rc::new(plan);
    let overflows = system::listen_overflows();
    let meter = Meter::start(proxy, stage);
    let mut load = Load::new();
    let group = load.group();
    let now = Instant::now();
    for client in 0..herd.size {
        load.add(group, &plan, address(client % herd.addresses + 1), now);
    }
    load.run_until(Duration::from_secs(60), |load| load.is_complete(group));
    let used = meter.stop();
    remark_overflows(overflows);
    let mut values = honest_values(load.tally(group), Duration::ZERO)?;
    values.extend(used.values(proxy, (&CPU, &OTHERS), used.elapsed.as_secs_f64()));
    Ok(values)
}

/// Honest logins beside a crowd.
fn beside(stage: &Stage, proxy: &Proxy, crowd: Crowd) -> Result<Values, String> {
    let overflows = system::listen_overflows();
    let gathered = Gathered::start(crowd, proxy);
    let gathering = match stage.extent {
        Extent::Full => GATHERING,
        Extent::Quick => QUICK_GATHERING,
    };
    thread::sleep(gathering);
    let meter = Meter::start(proxy, stage);
    let mut load = Load::new();
    let group = load.group();
    let plan = Plan::new(proxy.address(), IMAP_LOGIN).with_rtt(HONEST_RTT);
    let plan = Rc::new(plan);
    let now = Instant::now();
    for client in 0..stage.seconds * HONEST_RATE {
        let when = now + Duration::from_millis(client * 1000 / HONEST_RATE);
        let index = usize::try_from(client).unwrap_or_default();
        load.add(group, &plan, address(HONEST + index), when);
    }
    let limit = Duration::from_secs(stage.seconds + 35);
    load.run_until(limit, |load| load.is_complete(group));
    let used = meter.stop();
    let dispersed = gathered.disperse()?;
    remark_overflows(overflows);
    let mut values = honest_values(load.tally(group), Duration::ZERO)?;
    let seconds = used.elapsed.as_secs_f64();
    values.extend(used.values(proxy, (&CPU, &OTHERS), seconds));
    let closed = dispersed.sent_away as f64 / (seconds + gathering.as_secs_f64());
    values.extend([
        (&CONNECTED, dispersed.connected as f64),
        (&SENT_AWAY, closed),
    ]);
    Ok(values)
}

/// A crowd on a thread of its own, so that what it does takes no time from the honest clients'.
struct Gathered {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Dispersed>,
}

/// What was left of a crowd at its end.
struct Dispersed {
    connected: usize,
    /// How often one of them was closed.
    sent_away: usize,
}

impl Gathered {
    fn start(crowd: Crowd, proxy: &Proxy) -> Self {
        let target = proxy.address();
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut load = Load::new();
            let group = load.group();
            let plan = Rc::new(crowd.habit.plan(target));
            let now = Instant::now();
            for member in 0..crowd.size {
                load.add(group, &plan, address(member % crowd.addresses + 1), now);
            }
            while !ends.load(Ordering::Relaxed) {
                load.run_for(Duration::from_millis(50));
            }
            Dispersed {
                connected: load.connected(group),
                sent_away: load.tally(group).sent_away,
            }
        });
        Self { end, thread }
    }

    fn disperse(self) -> Result<Dispersed, String> {
        self.end.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| "the crowd's thread panicked".to_owned())
    }
}

impl Habit {
    fn plan(self, target: std::net::SocketAddr) -> Plan {
        match self {
            Self::Silent => Plan::new(target, &[])
                .then(Then::Stay)
                .comes_back(Duration::ZERO),
            Self::Chatty => {
                let every = Duration::from_millis(100);
                Plan::new(target, &[("", "* OK")])
                    .then(Then::Chat("a NOOP\r\n", every))
                    .comes_back(every)
            }
        }
    }
}

/// How many connections the listener's queue had no room for since there were `before`.
fn remark_overflows(before: u64) {
    let count = system::listen_overflows().saturating_sub(before);
    if count > 0 {
        report::remark(&format!(
            "{count} times the kernel's queue of a listener was full"
        ));
    }
}
