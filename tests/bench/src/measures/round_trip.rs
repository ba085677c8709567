//! How long a question and its answer take through a session that is logged in.

use std::time::Duration;

use crate::arithmetic::percentile;
use crate::client::{Exchange, IMAP_LOGIN, Plan, Then};
use crate::meter::Meter;
use crate::proxies::{Protocol, Proxy, Setup};
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::tls::Handshake;

use super::{remark_failures, sessions};

/// Questions in all.
const SIZE: usize = 20_000;

static HALF: Figure = Figure::headline("p50", "µs");
static MOST: Figure = Figure::detail("p99", "µs");
static CPU: Figure = Figure::headline("CPU", "s per 100 000 questions");
static OTHERS: Figure = Figure::detail("CPU of generator and servers", "s per 100 000 questions");

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let setup = Setup::of(Protocol::Imap);
    for (name, clients, tls) in [
        ("1 session", 1, None),
        ("50 sessions", 50, None),
        ("1 session, TLS", 1, Some(Handshake::Full)),
        ("50 sessions, TLS", 50, Some(Handshake::Full)),
    ] {
        let case = Case {
            measure: "round trip",
            name,
            setup: &setup,
            start: Start::Once,
        };
        let questions = stage.scaled(SIZE);
        stage.play(&case, results, |proxy| {
            ask(stage, proxy, tls, (clients, questions))
        });
    }
}

fn ask(
    stage: &Stage,
    proxy: &Proxy,
    tls: Option<Handshake>,
    (clients, questions): (usize, usize),
) -> Result<Values, String> {
    let target = match tls {
        None => proxy.address(),
        Some(_) => proxy.tls_address(),
    };
    let plan = Plan::new(target, IMAP_LOGIN).over(tls).then(Then::Stay);
    let mut load = sessions(plan.clone(), clients, clients);
    remark_failures(load.tally(0));
    load.tally(0).insist_on_a_success()?;
    // What the logins have cost does not count.
    let meter = Meter::start(proxy, stage);
    let noop = Exchange {
        say: "n NOOP\r\n",
        hear: "n OK",
    };
    let plan = plan.then(Then::Repeat(noop, questions.div_ceil(clients)));
    let group = load.go_on(0, plan);
    load.run_until(Duration::from_secs(60), |load| load.is_complete(group));
    let used = meter.stop();
    let tally = load.tally(group);
    remark_failures(tally);
    if tally.rounds.is_empty() {
        return Err("no question was answered".to_owned());
    }
    let micros = |percent| percentile(&tally.rounds, percent).as_secs_f64() * 1_000_000.0;
    let mut values = vec![(&HALF, micros(50)), (&MOST, micros(99))];
    let amount = tally.rounds.len() as f64 / 100_000.0;
    values.extend(used.values(proxy, (&CPU, &OTHERS), amount));
    Ok(values)
}
