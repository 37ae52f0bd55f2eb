//! Files of a node's state without which a node can start: the members, the used bytes, the roots' statements, and those of
//! `client.acme`. A damaged one is kept aside as `NAME.damaged`, and counts as missing.

use std::{io, path::Path};

use chappe_common::private_dir::set_aside;
use chappe_discovery::private_file;

/// Reads and decodes the file of at most `longest` bytes. Returns `None` if it is missing, and also if it is damaged or cannot be
/// read, which is logged with what follows from it. Blocks on the disk.
pub(crate) fn load<T>(
    path: &Path,
    longest: u64,
    consequence: &'static str,
    decode: impl FnOnce(Vec<u8>) -> Option<T>,
) -> Option<T> {
    let content = match private_file::read_own(path, longest) {
        Ok(content) => decode(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => None,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, consequence, "cannot read a file of the node's state");
            return None;
        }
    };
    if content.is_none() {
        // Without a copy aside, the next write replaces the file.
        let kept_as = set_aside(path).map_or_else(|_| "nothing".to_owned(), |aside| aside.display().to_string());
        tracing::warn!(file = %path.display(), kept_as, consequence, "a file of the node's state is damaged");
    }
    content
}
