//! Logins that come at a fixed rate, whether those before have been answered or not.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::arithmetic::percent;
use crate::client::{IMAP_LOGIN, Plan, SMTP_LOGIN};
use crate::load::{Load, address};
use crate::proxies::{Protocol, Setup, Who};
use crate::results::{Figure, Results};
use crate::stage::{CLOCK, Case, Stage, Start};

use super::honest_values;

static RATE: Figure = Figure::headline("succeed", "logins/s");
static EARLY: Figure = Figure::headline("greeted early", "%");

/// Where clients come from.
#[derive(Clone, Copy)]
enum Origin {
    OneAddress,
    Spread,
}

pub(super) fn one_address(stage: &Stage, results: &mut Results) {
    const RTT: Duration = Duration::from_millis(250);
    let setup = Setup::of(Protocol::Imap);
    for &rate in stage.chosen(&[125, 142, 300, 600, 1200], 1) {
        let case = Case {
            measure: "one address",
            name: &format!("{rate} logins/s, 250 ms"),
            setup: &setup,
            start: Start::EachRound,
        };
        stage.play(&case, results, |proxy| {
            let plan = Plan::new(proxy.address(), IMAP_LOGIN).with_rtt(RTT);
            let load = at_rate(plan, rate, stage.seconds, Origin::OneAddress);
            let tally = load.tally(0);
            let mut values = honest_values(tally, Duration::ZERO)?;
            values.push((&RATE, tally.throughput()));
            Ok(values)
        });
    }
}

pub(super) fn greeting_delay(stage: &Stage, results: &mut Results) {
    const DELAY: Duration = Duration::from_secs(2);
    let setup = Setup {
        who: Who::NginxLike,
        settings: vec![("smtp_greeting_delay", "2s")],
        ..Setup::of(Protocol::Smtp)
    };
    let cases = [
        ("10 clients/s, one address", 10, Origin::OneAddress),
        ("16 clients/s, one address", 16, Origin::OneAddress),
        ("200 clients/s, as many addresses", 200, Origin::Spread),
    ];
    for &(name, rate, origin) in stage.chosen(&cases, 1) {
        let case = Case {
            measure: "greeting delay",
            name,
            setup: &setup,
            start: Start::EachRound,
        };
        stage.play(&case, results, |proxy| {
            let plan = Plan::new(proxy.address(), SMTP_LOGIN);
            let load = at_rate(plan, rate, stage.seconds, origin);
            let tally = load.tally(0);
            let waits = tally.successes.iter();
            let early = waits.filter(|wait| **wait + CLOCK < DELAY).count();
            let mut values = honest_values(tally, DELAY)?;
            values.push((&EARLY, percent(early, tally.successes.len())));
            Ok(values)
        });
    }
}

/// Lets clients come at this rate, and waits for what becomes of them; they are group 0.
fn at_rate(plan: Plan, rate: u64, seconds: u64, origin: Origin) -> Load {
    let mut load = Load::new();
    let group = load.group();
    let plan = Rc::new(plan);
    let now = Instant::now();
    for client in 0..rate * seconds {
        let when = now + Duration::from_micros(client * 1_000_000 / rate);
        let index = usize::try_from(client).unwrap_or_default();
        let from = match origin {
            Origin::OneAddress => address(1),
            Origin::Spread => address(index + 1),
        };
        load.add(group, &plan, from, when);
    }
    let limit = Duration::from_secs(seconds + 35);
    load.run_until(limit, |load| load.is_complete(group));
    load
}
