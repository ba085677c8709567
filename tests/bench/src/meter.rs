//! CPU time between two moments: the proxy's, and that of what surrounds it.

use std::thread;
use std::time::{Duration, Instant};

use crate::proxies::Proxy;
use crate::results::{Figure, Values};
use crate::stage::Stage;
use crate::system;

/// Began to measure.
pub(crate) struct Meter<'a> {
    proxy: &'a Proxy,
    stage: &'a Stage,
    proxy_before: Duration,
    others_before: Duration,
    began: Instant,
}

/// What was used.
pub(crate) struct Used {
    pub(crate) proxy: Duration,
    /// Of the generator and the stub servers.
    pub(crate) others: Duration,
    /// By the clock on the wall.
    pub(crate) elapsed: Duration,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(proxy: &'a Proxy, stage: &'a Stage) -> Self {
        Self {
            proxy,
            stage,
            proxy_before: proxy.cpu_time(),
            others_before: others(stage),
            began: Instant::now(),
        }
    }

    /// What was used since then; what the last sessions leave to do for a moment longer is theirs.
    pub(crate) fn stop(self) -> Used {
        let elapsed = self.began.elapsed();
        thread::sleep(Duration::from_millis(100));
        Used {
            proxy: self.proxy.cpu_time().saturating_sub(self.proxy_before),
            others: others(self.stage).saturating_sub(self.others_before),
            elapsed,
        }
    }
}

impl Used {
    /// The CPU seconds of both for `amount` of the figures' unit. Without a proxy there is nothing to
    /// say of one.
    pub(crate) fn values(
        &self,
        proxy: &Proxy,
        (figure, others): (&'static Figure, &'static Figure),
        amount: f64,
    ) -> Values {
        let mut values = Values::new();
        if !proxy.is_direct() {
            values.push((figure, self.proxy.as_secs_f64() / amount));
        }
        values.push((others, self.others.as_secs_f64() / amount));
        values
    }
}

fn others(stage: &Stage) -> Duration {
    system::own_time() + system::cpu_time(stage.stubs.id())
}
