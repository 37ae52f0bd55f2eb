//! DNS over HTTPS: a real server, and answers as a server gives that lies or is broken.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr as _,
    sync::Arc,
    time::Duration,
};

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use chappe_common::shard::txt_strings;
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        LowerName, Name, RData, Record, RecordType,
        rdata::{A, SOA, TXT},
    },
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use rustls::ServerConfig;
use tokio::net::TcpListener;

/// Where questions are taken.
pub const PATH: &str = "/dns-query";
const TTL: u32 = 60;

/// A real server. Stopped when dropped.
pub struct Dns {
    addr: SocketAddr,
    _server: Server<Catalog>,
}

impl Dns {
    /// Serves the zone `example`: TXT records, and addresses of names in it.
    ///
    /// # Panics
    /// No port is free, or a name is none.
    pub async fn serve(tls: Arc<ServerConfig>, texts: &[(&str, &[String])], addrs: &[(&str, Ipv4Addr)]) -> Self {
        let origin = name("example.");
        let mut zone = InMemoryZoneHandler::<hickory_server::net::runtime::TokioRuntimeProvider>::empty(
            origin.clone(),
            ZoneType::Primary,
            AxfrPolicy::Deny,
            None,
        );
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 3600, 600, 86400, TTL);
        zone.upsert_mut(Record::from_rdata(origin.clone(), TTL, RData::SOA(soa)), 0);
        for (of, texts) in texts {
            for text in *texts {
                zone.upsert_mut(Record::from_rdata(name(of), TTL, txt(text)), 0);
            }
        }
        for (of, addr) in addrs {
            zone.upsert_mut(Record::from_rdata(name(of), TTL, RData::A(A(*addr))), 0);
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
        let mut server = Server::new(catalog);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let wait = Duration::from_secs(5);
        server.register_https_listener_with_tls_config(listener, wait, tls, None, PATH.to_owned()).expect("a listener");
        Self { addr, _server: server }
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// What a provider says that doesn't say what is so.
#[derive(Clone, Debug)]
pub enum Lie {
    /// There is no such name.
    NoSuchName,
    /// It couldn't find out.
    ServFail,
    /// The answer is not whole.
    Truncated,
    /// These records, whoever asks for what.
    Texts(Vec<String>),
    /// This address, whoever asks for what.
    Addr(Ipv4Addr),
}

/// The answer of such a provider to a question.
pub fn answer(lie: &Lie, question: &[u8]) -> Response {
    let Ok(question) = Message::from_vec(question) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    let mut asked = None;
    for query in question.queries {
        asked = Some((query.name.clone(), query.query_type()));
        message.add_query(query);
    }
    let Some((of, kind)) = asked else { return StatusCode::BAD_REQUEST.into_response() };
    let mut add = |data| {
        message.add_answer(Record::from_rdata(of.clone(), TTL, data));
    };
    match lie {
        Lie::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Lie::ServFail => message.metadata.response_code = ResponseCode::ServFail,
        Lie::Truncated => message.metadata.truncation = true,
        Lie::Texts(texts) if kind == RecordType::TXT => texts.iter().for_each(|text| add(txt(text))),
        Lie::Addr(addr) if kind == RecordType::A => add(RData::A(A(*addr))),
        Lie::Texts(_) | Lie::Addr(_) => {}
    }
    match message.to_vec() {
        // As some servers write it: parameters and case mean nothing.
        Ok(bytes) => ([(CONTENT_TYPE, "Application/DNS-Message; charset=utf-8")], bytes).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn txt(text: &str) -> RData {
    RData::TXT(TXT::new(txt_strings(text).map(str::to_owned).collect()))
}

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}
