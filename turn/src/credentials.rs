//! Time-limited credentials. The server does not store them.
//!
//! The name is `<expiry>:<16 hexadecimal digits>`. The password is the base64 of HMAC-SHA1 over the name, as with coturn's
//! `use-auth-secret` (draft-uberti-behave-turn-rest-00). The digits are random, so a name does not identify its user.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use stun_types::message::{LongTermKeyCredentials, MessageIntegrityCredentials};

/// The realm. A longer one would not fit a 401 of 1.5 times the bytes of the shortest Allocate.
pub const REALM: &str = "turn";

/// How long after its expiry a credential can still refresh its allocations, in seconds. A client renews its credential
/// before it expires, and then moves its call to a new allocation.
pub const GRACE: u64 = 600;

/// The name of a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialName {
    expiry: u64,
    random: u64,
}

impl CredentialName {
    /// Makes the name of a credential that expires at `expiry`, in seconds since 1970.
    pub const fn new(expiry: u64, random: u64) -> Self {
        Self { expiry, random }
    }

    /// Parses a name. Each name has exactly one valid spelling.
    pub fn parse(name: &str) -> Option<Self> {
        let (expiry, random) = name.split_once(':')?;
        let parsed = Self { expiry: expiry.parse().ok()?, random: u64::from_str_radix(random, 16).ok()? };
        (parsed.to_string() == name).then_some(parsed)
    }

    /// When the credential expires, in seconds since 1970.
    pub const fn expiry(&self) -> u64 {
        self.expiry
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.expiry, self.random)
    }
}

impl fmt::Debug for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialName([redacted])")
    }
}

/// The secret from which all passwords are derived.
#[derive(Clone)]
pub struct CredentialSecret(Hmac<Sha1>);

impl CredentialSecret {
    /// Takes a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// Returns the password of a name.
    pub fn password(&self, name: &str) -> String {
        STANDARD.encode(self.0.clone().chain_update(name).finalize().into_bytes())
    }

    /// Returns the credentials with which messages of this user are signed.
    pub(crate) fn credentials(&self, name: CredentialName) -> MessageIntegrityCredentials {
        let name = name.to_string();
        let password = self.password(&name);
        LongTermKeyCredentials::new(name, password, REALM.to_owned()).into()
    }
}

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialSecret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_those_that_coturn_computes() {
        let name = CredentialName::new(1_700_000_600, 0xfeed).to_string();
        assert_eq!(name, "1700000600:000000000000feed");
        // printf %s 1700000600:000000000000feed | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(CredentialSecret::new(b"north").password(&name), "UleHlxf/AZkNwzpeE3bH//TtLD0=");
    }

    #[test]
    fn a_name_has_one_spelling() {
        let name = "1700000600:000000000000feed";
        assert_eq!(CredentialName::parse(name), Some(CredentialName::new(1_700_000_600, 0xfeed)));
        for other in [
            "",
            "1700000600",
            "1700000600:feed",
            "01700000600:000000000000feed",
            "+1700000600:000000000000feed",
            "1700000600:000000000000FEED",
            "1700000600:+00000000000feed",
            "1700000600:000000000000feed:",
            "99999999999999999999:000000000000feed",
            "1700000600:\n00000000000feed",
        ] {
            assert_eq!(CredentialName::parse(other), None, "{other}");
        }
    }
}
