//! How an input is changed: bits, bytes, lengths and numbers at their edges, pieces of others, and words of JSON.

/// Numbers at which lengths, counts and times break.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
/// What is put into texts.
const WORDS: [&[u8]; 20] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"\\u0000",
    b"\\ud800",
    b"\r\n",
    b"\0",
    b"\xFF",
    b"\xE2\x82",
    b"18446744073709551616",
    b" ",
];

/// A source of inputs.
pub(crate) struct Changes {
    state: u64,
    longest: usize,
}

impl Changes {
    /// The inputs of a seed, none longer than `longest` bytes.
    pub(crate) const fn new(seed: u64, longest: usize) -> Self {
        Self { state: seed, longest }
    }

    /// One of `pool`, changed once or a few times.
    pub(crate) fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = pool[self.below(pool.len())].clone();
        loop {
            self.change(&mut bytes, pool);
            if self.below(2) == 0 {
                break;
            }
        }
        bytes.truncate(self.longest);
        bytes
    }

    /// A number below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    const fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn edge(&mut self) -> u64 {
        let edge = EDGES[self.below(EDGES.len())];
        if self.below(4) == 0 { edge.wrapping_sub(1) } else { edge }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(12) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.random() as u8;
                }
            }
            2 => {
                let word = self.random().to_le_bytes();
                let len = 1 + self.below(8);
                insert(bytes, at, &word[..len]);
            }
            3 => drop(bytes.drain(at.min(end)..end)),
            4 => {
                let part = bytes[at.min(end)..end].to_vec();
                insert(bytes, at, &part);
            }
            5 => bytes.truncate(at),
            6 => {
                // The head of one and the tail of another.
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len() + 1);
                let to = (from + 1 + self.below(32)).min(other.len());
                insert(bytes, at, &other[from.min(to)..to]);
            }
            8 => {
                let (edge, len) = (self.edge(), 1 << self.below(4));
                let number = if self.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let number = if self.below(2) == 0 { &number[..len] } else { &number[8 - len..] };
                bytes.iter_mut().skip(at).zip(number).for_each(|(byte, by)| *byte = *by);
            }
            9 => {
                let (varint, len) = varint(self.edge());
                replace(bytes, at, 1, &varint[..len]);
            }
            10 => {
                // A number in a text.
                let from = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |found| at + found);
                let len = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = self.edge().to_string();
                replace(bytes, from, len, number.as_bytes());
            }
            _ => insert(bytes, at, WORDS[self.below(WORDS.len())]),
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    replace(bytes, at, 0, part);
}

fn replace(bytes: &mut Vec<u8>, at: usize, len: usize, part: &[u8]) {
    let end = (at + len).min(bytes.len());
    drop(bytes.splice(at..end, part.iter().copied()));
}

/// A number as postcard writes it: seven bits a byte, the lowest first.
fn varint(mut number: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = number as u8 & 0x7F;
        number >>= 7;
        if number == 0 {
            return (bytes, index + 1);
        }
        *byte |= 0x80;
    }
    (bytes, 10)
}
