//! How many passwords one address can try while the auth server asks for patience.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backends::GUESS;
use crate::client::{Exchange, Plan, Then};
use crate::load::{Load, address};
use crate::proxies::Setup;
use crate::report;
use crate::stage::{CLOCK, Stage, Verdicts};

const CONNECTIONS: usize = 40;

/// What the auth server answers to each guess.
const AUTH_WAIT: Duration = Duration::from_secs(3);

pub(crate) fn play(stage: &Stage) {
    report::title(&format!(
        "auth-wait: Auth-Wait: 3, one address, {CONNECTIONS} connections that guess; \
         a closed one comes back at once"
    ));
    let say = Box::leak(format!("a LOGIN bob {GUESS}\r\n").into_boxed_str());
    let question = Exchange { say, hear: "a NO" };
    let most = CONNECTIONS as f64 / AUTH_WAIT.as_secs_f64();
    let mut verdicts = Verdicts::default();
    stage.each(&Setup::imap(), |proxy| {
        let plan = Plan::new(proxy.address("imap"), &[("", "* OK")])
            .then(Then::Repeat(question.clone(), usize::MAX))
            .comes_back(Duration::ZERO);
        let plan = Rc::new(plan);
        let mut load = Load::new();
        let group = load.group();
        let began = Instant::now();
        for _ in 0..CONNECTIONS {
            load.add(group, &plan, address(1), began);
        }
        // Whole rounds, none of which begins or ends near an end of the measurement.
        load.run_for(AUTH_WAIT / 2);
        let before = stage.backends.guesses();
        let rounds = u32::try_from(stage.seconds / AUTH_WAIT.as_secs()).expect("small");
        let time = AUTH_WAIT * rounds.max(1);
        load.run_for(time);
        let guesses = stage.backends.guesses() - before;
        let rate = guesses as f64 / time.as_secs_f64();
        let tally = load.tally(group);
        report::line(
            proxy.name,
            &format!(
                "{rate:.1} guesses a second, {most:.1} at most is right; a NO takes {}; {} times \
                 closed",
                report::spread(&tally.rounds),
                tally.sent_away
            ),
        );
        let shortest = tally.rounds.iter().min().copied().unwrap_or(AUTH_WAIT);
        let what = format!("{rate:.1} guesses a second");
        verdicts.insist(proxy.name, rate <= 1.01 * most, what);
        let what = format!("a NO came after {} ms", report::millis(shortest));
        verdicts.insist(proxy.name, shortest + CLOCK >= AUTH_WAIT, what);
    });
    verdicts.announce();
}
