//! The embedded store: one redb file in the data folder, for one registry.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use chappe_common::time::UnixTime;
use futures_util::{FutureExt as _, future::BoxFuture};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{
    CommitError, Head, News, ReadError, Store, Version,
    entry::{Entry, Kind},
};
use crate::rules::Change;

const FILE: &str = "registry.redb";
const ENTRIES: TableDefinition<'_, (u8, [u8; 32]), &[u8]> = TableDefinition::new("entries");
/// `(seq, issued_at, expires_at, bundle)` under 0.
const HEAD: TableDefinition<'_, u8, (u64, u64, u64, &[u8])> = TableDefinition::new("head");
/// The whole state is under 2 MB; redb's default of a gigabyte is for other uses.
const CACHE: usize = 4 * 1024 * 1024;

/// Why the store cannot be opened. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made.
    #[error("cannot use the folder {path} (bootstrap.data_dir)")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is in use by another registry, or is damaged, or no store.
    #[error("cannot open the store {path} (bootstrap.data_dir)")]
    File {
        /// The file.
        path: PathBuf,
        /// The store's reason.
        source: Box<redb::Error>,
    },
}

/// An open store; it holds the file's lock. Nobody else changes it, so its versions are this process's own.
pub(crate) struct Embedded {
    database: Arc<Database>,
    version: Version,
}

impl Embedded {
    /// Opens or makes the store in `dir`. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(dir).map_err(|source| OpenError::Folder { path: dir.to_owned(), source })?;
        let path = dir.join(FILE);
        let open = || -> Result<_, redb::Error> {
            let database = Database::builder().set_cache_size(CACHE).create(&path)?;
            // Makes the tables, so that reading needs no case for a store without them.
            write(&database, &[], None)?;
            Ok(Self { database: Arc::new(database), version: Version(1) })
        };
        open().map_err(|source| OpenError::File { path: path.clone(), source: Box::new(source) })
    }
}

fn read(database: &Database) -> Result<News, redb::Error> {
    let transaction = database.begin_read()?;
    let mut news = News { complete: true, ..News::default() };
    news.head = transaction.open_table(HEAD)?.get(0)?.map(|row| {
        let (seq, issued_at, expires_at, bundle) = row.value();
        let (issued_at, expires_at) = (UnixTime::from_secs(issued_at), UnixTime::from_secs(expires_at));
        Head { seq, issued_at, expires_at, bundle: Bytes::copy_from_slice(bundle) }
    });
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, body) = row?;
        let (kind, node) = key.value();
        let entry = Kind::of(kind).map(|kind| Entry { kind, node, body: Some(body.value().to_vec()) });
        match entry.and_then(|entry| entry.change()) {
            Some(change) => news.changes.push(change),
            None => news.damaged += 1,
        }
    }
    Ok(news)
}

/// Whether it was stored; it isn't where the directory is not newer than the last.
fn write(database: &Database, entries: &[Entry], head: Option<&Head>) -> Result<bool, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(ENTRIES)?;
        for entry in entries {
            let key = (entry.kind as u8, entry.node);
            match &entry.body {
                Some(body) => table.insert(key, body.as_slice())?,
                None => table.remove(key)?,
            };
        }
        let mut table = transaction.open_table(HEAD)?;
        if let Some(Head { seq, issued_at, expires_at, bundle }) = head {
            if table.get(0)?.is_some_and(|last| *seq <= last.value().0) {
                // The transaction ends with nothing done.
                return Ok(false);
            }
            table.insert(0, (*seq, issued_at.as_secs(), expires_at.as_secs(), bundle.as_ref()))?;
        }
    }
    transaction.commit()?;
    Ok(true)
}

impl Store for Embedded {
    fn news(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<News>, ReadError>> {
        async move {
            if known == Some(self.version) {
                return Ok(None);
            }
            let database = Arc::clone(&self.database);
            match tokio::task::spawn_blocking(move || read(&database)).await {
                Ok(Ok(news)) => Ok(Some(News { version: self.version, ..news })),
                Ok(Err(error)) => Err(ReadError(Box::new(error))),
                Err(error) => Err(ReadError(Box::new(error))),
            }
        }
        .boxed()
    }

    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a Head>,
    ) -> BoxFuture<'a, Result<Version, CommitError>> {
        async move {
            if base != self.version {
                return Err(CommitError::Overtaken);
            }
            // Counted before it is tried: where it isn't known what became of a commit, everything is read anew.
            self.version = Version(self.version.0 + 1);
            let (database, head) = (Arc::clone(&self.database), head.cloned());
            let entries: Vec<_> = changes.iter().map(Entry::of).collect();
            // A commit waits for the disk.
            match tokio::task::spawn_blocking(move || write(&database, &entries, head.as_ref())).await {
                Ok(Ok(true)) => Ok(self.version),
                Ok(Ok(false)) => Err(CommitError::Failed("the directory is not newer than the stored one".into())),
                Ok(Err(error)) => Err(CommitError::Failed(Box::new(error))),
                Err(error) => Err(CommitError::Failed(Box::new(error))),
            }
        }
        .boxed()
    }
}
