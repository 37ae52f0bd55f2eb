//! The store in PostgreSQL, which several registries behind a balancer share.
//!
//! The row of the federation in `chappe_head` is what makes them one: each commit raises its version from the one that
//! the change was decided on, so that of two that were decided on the same state one fails. The database never takes a
//! directory whose `seq` isn't higher than the last.

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
    CommitError, Head, News, ReadError, Store, Version,
    entry::{Entry, Kind},
};
use crate::rules::Change;

/// For connecting, and for one statement or commit. A database next door answers in milliseconds; one that takes longer
/// is down, and requests must be told so before their own time is over.
const WAIT: Duration = Duration::from_secs(3);
/// Of how many commits it is remembered what they deleted: about a minute's of a large federation. Who has slept for
/// longer reads everything anew.
pub(super) const REMEMBERED: u64 = 256;

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
const LOOK: &str = "SELECT version FROM chappe_head WHERE federation = $1";
const READ_HEAD: &str =
    "SELECT version, forgotten, seq, issued_at, expires_at, bundle FROM chappe_head WHERE federation = $1";
const READ_ENTRIES: &str = "SELECT kind, node, body FROM chappe_entries WHERE federation = $1 AND version > $2";
const RAISE: &str = "UPDATE chappe_head SET version = version + 1, forgotten = greatest(forgotten, version - $3)
    WHERE federation = $1 AND version = $2";
const SET_DIRECTORY: &str = "UPDATE chappe_head SET seq = $2, issued_at = $3, expires_at = $4, bundle = $5
    WHERE federation = $1 AND seq < $2";
const SET_ENTRY: &str = "INSERT INTO chappe_entries VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (federation, kind, node) DO UPDATE SET version = $4, body = $5";
const FORGET: &str = "DELETE FROM chappe_entries WHERE federation = $1 AND body IS NULL AND version <= $2";

/// Why the database cannot be used. The config's URL is in none of these: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none.
    #[error("storage.url is not one of PostgreSQL, such as postgres://user@host/database")]
    Url,
    /// The file with certificates can't be read, or holds none.
    #[error("{path} (storage.ca) holds no certificates in PEM")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The database doesn't answer, or doesn't let this registry in.
    #[error("cannot use the database (storage.url)")]
    Database(#[from] DatabaseError),
}

/// What is wrong with the database. Another try may work.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No answer in time.
    #[error("no answer in {} s", WAIT.as_secs())]
    Timeout,
    /// Its own reason.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The row of the federation has been deleted.
    #[error("the federation's row in chappe_head is gone")]
    Gone,
    /// The directory's number is not higher than the last one's.
    #[error("the directory is not newer than the stored one")]
    Seq,
}

/// A database, with a connection that is made anew when it is lost.
pub(crate) struct Postgres {
    config: Config,
    tls: MakeRustlsConnect,
    federation: FederationId,
    client: Option<Client>,
    /// The task that moves the connection's bytes; it ends with the connection, or with this.
    connection: JoinSet<()>,
}

impl Postgres {
    /// Connects, and makes the tables where they aren't there.
    ///
    /// # Errors
    /// The database can't be used.
    pub(crate) async fn connect(url: &str, ca: Option<&Path>, federation: FederationId) -> Result<Self, ConnectError> {
        let mut config: Config = url.parse().map_err(|_| ConnectError::Url)?;
        config.application_name("chappe-bootstrap").connect_timeout(WAIT);
        let tls = MakeRustlsConnect::new(tls(ca)?);
        let mut store = Self { config, tls, federation, client: None, connection: JoinSet::new() };
        store.within(Self::make_tables).await?;
        Ok(store)
    }

    async fn make_tables(client: &mut Client, federation: FederationId) -> Result<(), DatabaseError> {
        // Two registries that start at once would both make the tables, and one of them fail: the lock is for that.
        let transaction = client.transaction().await?;
        transaction.batch_execute("SELECT pg_advisory_xact_lock(hashtext('chappe'))").await?;
        transaction.batch_execute(TABLES).await?;
        transaction.execute(FIRST_ROW, &[&federation.as_bytes().as_slice()]).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Does one thing with a working connection, in bounded time. A connection on which something failed is given up.
    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client, FederationId) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => timeout(WAIT, self.config.connect(self.tls.clone()))
                .await
                .map_err(|_| DatabaseError::Timeout)?
                .map(|(client, connection)| {
                    self.connection.abort_all();
                    self.connection.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::warn!(error = &error as &dyn std::error::Error, "the database's connection ended");
                        }
                    });
                    client
                })?,
        };
        let done = timeout(WAIT, work(&mut client, self.federation)).await.map_err(|_| DatabaseError::Timeout)??;
        self.client = Some(client);
        Ok(done)
    }

    async fn read(
        client: &mut Client,
        federation: FederationId,
        known: Option<Version>,
    ) -> Result<Option<News>, DatabaseError> {
        let federation = federation.as_bytes().as_slice();
        if let Some(known) = known {
            // What nearly every call ends with.
            let row = client.query_opt(LOOK, &[&federation]).await?.ok_or(DatabaseError::Gone)?;
            if Version(unsigned(row.try_get(0)?)) == known {
                return Ok(None);
            }
        }
        // One state for both queries, whatever is committed between them.
        let transaction =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let row = transaction.query_opt(READ_HEAD, &[&federation]).await?.ok_or(DatabaseError::Gone)?;
        let version = Version(unsigned(row.try_get(0)?));
        let forgotten = Version(unsigned(row.try_get(1)?));
        // A version that is lower than what is known is another database's: a backup was played back.
        let since = known.filter(|known| (forgotten..=version).contains(known));
        let head = head(&row)?;
        let mut news = News { version, complete: since.is_none(), head, ..News::default() };
        let since = signed(since.unwrap_or_default().0);
        for row in transaction.query(READ_ENTRIES, &[&federation, &since]).await? {
            match entry(&row)?.and_then(|entry| entry.change()) {
                Some(change) => news.changes.push(change),
                None => news.damaged += 1,
            }
        }
        transaction.commit().await?;
        Ok(Some(news))
    }

    /// Whether it was committed; it isn't where the state is at another version.
    async fn write(
        client: &mut Client,
        federation: FederationId,
        base: Version,
        entries: &[Entry],
        head: Option<&Head>,
    ) -> Result<bool, DatabaseError> {
        let federation = federation.as_bytes().as_slice();
        let transaction = client.transaction().await?;
        // Takes the row's lock: another registry's commit waits here, and finds another version then.
        let raised = transaction.execute(RAISE, &[&federation, &signed(base.0), &signed(REMEMBERED)]).await?;
        if raised == 0 {
            return Ok(false);
        }
        for Entry { kind, node, body } in entries {
            let (kind, version) = (*kind as i16, signed(base.0 + 1));
            transaction.execute(SET_ENTRY, &[&federation, &kind, &node.as_slice(), &version, body]).await?;
        }
        if let Some(head) = head {
            set_directory(&transaction, federation, head).await?;
        }
        if let Some(old) = base.0.checked_sub(REMEMBERED) {
            transaction.execute(FORGET, &[&federation, &signed(old)]).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

impl Store for Postgres {
    fn news(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<News>, ReadError>> {
        let read = async move |client: &mut Client, federation| Self::read(client, federation, known).await;
        self.within(read).map(|read| read.map_err(|error| ReadError(Box::new(error)))).boxed()
    }

    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a Head>,
    ) -> BoxFuture<'a, Result<Version, CommitError>> {
        async move {
            let entries: Vec<_> = changes.iter().map(Entry::of).collect();
            let write =
                async |client: &mut Client, federation| Self::write(client, federation, base, &entries, head).await;
            match self.within(write).await {
                Ok(true) => Ok(Version(base.0 + 1)),
                Ok(false) => Err(CommitError::Overtaken),
                Err(error) => Err(CommitError::Failed(Box::new(error))),
            }
        }
        .boxed()
    }
}

async fn set_directory(transaction: &Transaction<'_>, federation: &[u8], head: &Head) -> Result<(), DatabaseError> {
    let Head { seq, issued_at, expires_at, bundle } = head;
    let (seq, issued_at, expires_at) = (signed(*seq), signed(issued_at.as_secs()), signed(expires_at.as_secs()));
    let bundle = bundle.as_ref();
    match transaction.execute(SET_DIRECTORY, &[&federation, &seq, &issued_at, &expires_at, &bundle]).await? {
        0 => Err(DatabaseError::Seq),
        _ => Ok(()),
    }
}

fn head(row: &Row) -> Result<Option<Head>, tokio_postgres::Error> {
    let (seq, issued_at, expires_at) =
        (unsigned(row.try_get(2)?), unsigned(row.try_get(3)?), unsigned(row.try_get(4)?));
    let bundle: Vec<u8> = row.try_get(5)?;
    let (issued_at, expires_at) = (UnixTime::from_secs(issued_at), UnixTime::from_secs(expires_at));
    Ok((seq > 0).then(|| Head { seq, issued_at, expires_at, bundle: Bytes::from(bundle) }))
}

fn entry(row: &Row) -> Result<Option<Entry>, tokio_postgres::Error> {
    let kind = u8::try_from(row.try_get::<_, i16>(0)?).ok().and_then(Kind::of);
    let node = row.try_get::<_, &[u8]>(1)?.try_into().ok();
    let body: Option<Vec<u8>> = row.try_get(2)?;
    Ok(kind.zip(node).map(|(kind, node)| Entry { kind, node, body }))
}

/// PostgreSQL has no unsigned numbers. Versions and times stay below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// TLS as the URL's `sslmode` asks for it. Certificates are by the roots in the file, or those of the web.
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
