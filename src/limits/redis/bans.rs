//! Bans that nodes share: what is banned here goes into the store, what is banned elsewhere comes from it into
//! the list in memory. Nobody waits for that: one thread does it about once a second.
//!
//! The store says who is banned. One that has lost everything says so by another epoch, and gets from each
//! node what that knows; what was changed here while the store was gone is told when it is back.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::RedisResult;

use super::conn::StoreConn;
use super::scripts::{BANS, BANS_STATE, Scripts};
use crate::blocklist::{Ban, BanChange, Blocklist, MOST};

/// Changes that are told at a time.
const AT_A_TIME: usize = 500;

/// How far the bans of a store are known.
#[derive(Debug, Default)]
pub(super) struct BanSync {
    epoch: String,
    version: String,
}

impl BanSync {
    /// Tells what has changed here, and learns what has changed elsewhere: the ranges that are banned since then.
    ///
    /// # Errors
    /// The store cannot be asked; what was to be told is kept.
    pub(super) fn sync(
        &mut self,
        conn: &mut StoreConn,
        scripts: &Scripts,
        blocklist: &Blocklist,
    ) -> RedisResult<Vec<IpNet>> {
        let changes = blocklist.take_changes();
        let told = self.tell_and_list(conn, scripts, blocklist, &changes);
        if told.is_err() {
            blocklist.keep_changes(changes);
            // Whatever is known of it was perhaps not all.
            self.version.clear();
        }
        let Some(bans) = told? else {
            return Ok(Vec::new());
        };
        Ok(blocklist.learn(bans))
    }

    fn tell_and_list(
        &mut self,
        conn: &mut StoreConn,
        scripts: &Scripts,
        blocklist: &Blocklist,
        changes: &[(IpNet, BanChange)],
    ) -> RedisResult<Option<Vec<Ban>>> {
        let (mut epoch, mut version) = tell(conn, scripts, changes)?;
        if epoch != self.epoch {
            let known = blocklist.bans().into_iter().map(|ban| {
                let until = ban.left.and_then(|left| Instant::now().checked_add(left));
                (ban.net, BanChange::Banned(until))
            });
            (epoch, version) = tell(conn, scripts, &known.collect::<Vec<_>>())?;
        }
        if epoch == self.epoch && version == self.version {
            return Ok(None);
        }
        let mut list = scripts.list_bans.key(BANS);
        let held: Vec<Vec<u8>> = list.arg(MOST).invoke(conn)?;
        (self.epoch, self.version) = (epoch, version);
        Ok(Some(held.chunks_exact(2).filter_map(ban).collect()))
    }
}

/// Tells changes; epoch and version of the store.
fn tell(
    conn: &mut StoreConn,
    scripts: &Scripts,
    changes: &[(IpNet, BanChange)],
) -> RedisResult<(String, String)> {
    let mut rest = changes;
    loop {
        let (some, more) = rest.split_at(rest.len().min(AT_A_TIME));
        let mut change = scripts.change_bans.key(BANS);
        change.key(BANS_STATE).arg(super::random_name());
        for (net, what) in some {
            change.arg(net.to_string()).arg(left(*what));
        }
        let said = change.invoke(conn)?;
        if more.is_empty() {
            return Ok(said);
        }
        rest = more;
    }
}

/// The time of a change as the script takes it.
fn left(change: BanChange) -> i64 {
    match change {
        BanChange::Lifted => 0,
        BanChange::Banned(None) => -1,
        BanChange::Banned(Some(until)) => {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            i64::try_from(left).unwrap_or(i64::MAX).max(1)
        }
    }
}

/// A ban as the store has it. What is none is not taken.
fn ban(pair: &[Vec<u8>]) -> Option<Ban> {
    let [net, left] = pair else {
        return None;
    };
    let net: IpNet = std::str::from_utf8(net).ok()?.parse().ok()?;
    let left: i64 = std::str::from_utf8(left).ok()?.parse().ok()?;
    Some(Ban {
        net: net.trunc(),
        left: u64::try_from(left).ok().map(Duration::from_millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ban_is_not_taken() {
        let of = |net: &[u8], left: &[u8]| ban(&[net.to_vec(), left.to_vec()]);
        let good = of(b"192.0.2.9/24", b"1500").expect("a ban");
        assert_eq!(good.net.to_string(), "192.0.2.0/24");
        assert_eq!(good.left, Some(Duration::from_millis(1500)));
        assert_eq!(of(b"::1/128", b"-1").expect("a ban").left, None);
        for (net, left) in [
            (&b"x"[..], &b"1"[..]),
            (b"192.0.2.9/33", b"1"),
            (b"\xff", b"1"),
            (b"::1/128", b"1e99"),
            (b"::1/128", b""),
        ] {
            assert!(of(net, left).is_none());
        }
        assert_eq!(left(BanChange::Lifted), 0);
        assert_eq!(left(BanChange::Banned(None)), -1);
        assert_eq!(left(BanChange::Banned(Some(Instant::now()))), 1);
    }
}
