//! What origin and load share at start: the engine's choice and the shard plan on this machine, and what can go wrong.

use fourfold_engine::{Demand, Engine, Limits, ShardPlan, SpawnError, choose_engine, plan_shards};
use fourfold_sys::Errno;
use fourfold_sys::uring::Unavailable;
use std::fmt;

/// Why nothing was started.
#[derive(Debug)]
pub enum StartError {
    Engine(Unavailable),
    /// The demand does not fit this machine; says what would.
    Plan(String),
    /// The configuration cannot be met; says what would.
    Config(String),
    /// No port could be found to listen on.
    Port(Errno),
    Spawn(SpawnError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(missing) => write!(f, "io_uring cannot be used ({missing}): use --engine epoll"),
            Self::Plan(reason) | Self::Config(reason) => f.write_str(reason),
            Self::Port(errno) => write!(f, "cannot find a port to listen on: {errno}"),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<SpawnError> for StartError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

/// Raises the soft descriptor limit and plans the shards for `demand`.
pub(crate) fn plan(engine: Option<Engine>, demand: &Demand) -> Result<ShardPlan, StartError> {
    let (engine, why) = choose_engine(engine).map_err(StartError::Engine)?;
    let limits = Limits::of_this_machine()
        .map_err(|errno| StartError::Plan(format!("cannot read the descriptor limit: {errno}")))?;
    let plan = plan_shards(engine, demand, &limits).map_err(StartError::Plan)?;
    tracing::debug!(%engine, %why, shards = plan.shards, reason = %plan.reason, "planned");
    Ok(plan)
}

/// Why there is no report.
#[derive(Debug)]
pub enum WaitError {
    /// The load goes on; wait again, or stop it first.
    StillRunning,
    Shard(Errno),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StillRunning => f.write_str("the load is still running"),
            Self::Shard(errno) => write!(f, "a shard of the load ended: {errno}"),
        }
    }
}

impl std::error::Error for WaitError {}
