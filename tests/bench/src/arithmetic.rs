//! Medians, percentiles and ratios. What they are of stands elsewhere.

use std::time::Duration;

/// Median, minimum and maximum of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
}

/// Of no value there is none.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted.first()?, sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Spread {
        median,
        minimum: *first,
        maximum: *last,
    })
}

/// The median of the ratios that are formed within each round: `(round, value)` of both sides. What
/// disturbs a whole round disturbs both of its values, and not their ratio. Rounds that one side
/// lacks, or in which the divisor is zero, do not count.
pub(crate) fn median_ratio(of: &[(usize, f64)], to: &[(usize, f64)]) -> Option<f64> {
    let ratios = of.iter().filter_map(|(round, value)| {
        let (_, divisor) = to.iter().find(|(other, _)| other == round)?;
        (*divisor != 0.0).then(|| value / divisor)
    });
    let ratios: Vec<f64> = ratios.collect();
    spread(&ratios).map(|spread| spread.median)
}

/// The time that so many percent do not exceed; zero of none.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    let at = sorted.get(rank.saturating_sub(1));
    at.copied().unwrap_or_default()
}

/// Milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A part in percent of a whole; nothing is all of nothing.
pub(crate) fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 100.0;
    }
    100.0 * part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
        let odd = spread(&[3.0, 1.0, 2.0]);
        assert_eq!(
            odd,
            Some(Spread {
                median: 2.0,
                minimum: 1.0,
                maximum: 3.0
            })
        );
        let even = spread(&[4.0, 1.0, 2.0, 30.0]);
        assert_eq!(even.map(|spread| spread.median), Some(3.0));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_ratio_is_formed_within_its_round() {
        // A machine that was busy in round 1 made both sides slow: twice as much all the same.
        let ours = [(0, 2.0), (1, 20.0), (2, 2.0)];
        let theirs = [(2, 1.0), (0, 1.0), (1, 10.0)];
        assert_eq!(median_ratio(&ours, &theirs), Some(2.0));
        // The ratio of the medians would be another one.
        let ours = [(0, 1.0), (1, 4.0), (2, 9.0)];
        let theirs = [(0, 1.0), (1, 1.0), (2, 9.0)];
        assert_eq!(median_ratio(&ours, &theirs), Some(1.0));
    }

    #[test]
    fn rounds_without_a_partner_do_not_count() {
        assert_eq!(median_ratio(&[(0, 6.0), (1, 8.0)], &[(1, 4.0)]), Some(2.0));
        assert_eq!(median_ratio(&[(0, 6.0)], &[(1, 4.0)]), None);
        assert_eq!(median_ratio(&[(0, 6.0)], &[(0, 0.0)]), None);
    }

    #[test]
    fn percentiles_are_of_those_that_were_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 100), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn nothing_is_all_of_nothing() {
        assert!((percent(1, 4) - 25.0).abs() < 1e-9);
        assert!((percent(0, 0) - 100.0).abs() < 1e-9);
    }
}
