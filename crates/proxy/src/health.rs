//! What all shards know together about a pool's servers: who is fit, and whose fault it was.
//!
//! Owns: the board that every shard writes its answers to, the machine behind a lock that judges them, and the lines and
//! counts that follow. Refuses: to hold a shortage of this machine against a server.
//! Driven by: shards with outcomes and checks; the pool's keeper, one of the shards, with the time.

use crate::check::{Place, sources};
use crate::core::Core;
use crate::counters::Counters;
use crate::shared::{Mail, PoolState, ShardState, Target};
use fourfold_balance::health::{Board, Change, Fault, Health, Notice, Outcome, Reason, Rules, Standing};
use fourfold_base::Millis;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A path or a source that fails where others do not is left alone for so long, and again after its next failure.
const PATH_EJECTED_MS: Millis = 10_000;

#[derive(Debug)]
pub struct PoolHealth {
    pub board: Arc<Board>,
    machine: Mutex<Health>,
    /// Rules that only time can fulfil.
    timed: bool,
    /// When the machine has something to do; `Millis::MAX`: never.
    due: AtomicU64,
    avoided: Mutex<Vec<AvoidedPath>>,
    /// Per server, what its checks came to.
    checked: Mutex<Vec<Checked>>,
}

/// By source, at this address.
#[derive(Clone, Debug, Default)]
struct Checked {
    address: Option<SocketAddr>,
    paths: Vec<Standing>,
}

/// A source that is not used towards a server, though others are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AvoidedPath {
    pub source: IpAddr,
    /// `None`: all servers of the pool.
    pub server: Option<usize>,
    pub until: Millis,
}

/// Avoided paths that a report tells of.
const AVOIDED_MAX: usize = 64;

impl PoolHealth {
    pub(crate) fn new(rules: Rules, servers: usize) -> Self {
        let streaks = rules.streaks;
        let ejects =
            [streaks.errors, streaks.gateway_errors, streaks.unreachable].iter().any(|limit| *limit > 0);
        let timed = ejects || rules.breaker.is_some() || rules.success.is_some() || rules.latency.is_some();
        let (machine, board) = Health::new(rules, servers, 0);
        let due = if timed { machine.poll_timeout() } else { Millis::MAX };
        Self {
            board,
            machine: Mutex::new(machine),
            timed,
            due: AtomicU64::new(due),
            avoided: Mutex::default(),
            checked: Mutex::new(vec![Checked::default(); servers]),
        }
    }

    /// A server has got an address, whose paths are to be checked anew.
    pub(crate) fn reset_checks(&self, server: usize, target: Option<&Target>) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = checked.get_mut(server) else { return };
        if own.address == target.map(|target| target.address) {
            return;
        }
        let paths = target.map_or(0, |target| sources(target.space.sources().len()).count());
        *own =
            Checked { address: target.map(|target| target.address), paths: vec![Standing::Checking; paths] };
        drop(checked);
        self.with(|machine| machine.handle_check(server, Standing::Checking));
    }

    /// What the server's paths say together; `None`: nothing that is still of interest.
    fn note_check(&self, place: &Place, standing: Standing) -> Option<Standing> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let own = checked.get_mut(place.server).filter(|own| own.address == Some(place.address))?;
        *own.paths.get_mut(place.source.unwrap_or(0) as usize)? = standing;
        Some(Standing::of_server(own.paths.iter().copied()))
    }

    fn server_standing(&self, server: usize) -> Standing {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = checked.get(server).map(|own| own.paths.as_slice()).unwrap_or_default();
        Standing::of_server(paths.iter().copied())
    }

    /// Whether no server answers this source, though one answers another.
    fn source_fails_everywhere(&self, source: u64) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = checked.iter().filter_map(|own| own.paths.get(source as usize));
        checked.len() > 1 && asked.all(|standing| *standing == Standing::Down)
    }

    /// Where not all paths are alike.
    #[must_use]
    pub fn avoided(&self, now: Millis) -> Vec<AvoidedPath> {
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner).clone();
        avoided.retain(|path| now < path.until);
        avoided
    }

    fn avoid(&self, new: AvoidedPath, now: Millis) {
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.retain(|path| now < path.until && (path.source, path.server) != (new.source, new.server));
        if avoided.len() < AVOIDED_MAX {
            avoided.push(new);
        }
    }

    pub(crate) fn set_sources(&self, server: usize, sources: u128) {
        self.lock().set_sources(server, u32::try_from(sources).unwrap_or(u32::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has changed by `act`, and what it returned.
    fn with<T>(&self, act: impl FnOnce(&mut Health) -> T) -> (T, Vec<Change>) {
        let mut machine = self.lock();
        let result = act(&mut machine);
        let changes = std::iter::from_fn(|| machine.poll_change()).collect();
        if self.timed {
            self.due.store(machine.poll_timeout(), Relaxed);
        }
        (result, changes)
    }

    fn due(&self) -> Millis {
        self.due.load(Relaxed)
    }
}

/// Who answered, or did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answerer {
    pub pool: usize,
    pub server: usize,
    /// Number of the source address that it was asked from.
    pub source: u64,
}

impl Core {
    /// What came of an attempt that the board had admitted. For nearly every answer a few atomic additions.
    pub fn report(&mut self, who: Answerer, outcome: Outcome, latency_us: u64, now: Millis) -> Fault {
        let shared = Arc::clone(&self.shared);
        let Some(state) = shared.pools.get(who.pool) else { return Fault::Undecided };
        let good = matches!(outcome, Outcome::Success | Outcome::Answering);
        if !matches!(outcome, Outcome::Shortage | Outcome::Answered) {
            self.upstreams.observe(who.pool, who.server, latency_us, good, now);
        }
        match state.health.board.record(who.server, outcome, latency_us) {
            None => Fault::Undecided,
            Some(notice) => self.heed(who, notice, now),
        }
    }

    /// A connection to the server has come about.
    pub fn reached(&mut self, who: Answerer, now: Millis) {
        let board = |state: &PoolState| state.health.board.connected(who.server, who.source as u32, now);
        if let Some(notice) = self.shared.pools.get(who.pool).and_then(board) {
            self.heed(who, notice, now);
        }
    }

    fn heed(&mut self, who: Answerer, notice: Notice, now: Millis) -> Fault {
        let shared = Arc::clone(&self.shared);
        let Some(state) = shared.pools.get(who.pool) else { return Fault::Undecided };
        let due = state.health.due();
        let handle = |machine: &mut Health| machine.handle_notice(now, who.server, who.source as u32, notice);
        let (fault, changes) = state.health.with(handle);
        self.announce(who.pool, &changes, "", now);
        // The keeper sleeps until what it knew.
        if state.health.due() < due {
            self.tell_keeper(who.pool);
        }
        match fault {
            Fault::Path => self.blame_source(who, Some(who.server), now),
            Fault::Source => self.blame_source(who, None, now),
            Fault::Undecided | Fault::Server => {}
        }
        fault
    }

    /// The paths of a source to one server or to all are avoided, on every shard.
    fn blame_source(&mut self, who: Answerer, server: Option<usize>, now: Millis) {
        let Some(source) = self.upstreams.source_address(who.pool, who.server, who.source) else { return };
        self.counters().paths_ejected.add(1);
        let until = now + PATH_EJECTED_MS;
        self.notice(&self.shared.notices.path, now, || {
            let to = match server {
                Some(server) => format!("server {}", self.address_text(who.pool, server)),
                None => "several servers that others reach".into(),
            };
            format!("source {source} does not get through to {to}; other sources are used")
        });
        self.avoid(who.pool, AvoidedPath { source, server, until }, now);
    }

    fn avoid(&mut self, pool: usize, path: AvoidedPath, now: Millis) {
        if let Some(state) = self.shared.pools.get(pool) {
            state.health.avoid(path, now);
        }
        let AvoidedPath { source, server, until } = path;
        // Before anybody here chooses again; the connections that lie ready follow by mail.
        self.upstreams.avoid(pool, server, source, until);
        for shard in &self.shared.shards {
            shard.tell(Mail::Avoid { pool, server, source, until });
        }
    }

    /// The checks of a path have come to another conclusion.
    pub fn checked(&mut self, place: &Place, standing: Standing, why: &str, now: Millis) {
        let shared = Arc::clone(&self.shared);
        let Some(state) = shared.pools.get(place.pool) else { return };
        let Some(server) = state.health.note_check(place, standing) else { return };
        let ((), changes) = state.health.with(|machine| machine.handle_check(place.server, server));
        self.announce(place.pool, &changes, why, now);
        match (standing, server) {
            (Standing::Down, Standing::Up) => {
                self.say_path_fails(place, state, why);
                self.still_failing(place, now);
            }
            (Standing::Up, _) => self.keep_away(place, 0, now),
            _ => {}
        }
    }

    /// A path fails while others to its server do not: it is avoided until well after its next check.
    pub fn still_failing(&mut self, place: &Place, now: Millis) {
        let shared = Arc::clone(&self.shared);
        let (Some(state), Some(plan)) = (shared.pools.get(place.pool), shared.plan.pools.get(place.pool))
        else {
            return;
        };
        let Some(check) = plan.health.active.as_ref() else { return };
        if state.health.server_standing(place.server) == Standing::Up {
            let rules = check.rules;
            self.keep_away(place, now + 2 * rules.interval_ms + rules.timeout_ms, now);
        }
    }

    fn keep_away(&mut self, place: &Place, until: Millis, now: Millis) {
        let Some(number) = place.source else { return };
        if let Some(source) = self.upstreams.source_address(place.pool, place.server, number) {
            self.avoid(place.pool, AvoidedPath { source, server: Some(place.server), until }, now);
        }
    }

    fn say_path_fails(&self, place: &Place, state: &PoolState, why: &str) {
        let Some(number) = place.source else { return };
        let source = self.upstreams.source_address(place.pool, place.server, number);
        let Some(source) = source else { return };
        self.counters().paths_ejected.add(1);
        let server = self.address_text(place.pool, place.server);
        match state.health.source_fails_everywhere(number) {
            true => tracing::warn!("source {source} gets through to no server, others do: {why}"),
            false => {
                tracing::warn!("source {source} does not get through to server {server}, others do: {why}")
            }
        }
    }

    /// Ejections and breakers end, servers are compared.
    pub fn on_health_turn(&mut self, now: Millis) {
        let shared = Arc::clone(&self.shared);
        for (pool, state) in self.kept(&shared) {
            if state.health.due() <= now {
                let ((), changes) = state.health.with(|machine| machine.handle_timeout(now));
                self.announce(pool, &changes, "", now);
            }
        }
    }

    #[must_use]
    pub fn health_due(&self) -> Option<Millis> {
        let due = self.kept(&self.shared).map(|(_, state)| state.health.due()).min();
        due.filter(|due| *due < Millis::MAX)
    }

    /// Pools whose time this shard keeps. In a drain any shard may be the last.
    fn kept<'a>(
        &self,
        shared: &'a crate::shared::Shared,
    ) -> impl Iterator<Item = (usize, &'a PoolState)> + use<'a> {
        let (first, step) = match self.draining {
            true => (0, 1),
            false => (self.shard, shared.shards.len().max(1)),
        };
        shared.pools.iter().enumerate().skip(first).step_by(step)
    }

    fn tell_keeper(&self, pool: usize) {
        let keeper = pool % self.shared.shards.len().max(1);
        if keeper != self.shard
            && let Some(shard) = self.shared.shards.get(keeper)
        {
            shard.tell(Mail::Look);
        }
    }

    fn announce(&mut self, pool: usize, changes: &[Change], why: &str, now: Millis) {
        for change in changes {
            self.count_change(change);
            self.log_change(pool, change, why, now);
            match change {
                Change::Returned { server } | Change::Closed { server } | Change::CheckedUp { server } => {
                    self.came_up(pool, *server, now);
                }
                Change::HalfOpened { .. } | Change::Panic { on: true } => self.freed(pool),
                Change::CheckedDown { server } => {
                    let tell = |shard: &ShardState| shard.tell(Mail::Down { pool, server: *server });
                    self.shared.shards.iter().map(tell).for_each(drop);
                }
                _ => {}
            }
        }
    }

    /// It is loaded slowly, and whoever waits is told, on every shard.
    fn came_up(&mut self, pool: usize, server: usize, now: Millis) {
        self.upstreams.came_up(pool, server, now);
        self.freed(pool);
        for (index, shard) in self.shared.shards.iter().enumerate() {
            if index != self.shard {
                shard.tell(Mail::Up { pool, server, since: now });
            }
        }
    }

    fn count_change(&self, change: &Change) {
        let counters: &Counters = self.counters();
        match change {
            Change::Ejected { .. } => &counters.servers_ejected,
            Change::NotEjected { .. } => &counters.servers_not_ejected,
            Change::Returned { .. } => &counters.servers_returned,
            Change::Opened { .. } => &counters.breakers_opened,
            Change::Closed { .. } => &counters.breakers_closed,
            Change::CheckedDown { .. } => &counters.servers_checked_down,
            Change::CheckedUp { .. } => &counters.servers_checked_up,
            Change::Panic { on: true } => &counters.pools_panicked,
            Change::HalfOpened { .. } | Change::Panic { on: false } => return,
        }
        .add(1);
    }

    fn log_change(&self, pool: usize, change: &Change, why: &str, now: Millis) {
        let name = self.shared.plan.pools.get(pool).map_or("", |pool| &pool.name);
        let server = |server: &usize| self.address_text(pool, *server);
        match change {
            Change::Ejected { server: index, reason, until } => {
                let (server, ms) = (server(index), until.saturating_sub(now));
                tracing::warn!(
                    pool = name,
                    "server {server} is left out for {ms} ms: {}",
                    reason_text(*reason)
                );
            }
            Change::NotEjected { server: index, reason } => {
                let (server, reason) = (server(index), reason_text(*reason));
                tracing::warn!(
                    pool = name,
                    "server {server} stays in use, since enough are left out: {reason}"
                );
            }
            Change::Returned { server: index } => {
                tracing::info!(pool = name, "server {} is used again", server(index));
            }
            Change::Opened { server: index, until } => {
                let (server, ms) = (server(index), until.saturating_sub(now));
                tracing::warn!(
                    pool = name,
                    "server {server} fails too many requests: none for {ms} ms (breaker)"
                );
            }
            Change::HalfOpened { server: index } => {
                tracing::info!(
                    pool = name,
                    "server {} is tried with a few requests (breaker)",
                    server(index)
                );
            }
            Change::Closed { server: index } => {
                tracing::info!(pool = name, "server {} answers again (breaker closed)", server(index));
            }
            Change::CheckedDown { server: index } => {
                tracing::warn!(pool = name, "server {} is down: {why}", server(index));
            }
            Change::CheckedUp { server: index } => {
                tracing::info!(pool = name, "server {} is up: {why}", server(index));
            }
            Change::Panic { on: true } => {
                tracing::warn!(pool = name, "too few servers are fit (panic_threshold): all are used");
            }
            Change::Panic { on: false } => {
                tracing::info!(pool = name, "enough servers are fit again: the others are left out");
            }
        }
    }

    /// As the configuration names it.
    pub fn address_text(&self, pool: usize, server: usize) -> String {
        let plan = self.shared.plan.pools.get(pool).and_then(|pool| pool.servers.get(server));
        plan.map_or_else(String::new, |server| server.address.to_string())
    }
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Errors => "so many failures in a row (outlier.failures)",
        Reason::GatewayErrors => "so many 502, 503, 504 or worse in a row (outlier.gateway_failures)",
        Reason::Unreachable => "so many times in a row no answer at all (outlier.unreachable)",
        Reason::SuccessRate => "fewer good answers than the pool's median (outlier.success_gap)",
        Reason::Latency => "slower than the pool's median (outlier.latency)",
    }
}

/// A path that is to be avoided, as it is told to other shards.
pub(crate) fn applies(server: Option<usize>, index: usize) -> bool {
    server.is_none_or(|server| server == index)
}
