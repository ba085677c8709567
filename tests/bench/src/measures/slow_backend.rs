//! A backend that accepts and never greets, and clients of another one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::client::{IMAP_LOGIN, Plan, Then};
use crate::load::{Load, address};
use crate::proxies::{Protocol, Proxy, Setup, Who};
use crate::results::{Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::stub::STUCK;

use super::honest_values;

const STUCK_LOGINS: usize = 16;

/// Honest logins a second.
const HONEST_RATE: u64 = 20;

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let setup = Setup {
        who: Who::NginxLike,
        workers: Some(16),
        routes: true,
        ..Setup::of(Protocol::Imap)
    };
    let case = Case {
        measure: "slow backend",
        name: "16 workers, 16 logins to the slow one, 20 a second to another",
        setup: &setup,
        start: Start::EachRound,
    };
    let say: &str = Box::leak(format!("a LOGIN {STUCK} pw\r\n").into_boxed_str());
    stage.play(&case, results, |proxy| beside_stuck_ones(stage, proxy, say));
}

fn beside_stuck_ones(stage: &Stage, proxy: &Proxy, say: &'static str) -> Result<Values, String> {
    let mut load = Load::new();
    let (stuck, honest) = (load.group(), load.group());
    let target = proxy.address();
    let plan = Plan::new(target, &[("", "* OK"), (say, "a OK")]).then(Then::Stay);
    let plan = Rc::new(plan);
    for client in 0..STUCK_LOGINS {
        load.add(stuck, &plan, address(client + 1), Instant::now());
    }
    load.run_for(Duration::from_secs(1));
    let plan = Rc::new(Plan {
        patience: Duration::from_secs(15),
        ..Plan::new(target, IMAP_LOGIN)
    });
    let now = Instant::now();
    for client in 0..stage.seconds * HONEST_RATE {
        let when = now + Duration::from_millis(client * 1000 / HONEST_RATE);
        let index = usize::try_from(client).unwrap_or_default();
        load.add(honest, &plan, address(1000 + index), when);
    }
    let limit = Duration::from_secs(stage.seconds + 20);
    load.run_until(limit, |load| load.is_complete(honest));
    honest_values(load.tally(honest), Duration::ZERO)
}
