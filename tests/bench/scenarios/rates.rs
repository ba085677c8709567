//! Logins that come at a fixed rate, whether those before have been answered or not.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::client::{IMAP_LOGIN, Plan, SMTP_LOGIN};
use crate::load::{Load, address};
use crate::proxies::Setup;
use crate::report;
use crate::stage::{CLOCK, Stage, Verdicts};

/// What the 99th percentile may be while the machine is not full.
const LIMIT: Duration = Duration::from_secs(1);

/// Where clients come from.
#[derive(Clone, Copy)]
enum Origin {
    OneAddress,
    Spread,
}

pub(crate) fn one_address(stage: &Stage) {
    const SECONDS: u64 = 5;
    const RTT: Duration = Duration::from_millis(250);
    report::title("one-address: logins of one address, rtt 250 ms, at a fixed rate for 5 s");
    let mut verdicts = Verdicts::default();
    let mut best: BTreeMap<&str, f64> = BTreeMap::new();
    for rate in [125, 142, 300, 600, 1200] {
        let run = format!("{rate} logins a second");
        report::run(&run);
        stage.each(&Setup::imap(), |proxy| {
            let plan = Plan::new(proxy.address("imap"), IMAP_LOGIN).with_rtt(RTT);
            let load = at_rate(plan, rate, SECONDS, Origin::OneAddress);
            let tally = load.tally(0);
            report::logins(proxy.name, tally, Duration::ZERO);
            let best = best.entry(proxy.name).or_default();
            let throughput = report::throughput(tally);
            report::remark(&format!("{throughput:.0} a second succeed"));
            let expected = (rate as f64).min(best.max(1.0));
            let what = format!("{run}: only {throughput:.0} a second succeed");
            verdicts.insist(proxy.name, throughput >= 0.9 * expected, what);
            let (successes, attempted) = (tally.successes.len(), tally.attempted);
            let what = format!("{run}: {successes} of {attempted} logins");
            verdicts.insist(proxy.name, successes == attempted, what);
            *best = best.max(throughput);
        });
    }
    verdicts.announce();
}

pub(crate) fn greeting_delay(stage: &Stage) {
    const DELAY: Duration = Duration::from_secs(2);
    report::title(
        "greeting-delay: patient SMTP clients, smtp_greeting_delay = 2s (taken off below)",
    );
    let setup = Setup {
        protocols: vec!["smtp"],
        settings: vec![("smtp_greeting_delay", "2s")],
        ..Setup::default()
    };
    let mut verdicts = Verdicts::default();
    for (rate, origin, whence) in [
        (10, Origin::OneAddress, "one address"),
        (16, Origin::OneAddress, "one address"),
        (200, Origin::Spread, "as many addresses"),
    ] {
        let run = format!("{rate} clients a second of {whence}");
        report::run(&run);
        stage.each(&setup, |proxy| {
            let plan = Plan::new(proxy.address("smtp"), SMTP_LOGIN);
            let load = at_rate(plan, rate, stage.seconds, origin);
            let tally = load.tally(0);
            report::logins(proxy.name, tally, DELAY);
            verdicts.insist_on_logins(proxy, tally, (DELAY, LIMIT), &run);
            let shortest = tally.successes.iter().min().copied();
            let is_kept = shortest.is_none_or(|shortest| shortest + CLOCK >= DELAY);
            verdicts.insist(proxy.name, is_kept, format!("{run}: a greeting came early"));
        });
    }
    verdicts.announce();
}

/// Lets clients come at this rate, and waits for what becomes of them; they are group 0.
fn at_rate(plan: Plan, rate: u64, seconds: u64, origin: Origin) -> Load {
    let mut load = Load::new();
    let group = load.group();
    let plan = Rc::new(plan);
    let now = Instant::now();
    for client in 0..rate * seconds {
        let when = now + Duration::from_micros(client * 1_000_000 / rate);
        let index = usize::try_from(client).expect("small");
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
