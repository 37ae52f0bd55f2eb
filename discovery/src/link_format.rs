//! What all kinds of links share: `version ‖ postcard ‖ checksum` in base32, as a QR code's text or in a URL.
//!
//! A QR code holds a prefix and base32 in capitals, which QR's alphanumeric mode encodes in 5.5 bits per character. A
//! link is `https://<any site>/<path>#` and the same base32; browsers do not send that part to the server. The checksum is
//! the first four bytes of SHA-256 of the bytes before it: it detects typos, and is not a signature.

use data_encoding::BASE32_NOPAD;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

pub(crate) const CHECKSUM: usize = 4;

/// One kind of link.
pub(crate) struct LinkFormat {
    /// In front of the base32 in a QR code.
    pub(crate) prefix: &'static str,
    /// The last part of a link's path, with its slash.
    pub(crate) path: &'static str,
    pub(crate) version: u8,
    /// Maximal length in bytes.
    pub(crate) max_bytes: usize,
    /// Maximal length of a text that is parsed.
    pub(crate) max_text: usize,
}

/// Why a text is not a link of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFormatError {
    /// The text has neither of the two forms, or is not base32.
    #[error("not a link: {prefix}… or https://…{path}#… is expected")]
    Text {
        /// In front of the content of a QR code.
        prefix: &'static str,
        /// The end of a URL's path.
        path: &'static str,
    },
    /// The text is longer than a link can be.
    #[error("the link is too long")]
    TooLong,
    /// The checksum is wrong: a character is missing or wrong.
    #[error("a character of the link is missing or wrong")]
    Checksum,
    /// The link is for a later version of this software.
    #[error("the link needs a newer version: update this software")]
    Version,
    /// The content is invalid.
    #[error("the link is damaged")]
    Malformed,
}

impl LinkFormat {
    /// Decodes the content of a QR code, or of a link that a person has pasted.
    pub(crate) fn decode_text<T: DeserializeOwned>(&self, text: &str) -> Result<T, LinkFormatError> {
        let text = text.trim();
        if text.len() > self.max_text {
            return Err(LinkFormatError::TooLong);
        }
        let other = LinkFormatError::Text { prefix: self.prefix, path: self.path };
        let text = match text.split_once('#') {
            Some((site, rest)) if site.starts_with("https://") && site.ends_with(self.path) => rest,
            Some(_) => return Err(other),
            None if self.has_prefix(text) => text,
            None => return Err(other),
        };
        let text = text.to_ascii_uppercase();
        let text = text.strip_prefix(self.prefix).unwrap_or(&text);
        self.decode(&BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| other)?)
    }

    fn has_prefix(&self, text: &str) -> bool {
        text.get(..self.prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(self.prefix))
    }

    /// Decodes the bytes of a link.
    pub(crate) fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, LinkFormatError> {
        if bytes.len() > self.max_bytes {
            return Err(LinkFormatError::TooLong);
        }
        let (bytes, check) = bytes.split_last_chunk::<CHECKSUM>().ok_or(LinkFormatError::Checksum)?;
        if checksum(bytes) != *check {
            return Err(LinkFormatError::Checksum);
        }
        let (version, body) = bytes.split_first().ok_or(LinkFormatError::Malformed)?;
        if *version != self.version {
            return Err(LinkFormatError::Version);
        }
        match postcard::take_from_bytes(body) {
            Ok((body, [])) => Ok(body),
            _ => Err(LinkFormatError::Malformed),
        }
    }

    /// The bytes of a link, however many they are.
    pub(crate) fn encode(&self, body: &impl Serialize) -> Vec<u8> {
        let mut bytes = postcard::to_extend(body, vec![self.version]).expect("owned values always encode");
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// The content of a QR code.
    pub(crate) fn qr_text(&self, bytes: &[u8]) -> String {
        format!("{}{}", self.prefix, BASE32_NOPAD.encode(bytes))
    }

    /// The link as a URL.
    pub(crate) fn url(&self, site: &str, bytes: &[u8]) -> String {
        format!("{}{}#{}", site.trim_end_matches('/'), self.path, BASE32_NOPAD.encode(bytes))
    }
}

pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    [digest[0], digest[1], digest[2], digest[3]]
}
