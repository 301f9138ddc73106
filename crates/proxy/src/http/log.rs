//! What the access log says of a request: kept from its head until its end, and written then, however it ends.

use super::Http;
use super::reply::Reason;
use super::state::{Client, Exchange, Peer, Phase, Stage};
use crate::access::{
    Bytes, Ending, HOST_BYTES_MAX, METHOD_BYTES_MAX, PATH_BYTES_MAX, Phases, QUERY_BYTES_MAX,
    REFERER_BYTES_MAX, REQUEST_ID_BYTES_MAX, Record, USER_AGENT_BYTES_MAX,
};
use crate::core::{Core, Cx};
use crate::logs::source;
use fourfold_base::slab::Key;
use fourfold_engine::Net;
use fourfold_http::h1::{self, Version};
use std::net::{IpAddr, SocketAddr};

const METHOD: usize = 0;
const HOST: usize = 1;
const PATH: usize = 2;
const QUERY: usize = 3;
const REFERER: usize = 4;
const USER_AGENT: usize = 5;
const REQUEST_ID: usize = 6;
const PARTS: usize = 7;
/// One byte more than is shown says that there was more.
const PART_BYTES_MAX: [usize; PARTS] = [
    METHOD_BYTES_MAX + 1,
    HOST_BYTES_MAX + 1,
    PATH_BYTES_MAX + 1,
    QUERY_BYTES_MAX + 1,
    REFERER_BYTES_MAX + 1,
    USER_AGENT_BYTES_MAX + 1,
    REQUEST_ID_BYTES_MAX + 1,
];

/// What is known of a request once its head was read.
pub(super) struct Facts {
    /// The parts behind each other.
    text: Vec<u8>,
    ends: [u16; PARTS],
    has_query: bool,
    version: Option<Version>,
    pub client: IpAddr,
    peer: Peer,
    pub route: Option<u32>,
    began_us: u64,
    read_us: u64,
    head_bytes: u32,
    /// Bytes of response heads that have gone out.
    pub sent_head: u32,
}

impl Facts {
    pub fn new(peer: Peer, began_us: u64, read_us: u64, text: Vec<u8>) -> Self {
        Self {
            text,
            ends: [0; PARTS],
            has_query: false,
            version: None,
            client: peer.ip(),
            peer,
            route: None,
            began_us,
            read_us,
            head_bytes: 0,
            sent_head: 0,
        }
    }

    fn fill(&mut self, parts: [&[u8]; REQUEST_ID]) {
        for (part, bytes) in parts.into_iter().enumerate() {
            self.push(part, bytes);
        }
    }

    fn push(&mut self, part: usize, bytes: &[u8]) {
        let most = PART_BYTES_MAX.get(part).copied().unwrap_or(0);
        self.text.extend_from_slice(bytes.get(..most).unwrap_or(bytes));
        let end = self.text.len() as u16;
        self.ends.iter_mut().skip(part).for_each(|place| *place = end);
    }

    fn part(&self, part: usize) -> &[u8] {
        let start = part.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(part).copied().unwrap_or(0);
        self.text.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }

    /// A request that was understood.
    pub fn understood(mut self, request: &h1::Request, head: &[u8]) -> Self {
        let field = |name: &str| super::judge::value_of(request, head, name).unwrap_or_default();
        let query = request.query.map(|query| query.of(head));
        self.fill([
            request.method_name.of(head),
            request.host.of(head),
            request.path_of(head),
            query.unwrap_or_default(),
            field("referer"),
            field("user-agent"),
        ]);
        self.has_query = query.is_some();
        self.version = Some(request.version);
        self.head_bytes = head.len() as u32;
        self
    }

    /// A request that was not: the words of its first line, as they came.
    pub fn garbled(mut self, head: &[u8]) -> Self {
        let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty());
        let mut words = line.unwrap_or_default().splitn(3, |byte| *byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.fill([method, b"", target, b"", b"", b""]);
        self.head_bytes = head.len() as u32;
        self
    }

    pub fn set_request_id(&mut self, id: &[u8]) {
        self.push(REQUEST_ID, id);
    }

    fn version(&self) -> &'static str {
        match self.version {
            Some(Version::Http10) => "HTTP/1.0",
            Some(Version::Http11) => "HTTP/1.1",
            None => "",
        }
    }
}

/// A line, but for how it ends.
pub(crate) struct Entry {
    facts: Facts,
    listener: u16,
    pool: Option<u16>,
    server: Option<SocketAddr>,
    source: Option<SocketAddr>,
    reused: bool,
    tries: u32,
    status: Option<u16>,
    received_body: u64,
    sent_body: u64,
    phases: Phases,
    answered_us: Option<u64>,
}

impl Entry {
    /// Of a request that no pool has anything to do with.
    fn local(facts: Facts, listener: u16, status: Option<u16>) -> Self {
        Self {
            phases: Phases { request: Some(facts.read_us - facts.began_us), ..Phases::default() },
            facts,
            listener,
            pool: None,
            server: None,
            source: None,
            reused: false,
            tries: 0,
            status,
            received_body: 0,
            sent_body: 0,
            answered_us: None,
        }
    }

    /// Bytes of the tunnel that the exchange has become.
    pub fn add(&mut self, up: u64, down: u64) {
        self.received_body += up;
        self.sent_body += down;
    }

    pub fn write(&self, core: &mut Core, ending: Ending, now_us: u64) {
        let facts = &self.facts;
        let plan = &core.shared.plan;
        let listener = plan.listeners.get(usize::from(self.listener));
        let routes = listener.and_then(|listener| listener.http.as_deref()).map(|http| &http.routes);
        let route = routes.zip(facts.route).and_then(|(routes, index)| routes.get(index as usize));
        let pool = self.pool.and_then(|pool| plan.pools.get(usize::from(pool)));
        let record = Record {
            started_us: facts.began_us,
            listener: listener.map_or("", |listener| &listener.name),
            route: route.map_or("", |route| &route.name),
            client: Some(facts.client),
            peer: Some(SocketAddr::new(facts.peer.ip(), facts.peer.port)),
            method: facts.part(METHOD),
            host: facts.part(HOST),
            path: facts.part(PATH),
            query: facts.has_query.then(|| facts.part(QUERY)),
            version: facts.version(),
            status: self.status,
            received: Bytes { head: u64::from(facts.head_bytes), body: self.received_body },
            sent: Bytes { head: u64::from(facts.sent_head), body: self.sent_body },
            phases: Phases {
                body: self.answered_us.map(|answered| now_us.saturating_sub(answered)),
                total: now_us.saturating_sub(facts.began_us),
                ..self.phases
            },
            pool: pool.map_or("", |pool| &pool.name),
            server: self.server,
            source: self.source,
            reused: self.reused,
            tries: self.tries,
            ending,
            request_id: facts.part(REQUEST_ID),
            referer: facts.part(REFERER),
            user_agent: facts.part(USER_AGENT),
        };
        core.logs.write(self.listener, &record);
    }
}

/// The one place where it is decided what a line says of the end. `answered`: the response had begun.
fn ending_of(reason: Reason, answered: bool) -> Ending {
    match reason {
        Reason::Rejected(_) | Reason::MethodUnsupported => Ending::BadRequest,
        Reason::BadResponse(_) => Ending::BadResponse,
        Reason::NoRoute => Ending::NoRoute,
        Reason::BodyTooLarge => Ending::TooLarge,
        Reason::RateLimited => Ending::RateLimited,
        Reason::HeaderTimeout => Ending::HeadTimeout,
        Reason::BodyTimeout => Ending::BodyTimeout,
        Reason::NoServer => Ending::NoServer,
        Reason::BreakerOpen => Ending::Breaker,
        Reason::QueueFull => Ending::QueueFull,
        Reason::Tuples => Ending::NoTuple,
        Reason::Local => Ending::Local,
        Reason::Attempts => Ending::ConnectFailed,
        Reason::ServerClosed | Reason::ServerReset if answered => Ending::ServerReset,
        Reason::ServerClosed | Reason::ServerReset => Ending::ServerClosed,
        Reason::ResponseTimeout if answered => Ending::ResponseIdleTimeout,
        Reason::ResponseTimeout => Ending::ResponseTimeout,
    }
}

impl Exchange {
    /// What a client that leaves now leaves in the midst of.
    pub(super) fn left(&self) -> Ending {
        match self.phase {
            _ if self.answered => Ending::ClientGone,
            Phase::Waiting => Ending::ClientGoneQueue,
            Phase::Connecting => Ending::ClientGoneConnect,
            Phase::Open if !self.request.is_done() => Ending::ClientGoneBody,
            Phase::Open => Ending::ClientGoneResponse,
        }
    }
}

impl Http {
    /// What the log will need of the request whose head is being read; nothing if there is no log.
    pub(super) fn facts(&mut self, core: &Core, client: Key, began_us: u64, now_us: u64) -> Option<Facts> {
        let peer = self.clients.get(client).filter(|client| core.logs.has(client.listener))?.peer;
        let text = self.spare.pop().unwrap_or_default();
        Some(Facts::new(peer, began_us, now_us, text))
    }

    /// A request ends that had gone to a pool.
    pub(super) fn log_exchange<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, ending: Ending) {
        if let Some(entry) = self.entry(cx, key) {
            entry.write(cx.core, ending, cx.net.micros());
            self.give_spare(entry.facts.text);
        }
    }

    /// The same with an answer of ours, which lies in `out`.
    pub(super) fn log_failed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, reason: Reason) {
        let Some(mut entry) = self.entry(cx, key) else { return };
        if entry.answered_us.is_none() {
            entry.status = Some(reason.status());
            (entry.facts.sent_head, entry.sent_body) = split(&self.out);
        }
        let denied = self.exchanges.get(key).is_some_and(|exchange| exchange.denied);
        let ending = match denied {
            true => Ending::RetryBudget,
            false => ending_of(reason, entry.answered_us.is_some()),
        };
        entry.write(cx.core, ending, cx.net.micros());
        self.give_spare(entry.facts.text);
    }

    /// A request that went no further than to us; its answer lies in `out`.
    pub(super) fn log_local<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        client: Key,
        status: u16,
        reason: Option<Reason>,
    ) {
        let ending = reason.map_or(Ending::AnsweredHere, |reason| ending_of(reason, false));
        let Some((facts, listener)) = self.heard(cx, client) else { return };
        let mut entry = Entry::local(facts, listener, Some(status));
        (entry.facts.sent_head, entry.sent_body) = split(&self.out);
        entry.write(cx.core, ending, cx.net.micros());
        self.give_spare(entry.facts.text);
    }

    /// A client ends in the midst of a head, and gets no answer.
    pub(super) fn log_head<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, ending: Ending) {
        let begun = |client: &Client| client.stage == Stage::Head && client.scanned > 0;
        if !self.clients.get(client).is_some_and(begun) {
            return;
        }
        if let Some((facts, listener)) = self.heard(cx, client) {
            let entry = Entry::local(facts, listener, None);
            entry.write(cx.core, ending, cx.net.micros());
            self.give_spare(entry.facts.text);
        }
    }

    /// What was kept of the head just read, or, of one that is not whole, what can be said.
    fn heard<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key) -> Option<(Facts, u16)> {
        let (now_us, began_us) = (cx.net.micros(), self.began_us(client, cx.net.micros()));
        let listener = self.clients.get(client)?.listener;
        let facts = self.heard.take().or_else(|| self.facts(cx.core, client, began_us, now_us))?;
        Some((facts, listener))
    }

    /// When the first byte of a client's present head came.
    pub(super) fn began_us(&self, client: Key, now_us: u64) -> u64 {
        let Some(client) = self.clients.get(client).filter(|client| client.scanned > 0) else {
            return now_us;
        };
        let settings = self.settings.get(usize::from(client.listener)).and_then(Option::as_ref);
        let timeout = settings.map_or(0, |settings| settings.header_timeout_ms);
        (client.deadline.saturating_sub(timeout) * 1000).min(now_us)
    }

    /// All that is known of an exchange. It is said once.
    pub(super) fn entry<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> Option<Entry> {
        let exchange = self.exchanges.get_mut(key)?;
        let facts = exchange.log.take()?;
        let conn = exchange.conn.and_then(|conn| self.conns.get(conn));
        let open = conn.is_some() && exchange.phase == Phase::Open;
        let tried = exchange.attempts.saturating_add(exchange.tries).saturating_add(exchange.stale);
        let warm = exchange.connect_us == 0;
        let since = |from: u64, to: u64| Some(to.saturating_sub(from));
        let phases = Phases {
            request: since(facts.began_us, facts.read_us),
            queue: match (warm, open) {
                (false, _) => since(facts.read_us, exchange.connect_us),
                (true, true) => since(facts.read_us, exchange.open_us),
                (true, false) => None,
            },
            connect: match (warm, open) {
                (_, false) => None,
                (true, true) => Some(0),
                (false, true) => since(exchange.connect_us, exchange.open_us),
            },
            response: if exchange.answered { since(exchange.open_us, exchange.answered_us) } else { None },
            ..Phases::default()
        };
        let mut entry = Entry {
            listener: exchange.listener,
            pool: Some(exchange.pool),
            server: conn.and_then(|conn| cx.core.upstreams.address(conn.path)),
            source: None,
            reused: conn.is_some_and(|conn| conn.uses > 1 && warm),
            tries: u32::from(tried) + u32::from(open),
            status: (exchange.status != 0).then_some(exchange.status),
            received_body: exchange.up_bytes,
            sent_body: exchange.down_bytes,
            phases,
            answered_us: exchange.answered.then_some(exchange.answered_us),
            facts,
        };
        let conn = conn.filter(|_| open);
        entry.source = conn.and_then(|conn| source(cx, conn.path, &conn.lease, conn.sock));
        Some(entry)
    }
}

/// Lengths of a message's head and content.
fn split(message: &[u8]) -> (u32, u64) {
    let head = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    (head as u32, (message.len() - head) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let peer: SocketAddr = "10.0.0.1:1234".parse().unwrap();
        Facts::new(Peer::from(peer), 1, 2, Vec::new())
    }

    #[test]
    fn parts_are_told_apart() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\n\r\n";
        let mut request = h1::Request::default();
        request.parse(head, &h1::Limits::default()).unwrap();
        let mut facts = facts().understood(&request, head);
        facts.set_request_id(b"id");
        let parts: Vec<&[u8]> = (0..PARTS).map(|part| facts.part(part)).collect();
        assert_eq!(parts, [&b"GET"[..], b"h", b"/a", b"b", b"", b"u", b"id"]);
        assert_eq!((facts.has_query, facts.version()), (true, "HTTP/1.1"));
    }

    #[test]
    fn a_garbled_head_shows_its_first_line() {
        let facts = facts().garbled(b"\r\nGET  / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((facts.part(METHOD), facts.part(PATH)), (&b"GET"[..], &b""[..]));
        let long = [b'x'; 9000];
        assert_eq!(super::tests::facts().garbled(&long).part(METHOD).len(), METHOD_BYTES_MAX + 1);
    }

    #[test]
    fn a_message_is_split_at_its_empty_line() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n\r\nbody"), (19, 4));
        assert_eq!(split(b""), (0, 0));
    }
}
