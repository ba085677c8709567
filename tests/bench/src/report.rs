//! What is said while it runs: one line for each run, on standard error, so that standard output has
//! the tables alone.

#![expect(clippy::print_stderr, reason = "it is what this file is for")]

use std::time::Duration;

use crate::results::Place;

/// A run begins, so long after the first.
pub(crate) fn progress(place: &Place, after: Duration) {
    let Place {
        measure,
        case,
        program,
        round,
    } = place;
    eprintln!(
        "{:>4} s  {measure}, round {}: {case}, {program}",
        after.as_secs(),
        round + 1
    );
}

/// A line of explanation of the run that goes on.
pub(crate) fn remark(text: &str) {
    eprintln!("          {text}");
}
