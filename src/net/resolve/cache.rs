//! Answers that are still valid; bounded in number, and in size by what an answer may hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::proto::rr::{Name, RecordType};

/// Most answers that are kept; each is a name or at most [`super::answer::MAX_ADDRESSES`] addresses.
pub(super) const MAX_ENTRIES: usize = 4096;

/// A question: the name in lower case, and the type of record.
pub(super) type Key = (Name, RecordType);

/// What is remembered of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a PTR.
    HostName(Arc<str>),
    /// Of A or AAAA; never empty.
    Addresses(Arc<[IpAddr]>),
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, (Value, Instant)>,
}

impl Cache {
    /// The answer to a question, with the time until which it is valid.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<(Value, Instant)> {
        self.entries
            .get(key)
            .filter(|(_, valid_until)| *valid_until > now)
            .cloned()
    }

    /// Remembers an answer; when full, at the cost of those that end soonest.
    pub(super) fn insert(&mut self, key: Key, value: Value, valid_until: Instant, now: Instant) {
        if valid_until <= now {
            return;
        }
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        self.entries.insert(key, (value, valid_until));
    }

    /// An eighth at a time, so that a full cache is not searched at each insertion.
    fn make_room(&mut self, now: Instant) {
        self.entries
            .retain(|_, (_, valid_until)| *valid_until > now);
        let surplus = self.entries.len().saturating_sub(MAX_ENTRIES / 8 * 7);
        if surplus == 0 {
            return;
        }
        let mut ends: Vec<Instant> = self.entries.values().map(|(_, end)| *end).collect();
        let (_, &mut last, _) = ends.select_nth_unstable(surplus - 1);
        let mut left = surplus;
        self.entries.retain(|_, (_, end)| {
            let goes = left > 0 && *end <= last;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: usize) -> Key {
        let name = Name::from_ascii(format!("h{number}.example.")).expect("name");
        (name, RecordType::A)
    }

    #[test]
    fn an_answer_is_gone_when_its_time_is_over() {
        let now = Instant::now();
        let value = Value::HostName("a.example".into());
        let end = now + Duration::from_secs(5);
        let mut cache = Cache::default();
        cache.insert(key(1), value.clone(), end, now);
        assert_eq!(cache.find(&key(1), now), Some((value.clone(), end)));
        assert_eq!(cache.find(&key(1), end), None);
        assert_eq!(cache.find(&key(2), now), None);
        cache.insert(key(2), value, now, now);
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn the_number_of_answers_is_bounded_and_the_soonest_to_end_go_first() {
        let now = Instant::now();
        let mut cache = Cache::default();
        for number in 0..3 * MAX_ENTRIES {
            let end = now + Duration::from_secs(1 + number as u64);
            cache.insert(key(number), Value::Addresses(Arc::new([])), end, now);
            assert!(cache.entries.len() <= MAX_ENTRIES);
        }
        assert!(cache.entries.len() > MAX_ENTRIES / 2);
        assert!(cache.find(&key(3 * MAX_ENTRIES - 1), now).is_some());
        assert!(cache.find(&key(0), now).is_none());
        let same_end = now + Duration::from_secs(1);
        let mut cache = Cache::default();
        for number in 0..2 * MAX_ENTRIES {
            cache.insert(key(number), Value::Addresses(Arc::new([])), same_end, now);
            assert!(cache.entries.len() <= MAX_ENTRIES);
        }
        assert!(cache.entries.len() > MAX_ENTRIES / 2);
    }
}
