//! What sessions cost that are logged in and silent.
//!
//! A proxy's own memory is the PSS of its processes, in which neither the clients nor the servers
//! live. The kernel tells its memory only for the whole machine: the run without a proxy shows what a
//! client's socket and a server's socket take, which is taken off the other runs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Exchange, IMAP_LOGIN, Plan, Then};
use crate::load::{Load, address};
use crate::memory::{self, KernelMemory};
use crate::proxies::{Proxy, Setup};
use crate::report;
use crate::stage::{Stage, Verdicts};
use crate::wire::tls_client;

/// Sessions that are logged in at the same time while the crowd grows.
const AT_A_TIME: usize = 64;

/// Threads that are enough when nobody has anything to do: workers, unless `--workers` says
/// otherwise, and others.
const WORKERS: usize = 128;
const OTHER_THREADS: usize = 16;

/// KiB a session.
#[derive(Clone, Copy, Default)]
struct Cost {
    own: f64,
    kernel: f64,
    /// By how much the kernel's part may be wrong.
    noise: f64,
}

impl Cost {
    fn sum(self) -> f64 {
        self.own + self.kernel
    }
}

pub(crate) fn play(stage: &Stage) {
    let size = stage.scaled(5000);
    report::title(&format!(
        "idle: {size} sessions, measured {} s after the last login",
        stage.settle.as_secs()
    ));
    report::run("no proxy, to know the share of clients and servers in what the kernel holds");
    let harness = without_proxy(stage, size);
    let setup = Setup {
        max_sessions: Some(size + 500),
        ..Setup::imap()
    };
    let mut verdicts = Verdicts::default();
    for kind in ["plain", "TLS"] {
        report::run(&format!(
            "{kind}, KiB a session (the kernel's without the clients' and servers' share)"
        ));
        let mut costs: BTreeMap<&'static str, Cost> = BTreeMap::new();
        stage.each(&setup, |proxy| {
            let plan = match kind {
                "plain" => Plan::new(proxy.address("imap"), IMAP_LOGIN),
                _ => Plan::new(proxy.tls_address("imap"), IMAP_LOGIN).over_tls(tls_client()),
            };
            let cost = with_proxy(stage, proxy, (plan, size), harness, &mut verdicts);
            costs.insert(proxy.name, cost);
        });
        compare_with_nginx(kind, &costs, &mut verdicts);
    }
    verdicts.announce();
}

fn compare_with_nginx(kind: &str, costs: &BTreeMap<&'static str, Cost>, verdicts: &mut Verdicts) {
    let Some(nginx) = costs.get("nginx") else {
        return;
    };
    for (name, cost) in costs.iter().filter(|(name, _)| **name != "nginx") {
        let ratio = cost.sum() / nginx.sum();
        let text = format!("{kind}: {name} takes {ratio:.2} times nginx's");
        report::remark(&text);
        verdicts.insist(name, ratio <= 1.0, text);
    }
}

/// What the kernel holds for a client's and a server's socket.
fn without_proxy(stage: &Stage, size: usize) -> Cost {
    let before = KernelMemory::at_rest();
    let plan = Plan::new(stage.backends.imap, IMAP_LOGIN);
    let (mut load, group) = gather(plan, size);
    load.run_for(Duration::from_secs(2));
    let after = KernelMemory::at_rest();
    let cost = Cost {
        own: 0.0,
        kernel: kib(before.kib, after.kib, size),
        noise: kib(0, before.noise + after.noise, size),
    };
    report::line(
        "none",
        &format!(
            "{} sessions: kernel {:.1} ± {:.1}",
            load.connected(group),
            cost.kernel,
            cost.noise
        ),
    );
    cost
}

fn with_proxy(
    stage: &Stage,
    proxy: &Proxy,
    (plan, size): (Plan, usize),
    harness: Cost,
    verdicts: &mut Verdicts,
) -> Cost {
    // What a proxy makes at its start is not a session's.
    thread::sleep(Duration::from_secs(1));
    let processes = proxy.processes();
    let threads_before = memory::threads(&processes);
    let kernel_before = KernelMemory::at_rest();
    let own_before = memory::proportional_set_size(&processes);
    let (mut load, group) = gather(plan, size);
    let threads_then = memory::threads(&processes);
    load.run_for(stage.settle);
    let threads = memory::threads(&processes);
    let own = memory::proportional_set_size(&processes);
    let kernel = KernelMemory::at_rest();
    let cost = Cost {
        own: kib(own_before, own, size),
        kernel: kib(kernel_before.kib, kernel.kib, size) - harness.kernel,
        noise: kib(0, kernel_before.noise + kernel.noise, size) + harness.noise,
    };
    let alive = load.connected(group);
    let asked = load.ask_all(
        group,
        Exchange {
            say: "n NOOP\r\n",
            hear: "n OK",
        },
    );
    load.run_until(Duration::from_secs(30), |load| {
        load.tally(group).rounds.len() == asked
    });
    let tally = load.tally(group);
    let answered = tally.rounds.len();
    report::line(
        proxy.name,
        &format!(
            "{alive} logged in: PSS {:5.1} + kernel {:5.1} ± {:.1} = {:5.1}; \
             threads {threads_before} -> {threads_then} -> {threads}; {answered} of {asked} answer \
             NOOP, {}",
            cost.own,
            cost.kernel,
            cost.noise,
            cost.sum(),
            report::spread(&tally.rounds)
        ),
    );
    for (reason, count) in &tally.failures {
        report::remark(&format!("{count} failed: {reason}"));
    }
    verdicts.insist(
        proxy.name,
        alive == size,
        format!("{alive} of {size} sessions"),
    );
    let what = format!("{answered} of {asked} answered");
    verdicts.insist(proxy.name, answered == asked, what);
    let most = stage.workers.unwrap_or(WORKERS) + OTHER_THREADS;
    let what = format!("{threads} threads, {most} were enough");
    verdicts.insist(proxy.name, threads <= most, what);
    cost
}

/// Logs in so many clients, a few at a time.
fn gather(plan: Plan, size: usize) -> (Load, usize) {
    let mut load = Load::new();
    let group = load.group();
    let plan = Rc::new(plan.then(Then::Stay));
    let first = size.min(AT_A_TIME);
    // Each of the first is followed by a client of the next address, and so on.
    let apart = size.div_ceil(first);
    for client in 0..first {
        load.add(group, &plan, address(client * apart + 1), Instant::now());
    }
    load.queue(group, size - first);
    load.run_until(Duration::from_secs(180), |load| load.is_complete(group));
    (load, group)
}

fn kib(before: u64, after: u64, sessions: usize) -> f64 {
    (after as f64 - before as f64) / sessions as f64
}
