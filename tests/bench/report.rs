//! What is printed: a line per proxy and run, and a verdict in words at the end of a scenario.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::time::Duration;

use crate::load::Tally;
use crate::memory;

/// Begins a scenario.
pub(crate) fn title(text: &str) {
    println!("\n== {text}");
}

/// Begins a run, which has a line per proxy.
pub(crate) fn run(text: &str) {
    println!("{text}");
}

/// A line about one proxy.
pub(crate) fn line(proxy: &str, text: &str) {
    println!("  {proxy:<8} {text}");
}

/// A line of explanation.
pub(crate) fn remark(text: &str) {
    println!("           {text}");
}

/// How the logins of a group went; `delay` is what the configuration makes each of them wait.
pub(crate) fn logins(proxy: &str, tally: &Tally, delay: Duration) {
    let (successes, attempted) = (tally.successes.len(), tally.attempted);
    let waits: Vec<Duration> = tally
        .successes
        .iter()
        .map(|wait| wait.saturating_sub(delay))
        .collect();
    let took = tally.first.zip(tally.last);
    let took = took.map_or(Duration::ZERO, |(first, last)| last - first);
    line(
        proxy,
        &format!(
            "{successes:>5}/{attempted:<5} logins ({:5.1} %)  {}  all in {:.2} s",
            percent(successes, attempted),
            spread(&waits),
            took.as_secs_f64()
        ),
    );
    for (reason, count) in &tally.failures {
        remark(&format!("{count} failed: {reason}"));
    }
    let missing = attempted - successes - tally.failed();
    if missing > 0 {
        remark(&format!("{missing} had neither when time was up"));
    }
}

/// How many connections the listener's queue had no room for since there were `before`.
pub(crate) fn overflows(before: u64) {
    let count = memory::listen_overflows() - before;
    if count > 0 {
        remark(&format!(
            "{count} times the kernel's queue of the listener was full (see --backlog)"
        ));
    }
}

/// Says whether what must be true is true.
pub(crate) fn verdict(proxy: &str, broken: &[String]) {
    if broken.is_empty() {
        println!("verdict  {proxy}: holds");
    } else {
        println!("verdict  {proxy}: does not hold");
    }
    for what in broken {
        remark(what);
    }
}

/// Successes a second, between the first and the last of them.
pub(crate) fn throughput(tally: &Tally) -> f64 {
    let Some((first, last)) = tally.first_success.zip(tally.last) else {
        return 0.0;
    };
    let further = tally.successes.len().saturating_sub(1);
    further as f64 / (last - first).as_secs_f64().max(0.001)
}

/// Median, 99th percentile and maximum as text.
pub(crate) fn spread(times: &[Duration]) -> String {
    format!(
        "p50 {:>7}  p99 {:>7}  max {:>7} ms",
        millis(percentile(times, 50)),
        millis(percentile(times, 99)),
        millis(percentile(times, 100))
    )
}

/// The time that so many percent do not exceed; zero of none.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    let at = sorted.get(rank.saturating_sub(1));
    at.copied().unwrap_or_default()
}

/// Milliseconds, with as many digits as are of interest.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        ..10.0 => format!("{millis:.3}"),
        ..1000.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
