//! Whose fault it is that a server cannot be reached: the path's, the source's, or the server's.
//!
//! A path is a source address and a server. Only paths that have failed of late are kept, so a /64 of sources costs
//! nothing. The server is to blame when several of its sources have failed and none has got through since; the
//! source, when it has failed towards several servers that others have reached since.

use std::collections::BTreeMap;

use fourfold_base::Millis;

use super::board::source_bit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRules {
    /// So many sources (or all, if there are fewer) have to fail before it is the server.
    pub sources_min: u32,
    /// Towards so many servers a source has to fail before it is the source.
    pub servers_min: u32,
    /// Failures of a path before it is avoided, when others reach the server.
    pub path_failures: u32,
    /// A failure older than this is no evidence.
    pub forget_ms: u64,
}

impl Default for FaultRules {
    fn default() -> Self {
        FaultRules { sources_min: 3, servers_min: 2, path_failures: 2, forget_ms: 60_000 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Too early to tell.
    Undecided,
    /// This source to this server; either does well otherwise.
    Path,
    Source,
    Server,
}

/// Failing paths that are remembered: enough to judge 256 servers by their sources at once.
const PATHS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct Faults {
    rules: FaultRules,
    /// By server, then source.
    failing: BTreeMap<(u32, u32), Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Millis,
    last: Millis,
    failures: u32,
    /// Another source has reached the server since.
    others_reach: bool,
}

impl Faults {
    pub fn new(rules: FaultRules) -> Faults {
        Faults { rules, failing: BTreeMap::new() }
    }

    /// `sources`: how many the server has. `reached_at`: when it was last reached, by any.
    pub fn handle_failure(
        &mut self,
        now: Millis,
        server: u32,
        source: u32,
        sources: u32,
        reached_at: Option<Millis>,
    ) -> Fault {
        let path = self.note(now, server, source, reached_at);
        if sources <= 1 || self.is_server(server, sources, reached_at) {
            return Fault::Server;
        }
        if !path.others_reach {
            return Fault::Undecided;
        }
        let elsewhere = self.failing.iter().filter(|((_, from), path)| *from == source && path.others_reach);
        match (elsewhere.count(), path.failures) {
            (servers, _) if servers >= self.rules.servers_min as usize => Fault::Source,
            (_, failures) if failures >= self.rules.path_failures => Fault::Path,
            _ => Fault::Undecided,
        }
    }

    /// Whether enough sources have failed since anybody got through.
    fn is_server(&self, server: u32, sources: u32, reached_at: Option<Millis>) -> bool {
        let enough = self.rules.sources_min.min(sources).max(1) as usize;
        let is_since = |(_, path): &(_, &Failing)| reached_at.is_none_or(|at| at < path.last);
        self.failing.range((server, 0)..=(server, u32::MAX)).filter(is_since).take(enough).count() == enough
    }

    pub fn handle_success(&mut self, server: u32, source: u32) {
        self.failing.remove(&(server, source));
    }

    /// The sources of failing paths to the server, as the board wants them.
    pub fn doubted(&self, server: u32) -> u64 {
        let paths = self.failing.range((server, 0)..=(server, u32::MAX));
        paths.fold(0, |bits, ((_, source), _)| bits | source_bit(*source))
    }

    /// The servers of paths whose failure is too long ago.
    pub fn forget(&mut self, now: Millis) -> Vec<u32> {
        let forget_ms = self.rules.forget_ms;
        let mut servers = Vec::new();
        self.failing.retain(|(server, _), path| {
            let is_recent = now < path.last + forget_ms;
            if !is_recent {
                servers.push(*server);
            }
            is_recent
        });
        servers
    }

    fn note(&mut self, now: Millis, server: u32, source: u32, reached_at: Option<Millis>) -> Failing {
        if self.failing.len() >= PATHS_MAX && !self.failing.contains_key(&(server, source)) {
            self.drop_oldest();
        }
        let new = Failing { since: now, last: now, failures: 0, others_reach: false };
        let path = self.failing.entry((server, source)).or_insert(new);
        if now >= path.last + self.rules.forget_ms {
            *path = new;
        }
        path.last = now;
        path.failures = path.failures.saturating_add(1);
        path.others_reach |= reached_at.is_some_and(|at| at > path.since);
        *path
    }

    fn drop_oldest(&mut self) {
        let oldest = self.failing.iter().min_by_key(|(_, path)| path.last).map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            self.failing.remove(&oldest);
        }
    }
}
