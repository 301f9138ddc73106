//! Which clients there are, for whoever asks.

use super::Http;
use super::state::{Phase, Stage};
use crate::core::{Core, Cx};
use crate::roster::{self, Row, State, UpstreamRow};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::Net;
use std::net::SocketAddr;

impl Http {
    /// Places that [`row`](Self::row) knows.
    pub fn places(&self) -> u32 {
        self.clients.slots()
    }

    pub fn row<N: Net>(&self, cx: &Cx<'_, N>, place: u32) -> Option<Row> {
        let client = self.clients.get(self.clients.key_at(place)?)?;
        let busy = match client.stage {
            Stage::Busy(exchange) => self.exchange_row(cx.core, exchange, cx.net.now()),
            Stage::Head | Stage::Linger | Stage::Closing => None,
        };
        let state = match (client.stage, &busy) {
            (Stage::Busy(_), Some((state, ..))) => *state,
            (Stage::Busy(_), None) => State::Busy,
            (Stage::Head, _) => State::Idle,
            (Stage::Linger | Stage::Closing, _) => State::Closing,
        };
        let (upstream, quiet_ms) = busy.map(|(_, upstream, quiet)| (upstream, quiet)).unzip();
        Some(Row {
            listener: usize::from(client.listener),
            state,
            client: Some(SocketAddr::new(client.peer.ip(), client.peer.port)),
            upstream,
            quiet_ms,
            requests: Some(client.requests),
        })
    }

    fn exchange_row(&self, core: &Core, key: Key, now: Millis) -> Option<(State, UpstreamRow, Millis)> {
        let exchange = self.exchanges.get(key)?;
        let state = match exchange.phase {
            Phase::Waiting => State::Waiting,
            Phase::Connecting => State::Connecting,
            Phase::Open => State::Busy,
        };
        let conn = exchange.conn.and_then(|conn| self.conns.get(conn));
        let upstream = match conn {
            Some(conn) => roster::upstream(core, conn.pool, conn.path, &conn.lease),
            None => roster::nowhere(exchange.pool),
        };
        Some((state, upstream, now.saturating_sub(exchange.active)))
    }
}
