//! A brake for lines that an overload would otherwise write thousands of times.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two allowed lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Allows at most one line a second and counts those suppressed between. Fits into a `static`.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Seldom {
    /// One that allows the next line.
    pub(crate) const fn new() -> Seldom {
        Seldom {
            state: Mutex::new(State {
                last: None,
                suppressed: 0,
            }),
        }
    }

    /// The number of lines suppressed since the last one, if a line may be written now.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < INTERVAL)
        {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_how_many_were_suppressed() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.allow_at(start), Some(0));
        assert_eq!(seldom.allow_at(start + Duration::from_millis(1)), None);
        assert_eq!(seldom.allow_at(start + Duration::from_millis(999)), None);
        assert_eq!(seldom.allow_at(start + Duration::from_secs(1)), Some(2));
        assert_eq!(seldom.allow_at(start + Duration::from_secs(5)), Some(0));
    }
}
