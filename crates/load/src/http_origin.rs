//! An HTTP/1.1 origin to put a proxy in front of: what it answers is in the path, and what it does not understand as exactly
//! one request it refuses and counts.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the default number of bytes (100) |
//! | `/bytes/N` | N bytes with their length |
//! | `/chunked/N` | N bytes in chunks |
//! | `/delay/MS`, `/delay/MS/N` | the same after MS milliseconds |
//! | `/status/CODE` | that status |
//! | `/echo` | the request's body, as it comes, framed as it was |
//! | `/hash` | `{"bytes", "sha256"}` of the request's body |
//! | `/headers` | the request line and the fields, in order, as JSON |
//! | `/close` | 100 bytes, `Connection: close`, and closes |
//! | `/drip/N/MS` | N bytes, one every MS milliseconds |
//! | `/early` | answers before the body has come, then reads it |
//! | `/trailers` | 100 bytes in chunks and trailer fields |
//! | `/continue` | `100 Continue` even if not asked for, then `{"bytes", "expected"}` |
//! | `/hints` | `103 Early Hints`, then 100 bytes |
//! | `/ws`, `/ws-echo` | a WebSocket that echoes frames |
//!
//! Owns: accepted connections, their exchanges, and counters that other threads may read.
//! Refuses: whatever is not one well-formed request, with 400 and the rule that it breaks.
//! Driven by: the engine's shards ([`start`]), or any other `Net`.

mod app;
mod reply;
mod route;
mod upload;
mod websocket;

pub use app::HttpOrigin;

use crate::StartError;
use crate::origin::{OriginMail, plan_origin, spawn_on, stop_shards};
use fourfold_base::Millis;
use fourfold_engine::{Engine, Shard, ShardPlan};
use fourfold_sys::Errno;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What `/` answers unless the user says otherwise.
pub const DEFAULT_BYTES: u64 = 100;

fourfold_base::counters! {
    /// Of one shard.
    pub struct HttpOriginCounters {
        accepted: "Connections accepted",
        open: "Connections open now",
        failed: "Connections that ended by a reset or another error",
        accept_errors: "Times that accepting failed and was tried again later",
        requests: "Well-formed request heads",
        completed: "Requests that were answered to the last byte",
        malformed: "Requests, bodies and frames that were refused as malformed",
        cut: "Requests that ended before their last byte had come",
        websockets: "WebSockets opened",
        frames: "WebSocket data frames echoed",
        body_bytes: "Bytes of request bodies",
        received_bytes: "Bytes received",
        sent_bytes: "Bytes handed to the engine for sending",
    }
}

/// A sum over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpOriginStats {
    pub accepted: u64,
    pub open: u64,
    pub failed: u64,
    pub accept_errors: u64,
    pub requests: u64,
    pub completed: u64,
    pub malformed: u64,
    pub cut: u64,
    pub websockets: u64,
    pub frames: u64,
    pub body_bytes: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl HttpOriginStats {
    fn add(mut self, shard: &HttpOriginCounters) -> Self {
        self.accepted += shard.accepted.get();
        self.open += shard.open.get();
        self.failed += shard.failed.get();
        self.accept_errors += shard.accept_errors.get();
        self.requests += shard.requests.get();
        self.completed += shard.completed.get();
        self.malformed += shard.malformed.get();
        self.cut += shard.cut.get();
        self.websockets += shard.websockets.get();
        self.frames += shard.frames.get();
        self.body_bytes += shard.body_bytes.get();
        self.received_bytes += shard.received_bytes.get();
        self.sent_bytes += shard.sent_bytes.get();
        self
    }

    /// Names and values, to be printed.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let Self {
            accepted,
            open,
            failed,
            accept_errors,
            requests,
            completed,
            malformed,
            cut,
            websockets,
            frames,
            body_bytes,
            received_bytes,
            sent_bytes,
        } = *self;
        vec![
            ("accepted", accepted),
            ("open", open),
            ("failed", failed),
            ("accept_errors", accept_errors),
            ("requests", requests),
            ("completed", completed),
            ("malformed", malformed),
            ("cut", cut),
            ("websockets", websockets),
            ("frames", frames),
            ("body_bytes", body_bytes),
            ("received_bytes", received_bytes),
            ("sent_bytes", sent_bytes),
        ]
    }
}

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What `/` answers.
    pub bytes: u64,
    /// Before every answer that names no delay of its own.
    pub delay_ms: Millis,
    /// Closes a connection after so many answers, unannounced: what a proxy's warm connection meets one day.
    pub close_after: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { bytes: DEFAULT_BYTES, delay_ms: 0, close_after: None }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct HttpOriginConfig {
    /// Port 0: the kernel names one, see [`RunningHttpOrigin::address`].
    pub listen: SocketAddr,
    pub options: Options,
    /// `None`: the best that works here.
    pub engine: Option<Engine>,
    /// How many it must be able to hold. `None`: what one shard per processor can.
    pub connections: Option<u64>,
    /// `None`: derived.
    pub shards: Option<usize>,
    /// Told of every request as it comes.
    pub record: Option<PathBuf>,
}

impl HttpOriginConfig {
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            options: Options::default(),
            engine: None,
            connections: None,
            shards: None,
            record: None,
        }
    }
}

/// An origin on threads of its own. Dropping it leaves it running; [`Self::stop`] ends it.
pub struct RunningHttpOrigin {
    address: SocketAddr,
    plan: ShardPlan,
    shards: Vec<Shard<HttpOrigin, OriginMail>>,
    counters: Vec<Arc<HttpOriginCounters>>,
}

/// Opens the listeners and accepts.
pub fn start(config: &HttpOriginConfig) -> Result<RunningHttpOrigin, StartError> {
    let plan = plan_origin(config.engine, config.connections, config.shards)?;
    let counters: Vec<_> = (0..plan.shards).map(|_| Arc::new(HttpOriginCounters::default())).collect();
    let (limit, slots) = (plan.connections_per_shard as usize, plan.accept_slots as usize);
    if let Some(path) = &config.record {
        app::open_record(path).map_err(|error| StartError::Config(format!("{}: {error}", path.display())))?;
    }
    let (address, shards) = spawn_on(config.listen, &plan, |shard| {
        let counters = counters.get(shard).map(Arc::clone).unwrap_or_default();
        HttpOrigin::new(config.options, limit, slots, counters).recording(config.record.clone())
    })?;
    Ok(RunningHttpOrigin { address, plan, shards, counters })
}

impl RunningHttpOrigin {
    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    pub fn stats(&self) -> HttpOriginStats {
        self.counters.iter().fold(HttpOriginStats::default(), |sum, shard| sum.add(shard))
    }

    /// Resets all connections, closes the listeners and ends the threads.
    pub fn stop(self) -> Result<HttpOriginStats, Errno> {
        let Self { shards, counters, .. } = self;
        stop_shards(shards)?;
        Ok(counters.iter().fold(HttpOriginStats::default(), |sum, shard| sum.add(shard)))
    }
}
