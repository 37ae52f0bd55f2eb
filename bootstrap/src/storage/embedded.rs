//! The embedded store: one redb file in the data folder, for one registry.
//!
//! After a failed read or write, redb's handle cannot be used any more, even if the disk recovers. So the handle is
//! closed and the file is opened again, with growing delays while that fails.
//!
//! A copy for backups is beside it, because no other process can read the store while it is open.

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
use chappe_discovery::private_file;
use futures_util::{FutureExt as _, future::BoxFuture};
use prometheus_client::metrics::counter::Counter;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{
    CommitError, ReadError, SignedDirectory, Store, StoreUpdate, Version,
    entry::{EntryKind, StoreEntry},
    snapshot::{Snapshot, SnapshotFile},
};
use crate::rules::Change;

const FILE: &str = "registry.redb";
/// All entries as they were when damaged ones were found, in the form of [`Snapshot`].
const DAMAGED: &str = "registry.redb.damaged";
const ENTRIES: TableDefinition<'_, (u8, [u8; 32]), &[u8]> = TableDefinition::new("entries");
/// `(seq, issued_at, expires_at, bundle)` under the key 0.
const HEAD: TableDefinition<'_, u8, (u64, u64, u64, &[u8])> = TableDefinition::new("head");
/// The whole state takes less than 2 MB. redb's default is a gigabyte.
const CACHE: usize = 4 * 1024 * 1024;

/// The first and the longest delay before a failed store is opened again. Each delay is twice the previous one.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Why the store cannot be opened. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used, or others can change its content.
    #[error("cannot use bootstrap.data_dir")]
    Folder(#[from] DirError),
    /// The store is a symbolic link, so it would be created elsewhere.
    #[error("the store {path} (bootstrap.data_dir) is a symbolic link")]
    Link {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file is in use by another registry, is damaged, or is not a store.
    #[error("cannot open the store {path} (bootstrap.data_dir)")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of redb.
        source: Box<redb::Error>,
    },
}

/// The embedded store. It locks its file while open. No other process changes it, so its versions are local to this
/// process.
pub(crate) struct Embedded {
    dir: PathBuf,
    handle: Handle,
    version: Version,
    /// Delay before the store is opened again after the next failure.
    reopen_delay: Duration,
    snapshot: SnapshotFile,
    /// Whether there is a copy with damaged entries.
    has_set_aside: bool,
}

enum Handle {
    Open(Arc<Database>),
    Closed { until: Instant },
}

/// The store has failed, and it is too early to open it again.
#[derive(Debug, thiserror::Error)]
#[error("the store has failed and will be opened again shortly")]
struct Closed;

impl Embedded {
    /// Opens or creates the store in `dir`. Blocks on the disk.
    pub(crate) fn open(dir: &Path, failed_snapshots: Counter) -> Result<Self, OpenError> {
        private_dir::prepare(dir)?;
        let is_new = Self::is_missing(dir);
        let handle = Handle::Open(Arc::new(open(dir)?));
        let snapshot = SnapshotFile::new(dir, failed_snapshots);
        if is_new && snapshot.path().exists() {
            keep_of_lost_store(&dir.join(FILE), &snapshot.path());
        }
        Ok(Self {
            dir: dir.to_owned(),
            handle,
            version: Version(1),
            reopen_delay: FIRST_DELAY,
            snapshot,
            has_set_aside: false,
        })
    }

    /// Whether no store is in `dir`, or an empty file, so that [`Self::open`] creates one. Blocks on the disk.
    pub(crate) fn is_missing(dir: &Path) -> bool {
        match fs::metadata(dir.join(FILE)) {
            Ok(file) => file.len() == 0,
            // Opening reports any other error.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Keeps a copy of the store with its damaged entries, once. The registry goes on without them, and replaces some.
    async fn set_aside(&mut self, update: &StoreUpdate) {
        if self.has_set_aside || update.damaged + update.lost_door_histories == 0 {
            return;
        }
        let Handle::Open(database) = &self.handle else { return };
        let (database, path) = (Arc::clone(database), self.dir.join(DAMAGED));
        // An earlier process has kept entries that were replaced since.
        if path.exists() {
            self.has_set_aside = true;
            return;
        }
        let file = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            Ok(private_file::write_own(&path, &read_snapshot(&database, true)?.encode())?)
        });
        match written.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => {
                self.has_set_aside = true;
                tracing::info!(file, "keeping a copy of the store with its damaged entries");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &*error;
                tracing::warn!(error, "cannot keep a copy of the store with its damaged entries");
            }
        }
    }

    /// Creates a store in `dir` with the content of a snapshot. Blocks on the disk.
    ///
    /// # Errors
    /// The folder or the file cannot be used, or there is a store already.
    pub(crate) fn restore(dir: &Path, snapshot: &Snapshot) -> Result<(), OpenError> {
        private_dir::prepare(dir)?;
        let path = dir.join(FILE);
        let failed = |source| OpenError::File { path: path.clone(), source: Box::new(source) };
        if fs::symlink_metadata(&path).is_ok() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into()));
        }
        let database = open(dir)?;
        write(&database, &snapshot.entries(), snapshot.head().as_ref()).map_err(failed)?;
        Ok(())
    }

    /// Writes the copy for backups if it is due. A failure concerns only that copy.
    async fn update_snapshot(&mut self, changes: &[Change]) {
        if !self.snapshot.is_due(changes, Instant::now()) {
            return;
        }
        let Handle::Open(database) = &self.handle else { return };
        let (database, path) = (Arc::clone(database), self.snapshot.path());
        let written = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            Ok(private_file::write_own(&path, &read_snapshot(&database, false)?.encode())?)
        });
        let result = written.await.unwrap_or_else(|error| Err(error.into()));
        self.snapshot.record(result, Instant::now());
    }

    /// The open database. Opens it again after a failure.
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
                // The result of the last commit is unknown, so readers have to read everything again.
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

    /// Runs `work` on the database, and closes the database on an error.
    async fn with_database<T: Send + 'static>(
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
        let open = std::mem::replace(&mut self.handle, Handle::Closed { until: Instant::now() + self.reopen_delay });
        self.reopen_delay = (self.reopen_delay * 2).min(MAX_DELAY);
        // Closing waits for the disk. If it panics, the panic is logged.
        let _ = tokio::task::spawn_blocking(move || drop(open)).await;
    }
}

/// Keeps the backup copy of a store that was lost or emptied. The new store would soon replace it.
fn keep_of_lost_store(store: &Path, copy: &Path) {
    let kept_as = private_dir::set_aside(copy).map_or_else(|_| "nothing".to_owned(), |path| path.display().to_string());
    tracing::warn!(
        store = %store.display(),
        kept_as,
        "the store is missing or empty, though there is a copy for backups: nodes register again, but removals are forgotten. \
         Restore the last backup, or remove the nodes again"
    );
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn open(dir: &Path) -> Result<Database, OpenError> {
    let path = dir.join(FILE);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
        return Err(OpenError::Link { path });
    }
    let open = || -> Result<_, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE).create(&path)?;
        // Creates the tables, so that reading can rely on them, and checks that the disk accepts a commit.
        write(&database, &[], None)?;
        Ok(database)
    };
    open().map_err(|source| OpenError::File { path: path.clone(), source: Box::new(source) })
}

fn read(database: &Database) -> Result<StoreUpdate, redb::Error> {
    let transaction = database.begin_read()?;
    let mut update = StoreUpdate { complete: true, ..StoreUpdate::default() };
    update.head = transaction.open_table(HEAD)?.get(0)?.map(|row| {
        let (seq, issued_at, expires_at, bundle) = row.value();
        let (issued_at, expires_at) = (UnixTime::from_secs(issued_at), UnixTime::from_secs(expires_at));
        SignedDirectory { seq, issued_at, expires_at, bundle: Bytes::copy_from_slice(bundle) }
    });
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, body) = row?;
        let (kind, node) = key.value();
        let entry =
            EntryKind::from_number(kind).map(|kind| StoreEntry { kind, node, body: Some(body.value().to_vec()) });
        update.lost_door_histories += usize::from(entry.as_ref().is_some_and(StoreEntry::lacks_door_history));
        match entry.and_then(|entry| entry.to_change()) {
            Some(change) => update.changes.push(change),
            None => update.damaged += 1,
        }
    }
    Ok(update)
}

/// All rows, and without `with_damaged` those that can be decoded: the others would make a backup useless.
fn read_snapshot(database: &Database, with_damaged: bool) -> Result<Snapshot, redb::Error> {
    let transaction = database.begin_read()?;
    let head = transaction.open_table(HEAD)?.get(0)?.map(|row| {
        let (seq, issued_at, expires_at, bundle) = row.value();
        (seq, issued_at, expires_at, Bytes::copy_from_slice(bundle))
    });
    let mut entries = Vec::new();
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, body) = row?;
        let (kind, node) = key.value();
        let body = Bytes::copy_from_slice(body.value());
        let is_valid = || {
            let kind = EntryKind::from_number(kind)?;
            StoreEntry { kind, node, body: Some(body.to_vec()) }.to_change()
        };
        if with_damaged || is_valid().is_some() {
            entries.push((kind, node, body));
        }
    }
    Ok(Snapshot::new(head, entries))
}

/// Returns `false` and stores nothing if the directory is not newer than the last one.
fn write(database: &Database, entries: &[StoreEntry], head: Option<&SignedDirectory>) -> Result<bool, redb::Error> {
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
        if let Some(SignedDirectory { seq, issued_at, expires_at, bundle }) = head {
            if table.get(0)?.is_some_and(|last| *seq <= last.value().0) {
                // Dropping the transaction rolls it back.
                return Ok(false);
            }
            table.insert(0, (*seq, issued_at.as_secs(), expires_at.as_secs(), bundle.as_ref()))?;
        }
    }
    transaction.commit()?;
    Ok(true)
}

impl Store for Embedded {
    fn name(&self) -> String {
        self.dir.join(FILE).display().to_string()
    }

    fn read_updates(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<StoreUpdate>, ReadError>> {
        async move {
            // Open a failed store now, before a request needs it.
            self.database().await.map_err(ReadError)?;
            if known == Some(self.version) {
                return Ok(None);
            }
            let update = self.with_database(read).await.map_err(ReadError)?;
            self.set_aside(&update).await;
            Ok(Some(StoreUpdate { version: self.version, ..update }))
        }
        .boxed()
    }

    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a SignedDirectory>,
    ) -> BoxFuture<'a, Result<Version, CommitError>> {
        async move {
            if base != self.version {
                return Err(CommitError::Conflict);
            }
            // Increment before the attempt: if its result is unknown, readers have to read everything again.
            self.version = Version(self.version.0 + 1);
            let head = head.cloned();
            let entries: Vec<_> = changes.iter().map(StoreEntry::from_change).collect();
            // Blocks on the disk.
            match self.with_database(move |database| write(database, &entries, head.as_ref())).await {
                Ok(true) => {
                    self.reopen_delay = FIRST_DELAY;
                    self.update_snapshot(changes).await;
                    Ok(self.version)
                }
                Ok(false) => Err(CommitError::Failed("the directory is not newer than the stored one".into())),
                Err(error) => Err(CommitError::Failed(error)),
            }
        }
        .boxed()
    }
}

/// Changes the bodies of entries, given their kind and node, as a failing disk does.
#[cfg(test)]
pub(super) fn alter(dir: &Path, change: impl Fn(u8, [u8; 32], &mut Vec<u8>)) {
    let database = open(dir).expect("a store");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut table = transaction.open_table(ENTRIES).expect("a table");
        let rows: Vec<_> = table
            .iter()
            .expect("readable")
            .map(|row| row.map(|(key, body)| (key.value(), body.value().to_vec())).expect("readable"))
            .collect();
        for ((kind, node), mut body) in rows {
            change(kind, node, &mut body);
            table.insert((kind, node), body.as_slice()).expect("writable");
        }
    }
    transaction.commit().expect("writable");
}
