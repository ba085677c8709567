//! The scenarios by name; each prints its runs and says whether what must be true is true.

mod crowds;
mod guesses;
mod idle;
mod rates;
mod short_sessions;
mod slow_backend;

use clap::ValueEnum;

use crate::stage::Stage;

/// Which scenario.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Scenario {
    /// Thousands of honest clients that connect at the same moment
    Herd,
    /// Thousands of connections that say nothing, and honest logins beside them
    Silent,
    /// Connections that say NOOP ten times a second, and honest logins beside them
    Chatty,
    /// More and more logins a second from one distant address
    OneAddress,
    /// SMTP clients that wait for a greeting that is delayed
    GreetingDelay,
    /// Logins to a backend that never greets, and honest logins to another one
    SlowBackend,
    /// Guesses a second of one address under Auth-Wait
    AuthWait,
    /// Memory and threads of sessions that are logged in and silent
    Idle,
    /// CPU time of short sessions, and how long a NOOP takes there and back
    Cpu,
}

impl Scenario {
    /// Runs it.
    pub(crate) fn play(self, stage: &Stage) {
        match self {
            Self::Herd => crowds::herd(stage),
            Self::Silent => crowds::silent(stage),
            Self::Chatty => crowds::chatty(stage),
            Self::OneAddress => rates::one_address(stage),
            Self::GreetingDelay => rates::greeting_delay(stage),
            Self::SlowBackend => slow_backend::play(stage),
            Self::AuthWait => guesses::play(stage),
            Self::Idle => idle::play(stage),
            Self::Cpu => short_sessions::play(stage),
        }
    }
}
