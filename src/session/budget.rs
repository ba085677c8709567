//! What a client may use up before its login: time (`timeout`), unparsable lines (`max_errors`) and
//! commands (`max_commands`). Neither count is reset by a failed login or by STARTTLS.

use std::time::{Duration, Instant};

use crate::net::socket::Deadline;

/// The three allowances of one session.
#[derive(Debug)]
pub(crate) struct Budget {
    deadline: Deadline,
    timeout: Duration,
    errors_left: u32,
    commands_left: u32,
}

/// Whether there was something left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Go on.
    Left,
    /// Answer with the bad-command line and close.
    Spent,
}

impl Budget {
    /// Time runs from accept.
    pub(crate) fn new(
        accepted: Instant,
        timeout: Duration,
        max_errors: u32,
        max_commands: u32,
    ) -> Self {
        Self {
            deadline: Deadline {
                at: accepted + timeout,
                directive: "timeout",
            },
            timeout,
            errors_left: max_errors,
            commands_left: max_commands,
        }
    }

    /// Until when the client must have logged in.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Gives the client its time once more, after a failed login.
    pub(crate) fn restart_time(&mut self) {
        self.deadline = Deadline::after(self.timeout, "timeout");
    }

    /// Counts a line that could not be parsed: the Nth is the last.
    pub(crate) fn count_error(&mut self) -> Allowance {
        self.errors_left = self.errors_left.saturating_sub(1);
        match self.errors_left {
            0 => Allowance::Spent,
            _ => Allowance::Left,
        }
    }

    /// Counts a command or a SASL answer: N are carried out, the next one is not.
    pub(crate) fn count_command(&mut self) -> Allowance {
        match self.commands_left {
            0 => Allowance::Spent,
            _ => {
                self.commands_left -= 1;
                Allowance::Left
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_error_is_the_last() {
        let mut budget = Budget::new(Instant::now(), Duration::from_secs(60), 2, 1);
        assert_eq!(budget.count_error(), Allowance::Left);
        assert_eq!(budget.count_error(), Allowance::Spent);
    }

    #[test]
    fn n_commands_are_carried_out_and_the_next_is_not() {
        let mut budget = Budget::new(Instant::now(), Duration::from_secs(60), 1, 2);
        assert_eq!(budget.count_command(), Allowance::Left);
        assert_eq!(budget.count_command(), Allowance::Left);
        assert_eq!(budget.count_command(), Allowance::Spent);
    }
}
