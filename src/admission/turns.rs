//! The order in which those who have something to do get a worker: fewest turns first, addresses in turn
//! within the same number, first come within an address.
//!
//! A newcomer goes before the fiftieth command of somebody else, and a client gains nothing by repeating
//! commands that cost nothing. But every fourth goes to another number of turns, each in its turn, so that
//! a flood of newcomers cannot keep those waiting for ever who are further. A few steps for each that
//! comes or goes; nobody walks the queue.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::net::address::LimitKey;

/// A queue of `T`s.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// By the number of turns that they have had.
    levels: BTreeMap<u32, Level<T>>,
    len: usize,
    taken: u64,
    /// The level that was served last out of order.
    other: u32,
}

/// One in so many is taken out of order.
const OUT_OF_ORDER: u64 = 4;

/// Those with the same number of turns.
#[derive(Debug)]
struct Level<T> {
    /// The addresses that have somebody here; the next one in front.
    order: VecDeque<LimitKey>,
    waiting: HashMap<LimitKey, VecDeque<T>>,
}

impl<T> Turns<T> {
    /// A queue with nobody in it.
    pub(super) fn new() -> Self {
        Self {
            levels: BTreeMap::new(),
            len: 0,
            taken: 0,
            other: 0,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Queues somebody of this address who has had so many turns.
    pub(super) fn push(&mut self, turns: u32, address: LimitKey, item: T) {
        let level = self.levels.entry(turns).or_insert_with(|| Level {
            order: VecDeque::new(),
            waiting: HashMap::new(),
        });
        let of_address = level.waiting.entry(address).or_default();
        if of_address.is_empty() {
            level.order.push_back(address);
        }
        of_address.push_back(item);
        self.len += 1;
    }

    fn next_level(&mut self) -> Option<u32> {
        self.taken += 1;
        let (first, _) = self.levels.first_key_value()?;
        if !self.taken.is_multiple_of(OUT_OF_ORDER) {
            return Some(*first);
        }
        let further = self.levels.range(self.other.saturating_add(1)..).next();
        self.other = further.map_or(*first, |(turns, _)| *turns);
        Some(self.other)
    }

    /// Takes whoever is next.
    pub(super) fn pop(&mut self) -> Option<T> {
        let turns = self.next_level()?;
        let level = self.levels.get_mut(&turns)?;
        let address = level.order.pop_front()?;
        let of_address = level.waiting.get_mut(&address)?;
        let item = of_address.pop_front()?;
        if of_address.is_empty() {
            level.waiting.remove(&address);
        } else {
            level.order.push_back(address);
        }
        if level.order.is_empty() {
            self.levels.remove(&turns);
        }
        self.len -= 1;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> LimitKey {
        LimitKey::Ip([192, 0, 2, last].into())
    }

    fn drain(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn who_has_had_fewer_turns_goes_first() {
        let mut turns = Turns::new();
        turns.push(50, address(1), "old");
        turns.push(1, address(1), "second");
        turns.push(0, address(2), "new");
        assert_eq!(drain(&mut turns), ["new", "second", "old"]);
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn a_flood_of_newcomers_does_not_keep_others_waiting_for_ever() {
        let mut turns = Turns::new();
        turns.push(2, address(1), "further");
        turns.push(7, address(1), "chatty");
        for _ in 0..100 {
            turns.push(0, address(2), "new");
        }
        let order = drain(&mut turns);
        let at = |who| order.iter().position(|taken| *taken == who);
        assert_eq!(at("further"), Some(3));
        assert_eq!(at("chatty"), Some(7));
    }

    #[test]
    fn addresses_take_turns_and_an_address_keeps_its_order() {
        let mut turns = Turns::new();
        for item in ["a1", "a2", "a3"] {
            turns.push(0, address(1), item);
        }
        turns.push(0, address(2), "b1");
        turns.push(0, address(3), "c1");
        assert_eq!(drain(&mut turns), ["a1", "b1", "c1", "a2", "a3"]);
    }
}
