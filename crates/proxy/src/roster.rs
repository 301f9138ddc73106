//! Who is connected: a shard's answer to whoever asks, a page at a time.
//!
//! Owns: how far one look goes, so that it never holds up the shard. Refuses: more than that in one page.
//! Driven by: the shard, with the mail that asks.

use crate::core::{Core, Cx};
use crate::http::Http;
use crate::tcp::Tcp;
use fourfold_base::Millis;
use fourfold_engine::{Local, Net, Sock};
use fourfold_ports::Lease;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::SyncSender;

/// Connections in one page: each may cost a system call for its address.
pub const PAGE_ROWS_MAX: usize = 256;
/// Places that are looked at for one page, most of which may be free.
pub const PAGE_PLACES_MAX: u32 = 32 * 1024;

/// Which page is wanted.
#[derive(Debug)]
pub struct Inquiry {
    /// Where the page before ended; 0 to begin.
    pub place: u32,
    pub rows_max: usize,
    /// Has room for one page. A shard's thread may have a descriptor table of its own, so that whoever waits must be woken
    /// without a descriptor: this is why it is no channel of tokio's, which writes to an eventfd by its number.
    pub reply: SyncSender<Page>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<Row>,
    /// Where the next page begins; `None`: that was the last.
    pub next: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// For a tuple, a server or a connection.
    Waiting,
    Connecting,
    /// A tunnel whose both sides are connected.
    Open,
    /// An HTTP client whose request is being served.
    Busy,
    /// An HTTP client that may send its next request.
    Idle,
    Closing,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub listener: usize,
    pub state: State,
    /// `None`: it has left already.
    pub client: Option<SocketAddr>,
    pub upstream: Option<UpstreamRow>,
    /// Since something last moved; `None`: not known.
    pub quiet_ms: Option<Millis>,
    /// HTTP requests so far.
    pub requests: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamRow {
    pub pool: usize,
    /// There once a server has been picked.
    pub server: Option<SocketAddr>,
    /// `None`: the kernel chose.
    pub source: Option<IpAddr>,
    /// 0 before there is a tuple, or when the kernel chose.
    pub port: u16,
}

/// Both tables as one row of places: tunnels, then HTTP clients.
pub(crate) fn page<N: Net>(cx: &mut Cx<'_, N>, tcp: &Tcp, http: &Http, place: u32, rows_max: usize) -> Page {
    let rows_max = rows_max.min(PAGE_ROWS_MAX);
    let (tunnels, end) = (tcp.places(), tcp.places().saturating_add(http.places()));
    let last = end.min(place.saturating_add(PAGE_PLACES_MAX));
    let mut rows = Vec::new();
    let mut at = place;
    while at < last && rows.len() < rows_max {
        let found = if at < tunnels { tcp.row(cx, at) } else { http.row(cx, at - tunnels) };
        rows.extend(found);
        at += 1;
    }
    Page { rows, next: (at < end).then_some(at) }
}

/// Where a socket's other end is.
pub(crate) fn peer<N: Net>(cx: &mut Cx<'_, N>, sock: Sock) -> Option<SocketAddr> {
    cx.net.peer_address(sock).ok()
}

/// What a lease towards a server stands for.
pub(crate) fn upstream(core: &Core, pool: u16, path: u32, lease: &Lease) -> UpstreamRow {
    let (source, port) = match core.upstreams.local(path, lease) {
        Some(Local::Late { ip, port }) => (ip, port),
        Some(Local::Early { ip, port }) => (Some(ip), port),
        Some(Local::Kernel) | None => (None, 0),
    };
    UpstreamRow { pool: usize::from(pool), server: core.upstreams.address(path), source, port }
}

/// Before there is a server.
pub(crate) fn nowhere(pool: u16) -> UpstreamRow {
    UpstreamRow { pool: usize::from(pool), server: None, source: None, port: 0 }
}
