//! The roots that a command of a root's holder works with.

use std::{fs, path::Path};

use anyhow::{Result, bail};
use chappe_bootstrap::keys::load_statements;
use chappe_common::{
    federation::FederationId,
    keys::PublicKey,
    root_statements::{RootStatement, RootStatements, decode_list},
    roots::Roots,
};
use clap::Args;

/// Names the roots of the federation.
#[derive(Args, Debug)]
pub(super) struct RootArgs {
    /// Root keys of the federation; not needed if the key is its only root
    // Keys are base64url, so one in 64 starts with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Id of the federation, if --root names later roots than its founding ones
    #[arg(long, value_name = "ID", requires = "root")]
    federation: Option<FederationId>,
}

impl RootArgs {
    /// The roots with the statements of `file`. `key` is the root that signs; without `--root`, it is the only one.
    pub(super) fn load(&self, key: PublicKey, file: &Path) -> Result<RootStatements> {
        let pinned = if self.root.is_empty() {
            // A later root is found by the succession that led to it.
            Roots::pinned(vec![key], federation_of(key, file))
        } else {
            Roots::pinned(self.root.clone(), self.federation)
        };
        let known = load_statements(file, pinned)?;
        if !known.roots.knows(&key) {
            bail!("{key} is not one of the root keys");
        }
        Ok(known)
    }
}

/// The federation in which a succession of `file` led to this root. A damaged file is reported when its statements are read.
fn federation_of(root: PublicKey, file: &Path) -> Option<FederationId> {
    let statements = decode_list(fs::read(file).ok()?).ok()?;
    statements.iter().find_map(|statement| match statement {
        RootStatement::Succession(one) if one.new_root() == root => Some(one.federation()),
        _ => None,
    })
}
