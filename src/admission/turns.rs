//! The order in which those who have something to do get a worker: fewest turns first, addresses in turn
//! within the same number, first come within an address.
//!
//! A newcomer goes before the fiftieth command of somebody else, and a client gains nothing by repeating
//! commands that cost nothing. A few steps for each that comes or goes; nobody walks the queue.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::net::address::LimitKey;

/// A queue of `T`s.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// By the number of turns that they have had.
    levels: BTreeMap<u32, Level<T>>,
    len: usize,
}

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

    /// Takes whoever is next.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut first = self.levels.first_entry()?;
        let level = first.get_mut();
        let address = level.order.pop_front()?;
        let of_address = level.waiting.get_mut(&address)?;
        let item = of_address.pop_front()?;
        if of_address.is_empty() {
            level.waiting.remove(&address);
        } else {
            level.order.push_back(address);
        }
        if level.order.is_empty() {
            first.remove();
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
