//! Which of the clients are slow, when buffers are short.

use super::Http;
use super::state::{Client, Phase, Stage};
use crate::access::Ending;
use crate::core::Cx;
use crate::shed::{Slow, Whose, unsent_buffers};
use fourfold_base::Millis;
use fourfold_base::slab::Key;
use fourfold_engine::{Close, Net};

impl Http {
    pub fn slow<N: Net>(&self, net: &N, slow: &mut Vec<Slow>) {
        let keys = (0..self.clients.slots()).filter_map(|slot| self.clients.key_at(slot));
        slow.extend(keys.filter_map(|key| {
            let client = self.clients.get(key)?;
            let since = self.stands_still_since(client)?;
            let buffers = self.buffers(net, client);
            Slow::new(Whose::Client(key), buffers, net.now().saturating_sub(since))
        }));
    }

    fn buffers<N: Net>(&self, net: &N, client: &Client) -> usize {
        let own = unsent_buffers(net, client.sock) + client.stash.len();
        let Stage::Busy(exchange) = client.stage else { return own };
        let conn = self.exchanges.get(exchange).and_then(|exchange| exchange.conn);
        let conn = conn.and_then(|conn| self.conns.get(conn));
        own + conn.map_or(0, |conn| unsent_buffers(net, conn.sock) + usize::from(conn.partial.is_some()))
    }

    /// `None`: it is not the client that is waited for.
    fn stands_still_since(&self, client: &Client) -> Option<Millis> {
        let settings = self.settings.get(usize::from(client.listener))?.as_ref()?;
        match client.stage {
            // Its last response has not been taken, or its next head does not come.
            Stage::Head if client.scanned == 0 => {
                Some(client.deadline.saturating_sub(settings.keep_alive_timeout_ms))
            }
            Stage::Head => Some(client.deadline.saturating_sub(settings.header_timeout_ms)),
            Stage::Busy(exchange) => {
                let exchange = self.exchanges.get(exchange)?;
                (exchange.phase == Phase::Open).then_some(exchange.active)
            }
            Stage::Linger => Some(client.deadline.saturating_sub(settings.send_timeout_ms)),
            Stage::Closing => None,
        }
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
