//! What a short session costs: connect, TLS, greeting, login, goodbye. CPU seconds count most, since
//! generator and stub servers share the cores with the proxy.

use crate::arithmetic::{millis, percent, percentile};
use crate::client::{IMAP_LOGIN, LOGOUT, POP3_LOGIN, Plan, SMTP_LOGIN};
use crate::meter::Meter;
use crate::proxies::{Protocol, Proxy, Setup, Who};
use crate::results::{Figure, Results, Values};
use crate::stage::{Case, Stage, Start};
use crate::tls::{Handshake, KeyKind};

use super::{AT_A_TIME, remark_failures, sessions};

/// What nobody counts: the first sessions make what is made once.
const WARM_UP: usize = 200;

const SIZE: usize = 2000;
const SIZE_WITH_TLS: usize = 1000;

static CPU: Figure = Figure::headline("CPU", "s per 1000 logins");
static OTHERS: Figure = Figure::detail("CPU of generator and servers", "s per 1000 logins");
static RATE: Figure = Figure::detail("rate", "logins/s");
static HALF: Figure = Figure::detail("p50", "ms");
static MOST: Figure = Figure::detail("p99", "ms");
static SUCCESS: Figure = Figure::detail("success", "%");
static RESUMED: Figure = Figure::detail("resumed", "%");

/// A case: its name, the protocol, how TLS begins and with which key.
struct Kind {
    name: &'static str,
    protocol: Protocol,
    tls: Option<Handshake>,
    key: KeyKind,
}

const fn plain(name: &'static str, protocol: Protocol) -> Kind {
    Kind {
        name,
        protocol,
        tls: None,
        key: KeyKind::Ecdsa,
    }
}

const fn secured(name: &'static str, handshake: Handshake, key: KeyKind) -> Kind {
    Kind {
        name,
        protocol: Protocol::Imap,
        tls: Some(handshake),
        key,
    }
}

const KINDS: [Kind; 7] = [
    plain("IMAP", Protocol::Imap),
    secured("IMAP, TLS full, ECDSA", Handshake::Full, KeyKind::Ecdsa),
    secured("IMAP, TLS full, RSA", Handshake::Full, KeyKind::Rsa),
    secured(
        "IMAP, TLS resumed, ECDSA",
        Handshake::Resumed,
        KeyKind::Ecdsa,
    ),
    secured("IMAP, TLS resumed, RSA", Handshake::Resumed, KeyKind::Rsa),
    plain("POP3", Protocol::Pop3),
    plain("SMTP", Protocol::Smtp),
];

pub(super) fn play(stage: &Stage, results: &mut Results) {
    for kind in &KINDS {
        let setup = Setup {
            certificate: kind.key,
            who: Who::AllAndKept,
            ..Setup::of(kind.protocol)
        };
        let case = Case {
            measure: "login",
            name: kind.name,
            setup: &setup,
            start: Start::Once,
        };
        let size = stage.scaled(if kind.tls.is_some() {
            SIZE_WITH_TLS
        } else {
            SIZE
        });
        stage.play(&case, results, |proxy| log_in(stage, proxy, kind, size));
    }
}

fn log_in(stage: &Stage, proxy: &Proxy, kind: &Kind, size: usize) -> Result<Values, String> {
    let plan = plan(proxy, kind);
    sessions(plan.clone(), stage.scaled(WARM_UP), AT_A_TIME);
    let meter = Meter::start(proxy, stage);
    let load = sessions(plan, size, AT_A_TIME);
    let used = meter.stop();
    let tally = load.tally(0);
    remark_failures(tally);
    tally.insist_on_a_success()?;
    let logins = tally.successes.len();
    let mut values = used.values(proxy, (&CPU, &OTHERS), logins as f64 / 1000.0);
    values.extend([
        (&RATE, tally.throughput()),
        (&HALF, millis(percentile(&tally.successes, 50))),
        (&MOST, millis(percentile(&tally.successes, 99))),
        (&SUCCESS, percent(logins, tally.attempted)),
    ]);
    if kind.tls == Some(Handshake::Resumed) {
        values.push((&RESUMED, percent(tally.resumed, logins)));
    }
    Ok(values)
}

fn plan(proxy: &Proxy, kind: &Kind) -> Plan {
    let (login, goodbye) = match kind.protocol {
        Protocol::Imap => (IMAP_LOGIN, (LOGOUT, "b OK")),
        Protocol::Pop3 => (POP3_LOGIN, ("QUIT\r\n", "+OK")),
        Protocol::Smtp => (SMTP_LOGIN, ("QUIT\r\n", "221 ")),
    };
    let mut script = login.to_vec();
    script.push(goodbye);
    let target = match kind.tls {
        None => proxy.address(),
        Some(_) => proxy.tls_address(),
    };
    Plan::new(target, &script).over(kind.tls)
}
