//! What the access log says of a connection in tcp mode: kept from its start until its end, where there is a log at all.

use crate::access::{Bytes, Ending, Phases, Record};
use crate::core::Core;
use std::net::SocketAddr;

/// A line, but for how it ends.
pub(crate) struct Entry {
    listener: u16,
    pool: u16,
    client: SocketAddr,
    began_us: u64,
    up: u64,
    down: u64,
    tries: u32,
    reached: Reached,
}

/// How far it has come.
enum Reached {
    Client,
    /// The present attempt began then.
    Server {
        server: SocketAddr,
        connect_us: u64,
    },
    Open {
        server: SocketAddr,
        connect_us: u64,
        open_us: u64,
        source: Option<SocketAddr>,
    },
}

impl Entry {
    pub fn new(listener: u16, pool: u16, client: SocketAddr, began_us: u64) -> Self {
        Self { listener, pool, client, began_us, up: 0, down: 0, tries: 0, reached: Reached::Client }
    }

    pub fn connecting(&mut self, server: SocketAddr, now_us: u64) {
        self.tries += 1;
        self.reached = Reached::Server { server, connect_us: now_us };
    }

    /// `source`: our own end of the connection to the server.
    pub fn opened(&mut self, source: Option<SocketAddr>, now_us: u64) {
        if let Reached::Server { server, connect_us } = self.reached {
            self.reached = Reached::Open { server, connect_us, open_us: now_us, source };
        }
    }

    pub fn add(&mut self, up: u64, down: u64) {
        self.up += up;
        self.down += down;
    }

    pub fn write(&self, core: &mut Core, ending: Ending, now_us: u64) {
        let plan = &core.shared.plan;
        let listener = plan.listeners.get(usize::from(self.listener));
        let pool = plan.pools.get(usize::from(self.pool));
        let (server, source, queue, connect) = match self.reached {
            Reached::Client => (None, None, None, None),
            Reached::Server { server, connect_us } => (Some(server), None, Some(connect_us), None),
            Reached::Open { server, connect_us, open_us, source } => {
                (Some(server), source, Some(connect_us), Some(open_us.saturating_sub(connect_us)))
            }
        };
        let record = Record {
            started_us: self.began_us,
            listener: listener.map_or("", |listener| &listener.name),
            client: Some(self.client.ip()),
            peer: Some(self.client),
            received: Bytes { head: 0, body: self.up },
            sent: Bytes { head: 0, body: self.down },
            phases: Phases {
                queue: queue.map(|connect_us| connect_us.saturating_sub(self.began_us)),
                connect,
                total: now_us.saturating_sub(self.began_us),
                ..Phases::default()
            },
            pool: pool.map_or("", |pool| &pool.name),
            server,
            source,
            tries: self.tries,
            ending,
            ..Record::default()
        };
        core.logs.write(self.listener, &record);
    }
}
