//! Payloads. Each says of which flow it is, its number there, and when it was sent; a check finds changes.

const FLOW: usize = 4;
const NUMBER: usize = 4;
const SENT: usize = 8;
const CHECK: usize = 8;

/// What a payload says, in its first bytes. The check is in the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) flow: u32,
    pub(super) number: u32,
    /// Nanoseconds since the generator started.
    pub(super) sent: u64,
}

impl Stamp {
    /// Writes a payload.
    pub(super) fn write(self, payload: &mut [u8]) {
        let stamp = [&self.flow.to_be_bytes()[..], &self.number.to_be_bytes(), &self.sent.to_be_bytes()];
        let mut at = 0;
        for field in stamp {
            payload[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        let check = payload.len() - CHECK;
        payload[check..].copy_from_slice(&self.check().to_be_bytes());
    }

    /// Reads a payload of `len` bytes. Returns `None` if it is not whole.
    pub(super) fn read(payload: &[u8], len: usize) -> Option<Self> {
        if payload.len() != len {
            return None;
        }
        let (flow, rest) = payload.split_first_chunk::<FLOW>()?;
        let (number, rest) = rest.split_first_chunk::<NUMBER>()?;
        let (sent, rest) = rest.split_first_chunk::<SENT>()?;
        let stamp = Self {
            flow: u32::from_be_bytes(*flow),
            number: u32::from_be_bytes(*number),
            sent: u64::from_be_bytes(*sent),
        };
        (*rest.last_chunk::<CHECK>()? == stamp.check().to_be_bytes()).then_some(stamp)
    }

    const fn check(self) -> u64 {
        let packet = (self.flow as u64) << 32 | self.number as u64;
        (packet ^ self.sent.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_payload_is_found_out() {
        let stamp = Stamp { flow: 7, number: 9, sent: 1_000_000 };
        let mut payload = [0; 200];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload, 200), Some(stamp));
        assert_eq!(Stamp::read(&payload[..199], 200), None);
        for index in (0..16).chain(192..200) {
            payload[index] ^= 1;
            assert_eq!(Stamp::read(&payload, 200), None, "byte {index}");
            payload[index] ^= 1;
        }
    }
}
