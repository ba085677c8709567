//! A brake for lines that one client can cause without end: so many a second of an address and kind, and
//! then one that counts the others.
//!
//! What is left out is counted for a second; the line that says how many is written when the next one of
//! its kind comes, or by `tell_counts`, whichever is first.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Log, Severity};

/// Lines of one address and kind in a window.
const LINES: u32 = 20;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

/// Windows that are kept apart; what comes beyond that shares one for each kind.
const WINDOWS: usize = 4096;

/// Who causes lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    /// An IPv4 address, or the first of an IPv6 /64.
    Address(IpAddr),
    /// Clients of Unix sockets.
    UnixSocket,
    /// One of too many to tell apart.
    Others,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Address(IpAddr::V4(address)) => address.fmt(f),
            Whose::Address(IpAddr::V6(address)) => write!(f, "{address}/64"),
            Whose::UnixSocket => f.write_str("unix:"),
            Whose::Others => f.write_str("other addresses"),
        }
    }
}

/// The windows of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    windows: HashMap<(Whose, &'static str), Window>,
    /// When room was last made for others: once a window, as it looks at all of them.
    made_room: Option<Instant>,
}

impl State {
    /// Under whom a line counts: under its own address, if there is room.
    fn place(&mut self, of: (Whose, &'static str), now: Instant) -> (Whose, &'static str) {
        if self.windows.len() < WINDOWS || self.windows.contains_key(&of) {
            return of;
        }
        let is_due = |made: Instant| now.saturating_duration_since(made) >= WINDOW;
        if self.made_room.is_none_or(is_due) {
            self.made_room = Some(now);
            self.windows
                .retain(|_, window| window.left_out > 0 || !window.is_over(now));
        }
        match self.windows.len() < WINDOWS {
            true => of,
            false => (Whose::Others, of.1),
        }
    }
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
    /// Where the count goes, and how loud.
    log: Log,
    severity: Severity,
}

/// What is to be said of a window that is over.
struct Count {
    of: (Whose, &'static str),
    left_out: u64,
    log: Log,
    severity: Severity,
}

impl Brake {
    /// Whether a line of this kind may be written now. Writes before it how many were left out, if any
    /// were in a window that is over.
    pub(crate) fn allows(
        &self,
        whose: Whose,
        kind: &'static str,
        severity: Severity,
        log: &Log,
    ) -> Allowance {
        let (allowance, count) = self.allows_at(whose, kind, severity, log, Instant::now());
        if let Some(count) = count {
            count.write();
        }
        allowance
    }

    fn allows_at(
        &self,
        whose: Whose,
        kind: &'static str,
        severity: Severity,
        log: &Log,
        now: Instant,
    ) -> (Allowance, Option<Count>) {
        let mut state = self.lock();
        let of = state.place((whose, kind), now);
        let window = state.windows.entry(of).or_insert_with(|| Window {
            began: now,
            lines: 0,
            left_out: 0,
            log: log.clone(),
            severity,
        });
        let count = match window.is_over(now) {
            false => None,
            true => {
                let count = window.count(of);
                window.began = now;
                window.lines = 0;
                window.log = log.clone();
                count
            }
        };
        if window.lines < LINES {
            window.lines += 1;
            return (Allowance::Write, count);
        }
        window.left_out += 1;
        let is_first = window.left_out == 1;
        (Allowance::LeaveOut { is_first }, count)
    }

    /// Writes the counts of windows that are over; when the next one will be, if any line was left out in
    /// one that is not.
    pub(crate) fn tell_counts(&self) -> Option<Duration> {
        let (counts, next) = self.take_counts_at(Instant::now());
        for count in counts {
            count.write();
        }
        next
    }

    /// Writes all counts, as nobody will write them later.
    pub(crate) fn tell_all_counts(&self) {
        let (counts, _) = self.take_counts_at(Instant::now() + WINDOW);
        for count in counts {
            count.write();
        }
    }

    fn take_counts_at(&self, now: Instant) -> (Vec<Count>, Option<Duration>) {
        let windows = &mut self.lock().windows;
        let over = windows.iter_mut().filter(|(_, window)| window.is_over(now));
        let counts = over.filter_map(|(of, window)| window.count(*of)).collect();
        windows.retain(|_, window| !window.is_over(now));
        let is_pending = windows.values().any(|window| window.left_out > 0);
        (counts, is_pending.then_some(WINDOW))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// It is written.
    Write,
    /// It is counted.
    LeaveOut {
        /// `tell_counts` is to be called in a while.
        is_first: bool,
    },
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }

    fn count(&mut self, of: (Whose, &'static str)) -> Option<Count> {
        let left_out = std::mem::take(&mut self.left_out);
        (left_out > 0).then(|| Count {
            of,
            left_out,
            log: self.log.clone(),
            severity: self.severity,
        })
    }
}

impl Count {
    fn text(&self) -> String {
        let (whose, kind) = self.of;
        let left_out = self.left_out;
        format!("{left_out} more lines \"{kind}\" of {whose} within a second were left out")
    }

    fn write(&self) {
        self.log
            .write(self.severity, file!(), &self.text(), None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::TextLayout;

    fn log() -> Log {
        Log::open_process(&[], &[], TextLayout::Angie).expect("standard error")
    }

    fn address(last: u8) -> Whose {
        Whose::Address([192, 0, 2, last].into())
    }

    #[test]
    fn the_line_after_the_twentieth_of_a_second_is_counted() {
        let (brake, log, now) = (Brake::default(), log(), Instant::now());
        let ask = |whose, kind, now| brake.allows_at(whose, kind, Severity::Info, &log, now);
        for _ in 0..LINES {
            assert_eq!(ask(address(1), "client protocol", now).0, Allowance::Write);
        }
        let (first, _) = ask(address(1), "client protocol", now);
        assert_eq!(first, Allowance::LeaveOut { is_first: true });
        let (second, count) = ask(address(1), "client protocol", now);
        assert_eq!(second, Allowance::LeaveOut { is_first: false });
        assert!(count.is_none());
        // Neither another kind nor another address is held back.
        assert_eq!(ask(address(1), "client closed", now).0, Allowance::Write);
        assert_eq!(ask(address(2), "client protocol", now).0, Allowance::Write);
        let (line, count) = ask(address(1), "client protocol", now + WINDOW);
        assert_eq!(line, Allowance::Write);
        assert_eq!(
            count.expect("two were left out").text(),
            "2 more lines \"client protocol\" of 192.0.2.1 within a second were left out"
        );
    }

    #[test]
    fn counts_are_told_without_another_line() {
        let (brake, log, now) = (Brake::default(), log(), Instant::now());
        for _ in 0..LINES + 3 {
            brake.allows_at(address(1), "x", Severity::Error, &log, now);
        }
        let (counts, next) = brake.take_counts_at(now);
        assert!(counts.is_empty());
        assert_eq!(next, Some(WINDOW));
        let (counts, next) = brake.take_counts_at(now + WINDOW);
        assert_eq!(counts.len(), 1);
        assert_eq!(
            (counts[0].left_out, counts[0].severity),
            (3, Severity::Error)
        );
        assert_eq!(next, None);
        assert!(brake.lock().windows.is_empty());
    }

    #[test]
    fn a_crowd_of_addresses_takes_bounded_memory_and_is_counted_together() {
        let (brake, log, now) = (Brake::default(), log(), Instant::now());
        let began = Instant::now();
        for number in 0..20_000_u32 {
            let whose = Whose::Address(std::net::Ipv4Addr::from(number).into());
            brake.allows_at(whose, "x", Severity::Info, &log, now);
        }
        assert!(brake.lock().windows.len() <= WINDOWS + 1);
        // Not all windows are looked at for each line.
        assert!(began.elapsed() < Duration::from_secs(2));
        let (counts, _) = brake.take_counts_at(now + WINDOW);
        let [count] = &counts[..] else {
            panic!("one count");
        };
        assert_eq!(count.of.0.to_string(), "other addresses");
        assert_eq!(count.left_out, 20_000 - WINDOWS as u64 - u64::from(LINES));
    }
}
