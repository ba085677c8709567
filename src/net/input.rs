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
    /// Bytes not used yet are `bytes[start..end]`. Passwords pass through it, and none is left elsewhere in it:
    /// there are zeros, or ciphertext where a read took that there first.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
}

impl Input {
    /// A buffer for at most `limit` bytes; it holds no memory yet.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            limit,
        }
    }

    /// Another limit from now on; what was read stays.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// What was read and not used.
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Forgets and wipes the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        let used = self.start..(self.start + n).min(self.end);
        self.start = used.end;
        self.bytes[used].zeroize();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Forgets everything, and holds no memory.
    pub(super) fn clear(&mut self) {
        self.consume(self.held().len());
        self.bytes = Vec::new();
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
        let room = self.bytes.len().min(self.limit);
        let room = &mut self.bytes[self.end..room];
        let got = read(room);
        match &got {
            Ok(n) => self.end += n,
            // Whatever it has left there.
            Err(_) => room.zeroize(),
        }
        got
    }

    /// A vector that grew by itself would leave copies of a password behind.
    fn make_room(&mut self) {
        if self.end < self.bytes.len().min(self.limit) {
            return;
        }
        let held = self.held().len();
        let wanted = match self.start {
            0 => (2 * self.bytes.len()).max(BEGIN),
            _ => self.bytes.len().max(BEGIN),
        };
        let mut larger = Vec::with_capacity(wanted.min(self.limit).max(held));
        larger.extend_from_slice(self.held());
        larger.resize(larger.capacity(), 0);
        self.clear();
        self.bytes = larger;
        self.end = held;
    }

    /// Everything held, without the buffer.
    pub(super) fn into_held(self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.held().to_vec())
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.clear();
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
        input.consume(4);
        assert_eq!(input.bytes[..], [0; BEGIN]);
    }

    #[test]
    fn another_limit_holds_for_what_is_there_already() {
        let mut input = Input::new(1 << 20);
        feed(&mut input, b"0123456789");
        input.consume(4);
        input.set_limit(8);
        assert_eq!(feed(&mut input, b"abcdef"), 2);
        assert!(input.is_full());
        assert_eq!(input.held(), b"456789ab");
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
