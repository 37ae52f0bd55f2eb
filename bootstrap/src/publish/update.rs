//! Publishes by dynamic update (RFC 2136), signed with TSIG (RFC 8945).
//!
//! One message deletes all TXT records of the name and adds the new ones. So resolvers never see a partial set, and
//! repeating the update is safe. Only a response with the server's signature is trusted.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hickory_proto::{
    ProtoError,
    op::{Message, OpCode, Query, ResponseCode, UpdateMessage as _},
    rr::{DNSClass, Name, RData, Record, RecordType, TSigner, rdata::tsig::TsigAlgorithm},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    RecordSet,
    dns::{NameError, parse_name},
};

/// Time limit of the exchange. Servers respond after the update is on their disk.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Permitted difference of the clocks in seconds, as RFC 8945, section 10, recommends.
const FUDGE: u16 = 300;

/// A secret shared with a DNS server.
#[derive(Clone)]
pub struct TsigKey(TSigner);

/// Why a key cannot be loaded. The errors contain nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum TsigKeyError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not have the format of `tsig-keygen`.
    #[error("{path} does not have the format: key \"name\" {{ algorithm hmac-sha256; secret \"…\"; }};")]
    Form {
        /// The path of the file.
        path: PathBuf,
    },
    /// The algorithm is not supported.
    #[error("{path}: supported algorithms are hmac-sha256, hmac-sha384 and hmac-sha512")]
    Algorithm {
        /// The path of the file.
        path: PathBuf,
    },
}

/// Why an update failed, or may have failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The zone is not a DNS name. Nothing was sent.
    #[error(transparent)]
    Zone(#[from] NameError),
    /// The name is not in the zone. Nothing was sent.
    #[error("{name} is not in the zone {zone}")]
    OutOfZone {
        /// The name of the records.
        name: String,
        /// The zone.
        zone: String,
    },
    /// No response in time. The update may have been applied; repeating it is safe.
    #[error("no response from the DNS server within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The connection failed. The update may have been applied; repeating it is safe.
    #[error("the connection to the DNS server failed")]
    Io(#[from] io::Error),
    /// The response is not a DNS message, or the key did not sign it.
    #[error("the DNS server's response is not signed by the key")]
    Answer(#[source] ProtoError),
    /// The update cannot be encoded. Nothing was sent.
    #[error("cannot encode the update")]
    Message(#[source] ProtoError),
    /// The server rejected the update. Nothing was changed.
    #[error("the DNS server rejected the update: {0}")]
    Rejected(ResponseCode),
}

impl TsigKey {
    /// Reads the format that `tsig-keygen` and `keymgr -t` write.
    ///
    /// # Errors
    /// The file cannot be read, or contains no usable key.
    pub fn load(path: &Path) -> Result<Self, TsigKeyError> {
        let text = fs::read_to_string(path).map_err(|source| TsigKeyError::Io { path: path.to_owned(), source })?;
        let form = || TsigKeyError::Form { path: path.to_owned() };
        let words: Vec<_> =
            text.split(|c: char| c.is_whitespace() || "\"{};".contains(c)).filter(|word| !word.is_empty()).collect();
        let value = |name| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
        let (Some(name), Some(algorithm), Some(secret)) = (value("key"), value("algorithm"), value("secret")) else {
            return Err(form());
        };
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(TsigKeyError::Algorithm { path: path.to_owned() }),
        };
        let secret = STANDARD.decode(secret).map_err(|_| form())?;
        let name = parse_name(name).map_err(|_| form())?;
        Ok(Self(TSigner::new(secret, algorithm, name, FUDGE).map_err(|_| form())?))
    }
}

impl std::fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TsigKey({})", self.0.signer_name())
    }
}

/// Replaces the TXT records of the set's name by the set, at the primary server of `zone`.
///
/// # Errors
/// The update failed, or its result is unknown.
pub async fn send_update(server: SocketAddr, zone: &str, set: &RecordSet, key: &TsigKey) -> Result<(), UpdateError> {
    let zone = parse_name(zone)?;
    if !zone.zone_of(set.dns_name()) {
        return Err(UpdateError::OutOfZone { name: set.name(), zone: zone.to_ascii() });
    }
    let mut message = message(zone, set);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let verifier = message.finalize(&key.0, since.as_secs()).map_err(UpdateError::Message)?;
    let bytes = message.to_vec().map_err(UpdateError::Message)?;
    let answer = timeout(TIMEOUT, exchange(server, &bytes)).await.map_err(|_| UpdateError::Timeout)??;
    let mut verifier = verifier.expect("a signed message has a verifier");
    let code = match verifier.verify(&answer) {
        Ok(answer) => answer.response_code,
        // A server that does not know the key, or finds the signature invalid, cannot sign its response (RFC 8945,
        // section 5.3.2).
        Err(error) => match Message::from_vec(&answer).map(|answer| answer.response_code) {
            Ok(code) if code != ResponseCode::NoError => code,
            _ => return Err(UpdateError::Answer(error)),
        },
    };
    if code == ResponseCode::NoError { Ok(()) } else { Err(UpdateError::Rejected(code)) }
}

fn message(zone: Name, set: &RecordSet) -> Message {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    let mut section = Query::new();
    section.set_name(zone).set_query_class(DNSClass::IN).set_query_type(RecordType::SOA);
    message.add_zone(section);
    // Class ANY without data deletes the whole set (RFC 2136, section 2.5.2).
    let mut delete = Record::from_rdata(set.dns_name().clone(), 0, RData::Update0(RecordType::TXT));
    delete.dns_class = DNSClass::ANY;
    message.add_update(delete);
    for record in set.records() {
        message.add_update(record);
    }
    message
}

/// Exchanges messages over TCP, because six records do not fit a datagram.
pub(super) async fn exchange(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, io::Error> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), message].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
