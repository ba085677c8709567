//! A table of bounded size with constant cost: what has no room pushes out what weighs least.
//!
//! Keys are not kept, only a hash of 64 bits with a random key of the process, which also chooses one of the
//! buckets. Nobody outside can tell which keys share a bucket, so that nobody can push out an entry of his
//! choice; whoever wants to push out all of them has to weigh more, everywhere. Buckets are allocated as
//! they are needed.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::time::Instant;

/// Entries of a bucket.
const WAYS: usize = 8;

/// What decides who gives way in a full bucket.
pub(super) trait Weighs {
    /// The least goes.
    type Weight: Ord;

    /// How much it weighs now.
    fn weight(&self, now: Instant) -> Self::Weight;
}

/// At most `buckets * 8` values.
pub(super) struct Table<V> {
    hasher: RandomState,
    buckets: Vec<Vec<(u64, V)>>,
}

impl<V: Weighs> Table<V> {
    /// An empty table for so many values, which is a power of two from 8 on.
    pub(super) fn new(most: usize) -> Self {
        let buckets = (most / WAYS).max(1);
        Self {
            hasher: RandomState::new(),
            buckets: std::iter::repeat_with(Vec::new).take(buckets).collect(),
        }
    }

    /// What such a table takes when it is full, in bytes.
    #[cfg(test)]
    pub(super) const fn most_bytes(most: usize) -> usize {
        let of_bucket = size_of::<Vec<(u64, V)>>() + WAYS * size_of::<(u64, V)>();
        most / WAYS * of_bucket
    }

    fn place(&self, key: impl Hash) -> (u64, usize) {
        let hash = self.hasher.hash_one(key);
        // A remainder is smaller than the number of buckets.
        let bucket = usize::try_from(hash % self.buckets.len() as u64).unwrap_or(0);
        (hash, bucket)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: impl Hash) -> Option<&V> {
        let (tag, bucket) = self.place(key);
        let found = self.buckets[bucket].iter().find(|(own, _)| *own == tag);
        found.map(|(_, value)| value)
    }

    /// The value of a key, or a new one in the place of what weighs least in a full bucket.
    pub(super) fn entry(
        &mut self,
        key: impl Hash,
        now: Instant,
        new: impl FnOnce() -> V,
    ) -> &mut V {
        let (tag, bucket) = self.place(key);
        let bucket = &mut self.buckets[bucket];
        let at = bucket.iter().position(|(own, _)| *own == tag);
        let at = at.unwrap_or_else(|| {
            let lightest = || {
                let weights = bucket.iter().enumerate();
                weights.min_by_key(|(_, (_, value))| value.weight(now))
            };
            match lightest().filter(|_| bucket.len() >= WAYS) {
                Some((lightest, _)) => {
                    bucket[lightest] = (tag, new());
                    lightest
                }
                None => {
                    if bucket.len() == bucket.capacity() {
                        bucket.reserve_exact(bucket.len().max(1));
                    }
                    bucket.push((tag, new()));
                    bucket.len() - 1
                }
            }
        });
        &mut bucket[at].1
    }
}

impl<V> std::fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held: usize = self.buckets.iter().map(Vec::len).sum();
        write!(f, "Table {{ {held} entries }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighs for u32 {
        type Weight = u32;

        fn weight(&self, _: Instant) -> u32 {
            *self
        }
    }

    #[test]
    fn a_flood_of_light_entries_pushes_out_no_heavy_one() {
        let now = Instant::now();
        let mut table = Table::new(1024);
        for key in 0..100 {
            *table.entry(("heavy", key), now, || 0) = 3;
        }
        for key in 0..100_000 {
            table.entry(("light", key), now, || 1);
        }
        // More than eight of a hundred in one of 128 buckets do not occur.
        assert!((0..100).all(|key| table.get(("heavy", key)) == Some(&3)));
        let held: usize = table.buckets.iter().map(Vec::len).sum();
        assert_eq!(held, 1024);
        assert!(table.buckets.iter().all(|bucket| bucket.capacity() <= WAYS));
    }

    #[test]
    fn an_entry_is_found_again() {
        let now = Instant::now();
        let mut table = Table::new(64);
        *table.entry("a", now, || 1) += 1;
        assert_eq!(*table.entry("a", now, || 7), 2);
        assert_eq!(table.get("b"), None);
    }
}
