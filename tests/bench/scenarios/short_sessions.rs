//! What a short session costs in CPU time, and how long a question takes through a proxy.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::client::{Exchange, IMAP_LOGIN, LOGOUT, POP3_LOGIN, Plan, SMTP_LOGIN, Then};
use crate::load::{Load, address};
use crate::memory;
use crate::proxies::{Proxy, Setup};
use crate::report;
use crate::stage::{Stage, Verdicts};
use crate::wire::tls_client;

/// What nobody counts: the first sessions make what is made once.
const WARM_UP: usize = 200;

type Script = Vec<(&'static str, &'static str)>;

pub(crate) fn play(stage: &Stage) {
    let size = stage.scaled(4000);
    report::title(&format!(
        "cpu: {size} sessions of connect, greeting, login, goodbye; every TLS handshake is a full one"
    ));
    let setup = Setup {
        protocols: vec!["imap", "pop3", "smtp"],
        ..Setup::default()
    };
    let goodbye = |login: &[(&'static str, &'static str)], say, hear| {
        let mut script: Script = login.to_vec();
        script.push((say, hear));
        script
    };
    let imap = goodbye(IMAP_LOGIN, LOGOUT, "b OK");
    let mut verdicts = Verdicts::default();
    for (name, protocol, tls, script) in [
        ("IMAP", "imap", false, imap.clone()),
        (
            "POP3",
            "pop3",
            false,
            goodbye(POP3_LOGIN, "QUIT\r\n", "+OK"),
        ),
        (
            "SMTP",
            "smtp",
            false,
            goodbye(SMTP_LOGIN, "QUIT\r\n", "221 "),
        ),
        ("IMAP over TLS", "imap", true, imap),
    ] {
        for at_a_time in [8, 64] {
            let run = format!("{name}, {at_a_time} at a time");
            report::run(&run);
            stage.each(&setup, |proxy| {
                let plan = if tls {
                    Plan::new(proxy.tls_address(protocol), &script).over_tls(tls_client())
                } else {
                    Plan::new(proxy.address(protocol), &script)
                };
                let load = sessions(proxy, plan, size, at_a_time);
                let tally = load.tally(0);
                let (successes, attempted) = (tally.successes.len(), tally.attempted);
                let what = format!("{run}: {successes} of {attempted} sessions");
                verdicts.insist(proxy.name, successes == attempted, what);
            });
        }
    }
    for sessions in [1, 50] {
        report::run(&format!("NOOP there and back, {sessions} sessions"));
        stage.each(&setup, |proxy| round_trips(proxy, sessions, size));
    }
    verdicts.announce();
}

/// Runs the sessions, and prints what they cost.
fn sessions(proxy: &Proxy, plan: Plan, size: usize, at_a_time: usize) -> Load {
    let plan = Rc::new(plan);
    run_sessions(&plan, WARM_UP, at_a_time);
    let processes = proxy.processes();
    let before = memory::cpu_time(&processes);
    let load = run_sessions(&plan, size, at_a_time);
    // What the last ones leave to do is theirs.
    std::thread::sleep(Duration::from_millis(300));
    let cpu = memory::cpu_time(&processes) - before;
    let tally = load.tally(0);
    report::line(
        proxy.name,
        &format!(
            "{:.3} CPU s per 1000 sessions  {:6.0}/s  {}  {} of {}",
            cpu.as_secs_f64() * 1000.0 / size as f64,
            report::throughput(tally),
            report::spread(&tally.successes),
            tally.successes.len(),
            tally.attempted
        ),
    );
    for (reason, count) in &tally.failures {
        report::remark(&format!("{count} failed: {reason}"));
    }
    load
}

fn run_sessions(plan: &Rc<Plan>, size: usize, at_a_time: usize) -> Load {
    let mut load = Load::new();
    let group = load.group();
    let first = size.min(at_a_time);
    for client in 0..first {
        load.add(group, plan, address(client + 1), Instant::now());
    }
    load.queue(group, size - first);
    load.run_until(Duration::from_secs(120), |load| load.is_complete(group));
    load
}

/// Sessions that ask one NOOP after another, `questions` in all.
fn round_trips(proxy: &Proxy, sessions: usize, questions: usize) {
    let noop = Exchange {
        say: "n NOOP\r\n",
        hear: "n OK",
    };
    let mut plan = Plan::new(proxy.address("imap"), IMAP_LOGIN)
        .then(Then::Repeat(noop, questions.div_ceil(sessions)));
    plan.patience = Duration::from_secs(120);
    let load = run_sessions(&Rc::new(plan), sessions, sessions);
    report::line(proxy.name, &report::spread(&load.tally(0).rounds));
}
