//! What sessions cost that are logged in and silent.
//!
//! A proxy's own memory is the PSS of its processes, in which neither the clients nor the servers
//! live. The kernel tells its memory only for the whole machine: the run without a proxy, first in each
//! round, shows what a client's socket and a server's socket take, which is taken off the others.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use crate::arithmetic::percent;
use crate::client::{Exchange, IMAP_LOGIN, Plan, Then};
use crate::proxies::{Protocol, Proxy, Setup};
use crate::report;
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::system;
use crate::tls::Handshake;

use super::{remark_failures, sessions};

/// Sessions that log in at the same time while the crowd grows.
const AT_A_TIME: usize = 64;

static SUM: Figure = Figure::headline("memory", "KiB a session");
static OWN: Figure = Figure::detail("its own part (PSS)", "KiB a session");
static KERNEL: Figure = Figure::detail("the kernel's part", "KiB a session");
static NOISE: Figure = Figure::detail("the kernel's part may be wrong by", "KiB a session");
static THREADS: Figure = Figure::headline("threads", "");
static THREADS_AT_FIRST: Figure = Figure::detail("threads after the last login", "");
static ANSWERED: Figure = Figure::detail("answer NOOP", "%");

pub(super) fn play(stage: &Stage, results: &mut Results) {
    let cases = [
        ("1000, plain", 1000, None),
        ("1000, TLS", 1000, Some(Handshake::Full)),
        ("5000, plain", 5000, None),
        ("5000, TLS", 5000, Some(Handshake::Full)),
    ];
    for &(name, size, tls) in stage.chosen(&cases, 2) {
        let size = stage.scaled(size);
        let setup = Setup {
            max_sessions: Some(size + 500),
            ..Setup::of(Protocol::Imap)
        };
        let case = Case {
            measure: "idle",
            name,
            setup: &setup,
            start: Start::EachRound,
        };
        // KiB of the kernel's, for all clients and servers of this round.
        let surroundings = Cell::new(0.0);
        stage.play(&case, results, |proxy| {
            rest(stage, proxy, tls, size, &surroundings)
        });
    }
}

fn rest(
    stage: &Stage,
    proxy: &Proxy,
    tls: Option<Handshake>,
    size: usize,
    surroundings: &Cell<f64>,
) -> Result<Values, String> {
    // What a proxy makes at its start is not a session's.
    thread::sleep(stage.settle.min(Duration::from_secs(1)));
    let kernel_before = stage.kernel_memory();
    let own_before = system::proportional_set_size(&proxy.processes());
    let plan = match tls {
        // The servers do no TLS behind a proxy, so they do none here.
        Some(_) if !proxy.is_direct() => Plan::new(proxy.tls_address(), IMAP_LOGIN).over(tls),
        _ => Plan::new(proxy.address(), IMAP_LOGIN),
    };
    let mut load = sessions(plan.then(Then::Stay), size, AT_A_TIME);
    let tally = load.tally(0);
    remark_failures(tally);
    tally.insist_on_a_success()?;
    let threads_at_first = system::threads(&proxy.processes());
    load.run_for(stage.settle);
    let processes = proxy.processes();
    let threads = system::threads(&processes);
    let own = system::proportional_set_size(&processes);
    let kernel_after = stage.kernel_memory();
    let kernel = kernel_after.kib as f64 - kernel_before.kib as f64;
    if proxy.is_direct() {
        surroundings.set(kernel);
    }
    let alive = load.connected(0);
    let asked = load.ask_all(
        0,
        Exchange {
            say: "n NOOP\r\n",
            hear: "n OK",
        },
    );
    load.run_until(Duration::from_secs(30), |load| {
        load.tally(0).rounds.len() == asked
    });
    let answered = load.tally(0).rounds.len();
    if alive < size {
        report::remark(&format!("{alive} of {size} sessions are alive"));
    }
    let mut values = vec![(&ANSWERED, percent(answered, size))];
    if proxy.is_direct() {
        values.push((&KERNEL, kernel / size as f64));
        return Ok(values);
    }
    let own = (own as f64 - own_before as f64) / size as f64;
    let kernel = (kernel - surroundings.get()) / size as f64;
    let noise = (kernel_before.noise + kernel_after.noise) as f64 / size as f64;
    values.extend([
        (&SUM, own + kernel),
        (&OWN, own),
        (&KERNEL, kernel),
        (&NOISE, noise),
        (&THREADS, threads as f64),
        (&THREADS_AT_FIRST, threads_at_first as f64),
    ]);
    Ok(values)
}
