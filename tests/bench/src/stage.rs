//! What all measures share: the servers behind the proxies, the certificates, how large and how long,
//! and the loop that lets one program run after the other, round by round.

use std::time::{Duration, Instant};

use crate::proxies::{Program, Proxy, Setup};
use crate::report;
use crate::results::{Place, Results, Values};
use crate::stub::Stubs;
use crate::system::KernelMemory;
use crate::tls::{Certificate, KeyKind};

/// By how much a delay may end early: nginx reads the clock once per round of its loop.
pub(crate) const CLOCK: Duration = Duration::from_millis(10);

/// The surroundings of a measure.
pub(crate) struct Stage {
    pub(crate) programs: Vec<Program>,
    /// The names of the cases to be taken; all, if there is none.
    pub(crate) cases: Vec<String>,
    pub(crate) stubs: Stubs,
    pub(crate) ecdsa: Certificate,
    pub(crate) rsa: Certificate,
    pub(crate) began: Instant,
    pub(crate) rounds: usize,
    /// How long logins come in, where that is not part of the measure.
    pub(crate) seconds: u64,
    /// How long idle sessions are left alone before they are measured.
    pub(crate) settle: Duration,
    pub(crate) extent: Extent,
}

/// How much is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Full,
    /// A few cases, made small, to see that everything works.
    Quick,
}

/// How many percent of a crowd or loop a quick look has.
const QUICK_PERCENT: usize = 4;

/// How a program is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Once for all rounds of a case.
    Once,
    /// Anew for each round. Such cases take long: three rounds are enough.
    EachRound,
}

const LONG_ROUNDS: usize = 3;

/// A case of a measure.
pub(crate) struct Case<'a> {
    pub(crate) measure: &'static str,
    pub(crate) name: &'a str,
    pub(crate) setup: &'a Setup,
    pub(crate) start: Start,
}

impl Stage {
    /// A size of a crowd or loop, as it is to be today.
    pub(crate) fn scaled(&self, size: usize) -> usize {
        match self.extent {
            Extent::Full => size,
            Extent::Quick => (size * QUICK_PERCENT / 100).max(1),
        }
    }

    /// Of these cases, those to be taken today: all, or so many in a quick look.
    pub(crate) fn chosen<'a, T>(&self, cases: &'a [T], quick: usize) -> &'a [T] {
        match self.extent {
            Extent::Full => cases,
            Extent::Quick => &cases[..quick.min(cases.len())],
        }
    }

    /// What the kernel holds; a quick look does not wait until that has come to rest.
    pub(crate) fn kernel_memory(&self) -> KernelMemory {
        KernelMemory::at_rest(self.settle)
    }

    /// The certificate of this kind.
    pub(crate) fn certificate(&self, kind: KeyKind) -> &Certificate {
        match kind {
            KeyKind::Ecdsa => &self.ecdsa,
            KeyKind::Rsa => &self.rsa,
        }
    }

    /// Runs a case with all programs that can serve it, in turn, for all rounds. What needs no proxy
    /// goes first; with each round another one follows.
    pub(crate) fn play(
        &self,
        case: &Case<'_>,
        results: &mut Results,
        mut run: impl FnMut(&Proxy) -> Result<Values, String>,
    ) {
        if !self.cases.is_empty() && !self.cases.iter().any(|name| name == case.name) {
            return;
        }
        let programs = self.programs.iter();
        let programs: Vec<&Program> = programs.filter(|one| one.can(case.setup)).collect();
        let mut running: Vec<Option<Proxy>> = programs.iter().map(|_| None).collect();
        let rounds = match case.start {
            Start::Once => self.rounds,
            Start::EachRound => self.rounds.min(LONG_ROUNDS),
        };
        for round in 0..rounds {
            for index in order(programs.len(), round) {
                let program = programs[index];
                let place = Place {
                    measure: case.measure,
                    case: case.name.to_owned(),
                    program: program.name,
                    round,
                };
                report::progress(&place, self.began.elapsed());
                let proxy = match running[index].take() {
                    Some(proxy) => Ok(proxy),
                    None => program.start(case.setup, self),
                };
                let outcome = proxy.and_then(|proxy| {
                    let values = run(&proxy)?;
                    if case.start == Start::Once {
                        running[index] = Some(proxy);
                    }
                    Ok(values)
                });
                match outcome {
                    Ok(values) => results.add(&place, values),
                    Err(error) => results.add_error(&place, &error),
                }
            }
        }
    }
}

/// Who runs when: the first always first, the others from another beginning in each round.
fn order(programs: usize, round: usize) -> Vec<usize> {
    let mut others: Vec<usize> = (1..programs).collect();
    let turn = round % others.len().max(1);
    others.rotate_left(turn);
    let first = (programs > 0).then_some(0);
    first.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_runs_once_a_round_and_begins_in_turn() {
        assert_eq!(order(4, 0), [0, 1, 2, 3]);
        assert_eq!(order(4, 1), [0, 2, 3, 1]);
        assert_eq!(order(4, 3), [0, 1, 2, 3]);
        assert_eq!(order(1, 7), [0]);
        assert_eq!(order(0, 1), [0; 0]);
    }
}
