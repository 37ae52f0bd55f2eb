//! When a certificate is valid, and how its issuer names it.

use chappe_common::time::UnixTime;
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
    ext::pkix::AuthorityKeyIdentifier,
};

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) starts_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

impl Validity {
    /// Returns the validity of the first certificate of a chain. `None` if it cannot be parsed.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = Certificate::from_der(chain.first()?).ok()?;
        let validity = leaf.tbs_certificate().validity();
        let [starts_at, expires_at] = [validity.not_before, validity.not_after]
            .map(|time| UnixTime::from_secs(time.to_unix_duration().as_secs()));
        Some(Self { starts_at, expires_at })
    }

    /// Whether it is valid at this time.
    pub(crate) fn contains(&self, now: UnixTime) -> bool {
        self.starts_at <= now && now < self.expires_at
    }

    /// The whole time in which it is valid.
    pub(crate) const fn life(&self) -> Duration {
        self.expires_at.saturating_since(self.starts_at)
    }
}

/// The authority key identifier and the serial number of a chain's first certificate, as DER contents (RFC 9773, 4.1).
pub(crate) fn renewal_id(chain: &[CertificateDer<'_>]) -> Option<[Vec<u8>; 2]> {
    let leaf = Certificate::from_der(chain.first()?).ok()?;
    let (_, authority) = leaf.tbs_certificate().get_extension::<AuthorityKeyIdentifier>().ok()??;
    let serial = leaf.tbs_certificate().serial_number().to_der().ok()?;
    // Without tag and length, which take a byte each: a serial number has at most 20 bytes.
    Some([authority.key_identifier?.as_bytes().to_vec(), serial.get(2..)?.to_vec()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_are_those_of_the_first_certificate() {
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![0xc0, 0xff, 0xee]);
        let authority = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["relay.example".to_owned()]).expect("a name");
        // The first bit is set, so that the encoding has a leading zero.
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0xca, 0xfe]));
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(2026, 11, 1);
        params.not_after = rcgen::date_time_ymd(2026, 11, 7);
        let chain = [params.signed_by(&key, &authority).expect("a certificate").der().clone()];
        let validity = Validity::of_chain(&chain).expect("a certificate");
        assert_eq!(validity.life(), Duration::from_secs(6 * 24 * 3600));
        assert!(validity.contains(validity.starts_at) && !validity.contains(validity.expires_at));
        assert_eq!(renewal_id(&chain), Some([vec![0xc0, 0xff, 0xee], vec![0, 0xca, 0xfe]]));
        let broken = [CertificateDer::from(vec![0x30, 1])];
        assert_eq!((Validity::of_chain(&broken), renewal_id(&broken)), (None, None));
    }
}
