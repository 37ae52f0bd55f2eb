//! The embedded store: one redb file in the data folder, for one registry.
//!
//! redb gives up a handle on which reading or writing has failed once, whatever becomes of the disk. So a handle that has failed
//! is closed, and the file opened again, with growing pauses while that fails.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    private_dir::{self, DirError},
    time::UnixTime,
};
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

/// The first and the longest pause before a store that has failed is opened again; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why the store cannot be opened. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be used, or others may change what stands in it.
    #[error("bootstrap.data_dir can't be used")]
    Folder(#[from] DirError),
    /// The store is a link: it would be made wherever that leads.
    #[error("the store {path} (bootstrap.data_dir) is a link")]
    Link {
        /// The file.
        path: PathBuf,
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

/// A store; while it is open it holds the file's lock. Nobody else changes it, so its versions are this process's own.
pub(crate) struct Embedded {
    dir: PathBuf,
    handle: Handle,
    version: Version,
    /// How long the next failure keeps the store closed.
    pause: Duration,
}

enum Handle {
    Open(Arc<Database>),
    Closed { until: Instant },
}

/// The store has failed, and it is too early to open it again.
#[derive(Debug, thiserror::Error)]
#[error("the store has failed and is about to be opened again")]
struct Closed;

impl Embedded {
    /// Opens or makes the store in `dir`. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        private_dir::prepare(dir)?;
        let handle = Handle::Open(Arc::new(open(dir)?));
        Ok(Self { dir: dir.to_owned(), handle, version: Version(1), pause: FIRST_PAUSE })
    }

    /// The open store, which is opened if it has failed before.
    async fn database(&mut self) -> Result<Arc<Database>, Failure> {
        match &self.handle {
            Handle::Open(database) => return Ok(Arc::clone(database)),
            Handle::Closed { until } if Instant::now() < *until => return Err(Box::new(Closed)),
            Handle::Closed { .. } => {}
        }
        let dir = self.dir.clone();
        let opened = match tokio::task::spawn_blocking(move || open(&dir)).await {
            Ok(Ok(database)) => Ok(Arc::new(database)),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        };
        match opened {
            Ok(database) => {
                // What became of the last commit isn't known: everything is read anew.
                self.version = Version(self.version.0 + 1);
                self.handle = Handle::Open(Arc::clone(&database));
                Ok(database)
            }
            Err(error) => {
                self.close().await;
                Err(error)
            }
        }
    }

    /// Does one thing with the store. One on which something failed is closed.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let database = self.database().await?;
        let failure: Failure = match tokio::task::spawn_blocking(move || work(&database)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        self.close().await;
        Err(failure)
    }

    async fn close(&mut self) {
        let open = std::mem::replace(&mut self.handle, Handle::Closed { until: Instant::now() + self.pause });
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // Closing waits for the disk. A panic in there has been logged, and leaves nothing to do here.
        let _ = tokio::task::spawn_blocking(move || drop(open)).await;
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn open(dir: &Path) -> Result<Database, OpenError> {
    let path = dir.join(FILE);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
        return Err(OpenError::Link { path });
    }
    let open = || -> Result<_, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE).create(&path)?;
        // Makes the tables, so that reading needs no case for a store without them, and shows that the disk takes a commit.
        write(&database, &[], None)?;
        Ok(database)
    };
    open().map_err(|source| OpenError::File { path: path.clone(), source: Box::new(source) })
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
            // A store that has failed is opened before anybody needs it, and read anew.
            self.database().await.map_err(ReadError)?;
            if known == Some(self.version) {
                return Ok(None);
            }
            let news = self.with(read).await.map_err(ReadError)?;
            Ok(Some(News { version: self.version, ..news }))
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
            let head = head.cloned();
            let entries: Vec<_> = changes.iter().map(Entry::of).collect();
            // A commit waits for the disk.
            match self.with(move |database| write(database, &entries, head.as_ref())).await {
                Ok(true) => {
                    self.pause = FIRST_PAUSE;
                    Ok(self.version)
                }
                Ok(false) => Err(CommitError::Failed("the directory is not newer than the stored one".into())),
                Err(error) => Err(CommitError::Failed(error)),
            }
        }
        .boxed()
    }
}
