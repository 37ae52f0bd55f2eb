//! What a message carries, so that its receiver knows that it is the next of its sender, whole and unaltered. No I/O.

use serde::{Deserialize, Serialize};

/// The characters of a stamp.
const STAMP: usize = 32;
/// The period of the pattern that messages are filled with: prime, so that each digit of a stamp shifts it.
const PERIOD: usize = 251;
/// The longest payload.
const LONGEST: usize = 48 * 1024;

/// What stands at the start of each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The number of the sender.
    pub(super) sender: u32,
    /// How many it sent before.
    pub(super) sequence: u32,
    /// When it was due, in nanoseconds of the generator's clock.
    pub(super) due: u64,
}

/// Why a payload is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is from somebody else.
    Misrouted,
    /// It is not what its sender made.
    Altered,
}

/// How many messages were not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Never received.
    pub lost: u64,
    /// Received by somebody else.
    pub misrouted: u64,
    /// Not as sent.
    pub altered: u64,
    /// Received after a later one, or twice.
    pub reordered: u64,
    /// Something else was received, such as an error.
    pub unexpected: u64,
}

impl Faults {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.lost + self.misrouted + self.altered + self.reordered + self.unexpected
    }
}

/// Makes and reads payloads.
#[derive(Debug)]
pub(super) struct Filler(Vec<u8>);

impl Filler {
    pub(super) fn new() -> Self {
        // Printable, and nothing that JSON escapes.
        let letter = |at: usize| b'a' + u8::try_from(at % PERIOD % 26).expect("less than 26");
        let letters = (0..PERIOD + LONGEST).map(letter).collect();
        Self(letters)
    }

    fn of(&self, stamp: Stamp, len: usize) -> &[u8] {
        let period = PERIOD as u64;
        let shift = u64::from(stamp.sender) * 131 + u64::from(stamp.sequence) * 17 + stamp.due % period;
        let from = usize::try_from(shift % period).expect("less than the period");
        &self.0[from..from + len]
    }

    /// Appends a payload of `size` characters, which has to hold a stamp.
    pub(super) fn put(&self, to: &mut Vec<u8>, stamp: Stamp, size: usize) {
        let mut bytes = [0; STAMP / 2];
        bytes[..4].copy_from_slice(&stamp.sender.to_be_bytes());
        bytes[4..8].copy_from_slice(&stamp.sequence.to_be_bytes());
        bytes[8..].copy_from_slice(&stamp.due.to_be_bytes());
        let mut text = [0; STAMP];
        hex::encode_to_slice(bytes, &mut text).expect("twice as many");
        to.extend_from_slice(&text);
        to.extend_from_slice(self.of(stamp, size - STAMP));
    }

    /// The stamp of a payload that `sender` should have made.
    pub(super) fn read(&self, payload: &[u8], sender: u32) -> Result<Stamp, Fault> {
        let (text, filler) = payload.split_first_chunk::<STAMP>().ok_or(Fault::Altered)?;
        let mut bytes = [0; STAMP / 2];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Fault::Altered)?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let due = u64::from(word(8)) << 32 | u64::from(word(12));
        let stamp = Stamp { sender: word(0), sequence: word(4), due };
        if filler.len() > LONGEST || filler != self.of(stamp, filler.len()) {
            return Err(Fault::Altered);
        }
        if stamp.sender != sender {
            return Err(Fault::Misrouted);
        }
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_identifies_its_sender_and_reveals_any_change() {
        let filler = Filler::new();
        let stamp = Stamp { sender: 7, sequence: 3, due: u64::MAX - 1 };
        let mut payload = Vec::new();
        filler.put(&mut payload, stamp, 1024);
        assert_eq!(payload.len(), 1024);
        assert_eq!(filler.read(&payload, 7), Ok(stamp));
        assert_eq!(filler.read(&payload, 8), Err(Fault::Misrouted));
        for at in [0, 5, 9, 15, 16, 31, 32, 500, 1023] {
            let mut altered = payload.clone();
            altered[at] = if altered[at] == b'9' { b'8' } else { b'9' };
            assert_eq!(filler.read(&altered, 7), Err(Fault::Altered), "byte {at}");
        }
        assert_eq!(filler.read(&payload[..31], 7), Err(Fault::Altered));
    }

    #[test]
    fn a_payload_mixed_from_two_messages_is_detected() {
        let filler = Filler::new();
        let payload = |sequence| {
            let mut payload = Vec::new();
            filler.put(&mut payload, Stamp { sender: 1, sequence, due: 0 }, 1024);
            payload
        };
        let mixed = [&payload(1)[..500], &payload(2)[500..]].concat();
        assert_eq!(filler.read(&mixed, 1), Err(Fault::Altered));
    }
}
