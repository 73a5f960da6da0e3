//! A fuzzer's bytes, read as choices: the same bytes are always the same choices, and when they are used up, every
//! further choice is the first one.
//!
//! Owner: the target that reads it. Must not: fail; any bytes are choices.

/// What is left of an input.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// The whole input.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// One of some values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// Whether something that should be rare is to happen: one byte in eight says so.
    pub fn rarely(&mut self) -> bool {
        self.byte() & 7 == 7
    }

    /// A number of any size; small ones and the ends of their range are likely.
    pub fn number(&mut self) -> i64 {
        match self.byte() {
            0xff => i64::MAX,
            0xfe => i64::MIN,
            0xfd => -2,
            0xfc => -1,
            0xfb => i64::from(i32::MAX),
            0xfa => i64::from(i32::MIN),
            0xf9 => i64::from(self.word()) << 48 | i64::from(self.word()) << 16 | i64::from(self.word()),
            0xf8 => i64::from(self.word()),
            small => i64::from(small),
        }
    }

    /// Up to `size_max` bytes, as many as the next two say.
    pub fn bytes(&mut self, size_max: usize) -> &'a [u8] {
        let size = usize::from(self.word()).min(size_max).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(size);
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Changes a few bytes of `bytes`, if the input wants it.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let at = usize::from(self.word());
            match self.below(5) {
                0 if !bytes.is_empty() => {
                    let at = at % bytes.len();
                    bytes[at] = self.byte();
                }
                1 if !bytes.is_empty() => {
                    let at = at % bytes.len();
                    bytes[at] ^= 1 << self.below(8);
                }
                2 => bytes.truncate(at),
                3 => {
                    let at = at % (bytes.len() + 1);
                    bytes.splice(at..at, self.bytes(64).iter().copied());
                }
                _ => {
                    let (from, to) = (at % (bytes.len() + 1), usize::from(self.word()) % (bytes.len() + 1));
                    bytes.drain(from.min(to)..from.max(to));
                }
            }
        }
    }
}
