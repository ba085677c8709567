//! Until when a host must have answered.

use std::time::Duration;

use crate::net::socket::Deadline;

/// The times that hold for one host, of which the nearest counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The whole login or visit.
    whole: Deadline,
    /// The host's share of that, until it has the credentials.
    host: Option<Deadline>,
    /// `connect_timeout`, until it has greeted.
    greeting: Option<Deadline>,
}

impl Deadlines {
    /// What is left of a login's time is shared by this many hosts; the share of the first runs from here.
    pub(crate) fn of_login(whole: Deadline, hosts: usize) -> Self {
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).max(1);
        let share = whole.remaining().unwrap_or_default() / hosts;
        Self {
            whole,
            host: Some(Deadline::after(share, whole.directive)),
            greeting: None,
        }
    }

    /// A visit has `limit` up to the greeting, and as long again for its questions.
    pub(crate) fn of_visit(limit: Duration) -> Self {
        Self {
            whole: Deadline::after(2 * limit, "connect_timeout"),
            host: None,
            greeting: Some(Deadline::after(limit, "connect_timeout")),
        }
    }

    /// Until it has greeted, the host has this long at most.
    pub(crate) fn limit_connect(&mut self, limit: Duration) {
        let own = Deadline::after(limit, "connect_timeout");
        self.greeting = Some(own).filter(|own| own.at < self.current().at);
    }

    /// The host has greeted: what is left of its share of the time holds.
    pub(super) fn has_greeted(&mut self) {
        self.greeting = None;
    }

    /// The host has the credentials, and all of the login's time to judge them: servers answer a wrong
    /// password late on purpose, which must not look like a host that is down.
    pub(super) fn credentials_are_out(&mut self) {
        self.greeting = None;
        self.host = None;
    }

    /// Until when the next answer must have come.
    pub(crate) fn current(&self) -> Deadline {
        self.greeting.or(self.host).unwrap_or(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_host_has_its_share_until_the_credentials_are_out() {
        let whole = Deadline::after(HOUR, "timeout");
        let mut deadlines = Deadlines::of_login(whole, 2);
        deadlines.limit_connect(Duration::from_secs(5));
        assert_eq!(deadlines.current().directive, "connect_timeout");
        deadlines.has_greeted();
        assert_eq!(deadlines.current().directive, "timeout");
        assert!(deadlines.current().at < whole.at);
        deadlines.credentials_are_out();
        assert_eq!(deadlines.current().at, whole.at);
    }

    #[test]
    fn a_connect_timeout_lengthens_no_share() {
        let whole = Deadline::after(Duration::from_secs(1), "timeout");
        let mut deadlines = Deadlines::of_login(whole, 2);
        deadlines.limit_connect(HOUR);
        assert_eq!(deadlines.current().directive, "timeout");
    }
}
