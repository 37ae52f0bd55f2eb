//! DNS over HTTPS (RFC 8484): one query to one provider, with a separate error for each kind of failure.
//!
//! The caller verifies what it gets: shards are signed, and a server at an address has to prove a key. So a provider
//! can withhold answers, but not forge them.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use chappe_common::{
    server_url::{Rest, ServerUrlError, check_url},
    special,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use reqwest::{
    Url,
    dns::{Resolve, Resolving},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::{
    http,
    proxy::Proxies,
    reach::{NameError, ReachError},
    setup_error::SetupError,
};

/// Time limit of a query. Blocked providers usually time out; the next one is queried in the meantime.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximal length of a DNS message (16 bits).
const MAX_ANSWER: usize = 65_535;
const MEDIA_TYPE: &str = "application/dns-message";

/// A provider of DNS over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The URL of its endpoint, such as `https://dns.example/dns-query`.
    pub url: String,
    /// Its IP addresses. Required unless the URL's host is an IP address, so that no name has to be resolved first.
    #[serde(default)]
    pub connect_to: Vec<SocketAddr>,
}

/// The text is not a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseProviderError {
    /// A part after the URL is not an IP address with a port.
    #[error("not a provider of DNS over HTTPS: https://host/path[,IP:PORT] is expected")]
    Form,
    /// The URL is not a valid server URL.
    #[error("not a provider of DNS over HTTPS: {0}")]
    Url(ServerUrlError),
}

impl FromStr for Provider {
    type Err = ParseProviderError;

    /// `https://host/path[,IP:PORT]…`.
    fn from_str(text: &str) -> Result<Self, ParseProviderError> {
        let mut parts = text.split(',');
        let url = parts.next().unwrap_or_default().to_owned();
        check_url(&url, &["https://"], Rest::Path).map_err(ParseProviderError::Url)?;
        let connect_to = parts.map(|addr| {
            let addr: SocketAddr = addr.parse().map_err(|_| ParseProviderError::Form)?;
            if addr.port() == 0 { Err(ParseProviderError::Form) } else { Ok(addr) }
        });
        Ok(Self { url, connect_to: connect_to.collect::<Result<_, _>>()? })
    }
}

impl Provider {
    /// A provider with these IP addresses.
    pub fn new(url: impl Into<String>, connect_to: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { url: url.into(), connect_to: connect_to.into_iter().collect() }
    }

    /// The default providers, by different operators in several countries. The first one is reached by its IP address,
    /// which its certificate contains. The last two are small, and so on few block lists.
    pub fn defaults() -> Vec<Self> {
        let named = |host: &str, path: &str, ips: &[[u8; 4]]| {
            let addrs = ips.iter().map(|ip| SocketAddr::from((*ip, 443)));
            Self::new(format!("https://{host}/{path}"), addrs)
        };
        vec![
            Self::new("https://1.1.1.1/dns-query", []),
            named("dns.quad9.net", "dns-query", &[[9, 9, 9, 9], [149, 112, 112, 112]]),
            named("dns.google", "dns-query", &[[8, 8, 8, 8], [8, 8, 4, 4]]),
            named("dns.digitale-gesellschaft.ch", "dns-query", &[[185, 95, 218, 42], [185, 95, 218, 43]]),
            named("doh.ffmuc.net", "dns-query", &[[5, 1, 66, 255], [185, 150, 99, 255]]),
        ]
    }

    /// The host of the URL, for messages.
    pub fn host(&self) -> String {
        let host = Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_else(|| self.url.clone())
    }
}

/// Why a query failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DohError {
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The connection broke during the response.
    #[error("the response is incomplete")]
    Broken,
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The response is not a DNS message, or answers another question. Often it is a page that says «blocked».
    #[error("the response is not a DNS message")]
    NotDns,
    /// The response is longer than a DNS message can be.
    #[error("the response is too long")]
    TooLong,
    /// The name does not exist.
    #[error("the name does not exist (NXDOMAIN)")]
    NoSuchName,
    /// The provider failed to resolve the name.
    #[error("the provider failed to resolve the name (SERVFAIL)")]
    ServFail,
    /// The provider refuses to answer, or returned another response code.
    #[error("the provider refused the query (response code {0})")]
    Refused(u16),
    /// The answer is truncated.
    #[error("the answer is truncated")]
    Truncated,
    /// The name exists, but has no such records.
    #[error("the name has no such records")]
    NoRecords,
    /// The text is not a DNS name.
    #[error("invalid DNS name")]
    Name,
}

/// A client for one provider.
#[derive(Clone, Debug)]
pub struct DohClient {
    provider: Provider,
    http: reqwest::Client,
}

/// Resolves no names: a provider is reached at configured addresses only.
struct NoResolver;

impl Resolve for NoResolver {
    fn resolve(&self, _name: reqwest::dns::Name) -> Resolving {
        Box::pin(std::future::ready(Err(NameError::NoSuchName.into())))
    }
}

impl DohClient {
    /// Creates a client without proxies.
    ///
    /// # Errors
    /// The URL is invalid, or its host is a name without addresses.
    pub fn new(provider: Provider, tls: &ClientConfig) -> Result<Self, SetupError> {
        Self::with_proxies(provider, tls, &Proxies::none(), NoResolver)
    }

    /// As [`DohClient::new`], with proxies whose names `names` resolves.
    ///
    /// # Errors
    /// As [`DohClient::new`].
    pub fn with_proxies(
        provider: Provider,
        tls: &ClientConfig,
        proxies: &Proxies,
        names: impl Resolve + 'static,
    ) -> Result<Self, SetupError> {
        let url = Url::parse(&provider.url).map_err(|_| SetupError::Url(provider.url.clone()))?;
        let host = url.host_str().filter(|_| url.scheme() == "https").unwrap_or_default();
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if host.is_empty() || (provider.connect_to.is_empty() && !is_address) {
            return Err(SetupError::Provider(provider.url));
        }
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut http = http::builder(tls, proxies).timeout(TIMEOUT).dns_resolver(names);
        let mut provider = provider;
        if let Some(first) = provider.connect_to.first() {
            http = http.resolve_to_addrs(host, &provider.connect_to);
            // A port in the URL takes precedence over the port of an address.
            let mut url = url.clone();
            if url.port().is_none() && url.set_port(Some(first.port())).is_ok() {
                provider.url = url.into();
            }
        }
        Ok(Self { provider, http: http.build().map_err(SetupError::Http)? })
    }

    /// The provider.
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Whether the provider is in a private network. Only then may its answers contain private addresses.
    pub fn is_private(&self) -> bool {
        match self.provider.connect_to.first() {
            Some(addr) => !special::is_public(addr.ip()),
            None => !special::is_public_url(&self.provider.url),
        }
    }

    /// Queries the records of one type. The answer has at least one.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn query(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, DohError> {
        let request = self
            .http
            .post(&self.provider.url)
            .header(CONTENT_TYPE, MEDIA_TYPE)
            .header(ACCEPT, MEDIA_TYPE)
            .body(encode_query(name, kind)?);
        let response = request.send().await.map_err(|error| ReachError::of_request(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(DohError::Status(response.status().as_u16()));
        }
        if !response.headers().get(CONTENT_TYPE).is_some_and(is_dns_message) {
            return Err(DohError::NotDns);
        }
        let body = http::body(response, MAX_ANSWER).await.map_err(|error| match error {
            http::BodyError::Timeout => ReachError::Timeout.into(),
            http::BodyError::Broken => DohError::Broken,
            http::BodyError::TooLong => DohError::TooLong,
        })?;
        decode_answer(&body, name, kind)
    }
}

/// Whether a `Content-Type` is that of DNS messages. Media types ignore case and may have parameters (RFC 9110, section
/// 8.3.1).
fn is_dns_message(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Encodes a query. The id is 0, so that HTTP caches can reuse the response (RFC 8484, section 4.1).
///
/// # Errors
/// `name` is not a DNS name.
pub fn encode_query(name: &str, kind: RecordType) -> Result<Vec<u8>, DohError> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(absolute(name)?, kind));
    let mut edns = Edns::new();
    // Some providers truncate answers to this size, although HTTPS needs no limit.
    edns.set_max_payload(u16::MAX);
    message.set_edns(edns);
    message.to_vec().map_err(|_| DohError::Name)
}

/// Decodes the answer to a query for `name` and `kind`. Its records may be for another name, if `name` is an alias.
///
/// # Errors
/// The bytes are not an answer to this query, or an answer without records.
pub fn decode_answer(bytes: &[u8], name: &str, kind: RecordType) -> Result<Vec<RData>, DohError> {
    let message = Message::from_vec(bytes).map_err(|_| DohError::NotDns)?;
    if message.metadata.message_type != MessageType::Response {
        return Err(DohError::NotDns);
    }
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err(DohError::NoSuchName),
        ResponseCode::ServFail => return Err(DohError::ServFail),
        other => return Err(DohError::Refused(other.into())),
    }
    if message.metadata.truncation {
        return Err(DohError::Truncated);
    }
    let name = absolute(name)?;
    if !message.queries.iter().any(|query| query.name == name && query.query_type() == kind) {
        return Err(DohError::NotDns);
    }
    let records: Vec<_> =
        message.answers.into_iter().map(|record| record.data).filter(|data| data.record_type() == kind).collect();
    if records.is_empty() { Err(DohError::NoRecords) } else { Ok(records) }
}

/// Adds the final dot, so that no search domain is appended.
fn absolute(name: &str) -> Result<Name, DohError> {
    let mut name = Name::from_str(name).map_err(|_| DohError::Name)?;
    if name.num_labels() == 0 {
        return Err(DohError::Name);
    }
    name.set_fqdn(true);
    Ok(name)
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// An answer for `nodes.example`, of any of the queried types.
    pub const ANSWER: (&str, fn(&[u8]) -> bool) = ("answer", |bytes| {
        let read = [RecordType::TXT, RecordType::A, RecordType::AAAA].map(|kind| {
            let Ok(records) = decode_answer(bytes, "nodes.example", kind) else { return false };
            assert!(!records.is_empty() && records.iter().all(|data| data.record_type() == kind));
            true
        });
        read.contains(&true)
    });
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata::TXT};

    use super::*;

    fn answer(edit: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::response(0, OpCode::Query);
        let name = absolute("nodes.example").expect("a name");
        message.add_query(Query::query(name.clone(), RecordType::TXT));
        message.add_answer(Record::from_rdata(name, 60, RData::TXT(TXT::new(vec!["hello".to_owned()]))));
        edit(&mut message);
        message.to_vec().expect("a message")
    }

    fn read(bytes: &[u8]) -> Result<usize, DohError> {
        decode_answer(bytes, "nodes.example", RecordType::TXT).map(|records| records.len())
    }

    #[test]
    fn each_kind_of_dns_answer_is_distinguished() {
        assert_eq!(read(&answer(|_| {})), Ok(1));
        assert_eq!(read(&answer(|message| message.answers.clear())), Err(DohError::NoRecords));
        assert_eq!(read(&answer(|message| message.metadata.truncation = true)), Err(DohError::Truncated));
        for (code, error) in [
            (ResponseCode::NXDomain, DohError::NoSuchName),
            (ResponseCode::ServFail, DohError::ServFail),
            (ResponseCode::Refused, DohError::Refused(5)),
        ] {
            assert_eq!(read(&answer(|message| message.metadata.response_code = code)), Err(error));
        }
        assert_eq!(read(&answer(|message| message.queries.clear())), Err(DohError::NotDns), "another question's");
        assert_eq!(read(&encode_query("nodes.example", RecordType::TXT).expect("a name")), Err(DohError::NotDns));
        assert_eq!(read(b"<html>blocked</html>"), Err(DohError::NotDns));
        assert_eq!(encode_query("", RecordType::TXT), Err(DohError::Name));
        assert_eq!(encode_query("a..b", RecordType::TXT), Err(DohError::Name));
    }

    #[test]
    fn a_media_type_has_no_case_and_may_have_parameters() {
        for (value, is_dns) in [
            ("application/dns-message", true),
            ("application/dns-message; charset=utf-8", true),
            ("Application/DNS-Message ;charset=utf-8", true),
            ("application/dns-message;", true),
            ("application/dns-messages", false),
            ("text/html; x=application/dns-message", false),
            ("", false),
        ] {
            assert_eq!(is_dns_message(&HeaderValue::from_static(value)), is_dns, "{value}");
        }
        assert!(!is_dns_message(&HeaderValue::from_bytes(b"\xff").expect("a value")));
    }

    #[test]
    fn there_are_four_default_providers_and_each_can_be_asked_without_resolving_a_name() {
        let providers = Provider::defaults();
        assert!(providers.len() >= 4);
        for provider in &providers {
            assert!(DohClient::new(provider.clone(), &crate::tls::config()).is_ok(), "{provider:?}");
        }
        let by_address = |provider: &&Provider| provider.host().parse::<IpAddr>().is_ok();
        assert_eq!(providers.iter().filter(by_address).count(), 1);
        let unknown = Provider::new("https://dns.example/dns-query", []);
        assert!(matches!(DohClient::new(unknown, &crate::tls::config()), Err(SetupError::Provider(_))));
    }

    #[test]
    fn mutated_answers_hold_records_of_the_asked_kind_alone() {
        let alias = |message: &mut Message| {
            let (from, to) = (absolute("nodes.example").expect("a name"), absolute("b.example").expect("a name"));
            message.answers[0].name = to.clone();
            message.add_answer(Record::from_rdata(from, 60, RData::CNAME(hickory_proto::rr::rdata::CNAME(to))));
        };
        let two = |message: &mut Message| {
            let again = message.answers[0].clone();
            message.add_answer(again);
        };
        let address = |message: &mut Message| {
            message.queries[0].query_type = RecordType::AAAA;
            message.answers[0].data = RData::AAAA("2606:4700::1".parse().expect("an address"));
        };
        chappe_mutations::run(fuzzed::ANSWER, &[answer(|_| {}), answer(alias), answer(two), answer(address)]);
    }
}
