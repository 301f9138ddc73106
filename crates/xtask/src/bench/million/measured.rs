//! What a run saw, as it is written to `benches/results`.

use super::setting::{SOCKETS, Setting};
use crate::bench::machine::{self, first_line};
use crate::bench::results::{Cpu, Machine};
use anyhow::Result;
use fourfold_testkit::stat;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What the client counts. A load of TCP and one of WebSockets name some of it differently.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    pub stage: String,
    pub held: u64,
    pub opened: u64,
    pub checked: u64,
    pub lost: u64,
    /// Sums, from the intended start to the connection, and to the first token's return.
    pub connect_us: u64,
    pub verify_us: u64,
    #[serde(default)]
    pub wrong_bytes: u64,
    #[serde(default, alias = "connect_failed")]
    pub connections_failed: u64,
    #[serde(default)]
    failed: u64,
    #[serde(default, alias = "settled")]
    pub verified: u64,
    #[serde(default, alias = "answered")]
    pub rounds: u64,
}

impl Progress {
    pub fn failed(&self) -> u64 {
        self.failed + self.connections_failed
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Process {
    pub resident_bytes: u64,
    pub private_bytes: u64,
    pub proportional_bytes: u64,
    /// Since its start.
    pub cpu_s: f64,
}

impl Process {
    fn now(pid: u32) -> Process {
        // A process that has ended has nothing.
        let memory = stat::process_memory(pid).unwrap_or_default();
        Process {
            resident_bytes: memory.resident,
            private_bytes: memory.private,
            proportional_bytes: memory.proportional,
            cpu_s: 0.0,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Moment {
    pub at_s: f64,
    pub progress: Progress,
    pub proxy: Process,
    pub load: Process,
    pub origin: Process,
    /// Of the machine, since it was started.
    pub cpu: Cpu,
    pub used_bytes: u64,
    pub free_bytes: u64,
    pub available_bytes: u64,
    pub slab_bytes: u64,
    pub page_table_bytes: u64,
    pub kernel_stack_bytes: u64,
    pub tcp_sockets: u64,
    pub tcp_time_wait: u64,
    pub tcp_pages: u64,
}

impl Moment {
    pub fn now(began: Instant, pids: [u32; 3], progress: Progress) -> Result<Moment> {
        // Together and first: a rate is only as good as its clock, and reading memory takes its time.
        let at_s = began.elapsed().as_secs_f64();
        let cpu = Cpu::from_ticks(stat::cpu_ticks()?);
        // A process that has ended has used what it had.
        let cpu_s = pids.map(|pid| stat::process_cpu_seconds(pid).unwrap_or(0.0));
        let (memory, sockets) = (stat::machine_memory()?, stat::sock_stat()?);
        let [proxy, load, origin] = pids.map(Process::now);
        Ok(Moment {
            at_s,
            progress,
            proxy: Process { cpu_s: cpu_s[0], ..proxy },
            load: Process { cpu_s: cpu_s[1], ..load },
            origin: Process { cpu_s: cpu_s[2], ..origin },
            cpu,
            used_bytes: memory.used(),
            free_bytes: memory.free + memory.cache,
            available_bytes: memory.available,
            slab_bytes: memory.slab,
            page_table_bytes: memory.page_tables,
            kernel_stack_bytes: memory.kernel_stack,
            tcp_sockets: sockets.tcp_in_use,
            tcp_time_wait: sockets.tcp_time_wait,
            tcp_pages: sockets.tcp_pages,
        })
    }

    /// First tokens that came back per second.
    pub fn rate_since(&self, before: &Moment) -> f64 {
        let more = self.progress.verified.saturating_sub(before.progress.verified);
        more as f64 / (self.at_s - before.at_s).max(1e-3)
    }
}

/// What the programs said of their shards.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Layout {
    pub proxy: String,
    pub origin: String,
    pub load: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Million {
    pub format: u32,
    pub date: String,
    pub commit: String,
    pub machine: Machine,
    pub version: String,
    pub connections: u64,
    pub websockets: bool,
    pub engine: String,
    pub descriptors: u64,
    pub verify_per_s: u64,
    pub pending: u64,
    /// Of the table of connections, in a network namespace of their own.
    #[serde(default)]
    pub chains: Option<u64>,
    pub layout: Layout,
    /// Used before anything was started.
    pub idle_bytes: u64,
    /// The programs, before the first connection.
    pub empty: Option<Moment>,
    pub moments: Vec<Moment>,
    /// What `fourfold plan` said that it takes.
    pub plan_bytes: Option<u64>,
    /// The client's.
    pub report: serde_json::Value,
    pub proxy_totals: String,
    pub aborted: Option<String>,
}

/// What a run is judged by.
pub struct Verdict {
    pub held: u64,
    pub failed: u64,
    pub lost: u64,
    pub wrong_bytes: u64,
    pub checked: u64,
    pub again: u64,
    pub opening_s: f64,
    pub per_second: f64,
    pub proxy_bytes: u64,
    pub machine_bytes: u64,
    pub slab_bytes: u64,
}

impl Million {
    pub fn begin(setting: &Setting) -> Result<Million> {
        Ok(Million {
            format: 1,
            date: machine::today(),
            commit: first_line("git", &["rev-parse", "--short=12", "HEAD"]),
            machine: machine::describe()?,
            version: first_line(&setting.program().display().to_string(), &["--version"]),
            connections: setting.connections,
            websockets: setting.is_websocket(),
            engine: setting.engine.clone(),
            descriptors: setting.descriptors,
            verify_per_s: setting.verify_rate(),
            pending: setting.pending,
            idle_bytes: stat::machine_memory()?.used(),
            ..Million::default()
        })
    }

    pub fn what(&self) -> &'static str {
        if self.websockets { "WebSockets" } else { "TCP connections" }
    }

    /// The moment with the most connections and, of several, the last.
    fn full(&self) -> Option<&Moment> {
        self.moments.iter().max_by_key(|moment| moment.progress.held)
    }

    /// From the client's start to the last connection's first token.
    fn opening_s(&self) -> f64 {
        let settled = |moment: &&Moment| moment.progress.verified + moment.progress.connections_failed;
        let most =
            self.moments.iter().map(|moment| settled(&moment)).max().unwrap_or(0).min(self.connections);
        self.moments.iter().find(|moment| settled(moment) >= most).map_or(0.0, |moment| moment.at_s)
    }

    pub fn verdict(&self) -> Option<Verdict> {
        let (full, last) = (self.full()?, self.moments.last()?);
        let opening_s =
            self.report["opening_s"].as_f64().filter(|s| *s > 0.0).unwrap_or_else(|| self.opening_s());
        let report = |key: &str| self.report[key].as_u64();
        let first_tokens = if self.websockets { self.connections } else { 0 };
        Some(Verdict {
            held: report("held").unwrap_or(full.progress.held),
            failed: report("failed_total")
                .or_else(|| Some(report("failed")? + report("connect_failed")?))
                .unwrap_or(last.progress.failed()),
            lost: report("lost").unwrap_or(last.progress.lost),
            wrong_bytes: report("wrong_bytes").unwrap_or(last.progress.wrong_bytes),
            checked: report("checked").unwrap_or(last.progress.checked),
            again: last.progress.rounds.saturating_sub(last.progress.checked + first_tokens),
            opening_s,
            per_second: full.progress.held as f64 / opening_s.max(1e-3),
            proxy_bytes: self.moments.iter().map(|moment| moment.proxy.private_bytes).max().unwrap_or(0),
            machine_bytes: full.used_bytes.saturating_sub(self.idle_bytes),
            slab_bytes: self
                .empty
                .as_ref()
                .map_or(0, |empty| full.slab_bytes.saturating_sub(empty.slab_bytes)),
        })
    }

    /// What must not be; a run with any of it has failed.
    pub fn complaints(&self) -> Vec<String> {
        let Some(verdict) = self.verdict() else { return vec!["nothing was measured".into()] };
        let counts =
            [("failed", verdict.failed), ("lost", verdict.lost), ("wrong bytes", verdict.wrong_bytes)];
        let bad = counts.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}"));
        let fewer = |what: &str, n: u64| {
            (n < self.connections).then(|| format!("{n} of {} {what}", self.connections))
        };
        bad.chain(fewer("held", verdict.held)).chain(fewer("verified again", verdict.checked)).collect()
    }

    pub fn sockets(&self) -> u64 {
        self.connections * SOCKETS
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Opening to 1 000, checking, holding; two seconds between moments.
    pub fn example() -> Million {
        let stages =
            [("opening", 400, 0), ("opening", 1_000, 0), ("checking", 1_000, 700), ("holding", 1_000, 1_000)];
        let moment = |(index, (stage, held, checked)): (usize, (&str, u64, u64))| Moment {
            at_s: index as f64 * 2.0 + 2.0,
            progress: Progress {
                stage: stage.into(),
                held,
                opened: held,
                verified: held,
                checked,
                rounds: checked + if stage == "holding" { 20 } else { 0 },
                connect_us: held * 100,
                verify_us: held * 300,
                ..Progress::default()
            },
            proxy: Process { private_bytes: 1_000 + held, ..Process::default() },
            used_bytes: 1_000_000 + held * 16_000,
            ..Moment::now(Instant::now(), [0; 3], Progress::default()).unwrap()
        };
        let moments = stages.into_iter().enumerate().map(moment).collect();
        Million {
            connections: 1_000,
            idle_bytes: 1_000_000,
            moments,
            plan_bytes: Some(17_000_000),
            ..Million::default()
        }
    }

    #[test]
    fn the_verdict_is_of_the_full_moment_and_of_the_first_time_that_all_are_up() {
        let verdict = example().verdict().unwrap();
        assert_eq!((verdict.held, verdict.checked, verdict.again), (1_000, 1_000, 20));
        assert_eq!((verdict.opening_s, verdict.per_second), (4.0, 250.0));
        assert_eq!((verdict.proxy_bytes, verdict.machine_bytes), (2_000, 16_000_000));
        assert_eq!(example().complaints(), Vec::<String>::new());
    }

    #[test]
    fn anything_short_is_a_complaint() {
        let mut million = example();
        million.moments.last_mut().unwrap().progress.lost = 3;
        million.connections = 1_001;
        assert_eq!(million.complaints(), ["3 lost", "1000 of 1001 held", "1000 of 1001 verified again"]);
        assert!(!Million::default().complaints().is_empty());
    }
}
