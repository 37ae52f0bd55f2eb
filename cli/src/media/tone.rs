//! Tones in G.711 µ-law, and their detection in packets. Pure.
//!
//! Each side sends its own frequency, so that echo, silence and noise are not counted.

use std::f64::consts::TAU;

/// Samples per second.
pub(crate) const SAMPLE_RATE: u32 = 8000;
/// Samples, and bytes, per packet: 20 ms.
pub(crate) const FRAME: usize = 160;
/// Packets per second.
pub(crate) const FRAMES_PER_SECOND: u64 = 50;

/// A quarter of full scale.
const AMPLITUDE: f64 = 8000.0;
/// Minimal fraction of a packet's energy in the tone. The noise of µ-law is below one percent.
const SHARE: f64 = 0.9;
/// Minimal energy per sample of an audible packet: a tenth of the tone's amplitude.
const AUDIBLE: f64 = AMPLITUDE * AMPLITUDE / 200.0;

/// The two tones. Both are multiples of 50 Hz, so that a packet contains whole periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// The caller's tone.
    Caller,
    /// The callee's tone.
    Callee,
}

impl Tone {
    const fn frequency(self) -> u32 {
        match self {
            Self::Caller => 400,
            Self::Callee => 650,
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }

    /// One packet of the tone.
    pub(crate) fn frame(self) -> [u8; FRAME] {
        let step = TAU * f64::from(self.frequency()) / f64::from(SAMPLE_RATE);
        let mut angle = 0.0;
        std::array::from_fn(|_| {
            let sample = AMPLITUDE * f64::sin(angle);
            angle += step;
            #[expect(clippy::cast_possible_truncation, reason = "the amplitude is a quarter of the range")]
            encode(sample as i16)
        })
    }

    /// Whether a packet consists of this tone: compares the energy at its frequency (Goertzel algorithm) with the total
    /// energy.
    pub(crate) fn is_in(self, frame: &[u8]) -> bool {
        if frame.len() != FRAME {
            return false;
        }
        let factor = 2.0 * f64::cos(TAU * f64::from(self.frequency()) / f64::from(SAMPLE_RATE));
        let (mut last, mut before, mut energy) = (0.0, 0.0, 0.0);
        for byte in frame {
            let sample = f64::from(decode(*byte));
            energy += sample * sample;
            (last, before) = (sample + factor * last - before, last);
        }
        let power = last * last + before * before - factor * last * before;
        let length = frame.len() as f64;
        energy > AUDIBLE * length && power > SHARE * energy * length / 2.0
    }
}

/// Encodes a linear sample as µ-law (ITU-T G.711).
fn encode(sample: i16) -> u8 {
    const BIAS: u16 = 0x84;
    const CLIP: u16 = 32_635;
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = sample.unsigned_abs().min(CLIP) + BIAS;
    // The position of the highest bit (7 to 14) gives the segment.
    let segment = 8 - (magnitude.leading_zeros() as u8).min(8);
    let mantissa = (magnitude >> (segment + 3)) as u8 & 0x0f;
    !(sign | segment << 4 | mantissa)
}

/// Decodes µ-law to a linear sample (ITU-T G.711).
fn decode(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 0x84) << (byte >> 4 & 0x07);
    if byte & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_agrees_with_the_standard() {
        // ITU-T G.711, tables 2a and 2b: values next to the decision values, with both signs, scaled to 16 bits.
        for (byte, sample) in
            [(0xff, 0), (0xfe, 8), (0xef, 132), (0xf0, 120), (0x80, 32_124), (0x00, -32_124), (0x7e, -8)]
        {
            assert_eq!(decode(byte), sample, "{byte:#x}");
        }
        for byte in 0..=u8::MAX {
            // 0x7f is a second zero.
            let expected = if byte == 0x7f { 0xff } else { byte };
            assert_eq!(encode(decode(byte)), expected, "{byte:#x}");
        }
        assert_eq!((encode(i16::MAX), encode(i16::MIN)), (0x80, 0x00));
    }

    #[test]
    fn the_expected_tone_is_detected_and_the_other_tone_silence_and_noise_are_not() {
        let noise: [u8; FRAME] = std::array::from_fn(|i| ((i * 7919 + 13) * 104_729 % 251) as u8);
        for tone in [Tone::Caller, Tone::Callee] {
            assert!(tone.is_in(&tone.frame()));
            for wrong in [tone.other().frame(), [0xff; FRAME], noise] {
                assert!(!tone.is_in(&wrong));
            }
            assert!(!tone.is_in(&tone.frame()[..FRAME - 1]));
        }
    }
}
