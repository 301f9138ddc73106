//! Which clients hold buffers, when those are short.

use super::Http;
use super::state::{Client, Stage};
use crate::access::Ending;
use crate::core::Cx;
use crate::shed::{Holder, Whose, unsent_of};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Net};

impl Http {
    pub fn holders<N: Net>(&self, net: &mut N, holders: &mut Vec<Holder>) {
        let keys = (0..self.clients.slots()).filter_map(|slot| self.clients.key_at(slot));
        holders.extend(keys.filter_map(|key| {
            let client = self.clients.get(key).filter(|client| client.stage != Stage::Closing)?;
            let (unsent, kept, emptied) = self.held(net, client);
            let head_since = self.head_since(client);
            // What is kept for want of a server is not the client's doing.
            (unsent > 0 || (kept > 0 && head_since.is_some())).then_some(Holder {
                whose: Whose::Client(key),
                unsent,
                emptied,
                kept,
                head_since,
            })
        }));
    }

    /// Bytes unsent on either side, buffers beside them, and whether the bytes are others than at the last look.
    fn held<N: Net>(&self, net: &mut N, client: &Client) -> (usize, usize, bool) {
        let kept = client.stash.len();
        let exchange = match client.stage {
            Stage::Busy(exchange) => self.exchanges.get(exchange),
            _ => None,
        };
        let Some(conn) = exchange.and_then(|exchange| self.conns.get(exchange.conn?)) else {
            let (unsent, emptied) = unsent_of(net, &[client.sock]);
            return (unsent, kept, emptied);
        };
        let (unsent, emptied) = unsent_of(net, &[client.sock, conn.sock]);
        (unsent, kept + usize::from(conn.partial.is_some()), emptied)
    }

    fn head_since(&self, client: &Client) -> Option<Millis> {
        let settings = self.settings.get(usize::from(client.listener))?.as_ref()?;
        let begun = client.stage == Stage::Head && client.scanned > 0;
        begun.then(|| client.deadline.saturating_sub(settings.header_timeout_ms))
    }

    /// Resets a slow client.
    pub fn shed<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        match self.clients.get(key).map(|client| client.stage) {
            Some(Stage::Busy(exchange)) => self.abort(cx, exchange, Ending::Shed),
            Some(_) => self.log_head(cx, key, Ending::Shed),
            None => {}
        }
        self.close_client(cx, key, Close::Reset);
    }
}
