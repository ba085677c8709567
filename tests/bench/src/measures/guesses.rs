//! How many passwords one address can try while the auth server asks for patience.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::arithmetic::{millis, percentile};
use crate::client::{Exchange, Plan, Then};
use crate::load::{Load, address};
use crate::proxies::{Protocol, Proxy, Setup, Who};
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::stub::GUESS;

const CONNECTIONS: usize = 40;

/// What the auth server answers to each guess; 40 connections can make 13.3 guesses a second then.
const AUTH_WAIT: Duration = Duration::from_secs(3);

static RATE: Figure = Figure::headline("guesses", "1/s");
static SHORTEST: Figure = Figure::headline("the quickest NO", "ms");
static HALF: Figure = Figure::detail("p50", "ms");
static SENT_AWAY: Figure = Figure::detail("times closed", "");

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let setup = Setup {
        who: Who::NginxLike,
        ..Setup::of(Protocol::Imap)
    };
    let case = Case {
        measure: "auth wait",
        name: "40 connections of one address, Auth-Wait: 3",
        setup: &setup,
        start: Start::EachRound,
    };
    let say = Box::leak(format!("a LOGIN bob {GUESS}\r\n").into_boxed_str());
    let question = Exchange { say, hear: "a NO" };
    stage.play(&case, results, |proxy| guess(stage, proxy, &question));
}

fn guess(stage: &Stage, proxy: &Proxy, question: &Exchange) -> Result<Values, String> {
    let plan = Plan::new(proxy.address(), &[("", "* OK")])
        .then(Then::Repeat(question.clone(), usize::MAX))
        .comes_back(Duration::ZERO);
    let plan = Rc::new(plan);
    let mut load = Load::new();
    let group = load.group();
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        load.add(group, &plan, address(1), began);
    }
    let judged = || {
        let guesses = stage.stubs.guesses();
        guesses.map_err(|error| format!("the auth server does not say its count: {error}"))
    };
    // Whole rounds, none of which begins or ends near an end of the measurement.
    load.run_for(AUTH_WAIT / 2);
    let before = judged()?;
    let rounds = u32::try_from(stage.seconds / AUTH_WAIT.as_secs()).unwrap_or(1);
    let time = AUTH_WAIT * rounds.max(1);
    load.run_for(time);
    let guesses = judged()? - before;
    let tally = load.tally(group);
    let Some(shortest) = tally.rounds.iter().min() else {
        return Err("no guess was answered".to_owned());
    };
    Ok(vec![
        (&RATE, guesses as f64 / time.as_secs_f64()),
        (&SHORTEST, millis(*shortest)),
        (&HALF, millis(percentile(&tally.rounds, 50))),
        (&SENT_AWAY, tally.sent_away as f64),
    ])
}
