//! The measures by name, and what several of them share.

mod guesses;
mod idle;
mod login;
mod rates;
mod relay;
mod round_trip;
mod siege;
mod slow_backend;

use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::arithmetic::{millis, percent, percentile};
use crate::client::Plan;
use crate::load::{Load, Tally, address};
use crate::report;
use crate::results::{Figure, Results, Values};
use crate::stage::Stage;

/// Which measure.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Short sessions: connect, log in, say goodbye
    Login,
    /// Contents that pass through sessions that are logged in
    Relay,
    /// A question and its answer
    RoundTrip,
    /// Memory and threads of sessions that are logged in and silent
    Idle,
    /// Honest clients beside crowds, and crowds of honest clients
    Siege,
    /// More and more logins a second from one distant address
    OneAddress,
    /// SMTP clients that wait for a greeting that is delayed
    GreetingDelay,
    /// Logins to a backend that never greets, and honest logins to another one
    SlowBackend,
    /// Guesses a second of one address under Auth-Wait
    AuthWait,
}

impl Measure {
    /// Whether it is taken when none is named.
    pub(crate) fn is_in_a_full_run(self) -> bool {
        match self {
            Self::Login | Self::Relay | Self::RoundTrip | Self::Idle | Self::Siege => true,
            Self::OneAddress | Self::GreetingDelay | Self::SlowBackend | Self::AuthWait => false,
        }
    }

    /// Takes it.
    pub(crate) fn play(self, stage: &Stage, results: &mut Results) {
        match self {
            Self::Login => login::play(stage, results),
            Self::Relay => relay::play(stage, results),
            Self::RoundTrip => round_trip::play(stage, results),
            Self::Idle => idle::play(stage, results),
            Self::Siege => siege::play(stage, results),
            Self::OneAddress => rates::one_address(stage, results),
            Self::GreetingDelay => rates::greeting_delay(stage, results),
            Self::SlowBackend => slow_backend::play(stage, results),
            Self::AuthWait => guesses::play(stage, results),
        }
    }
}

/// How many sessions of a loop run at the same time.
const AT_A_TIME: usize = 16;

static SUCCESS: Figure = Figure::headline("success", "%");
static HALF: Figure = Figure::detail("p50", "ms");
static MOST: Figure = Figure::headline("p99", "ms");

/// Lets `size` clients with this plan come, a few at a time, each from an address of its own, until all
/// are done; they are group 0.
fn sessions(plan: Plan, size: usize, at_a_time: usize) -> Load {
    let mut load = Load::new();
    let group = load.group();
    let plan = Rc::new(plan);
    let first = size.min(at_a_time);
    // Those that stay are each followed by a client of the next address, and so on.
    let apart = size.div_ceil(first.max(1));
    for client in 0..first {
        load.add(group, &plan, address(client * apart + 1), Instant::now());
    }
    load.queue(group, size - first);
    load.run_until(Duration::from_secs(120), |load| load.is_complete(group));
    load
}

/// How many of those who came got in, and how long they waited; `delay` is what the configuration
/// makes each of them wait.
///
/// # Errors
/// When nobody got in.
fn honest_values(tally: &Tally, delay: Duration) -> Result<Values, String> {
    remark_failures(tally);
    tally.insist_on_a_success()?;
    let waits = tally.successes.iter();
    let waits: Vec<Duration> = waits.map(|wait| wait.saturating_sub(delay)).collect();
    Ok(vec![
        (&SUCCESS, percent(waits.len(), tally.attempted)),
        (&HALF, millis(percentile(&waits, 50))),
        (&MOST, millis(percentile(&waits, 99))),
    ])
}

fn remark_failures(tally: &Tally) {
    for (reason, count) in &tally.failures {
        report::remark(&format!("{count} failed: {reason}"));
    }
    let unfinished = tally.attempted - tally.successes.len() - tally.failed();
    if unfinished > 0 {
        report::remark(&format!("{unfinished} had neither when time was up"));
    }
}
