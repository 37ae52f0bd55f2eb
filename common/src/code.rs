//! Pairing codes: the part of a code that nodes see.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The alphabet of codes: without I, O, 0 and 1, which are easily misread.
pub const CODE_ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// The text is not six characters of [`CODE_ALPHABET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pairing code: six characters of A to Z and 2 to 9 without I and O are expected")]
pub struct ParseCodeError;

/// Six characters under which a client can receive pairing requests. Never printed: anyone who knows them can use the
/// code up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PairingCode([u8; 6]);

impl PairingCode {
    /// Makes a code of 30 random bits, five for each character.
    pub fn from_random(bits: u32) -> Self {
        Self(std::array::from_fn(|i| CODE_ALPHABET[(bits >> (5 * i)) as usize & 31]))
    }

    /// The six characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a code holds only characters of its alphabet")
    }

    /// The six characters as bytes.
    pub const fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }
}

impl FromStr for PairingCode {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        let bytes: [u8; 6] = text.as_bytes().try_into().map_err(|_| ParseCodeError)?;
        if bytes.iter().all(|byte| CODE_ALPHABET.contains(byte)) { Ok(Self(bytes)) } else { Err(ParseCodeError) }
    }
}

impl<'de> Deserialize<'de> for PairingCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <[u8; 6]>::deserialize(deserializer)?;
        if bytes.iter().all(|byte| CODE_ALPHABET.contains(byte)) {
            Ok(Self(bytes))
        } else {
            Err(serde::de::Error::custom(ParseCodeError))
        }
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_six_characters_of_the_alphabet_are_a_code() {
        assert_eq!("ABC234".parse::<PairingCode>().map(|code| code.as_str().to_owned()), Ok("ABC234".to_owned()));
        for wrong in ["", "ABC23", "ABC2345", "ABC23I", "ABC230", "abc234", "ÄBC23"] {
            assert_eq!(wrong.parse::<PairingCode>(), Err(ParseCodeError), "{wrong}");
        }
    }

    #[test]
    fn every_random_number_makes_a_code_that_reads_back() {
        for bits in [0, 1, 31, 32, 0x3fff_ffff, u32::MAX] {
            let code = PairingCode::from_random(bits);
            assert_eq!(code.as_str().parse(), Ok(code));
        }
    }

    #[test]
    fn bytes_outside_the_alphabet_do_not_decode() {
        assert!(postcard::from_bytes::<PairingCode>(b"ABC234").is_ok());
        assert!(postcard::from_bytes::<PairingCode>(b"ABC23\0").is_err());
    }
}
