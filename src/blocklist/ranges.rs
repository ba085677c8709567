//! Whether an address lies in one of many ranges: sorted, without overlaps, found by halves. A hundred
//! thousand take seventeen steps.

use std::net::IpAddr;

use ipnet::IpNet;

/// Ranges of addresses, each with its first and last one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// Those that these cover together.
    pub(super) fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut ranges = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => {
                    let ends = (net.network().to_bits(), net.broadcast().to_bits());
                    ranges.v4.push(ends);
                }
                IpNet::V6(net) => {
                    let ends = (net.network().to_bits(), net.broadcast().to_bits());
                    ranges.v6.push(ends);
                }
            }
        }
        merge(&mut ranges.v4);
        merge(&mut ranges.v6);
        ranges
    }

    /// Whether it lies in one of them.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => is_in(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => is_in(&self.v6, ip.to_bits()),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

fn merge<N: Ord + Copy>(ranges: &mut Vec<(N, N)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.shrink_to_fit();
}

fn is_in<N: Ord + Copy>(ranges: &[(N, N)], address: N) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    let before = behind.checked_sub(1).and_then(|at| ranges.get(at));
    before.is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal")
    }

    fn ranges(nets: &[&str]) -> Ranges {
        Ranges::new(nets.iter().map(|net| net.parse().expect("a literal")))
    }

    #[test]
    fn ends_are_inside_and_what_lies_beside_is_not() {
        let some = ranges(&["192.0.2.4/30", "2001:db8::/64", "10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(some.len(), 3);
        for inside in ["192.0.2.4", "192.0.2.7", "10.0.0.0", "10.255.255.255"] {
            assert!(some.contain(ip(inside)), "{inside}");
        }
        assert!(some.contain(ip("2001:db8::ffff:ffff:ffff:ffff")));
        for outside in ["192.0.2.3", "192.0.2.8", "11.0.0.0", "9.255.255.255"] {
            assert!(!some.contain(ip(outside)), "{outside}");
        }
        assert!(!some.contain(ip("2001:db8:0:1::")));
        // The same bits in the other family.
        assert!(!some.contain(ip("::a00:1")));
        assert!(!Ranges::default().contain(ip("10.0.0.1")));
        let all = ranges(&["0.0.0.0/0", "::/0"]);
        assert!(all.contain(ip("255.255.255.255")) && all.contain(ip("::")));
    }

    #[test]
    fn a_hundred_thousand_ranges_cost_a_look_up_no_time() {
        let nets = (0..100_000_u32).map(|n| IpNet::from(IpAddr::from(Ipv4Addr::from(n * 20_000))));
        let many = Ranges::new(nets);
        assert_eq!(many.len(), 100_000);
        let began = Instant::now();
        let found = (0..200_000_u32).filter(|n| many.contain(Ipv4Addr::from(n * 10_000).into()));
        assert_eq!(found.count(), 100_000);
        // A list that is walked takes minutes for it.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}
