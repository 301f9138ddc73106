//! Connections to servers that want to know who the client is: such a connection carries one client's address for its whole life,
//! so that it is kept for that client alone and ends with it.

use super::Http;
use super::state::Role;
use crate::core::{Core, Cx, greeting};
use fourfold_base::slab::Key;
use fourfold_engine::Net;
use std::net::SocketAddr;

impl Http {
    /// Says who the client is on a fresh connection, if its server wants to know. `false`: there was no buffer.
    pub(super) fn greet<N: Net>(&mut self, cx: &mut Cx<'_, N>, exchange: Key, key: Key) -> bool {
        let (Some(exchange), Some(conn)) = (self.exchanges.get(exchange), self.conns.get_mut(key)) else {
            return true;
        };
        let pool = cx.core.shared.plan.pools.get(usize::from(conn.pool));
        let Some(version) = pool.and_then(|pool| pool.proxy_protocol) else { return true };
        let Some(client) = self.clients.get(exchange.client) else { return true };
        let source = SocketAddr::new(client.peer.ip(), client.peer.port);
        let header = greeting(version, cx.addresses(client.listener, client.sock, source, None));
        conn.sent += header.len() as u64;
        super::client::send_all(cx.net, conn.sock, &header)
    }

    /// The connection that was made for this request's client alone, if it leads to the right pool.
    pub(super) fn take_pinned(&mut self, exchange: Key) -> Option<Key> {
        if self.pinned.is_empty() {
            return None;
        }
        let exchange = self.exchanges.get(exchange)?;
        let key = *self.pinned.get(&exchange.client)?;
        let conn = self.conns.get_mut(key)?;
        if conn.pool != exchange.pool || exchange.avoid.contains(&conn.server) {
            return None;
        }
        conn.pinned = None;
        self.pinned.remove(&exchange.client)
    }

    /// Whether connections to this pool are each one client's.
    pub(super) fn is_pinned(core: &Core, pool: usize) -> bool {
        core.shared.plan.pools.get(pool).is_some_and(|pool| pool.proxy_protocol.is_some())
    }

    /// Keeps a connection that has answered for its client's next request, instead of one to another pool.
    pub(super) fn pin<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key, key: Key) {
        self.unpin(cx, client);
        if let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.role == Role::Idle) {
            conn.pinned = Some(client);
            self.pinned.insert(client, key);
        }
    }

    /// The client leaves, or has got another connection.
    pub(super) fn unpin<N: Net>(&mut self, cx: &mut Cx<'_, N>, client: Key) {
        if let Some(key) = self.pinned.remove(&client) {
            self.drop_conn(cx, key);
        }
    }
}
