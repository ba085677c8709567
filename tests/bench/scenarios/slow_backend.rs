//! A backend that accepts and never greets, and clients of another one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backends::STUCK;
use crate::client::{IMAP_LOGIN, Plan, Then};
use crate::load::{Load, address};
use crate::proxies::Setup;
use crate::report;
use crate::stage::{Stage, Verdicts};

const STUCK_LOGINS: usize = 16;
const LIMIT: Duration = Duration::from_millis(20);

pub(crate) fn play(stage: &Stage) {
    let setup = Setup {
        workers: Some(16),
        routes: true,
        ..Setup::imap()
    };
    let workers = stage.workers.or(setup.workers).unwrap_or_default();
    let run = format!("{STUCK_LOGINS} logins to the slow one, 20 a second to the other");
    report::title(&format!(
        "slow-backend: one of two backends never greets, workers = {workers}"
    ));
    report::run(&run);
    let say: &str = Box::leak(format!("a LOGIN {STUCK} pw\r\n").into_boxed_str());
    let mut verdicts = Verdicts::default();
    stage.each(&setup, |proxy| {
        let mut load = Load::new();
        let (stuck, honest) = (load.group(), load.group());
        let script = [("", "* OK"), (say, "a OK")];
        let plan = Plan::new(proxy.address("imap"), &script).then(Then::Stay);
        let plan = Rc::new(plan);
        for client in 0..STUCK_LOGINS {
            load.add(stuck, &plan, address(client + 1), Instant::now());
        }
        load.run_for(Duration::from_secs(1));
        let plan = Rc::new(Plan {
            patience: Duration::from_secs(15),
            ..Plan::new(proxy.address("imap"), IMAP_LOGIN)
        });
        let now = Instant::now();
        for client in 0..100 {
            let when = now + Duration::from_millis(client * 50);
            let index = usize::try_from(client).expect("small");
            load.add(honest, &plan, address(1000 + index), when);
        }
        load.run_until(Duration::from_secs(25), |load| load.is_complete(honest));
        let tally = load.tally(honest);
        report::logins(proxy.name, tally, Duration::ZERO);
        verdicts.insist_on_logins(proxy, tally, (Duration::ZERO, LIMIT), &run);
    });
    verdicts.announce();
}
