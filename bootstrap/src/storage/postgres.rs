//! The PostgreSQL store, which several registries behind a load balancer can share.
//!
//! Each commit increments the version in the federation's row of `chappe_head`, if it still is the version on which the
//! change was decided. So of two concurrent commits one fails. The database rejects a directory whose `seq` is not
//! higher than the last one's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chappe_common::{federation::FederationId, time::UnixTime};
use futures_util::{FutureExt as _, future::BoxFuture};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_postgres::{Client, Config, IsolationLevel, Row, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    CommitError, ReadError, SignedDirectory, Store, StoreUpdate, Version,
    entry::{EntryKind, StoreEntry},
};
use crate::rules::Change;

/// Time limit for connecting, and for one statement or commit. A nearby database answers in milliseconds. A slower one
/// counts as down, so that requests fail before their own time limit.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Number of commits for which deletions are kept: about one minute of a large federation. A registry that was away for
/// longer reads everything again.
pub(super) const TOMBSTONE_COMMITS: u64 = 256;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS chappe_head (
        federation bytea PRIMARY KEY, version bigint NOT NULL, forgotten bigint NOT NULL,
        seq bigint NOT NULL, issued_at bigint NOT NULL, expires_at bigint NOT NULL, bundle bytea NOT NULL
    );
    CREATE TABLE IF NOT EXISTS chappe_entries (
        federation bytea NOT NULL, kind smallint NOT NULL, node bytea NOT NULL, version bigint NOT NULL, body bytea,
        PRIMARY KEY (federation, kind, node)
    );
    CREATE INDEX IF NOT EXISTS chappe_entries_by_version ON chappe_entries (federation, version);";
const FIRST_ROW: &str = "INSERT INTO chappe_head VALUES ($1, 1, 0, 0, 0, 0, '') ON CONFLICT DO NOTHING";
const READ_VERSION: &str = "SELECT version FROM chappe_head WHERE federation = $1";
const READ_HEAD: &str =
    "SELECT version, forgotten, seq, issued_at, expires_at, bundle FROM chappe_head WHERE federation = $1";
const READ_ENTRIES: &str = "SELECT kind, node, body FROM chappe_entries WHERE federation = $1 AND version > $2";
const INCREMENT_VERSION: &str =
    "UPDATE chappe_head SET version = version + 1, forgotten = greatest(forgotten, version - $3)
    WHERE federation = $1 AND version = $2";
const SET_DIRECTORY: &str = "UPDATE chappe_head SET seq = $2, issued_at = $3, expires_at = $4, bundle = $5
    WHERE federation = $1 AND seq < $2";
const SET_ENTRY: &str = "INSERT INTO chappe_entries VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (federation, kind, node) DO UPDATE SET version = $4, body = $5";
const DELETE_TOMBSTONES: &str = "DELETE FROM chappe_entries WHERE federation = $1 AND body IS NULL AND version <= $2";

/// Why the database cannot be used. The errors do not contain the configured URL, which may include a password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not a PostgreSQL URL.
    #[error("storage.url is not a PostgreSQL URL, such as postgres://user@host/database")]
    Url,
    /// The certificate file cannot be read, or contains no certificate.
    #[error("{path} (storage.ca) contains no PEM certificates")]
    Ca {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The database does not answer, or rejects the connection.
    #[error("cannot use the database (storage.url)")]
    Database(#[from] DatabaseError),
}

/// Why a database operation failed. Retrying may help.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No response in time.
    #[error("no response within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The database's own error.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The federation's row was deleted.
    #[error("the federation's row in chappe_head is missing")]
    Gone,
    /// The directory's number is not higher than the last one's.
    #[error("the directory is not newer than the stored one")]
    Seq,
}

/// A PostgreSQL store. It reconnects after a connection loss.
pub(crate) struct Postgres {
    config: Config,
    tls: MakeRustlsConnect,
    federation: FederationId,
    client: Option<Client>,
    /// The task that drives the connection. It ends with the connection or with this value.
    connection: JoinSet<()>,
}

impl Postgres {
    /// Connects, and creates missing tables.
    ///
    /// # Errors
    /// The database cannot be used.
    pub(crate) async fn connect(url: &str, ca: Option<&Path>, federation: FederationId) -> Result<Self, ConnectError> {
        let mut config: Config = url.parse().map_err(|_| ConnectError::Url)?;
        config.application_name("chappe-bootstrap").connect_timeout(TIMEOUT);
        let tls = MakeRustlsConnect::new(tls(ca)?);
        let mut store = Self { config, tls, federation, client: None, connection: JoinSet::new() };
        store.with_client(Self::make_tables).await?;
        Ok(store)
    }

    async fn make_tables(client: &mut Client, federation: FederationId) -> Result<(), DatabaseError> {
        // The lock serializes registries that start at once: otherwise one of them would fail to create the tables.
        let transaction = client.transaction().await?;
        transaction.batch_execute("SELECT pg_advisory_xact_lock(hashtext('chappe'))").await?;
        transaction.batch_execute(TABLES).await?;
        transaction.execute(FIRST_ROW, &[&federation.as_bytes().as_slice()]).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Runs `work` on a working connection within [`TIMEOUT`]. Drops the connection on an error.
    async fn with_client<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client, FederationId) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => timeout(TIMEOUT, self.config.connect(self.tls.clone()))
                .await
                .map_err(|_| DatabaseError::Timeout)?
                .map(|(client, connection)| {
                    self.connection.abort_all();
                    self.connection.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::warn!(error = &error as &dyn std::error::Error, "the database connection ended");
                        }
                    });
                    client
                })?,
        };
        let done = timeout(TIMEOUT, work(&mut client, self.federation)).await.map_err(|_| DatabaseError::Timeout)??;
        self.client = Some(client);
        Ok(done)
    }

    async fn read(
        client: &mut Client,
        federation: FederationId,
        known: Option<Version>,
    ) -> Result<Option<StoreUpdate>, DatabaseError> {
        let federation = federation.as_bytes().as_slice();
        if let Some(known) = known {
            // Nearly all calls end here.
            let row = client.query_opt(READ_VERSION, &[&federation]).await?.ok_or(DatabaseError::Gone)?;
            if Version(unsigned(row.try_get(0)?)) == known {
                return Ok(None);
            }
        }
        // Both queries must see the same state.
        let transaction =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let row = transaction.query_opt(READ_HEAD, &[&federation]).await?.ok_or(DatabaseError::Gone)?;
        let version = Version(unsigned(row.try_get(0)?));
        let forgotten = Version(unsigned(row.try_get(1)?));
        // A version lower than `known` means that the database was restored from a backup.
        let since = known.filter(|known| (forgotten..=version).contains(known));
        let head = head(&row)?;
        let mut update = StoreUpdate { version, complete: since.is_none(), head, ..StoreUpdate::default() };
        let since = signed(since.unwrap_or_default().0);
        for row in transaction.query(READ_ENTRIES, &[&federation, &since]).await? {
            let entry = entry(&row)?;
            update.lost_door_histories += usize::from(entry.as_ref().is_some_and(StoreEntry::lacks_door_history));
            match entry.and_then(|entry| entry.to_change()) {
                Some(change) => update.changes.push(change),
                None => update.damaged += 1,
            }
        }
        transaction.commit().await?;
        Ok(Some(update))
    }

    /// Returns `false` and commits nothing if the state has another version.
    async fn write(
        client: &mut Client,
        federation: FederationId,
        base: Version,
        entries: &[StoreEntry],
        head: Option<&SignedDirectory>,
    ) -> Result<bool, DatabaseError> {
        let federation = federation.as_bytes().as_slice();
        let transaction = client.transaction().await?;
        // Locks the row. Another registry's commit waits here, and then finds another version.
        let raised =
            transaction.execute(INCREMENT_VERSION, &[&federation, &signed(base.0), &signed(TOMBSTONE_COMMITS)]).await?;
        if raised == 0 {
            return Ok(false);
        }
        for StoreEntry { kind, node, body } in entries {
            let (kind, version) = (*kind as i16, signed(base.0 + 1));
            transaction.execute(SET_ENTRY, &[&federation, &kind, &node.as_slice(), &version, body]).await?;
        }
        if let Some(head) = head {
            set_directory(&transaction, federation, head).await?;
        }
        if let Some(old) = base.0.checked_sub(TOMBSTONE_COMMITS) {
            transaction.execute(DELETE_TOMBSTONES, &[&federation, &signed(old)]).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

impl Store for Postgres {
    fn name(&self) -> String {
        "storage.url".to_owned()
    }

    fn read_updates(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<StoreUpdate>, ReadError>> {
        let read = async move |client: &mut Client, federation| Self::read(client, federation, known).await;
        self.with_client(read).map(|read| read.map_err(|error| ReadError(Box::new(error)))).boxed()
    }

    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a SignedDirectory>,
    ) -> BoxFuture<'a, Result<Version, CommitError>> {
        async move {
            let entries: Vec<_> = changes.iter().map(StoreEntry::from_change).collect();
            let write =
                async |client: &mut Client, federation| Self::write(client, federation, base, &entries, head).await;
            match self.with_client(write).await {
                Ok(true) => Ok(Version(base.0 + 1)),
                Ok(false) => Err(CommitError::Conflict),
                Err(error) => Err(CommitError::Failed(Box::new(error))),
            }
        }
        .boxed()
    }
}

async fn set_directory(
    transaction: &Transaction<'_>,
    federation: &[u8],
    head: &SignedDirectory,
) -> Result<(), DatabaseError> {
    let SignedDirectory { seq, issued_at, expires_at, bundle } = head;
    let (seq, issued_at, expires_at) = (signed(*seq), signed(issued_at.as_secs()), signed(expires_at.as_secs()));
    let bundle = bundle.as_ref();
    match transaction.execute(SET_DIRECTORY, &[&federation, &seq, &issued_at, &expires_at, &bundle]).await? {
        0 => Err(DatabaseError::Seq),
        _ => Ok(()),
    }
}

fn head(row: &Row) -> Result<Option<SignedDirectory>, tokio_postgres::Error> {
    let (seq, issued_at, expires_at) =
        (unsigned(row.try_get(2)?), unsigned(row.try_get(3)?), unsigned(row.try_get(4)?));
    let bundle: Vec<u8> = row.try_get(5)?;
    let (issued_at, expires_at) = (UnixTime::from_secs(issued_at), UnixTime::from_secs(expires_at));
    Ok((seq > 0).then(|| SignedDirectory { seq, issued_at, expires_at, bundle: Bytes::from(bundle) }))
}

fn entry(row: &Row) -> Result<Option<StoreEntry>, tokio_postgres::Error> {
    let kind = u8::try_from(row.try_get::<_, i16>(0)?).ok().and_then(EntryKind::from_number);
    let node = row.try_get::<_, &[u8]>(1)?.try_into().ok();
    let body: Option<Vec<u8>> = row.try_get(2)?;
    Ok(kind.zip(node).map(|(kind, node)| StoreEntry { kind, node, body }))
}

/// PostgreSQL has no unsigned integers. Versions and times stay below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// TLS according to the URL's `sslmode`, with the roots in the file `ca` or those of browsers.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unusable = |source| ConnectError::Ca { path: path.to_owned(), source };
            let pem = fs::read(path).map_err(unusable)?;
            let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(unusable(io::ErrorKind::InvalidData.into()));
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
