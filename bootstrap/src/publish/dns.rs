//! The DNS records of a publication, also in the text format of zone files.

use std::{fmt::Write as _, str::FromStr as _, time::Duration};

use chappe_common::shard::txt_strings;
use hickory_proto::rr::{DNSClass, Name, RData, Record, rdata::TXT};

use super::{Publication, PublishError};

/// A text is not a DNS name.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not a DNS name")]
pub struct NameError {
    name: String,
}

/// The complete set of TXT records of one name. It has at least one record.
#[derive(Debug)]
pub struct RecordSet {
    name: Name,
    ttl: u32,
    texts: Vec<String>,
}

impl RecordSet {
    /// The records of a publication under `name`, with a TTL of `ttl`.
    ///
    /// # Errors
    /// `name` is not a DNS name, or no node fits into DNS.
    pub fn new(publication: &Publication, name: &str, ttl: Duration) -> Result<Self, PublishError> {
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        Ok(Self { name: parse_name(name)?, ttl, texts: publication.texts()? })
    }

    /// The name with its final dot.
    pub fn name(&self) -> String {
        self.name.to_ascii()
    }

    /// The records as lines of a zone file (RFC 1035, section 5).
    pub fn zone(&self) -> String {
        let mut zone = String::new();
        for text in &self.texts {
            // Base64url and `chappe1=` need no escaping between quotes.
            let strings: Vec<_> = txt_strings(text).map(|string| format!("\"{string}\"")).collect();
            writeln!(zone, "{} {} IN TXT {}", self.name.to_ascii(), self.ttl, strings.join(" "))
                .expect("writing to a string does not fail");
        }
        zone
    }

    pub(super) const fn dns_name(&self) -> &Name {
        &self.name
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.texts.iter().map(|text| {
            let data = TXT::new(txt_strings(text).map(str::to_owned).collect());
            let mut record = Record::from_rdata(self.name.clone(), self.ttl, RData::TXT(data));
            record.dns_class = DNSClass::IN;
            record
        })
    }
}

/// Parses a name as absolute, with or without the final dot.
pub(super) fn parse_name(text: &str) -> Result<Name, NameError> {
    let mut name = Name::from_str(text).map_err(|_| NameError { name: text.to_owned() })?;
    name.set_fqdn(true);
    if name.is_root() { Err(NameError { name: text.to_owned() }) } else { Ok(name) }
}
