//! The pairing code that people read to each other: `LOCATOR-SECRET`. A link or QR code has a longer secret.
//!
//! Only the locator is sent to a relay. The secret is the password of CPace. An attacker gets one guess at its 20
//! bits.

use std::{fmt, str::FromStr};

use chappe_common::code::{CODE_ALPHABET, PairingCode};
use rand::CryptoRng;
use zeroize::Zeroizing;

/// Length of the secret that people read: 20 bits.
const SECRET_LEN: usize = 4;
/// Length of the secret in a link or QR code: 128 bits.
const LINK_SECRET_LEN: usize = 26;
/// The longest accepted secret: twice the 26 characters of 128 bits.
const MAX_SECRET: usize = 52;

/// The text is not a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a code: six characters, a dash and four characters are expected, of A to Z and 2 to 9 without I and O")]
pub struct ParsePhraseError;

/// A code as people see it. Never printed: only [`Phrase::reveal`] shows it.
#[derive(Clone)]
pub struct Phrase {
    locator: PairingCode,
    secret: Zeroizing<String>,
}

impl Phrase {
    /// Generates a code to be read aloud.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        Self::with_secret::<SECRET_LEN>(random)
    }

    /// Generates a code for a link or QR code, with a secret of 128 bits.
    pub fn generate_for_link(random: &mut impl CryptoRng) -> Self {
        Self::with_secret::<LINK_SECRET_LEN>(random)
    }

    fn with_secret<const N: usize>(random: &mut impl CryptoRng) -> Self {
        let locator = PairingCode::from_random(random.next_u32());
        let mut bytes = Zeroizing::new([0; N]);
        random.fill_bytes(&mut *bytes);
        // 256 is a multiple of 32, so all characters are equally likely.
        let secret = bytes.iter().map(|byte| char::from(CODE_ALPHABET[usize::from(byte & 31)])).collect();
        Self { locator, secret: Zeroizing::new(secret) }
    }

    /// The same secret with a new locator, for when the locator is taken.
    #[must_use]
    pub fn relocated(self, random: &mut impl CryptoRng) -> Self {
        Self { locator: PairingCode::from_random(random.next_u32()), secret: self.secret }
    }

    /// The part that relays see.
    pub const fn locator(&self) -> PairingCode {
        self.locator
    }

    /// The part that only the two people know.
    pub fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// The whole code, for display.
    pub fn reveal(&self) -> String {
        format!("{}-{}", self.locator.as_str(), *self.secret)
    }
}

impl FromStr for Phrase {
    type Err = ParsePhraseError;

    /// Parses what a person typed: in any case, with spaces around it, or a space for the dash.
    fn from_str(text: &str) -> Result<Self, ParsePhraseError> {
        let text = Zeroizing::new(text.trim().to_ascii_uppercase());
        let (locator, secret) = text.split_once(['-', ' ']).ok_or(ParsePhraseError)?;
        let secret = secret.trim();
        if !(SECRET_LEN..=MAX_SECRET).contains(&secret.len()) || !secret.bytes().all(|b| CODE_ALPHABET.contains(&b)) {
            return Err(ParsePhraseError);
        }
        let locator = locator.parse().map_err(|_| ParsePhraseError)?;
        Ok(Self { locator, secret: Zeroizing::new(secret.to_owned()) })
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase([redacted])")
    }
}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A code as a person types it.
    pub const CODE: (&str, fn(&[u8]) -> bool) = ("code", |text| {
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let Ok(phrase) = text.parse::<Phrase>() else { return false };
        let again: Phrase = phrase.reveal().parse().expect("what is shown can be typed");
        assert_eq!(again.reveal(), phrase.reveal());
        true
    });
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_fresh_code_reads_back_however_it_is_typed() {
        let phrase = Phrase::generate(&mut StdRng::seed_from_u64(1));
        let shown = phrase.reveal();
        assert_eq!(shown.len(), 11);
        for typed in [shown.clone(), format!(" {} ", shown.to_lowercase()), shown.replace('-', " ")] {
            let read: Phrase = typed.parse().expect("a code");
            assert_eq!(read.reveal(), shown);
        }
        let long = Phrase::generate_for_link(&mut StdRng::seed_from_u64(1));
        assert_eq!(long.reveal().len(), 33);
        assert_eq!(long.reveal().parse::<Phrase>().expect("a code").secret(), long.secret());
        let moved = phrase.clone().relocated(&mut StdRng::seed_from_u64(2));
        assert!(moved.locator() != phrase.locator() && moved.secret() == phrase.secret());
    }

    #[test]
    fn an_invalid_code_is_refused() {
        for wrong in ["", "ABC234", "ABC234-", "ABC234-ABC", "ABC23-ABCD", "ABC234-ABC0", "ABC234-AB CD", "ÄBC234-ABCD"]
        {
            assert!(wrong.parse::<Phrase>().is_err(), "{wrong}");
        }
        assert!(format!("ABC234-{}", "A".repeat(26)).parse::<Phrase>().is_ok());
        assert!(format!("ABC234-{}", "A".repeat(53)).parse::<Phrase>().is_err());
        assert!(!format!("{:?}", "ABC234-WXYZ".parse::<Phrase>()).contains("WXYZ"));
    }

    #[test]
    fn mutated_codes_read_as_they_are_shown() {
        let long = Phrase::generate_for_link(&mut StdRng::seed_from_u64(1)).reveal();
        chappe_mutations::run(fuzzed::CODE, &["ABC234-WXYZ", " abc234 wxyz ", &long]);
    }
}
