//! Bans: addresses and ranges that an operator, or a program of his, keeps out for a time. In memory, and
//! bounded in number.
//!
//! A look-up asks once for each length of prefix that occurs, which is nearly always one or two; how many
//! bans there are does not matter.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Most bans at a time.
pub(crate) const MOST: usize = 10_000;

/// One ban, for a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ban {
    /// Who is kept out.
    pub net: IpNet,
    /// For how long yet; `None` is without end.
    pub left: Option<Duration>,
}

/// What was done here and others are to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BanChange {
    /// Banned, until then if there is an end.
    Banned(Option<Instant>),
    /// Banned no longer.
    Lifted,
}

/// All bans.
#[derive(Debug, Default)]
pub(super) struct Bans {
    /// Until when each is.
    until: HashMap<IpNet, Option<Instant>>,
    /// What others were not told yet; `None` where there are no others.
    untold: Option<HashMap<IpNet, BanChange>>,
    /// How many there are of each length of prefix, IPv6 apart.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Bans {
    /// Bans a range without low bits; one that is banned already has its time changed.
    ///
    /// # Errors
    /// There are too many already.
    pub(super) fn add(&mut self, net: IpNet, until: Option<Instant>) -> Result<(), String> {
        if !self.until.contains_key(&net) {
            if self.until.len() >= MOST {
                self.forget_past(Instant::now());
            }
            if self.until.len() >= MOST {
                return Err(format!("there are {MOST} bans already, which is the most"));
            }
            *self.lengths.entry(length(net)).or_default() += 1;
        }
        self.until.insert(net, until);
        Ok(())
    }

    /// Ends the ban of exactly this range; whether there was one.
    pub(super) fn remove(&mut self, net: IpNet) -> bool {
        let Some(until) = self.until.remove(&net) else {
            return false;
        };
        if let Some(count) = self.lengths.get_mut(&length(net)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(net));
            }
        }
        !is_past(until, Instant::now())
    }

    /// Others are to be told of changes from now on, or nobody.
    pub(super) fn set_shared(&mut self, shared: Option<()>) {
        self.untold = shared.map(|()| self.untold.take().unwrap_or_default());
    }

    /// An operator has changed something.
    pub(super) fn note(&mut self, net: IpNet, change: BanChange) {
        if let Some(untold) = &mut self.untold {
            untold.insert(net, change);
        }
    }

    /// What others are to be told.
    pub(super) fn take_untold(&mut self) -> Vec<(IpNet, BanChange)> {
        let untold = self.untold.as_mut().map(std::mem::take);
        untold.into_iter().flatten().collect()
    }

    /// They could not be told; what was done since then counts.
    pub(super) fn keep_untold(&mut self, changes: Vec<(IpNet, BanChange)>) {
        if let Some(untold) = &mut self.untold {
            for (net, change) in changes {
                untold.entry(net).or_insert(change);
            }
        }
    }

    /// These hold from now on, as others say, and besides what they were not told yet. Returns those that are
    /// new here.
    pub(super) fn learn(&mut self, bans: Vec<Ban>, now: Instant) -> Vec<IpNet> {
        let before = std::mem::take(&mut self.until);
        self.lengths.clear();
        for (net, change) in self.untold.clone().unwrap_or_default() {
            if let BanChange::Banned(until) = change {
                // There was room for it before.
                let _ = self.add(net, until);
            }
        }
        let mut new = Vec::new();
        for ban in bans {
            let untold = self.untold.as_ref();
            let is_ours = untold.is_some_and(|untold| untold.contains_key(&ban.net));
            let until = ban.left.and_then(|left| now.checked_add(left));
            // What is one too many is as many as there were here.
            if !is_ours && self.add(ban.net, until).is_ok() && !before.contains_key(&ban.net) {
                new.push(ban.net);
            }
        }
        new
    }

    /// Whether it is kept out at this moment.
    pub(super) fn contain(&self, ip: IpAddr, now: Instant) -> bool {
        let of_family = self
            .lengths
            .keys()
            .filter(|(is_v6, _)| *is_v6 == ip.is_ipv6());
        let mut nets = of_family.filter_map(|(_, bits)| IpNet::new(ip, *bits).ok());
        nets.any(|net| {
            let until = self.until.get(&net.trunc());
            until.is_some_and(|until| !is_past(*until, now))
        })
    }

    /// Lets go of those whose time is over.
    pub(super) fn forget_past(&mut self, now: Instant) {
        let past = self.until.iter().filter(|(_, until)| is_past(**until, now));
        let past: Vec<IpNet> = past.map(|(net, _)| *net).collect();
        for net in past {
            self.remove(net);
        }
    }

    /// Those of this moment, by address.
    pub(super) fn list(&self, now: Instant) -> Vec<Ban> {
        let bans = self
            .until
            .iter()
            .filter(|(_, until)| !is_past(**until, now));
        let mut bans: Vec<Ban> = bans
            .map(|(net, until)| Ban {
                net: *net,
                left: until.map(|until| until.saturating_duration_since(now)),
            })
            .collect();
        bans.sort_by_key(|ban| ban.net);
        bans
    }
}

fn length(net: IpNet) -> (bool, u8) {
    (matches!(net, IpNet::V6(_)), net.prefix_len())
}

fn is_past(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a literal")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal")
    }

    #[test]
    fn a_ban_holds_until_its_time_is_over_or_it_is_taken_back() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        bans.add(net("192.0.2.0/24"), Some(later)).expect("room");
        bans.add(net("2001:db8::1/128"), None).expect("room");
        assert!(bans.contain(ip("192.0.2.7"), now));
        assert!(!bans.contain(ip("192.0.3.7"), now));
        assert!(!bans.contain(ip("192.0.2.7"), later));
        assert!(bans.contain(ip("2001:db8::1"), later));
        assert_eq!(bans.list(now).len(), 2);
        assert_eq!(bans.list(later).len(), 1);
        // Another time for the same range is no second ban.
        bans.add(net("192.0.2.0/24"), None).expect("room");
        assert!(bans.contain(ip("192.0.2.7"), later));
        assert!(bans.remove(net("192.0.2.0/24")) && !bans.remove(net("192.0.2.0/24")));
        assert!(!bans.contain(ip("192.0.2.7"), now));
        bans.forget_past(later);
        assert!(bans.remove(net("2001:db8::1/128")));
        assert!(bans.lengths.is_empty() && bans.until.is_empty());
    }

    #[test]
    fn what_others_say_holds_but_for_what_they_were_not_told() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        bans.add(net("192.0.2.1/32"), None).expect("room");
        bans.note(net("192.0.2.1/32"), BanChange::Banned(None));
        assert!(bans.take_untold().is_empty());
        bans.set_shared(Some(()));
        for (text, change) in [
            ("192.0.2.2/32", BanChange::Banned(None)),
            ("192.0.2.3/32", BanChange::Lifted),
        ] {
            bans.note(net(text), change);
        }
        let ban = |text, left: Option<u64>| Ban {
            net: net(text),
            left: left.map(Duration::from_secs),
        };
        let said = vec![ban("192.0.2.3/32", None), ban("192.0.2.4/32", Some(9))];
        assert_eq!(bans.learn(said.clone(), now), [net("192.0.2.4/32")]);
        let held = |bans: &Bans, last| bans.contain(ip(&format!("192.0.2.{last}")), now);
        assert_eq!(
            [1, 2, 3, 4].map(|last| held(&bans, last)),
            [false, true, false, true]
        );
        let untold = bans.take_untold();
        assert_eq!(untold.len(), 2);
        bans.note(net("192.0.2.3/32"), BanChange::Banned(None));
        bans.keep_untold(untold);
        assert!(bans.learn(said, now).is_empty());
        assert!(held(&bans, 3) && held(&bans, 2));
        bans.set_shared(None);
        assert!(bans.take_untold().is_empty());
    }

    #[test]
    fn there_are_so_many_and_those_that_are_over_make_room() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let of = |n: usize| {
            let bits = u32::try_from(n).expect("it is small");
            IpNet::from(IpAddr::from(Ipv4Addr::from(bits)))
        };
        for n in 0..MOST {
            bans.add(of(n), Some(now + Duration::from_secs(3600)))
                .expect("room");
        }
        assert!(bans.add(of(MOST), None).is_err());
        bans.add(of(0), Some(now)).expect("it is there already");
        bans.add(of(MOST), None).expect("one is over");
        assert!(bans.add(of(MOST + 1), None).is_err());
    }
}
