//! What was read from a peer and not used yet: wiped, and never larger than its limit.
//!
//! It begins small and grows as it is filled, since most of what is read before a login is short and
//! thousands of connections wait at a time. What the bytes mean is the caller's business.

use zeroize::{Zeroize, Zeroizing};

/// Room that a buffer begins with.
const BEGIN: usize = 1024;

/// Bytes read ahead.
#[derive(Debug)]
pub(super) struct Input {
    /// Bytes not used yet are `bytes[start..]`. Wiped: passwords pass through it.
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
    limit: usize,
}

impl Input {
    /// A buffer for at most `limit` bytes; it holds no memory yet.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: Zeroizing::default(),
            start: 0,
            limit,
        }
    }

    /// Another limit from now on; what was read stays.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// What was read and not used.
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Forgets and wipes the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        let used = self.start..(self.start + n).min(self.bytes.len());
        self.start = used.end;
        self.bytes[used].zeroize();
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Forgets everything, and holds no memory.
    pub(super) fn clear(&mut self) {
        self.bytes = Zeroizing::default();
        self.start = 0;
    }

    /// Whether it can take no more.
    pub(super) fn is_full(&self) -> bool {
        self.held().len() >= self.limit
    }

    /// Gives `read` room for at least one byte, which the caller has made sure of with `is_full`, and
    /// keeps as many bytes as it says it has filled.
    pub(super) fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.make_room();
        let held = self.bytes.len();
        let room = self.bytes.capacity().min(self.limit);
        self.bytes.resize(room, 0);
        let got = read(&mut self.bytes[held..]);
        let n = *got.as_ref().unwrap_or(&0);
        self.bytes.truncate(held + n);
        got
    }

    /// A vector that grew by itself would leave copies of a password behind.
    fn make_room(&mut self) {
        let held = self.held().len();
        if self.bytes.len() < self.bytes.capacity().min(self.limit) {
            return;
        }
        let wanted = match self.start {
            0 => (2 * self.bytes.capacity()).max(BEGIN),
            _ => self.bytes.capacity().max(BEGIN),
        };
        let mut larger = Zeroizing::new(Vec::with_capacity(wanted.min(self.limit).max(held)));
        larger.extend_from_slice(self.held());
        self.bytes = larger;
        self.start = 0;
    }

    /// Everything held, without the buffer.
    pub(super) fn into_held(self) -> Zeroizing<Vec<u8>> {
        match self.start {
            0 if !self.bytes.is_empty() => self.bytes,
            _ => Zeroizing::new(self.held().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(input: &mut Input, bytes: &[u8]) -> usize {
        let read = |room: &mut [u8]| {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            Ok::<_, ()>(n)
        };
        input.fill(read).expect("cannot fail")
    }

    #[test]
    fn it_grows_up_to_its_limit_and_keeps_what_it_holds() {
        let mut input = Input::new(3000);
        let text: Vec<u8> = (0..3000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut fed = 0;
        while !input.is_full() {
            fed += feed(&mut input, &text[fed..]);
        }
        assert_eq!(input.held(), text);
        input.consume(2999);
        assert_eq!(input.held(), &text[2999..]);
        assert!(!input.is_full());
        feed(&mut input, b"abc");
        assert_eq!(&input.held()[1..], b"abc");
    }

    #[test]
    fn what_was_used_is_wiped() {
        let mut input = Input::new(1 << 20);
        feed(&mut input, b"secret\nrest");
        input.consume(7);
        assert_eq!(input.held(), b"rest");
        assert_eq!(input.bytes[..7], [0; 7]);
    }

    #[test]
    fn nothing_held_is_no_memory() {
        let mut input = Input::new(1 << 20);
        assert_eq!(input.bytes.capacity(), 0);
        feed(&mut input, b"x");
        assert!(input.bytes.capacity() <= BEGIN);
        input.clear();
        assert_eq!(input.bytes.capacity(), 0);
    }
}
