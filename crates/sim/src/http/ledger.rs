//! What was asked, what reached an origin, what was answered: clients and origins write it, the judge reads it.

use fourfold_base::Millis;
use fourfold_engine::BUFFER_BYTES;
use fourfold_engine::sim::content;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// Requests that one client may have.
pub(super) const ASKS_MAX: u32 = 64;

pub(crate) type SharedLedger = Rc<RefCell<Ledger>>;

/// How a request carries its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    None,
    Length(u32),
    Chunked(u32),
}

impl Content {
    pub(super) fn len(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Length(len) | Self::Chunked(len) => len.into(),
        }
    }
}

/// One request of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub id: u32,
    pub method: &'static str,
    pub content: Content,
    /// HTTP/1.1, not 1.0.
    pub modern: bool,
    pub close: bool,
    pub expects: bool,
    /// Bytes of a field that means nothing.
    pub padding: u32,
    /// So many bytes of it are sent, and nothing more ever.
    pub cut: Option<u32>,
    /// Asks for another protocol, and has so many bytes to say in it.
    pub upgrade: Option<u32>,
}

impl Ask {
    /// RFC 9110 9.2.2
    pub(super) fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    pub(super) fn upgrade_to(&mut self, bytes: u32) {
        (self.method, self.content, self.close, self.expects) = ("GET", Content::None, false, false);
        self.upgrade = Some(bytes);
    }

    /// Its head and its content.
    pub(super) fn render(&self) -> (Vec<u8>, Vec<u8>) {
        let Self { id, method, content, modern, close, expects, padding, upgrade, .. } = self;
        let version = if *modern { "HTTP/1.1" } else { "HTTP/1.0" };
        let mut head =
            format!("{method} /{id} {version}\r\nHost: sim\r\nx-id: {id}\r\nx-len: {}\r\n", content.len());
        if *padding > 0 {
            head += &format!("x-pad: {}\r\n", "p".repeat(*padding as usize));
        }
        if *close {
            head += "Connection: close\r\n";
        }
        if let Some(bytes) = upgrade {
            head += &format!("Connection: Upgrade\r\nUpgrade: sim\r\nx-up: {bytes}\r\n");
        }
        if *expects {
            head += "Expect: 100-continue\r\n";
        }
        let body = body(*id, content.len());
        let body = match content {
            Content::None => body,
            Content::Length(len) => {
                head += &format!("Content-Length: {len}\r\n");
                body
            }
            Content::Chunked(_) => {
                head += "Transfer-Encoding: chunked\r\n";
                chunked(&body, 1 + (id % 5000) as usize)
            }
        };
        (format!("{head}\r\n").into_bytes(), body)
    }
}

pub(super) fn chunked(body: &[u8], chunk: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in body.chunks(chunk) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// The content of a message: it follows from its number.
pub(super) fn body(number: u32, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let mut at = 0;
    for part in bytes.chunks_mut(BUFFER_BYTES) {
        content::fill(number, at, part);
        at += part.len() as u64;
    }
    bytes
}

/// Whether these are the bytes from `at` on.
pub(super) fn is_body(number: u32, at: u64, bytes: &[u8]) -> bool {
    let mut at = at;
    bytes.chunks(BUFFER_BYTES).all(|part| {
        let mut wanted = vec![0; part.len()];
        content::fill(number, at, &mut wanted);
        at += part.len() as u64;
        wanted == part
    })
}

/// The number of the answer's content.
pub(super) fn answer_number(id: u32) -> u32 {
    !id
}

/// How a request ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// By an origin.
    Answered(u16),
    /// By the proxy.
    Refused(u16),
    Cut,
    /// The client did not wait for it.
    Left,
}

#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub ask: Ask,
    /// The client is one that would hear the end.
    pub listens: bool,
    /// When something of it last moved at either end.
    pub moved_at: Millis,
    /// Origins that got its head; that got all of it.
    pub delivered: u32,
    pub whole: u32,
    /// Mirrors that got its head.
    pub copies: u32,
    /// The client has left its tunnel before the end.
    pub quit: bool,
    pub outcome: Option<(Millis, Outcome)>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub exchanges: BTreeMap<u32, Exchange>,
    /// Who asks, by number, as servers are to be told.
    pub clients: BTreeMap<u32, SocketAddr>,
    pub broken: Vec<(&'static str, String)>,
}

impl Ledger {
    pub fn convict(&mut self, invariant: &'static str, detail: String) {
        self.broken.push((invariant, detail));
    }

    /// `until`: when it will have been written.
    pub fn begin(&mut self, until: Millis, ask: &Ask, listens: bool) {
        let exchange = Exchange {
            ask: ask.clone(),
            listens,
            moved_at: until,
            delivered: 0,
            whole: 0,
            copies: 0,
            quit: false,
            outcome: None,
        };
        self.exchanges.insert(ask.id, exchange);
    }

    pub fn moved(&mut self, now: Millis, id: u32) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.moved_at = exchange.moved_at.max(now);
        }
    }

    pub fn end(&mut self, now: Millis, id: u32, outcome: Outcome) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.outcome.get_or_insert((now, outcome));
        }
    }

    /// An origin has got a request's head.
    pub fn deliver(&mut self, now: Millis, id: u32) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return self.convict("what nobody asked reaches no origin", format!("{id}"));
        };
        exchange.moved_at = exchange.moved_at.max(now);
        exchange.delivered += 1;
        if exchange.delivered > 1 && !exchange.ask.is_idempotent() {
            let detail = format!("{exchange:?}");
            self.convict("a request that must not be repeated reaches one origin", detail);
        }
    }

    /// A mirror has got a request's head.
    pub fn copy(&mut self, id: u32) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return self.convict("what nobody asked reaches no mirror", format!("{id}"));
        };
        exchange.copies += 1;
        if exchange.copies > 1 || exchange.ask.upgrade.is_some() {
            let detail = format!("{exchange:?}");
            self.convict("a request is copied once, and a tunnel never", detail);
        }
    }

    pub fn copy_whole(&mut self, id: u32, len: u64, declared: Option<u64>) {
        let Some(exchange) = self.exchanges.get(&id) else { return };
        if exchange.ask.cut.is_some() || len != exchange.ask.content.len() || declared != Some(len) {
            let detail = format!("{len} bytes: {exchange:?}");
            self.convict("a copy is whole", detail);
        }
    }

    /// An origin has been told that this request's client is `client`.
    pub fn introduced(&mut self, id: u32, client: Option<SocketAddr>) {
        let own = self.clients.get(&((id - 1) / ASKS_MAX)).copied();
        if own != client {
            self.convict("an origin is told who the client is", format!("{id}: {client:?} for {own:?}"));
        }
    }

    pub fn quit(&mut self, id: u32) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.quit = true;
        }
    }

    pub fn has_quit(&self, id: u32) -> bool {
        self.exchanges.get(&id).is_none_or(|one| one.quit || matches!(one.outcome, Some((_, Outcome::Left))))
    }

    pub fn deliver_whole(&mut self, id: u32, len: u64, declared: Option<u64>) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        exchange.whole += 1;
        if exchange.ask.cut.is_some() || len != exchange.ask.content.len() || declared != Some(len) {
            let detail = format!("{len} bytes: {exchange:?}");
            self.convict("a request reaches an origin whole or not at all", detail);
        }
    }
}
