//! The PROXY protocol's header, which a load balancer in front of us sends before anything else.
//!
//! Owns: connections from trusted addresses until their header was read, or is not going to come. A connection costs no buffer
//! while it says nothing. Then it is handed on with what came behind the header.
//! Refuses: a header that is malformed, missing or late. Nothing is answered: the peer is a machine that is set up wrongly.
//! Its shard drives it with events and takes what is [ready](Prefaces::poll_ready).

use crate::access::Record;
use crate::core::{Core, Cx};
use crate::owner::{Tag, owner};
use crate::reason::Refusal;
use crate::shared::Shared;
use crate::stash::Stash;
use fourfold_base::Millis;
use fourfold_base::slab::{Key, Slab};
use fourfold_base::wheel::Wheel;
use fourfold_engine::{Buf, Close, Event, Net, Sock};
use fourfold_l4::proxy_protocol::{self, Addresses, Parsed};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// How long a header may take in tcp mode; in http mode it is `first_byte_timeout`.
const HEADER_TIMEOUT_MS: Millis = 10_000;

/// Who came, and what was read of him.
pub(crate) struct Caller {
    /// As a trusted load balancer in front says; else the other end of the connection.
    pub address: SocketAddr,
    /// Where the client had connected to, if a load balancer in front says so.
    pub destination: Option<SocketAddr>,
    /// The connection is being read already, and this is what came.
    pub read: Option<Early>,
}

#[derive(Default)]
pub(crate) struct Early {
    pub bytes: Stash,
    /// FIN came behind them.
    pub ended: bool,
}

impl Caller {
    pub fn at(address: SocketAddr) -> Self {
        Self { address, destination: None, read: None }
    }

    pub fn clear<N: Net>(&mut self, net: &mut N) {
        if let Some(early) = &mut self.read {
            early.bytes.clear(net);
        }
    }
}

/// A client whose header has been read.
pub(crate) struct Ready {
    pub listener: u16,
    pub sock: Sock,
    pub caller: Caller,
}

struct Preface {
    sock: Sock,
    listener: u16,
    peer: SocketAddr,
    /// The header's beginning, while it is not whole.
    seen: Vec<u8>,
    closing: bool,
}

pub(crate) struct Prefaces {
    waiting: Slab<Preface>,
    timers: Wheel,
    due: Vec<u32>,
    ready: VecDeque<Ready>,
}

impl Prefaces {
    pub fn new(shared: &Shared, now: Millis) -> Self {
        Self {
            waiting: Slab::new(shared.connections_per_shard),
            timers: Wheel::new(now),
            due: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes in a client that has been counted, from an address that is trusted. `false`: there is no slot.
    pub fn accept<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        listener: u16,
        sock: Sock,
        peer: SocketAddr,
    ) -> bool {
        let preface = Preface { sock, listener, peer, seen: Vec::new(), closing: false };
        let Ok(key) = self.waiting.insert(preface) else { return false };
        cx.net.adopt(sock, owner(key, Tag::Preface));
        cx.net.receive(sock);
        self.timers.set(key.slot, cx.net.now() + timeout_ms(cx.core, listener));
        true
    }

    /// To be called after every event and turn, until there is none.
    #[must_use]
    pub fn poll_ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    fn on_received<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, buf: Buf) {
        let Some(preface) = self.waiting.get_mut(key).filter(|preface| !preface.closing) else {
            return cx.net.free(buf);
        };
        let before = preface.seen.len();
        let bytes = cx.net.bytes(&buf);
        let parsed = match before {
            0 => proxy_protocol::parse(bytes),
            _ => {
                preface.seen.extend_from_slice(bytes);
                proxy_protocol::parse(&preface.seen)
            }
        };
        match parsed {
            Ok(Parsed::More) => {
                if before == 0 {
                    preface.seen.extend_from_slice(bytes);
                }
                cx.net.free(buf);
            }
            Ok(Parsed::Header { used, addresses }) => self.take(cx, key, buf, used - before, addresses),
            Ok(Parsed::None) => self.go_without(cx, key, before, Some(buf), false),
            Err(malformed) => {
                cx.net.free(buf);
                self.refuse(cx, key, Refusal::ProxyHeader, malformed.explain());
            }
        }
    }

    /// The header is whole; `used` bytes of `buf` are its end.
    fn take<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        mut buf: Buf,
        used: usize,
        addresses: Option<Addresses>,
    ) {
        cx.core.counters().proxy_headers.add(1);
        buf.advance(used);
        let mut early = Early::default();
        match buf.is_empty() {
            true => cx.net.free(buf),
            false => early.bytes.push(buf),
        }
        self.hand_on(key, early, addresses);
    }

    /// There is no header: what came, the first `before` bytes of which are ours to keep, is the client's.
    fn go_without<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        key: Key,
        before: usize,
        buf: Option<Buf>,
        ended: bool,
    ) {
        let Some(preface) = self.waiting.get(key) else { return };
        let seen = preface.seen.get(..before).unwrap_or_default();
        let kept = if seen.is_empty() { None } else { Some(cx.net.write(seen)) };
        let (required, short) = (is_required(cx.core, preface.listener), matches!(kept, Some(None)));
        let mut early = Early { bytes: Stash::default(), ended };
        kept.flatten().into_iter().chain(buf).for_each(|buf| early.bytes.push(buf));
        if required || short {
            early.bytes.clear(cx.net);
            return match required {
                true => self.refuse(cx, key, Refusal::ProxyHeader, "there is none, and it is required"),
                false => self.refuse(cx, key, Refusal::Local, "no buffer was left"),
            };
        }
        self.hand_on(key, early, None);
    }

    fn hand_on(&mut self, key: Key, early: Early, addresses: Option<Addresses>) {
        let Some(preface) = self.waiting.remove(key) else { return };
        self.timers.cancel(key.slot);
        self.ready.push_back(Ready {
            listener: preface.listener,
            sock: preface.sock,
            caller: Caller {
                address: addresses.map_or(preface.peer, |addresses| addresses.source),
                destination: addresses.map(|addresses| addresses.destination),
                read: Some(early),
            },
        });
    }

    fn on_eof<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        let Some(preface) = self.waiting.get(key) else { return };
        match preface.seen.len() {
            // Somebody looked whether we are there.
            0 => self.close(cx, key, Close::Orderly),
            before => self.go_without(cx, key, before, None, true),
        }
    }

    fn on_due<N: Net>(&mut self, cx: &mut Cx<'_, N>, slot: u32) {
        let Some(key) = self.waiting.key_at(slot) else { return };
        let Some(preface) = self.waiting.get(key) else { return };
        // A client that waits for the server to speak first.
        if preface.seen.is_empty() && !is_required(cx.core, preface.listener) {
            return self.hand_on(key, Early::default(), None);
        }
        self.refuse(cx, key, Refusal::ProxyHeaderTimeout, "it did not come in time");
    }

    fn refuse<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, refusal: Refusal, why: &str) {
        let Some(preface) = self.waiting.get(key) else { return };
        refusal.counter(cx.core.counters()).add(1);
        let listener = cx.core.shared.plan.listeners.get(usize::from(preface.listener));
        let (name, peer) = (listener.map_or("", |listener| &listener.name), preface.peer);
        cx.core.notice(&cx.core.shared.notices.proxy_header, cx.net.now(), || {
            format!("listener {name}: PROXY protocol header of {}: {why}; it was reset", peer.ip())
        });
        log(cx, preface, refusal);
        self.close(cx, key, Close::Reset);
    }

    fn close<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, how: Close) {
        let Some(preface) = self.waiting.get_mut(key).filter(|preface| !preface.closing) else { return };
        preface.closing = true;
        preface.seen = Vec::new();
        self.timers.cancel(key.slot);
        cx.net.close(preface.sock, how);
    }

    /// Resets whoever is left.
    pub fn cut<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        for slot in 0..self.waiting.slots() {
            let Some(key) = self.waiting.key_at(slot) else { continue };
            if self.waiting.get(key).is_some_and(|preface| !preface.closing) {
                cx.core.counters().drain_cut.add(1);
                self.close(cx, key, Close::Reset);
            }
        }
    }
}

/// A connection that comes to no request is worth a line all the same: it shows who is set up wrongly.
fn log<N: Net>(cx: &mut Cx<'_, N>, preface: &Preface, refusal: Refusal) {
    let shared = Arc::clone(&cx.core.shared);
    let listener = shared.plan.listeners.get(usize::from(preface.listener));
    let record = Record {
        started_us: cx.net.micros(),
        listener: listener.map_or("", |listener| &listener.name),
        client: Some(preface.peer.ip()),
        peer: Some(preface.peer),
        ending: refusal.ending(),
        ..Record::default()
    };
    cx.core.logs.write(preface.listener, &record);
}

fn is_required(core: &Core, listener: u16) -> bool {
    let listener = core.shared.plan.listeners.get(usize::from(listener));
    listener.and_then(|one| one.proxy_protocol.as_ref()).is_some_and(|rules| rules.required)
}

fn timeout_ms(core: &Core, listener: u16) -> Millis {
    let listener = core.shared.plan.listeners.get(usize::from(listener));
    let http = listener.and_then(|listener| listener.http.as_deref());
    http.map_or(HEADER_TIMEOUT_MS, |http| http.first_byte_timeout_ms)
}

/// Driven by its shard.
impl Prefaces {
    pub fn on_event<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, event: Event) {
        match event {
            Event::Received { buf, .. } => self.on_received(cx, key, buf),
            Event::Eof { .. } => self.on_eof(cx, key),
            Event::Failed { .. } => self.close(cx, key, Close::Reset),
            Event::Closed { .. } => {
                if let Some(preface) = self.waiting.remove(key) {
                    cx.core.dismiss(usize::from(preface.listener));
                }
            }
            Event::Accepted { .. }
            | Event::AcceptFailed { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Finished { .. }
            | Event::Drained { .. }
            | Event::Unspliced { .. } => {}
        }
    }

    pub fn on_turn<N: Net>(&mut self, cx: &mut Cx<'_, N>) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(cx.net.now(), &mut due);
        due.drain(..).for_each(|slot| self.on_due(cx, slot));
        self.due = due;
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.timers.poll_timeout()
    }
}
