//! DNS over HTTPS (RFC 8484): one provider, one question, one answer, and every way in which that fails, told apart.
//!
//! What an answer is worth is the asker's business: shards are signed, and whoever is reached under an address has to
//! prove a key. So a provider can hide and can't lie.

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

/// How long a provider has altogether. Those that are blocked mostly let it time out, and the next is asked meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest message: DNS has 16 bits for it.
const MAX_ANSWER: usize = 65_535;
const MEDIA_TYPE: &str = "application/dns-message";

/// A provider of DNS over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Where it takes questions, such as `https://dns.example/dns-query`.
    pub url: String,
    /// Its addresses, so that no name has to be resolved first. Needed unless the URL has an address for a host.
    #[serde(default)]
    pub connect_to: Vec<SocketAddr>,
}

/// The text is no provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseProviderError {
    /// What follows the URL is no address with a port.
    #[error("not a provider of DNS over HTTPS: https://host/path[,IP:PORT] is expected")]
    Form,
    /// The URL names no server that there can be.
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
    /// A provider at these addresses.
    pub fn new(url: impl Into<String>, connect_to: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { url: url.into(), connect_to: connect_to.into_iter().collect() }
    }

    /// The providers that are asked where none are configured: each of another operator, and none of a country alone.
    /// The first works by its address alone, whose certificate names it; the last two are small, and so on few lists.
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

    /// The host, for people.
    pub fn host(&self) -> String {
        let host = Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_else(|| self.url.clone())
    }
}

/// Why a provider gave no answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DohError {
    /// No connection, or no answer in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The connection broke in the middle of the answer.
    #[error("the answer broke off")]
    Broken,
    /// Another HTTP status than 200.
    #[error("answers with HTTP status {0}")]
    Status(u16),
    /// Something else than a DNS message, or one that answers another question: a page that says «blocked».
    #[error("what answers is no DNS server")]
    NotDns,
    /// Longer than a DNS message can be.
    #[error("the answer is too long")]
    TooLong,
    /// Says that there is no such name.
    #[error("says that there is no such name (NXDOMAIN)")]
    NoSuchName,
    /// Says that it couldn't find out.
    #[error("says that it could not find out (SERVFAIL)")]
    ServFail,
    /// Says that it doesn't want to answer, or another response code.
    #[error("refuses to answer (response code {0})")]
    Refused(u16),
    /// The answer is not whole.
    #[error("the answer is truncated")]
    Truncated,
    /// The name is there, and has no such records.
    #[error("the name has no such records")]
    NoRecords,
    /// What was to be asked for is no name.
    #[error("not a name")]
    Name,
}

/// A provider that can be asked.
#[derive(Clone, Debug)]
pub struct Doh {
    provider: Provider,
    http: reqwest::Client,
}

/// Resolves nothing: a provider is reached at addresses that are known before.
struct NoNames;

impl Resolve for NoNames {
    fn resolve(&self, _name: reqwest::dns::Name) -> Resolving {
        Box::pin(std::future::ready(Err(NameError::NoSuchName.into())))
    }
}

impl Doh {
    /// Prepares to ask.
    ///
    /// # Errors
    /// The URL is none, or its host is a name without addresses.
    pub fn new(provider: Provider, tls: &ClientConfig) -> Result<Self, SetupError> {
        Self::by(provider, tls, &Proxies::none(), NoNames)
    }

    /// The same through proxies, whose names `names` resolves.
    ///
    /// # Errors
    /// As [`Doh::new`].
    pub fn by(
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
            // A port in the URL counts for more than one that stands with an address.
            let mut url = url.clone();
            if url.port().is_none() && url.set_port(Some(first.port())).is_ok() {
                provider.url = url.into();
            }
        }
        Ok(Self { provider, http: http.build().map_err(SetupError::Http)? })
    }

    /// Who it is.
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Whether it is in a private network itself, so that what it names may be.
    pub fn is_private(&self) -> bool {
        match self.provider.connect_to.first() {
            Some(addr) => !special::is_public(addr.ip()),
            None => !special::is_public_url(&self.provider.url),
        }
    }

    /// Asks for the records of one kind that a name has; at least one is in an answer.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, DohError> {
        let request = self
            .http
            .post(&self.provider.url)
            .header(CONTENT_TYPE, MEDIA_TYPE)
            .header(ACCEPT, MEDIA_TYPE)
            .body(question(name, kind)?);
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
        read_answer(&body, name, kind)
    }
}

/// Whether a `Content-Type` is that of DNS messages: a media type has no case, and parameters may follow (RFC 9110, 8.3.1).
fn is_dns_message(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// A question as bytes. The id is 0, so that caches can help (RFC 8484, 4.1).
///
/// # Errors
/// The name is none.
pub fn question(name: &str, kind: RecordType) -> Result<Vec<u8>, DohError> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(absolute(name)?, kind));
    let mut edns = Edns::new();
    // Some providers cut answers to what the asker says, although nothing is limited over HTTPS.
    edns.set_max_payload(u16::MAX);
    message.set_edns(edns);
    message.to_vec().map_err(|_| DohError::Name)
}

/// The records of an answer to that very question. They need not be the asked name's own: it may be an alias.
///
/// # Errors
/// Says why the bytes answer nothing.
pub fn read_answer(bytes: &[u8], name: &str, kind: RecordType) -> Result<Vec<RData>, DohError> {
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

/// With the final dot, so that nobody adds a search domain.
fn absolute(name: &str) -> Result<Name, DohError> {
    let mut name = Name::from_str(name).map_err(|_| DohError::Name)?;
    if name.num_labels() == 0 {
        return Err(DohError::Name);
    }
    name.set_fqdn(true);
    Ok(name)
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// An answer to a question for records of `nodes.example`, of any kind that is asked for.
    pub const ANSWER: (&str, fn(&[u8]) -> bool) = ("answer", |bytes| {
        let read = [RecordType::TXT, RecordType::A, RecordType::AAAA].map(|kind| {
            let Ok(records) = read_answer(bytes, "nodes.example", kind) else { return false };
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
        read_answer(bytes, "nodes.example", RecordType::TXT).map(|records| records.len())
    }

    #[test]
    fn each_kind_of_answer_is_told_apart() {
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
        assert_eq!(read(&question("nodes.example", RecordType::TXT).expect("a name")), Err(DohError::NotDns));
        assert_eq!(read(b"<html>blocked</html>"), Err(DohError::NotDns));
        assert_eq!(question("", RecordType::TXT), Err(DohError::Name));
        assert_eq!(question("a..b", RecordType::TXT), Err(DohError::Name));
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
            assert!(Doh::new(provider.clone(), &crate::tls::config()).is_ok(), "{provider:?}");
        }
        let by_address = |provider: &&Provider| provider.host().parse::<IpAddr>().is_ok();
        assert_eq!(providers.iter().filter(by_address).count(), 1);
        let unknown = Provider::new("https://dns.example/dns-query", []);
        assert!(matches!(Doh::new(unknown, &crate::tls::config()), Err(SetupError::Provider(_))));
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
