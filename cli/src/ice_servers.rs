//! Gets the STUN and TURN servers of a node, with a throw-away inbox if the node requires one.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_client::IceServer;
use chappe_common::{
    client::ErrorCode,
    keys::SecretKey,
    lease::{AccessToken, Inbox, Lease, prove_attach},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{Connection, connection::ConnectionError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Lifetime of the throw-away inbox's lease. The inbox is detached when the session ends, before that.
const LEASE: Duration = Duration::from_secs(60);

/// How far the lease's number is in the past, so that a clock that is slightly fast doesn't make it one of the future.
const CLOCK_MARGIN: Duration = Duration::from_secs(30);

/// Time limit for a reply.
const WAIT: Duration = Duration::from_secs(5);

/// Why the node has not named its servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IceServersError {
    /// The connection has ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The node has not replied in time.
    #[error("the node does not answer")]
    NoReply,
    /// The node has refused the request, with the code of the client protocol.
    #[error("the node refused to name its relay ({0})")]
    Refused(ErrorCode),
    /// The node has refused the request without one of these codes. The text in its place is not kept, because it may
    /// look like output of this program.
    #[error("the node refused to name its relay, with an unknown code")]
    RefusedOtherwise,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IceServers {
    ice_servers: Vec<IceServer>,
}

/// Requests the servers of a node. Attaches an inbox of a new key if the node requires one.
///
/// # Errors
/// The node does not answer, or refuses.
pub(crate) async fn request(connection: &mut Connection) -> Result<Vec<IceServer>, IceServersError> {
    match servers(connection).await {
        // A relay with passwords is only for clients that can be called.
        Err(IceServersError::Refused(ErrorCode::NotRegistered)) => {
            attach(connection).await?;
            servers(connection).await
        }
        result => result,
    }
}

async fn servers(connection: &mut Connection) -> Result<Vec<IceServer>, IceServersError> {
    let reply = ask(connection, json!({"type": "get_ice_servers", "id": "servers"})).await?;
    let parsed: Result<IceServers, _> = serde_json::from_value(reply);
    parsed.map(|reply| reply.ice_servers).map_err(|_| ConnectionError::Protocol.into())
}

async fn attach(connection: &mut Connection) -> Result<(), IceServersError> {
    let key = SecretKey::from_bytes(&rand::random());
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_MARGIN);
    let lease = Lease {
        inbox: Inbox::new(key.public()),
        node: connection.node(),
        // Nobody calls this inbox.
        session_key: rand::random(),
        access: AccessToken::from_bytes(rand::random()).hash(),
        seq: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        expires_at: UnixTime::from(now) + LEASE,
    };
    let lease = Signed::sign(lease, &key).expect("a lease is shorter than the bound of signed data");
    let proof = prove_attach(&key, connection.nonce(), &lease);
    let inbox = json!({
        "lease": URL_SAFE_NO_PAD.encode(lease.as_bytes()),
        "proof": URL_SAFE_NO_PAD.encode(proof),
    });
    let reply = ask(connection, json!({"type": "attach", "id": "attach", "inboxes": [inbox]})).await?;
    match &reply["rejected"][0]["code"] {
        Value::Null => Ok(()),
        code => Err(refusal(code)),
    }
}

/// The error of a refusal with this code.
fn refusal(code: &Value) -> IceServersError {
    ErrorCode::deserialize(code).map_or(IceServersError::RefusedOtherwise, IceServersError::Refused)
}

/// Sends a request, and waits for its reply.
async fn ask(connection: &mut Connection, request: Value) -> Result<Value, IceServersError> {
    connection.send(request.to_string()).await?;
    let replied = async {
        loop {
            let reply: Value =
                serde_json::from_str(&connection.next().await?).map_err(|_| ConnectionError::Protocol)?;
            if reply["id"] != request["id"] {
                continue;
            }
            return match reply["type"].as_str() {
                Some("error") => Err(refusal(&reply["code"])),
                _ => Ok(reply),
            };
        }
    };
    timeout(WAIT, replied).await.unwrap_or(Err(IceServersError::NoReply))
}
