//! What the world beyond the proxy is like: servers and their habits, and what the local kernel is short of.

use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_engine::sim::{Answer, Attempt, Behaviour, Break, Director, End, Start};
use fourfold_engine::{Errno, Step};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// How a server takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    Serves,
    Refuses,
    /// Never answers a SYN.
    Hangs,
    Unreachable,
    /// Accepts and resets soon.
    Resets,
    /// Accepts and never reads.
    Deaf,
    /// Any of these, each time anew.
    Moody,
}

impl Habit {
    pub const ALL: [Habit; 7] = [
        Habit::Serves,
        Habit::Refuses,
        Habit::Hangs,
        Habit::Unreachable,
        Habit::Resets,
        Habit::Deaf,
        Habit::Moody,
    ];
}

#[derive(Clone, Debug)]
pub struct ServerPlan {
    pub habit: Habit,
    /// From then on it serves.
    pub mends_at: Millis,
}

/// The kernel's own answer to a SYN that nobody answers (net.ipv4.tcp_syn_retries).
const SYN_TIMEOUT_MS: Millis = 127_000;

#[derive(Clone, Debug)]
pub struct Weather {
    pub servers: HashMap<SocketAddr, ServerPlan>,
    pub latency_ms: u32,
    /// Of a hundred connections, those that break off, stall, or otherwise misbehave.
    pub rough: u32,
    /// Of a thousand connects and accepts, those that fail for want of something local.
    pub local_faults: u32,
    /// Source addresses that are not on this machine until then.
    pub missing: Vec<(IpAddr, Millis)>,
}

impl Director for Weather {
    fn connect(&mut self, rng: &mut Prng, attempt: &Attempt) -> Answer {
        if rng.chance(self.local_faults, 1000) {
            return Answer { after: 0, outcome: Err(local_fault(rng)) };
        }
        if self.missing.iter().any(|(ip, until)| *ip == attempt.source && attempt.now < *until) {
            return Answer { after: 0, outcome: Err((Step::Bind, Errno::EADDRNOTAVAIL)) };
        }
        let after = u64::from(rng.below(self.latency_ms + 1));
        let failed = |after, errno| Answer { after, outcome: Err((Step::Connect, errno)) };
        let mut habit = match self.servers.get(&attempt.remote) {
            Some(server) if attempt.now < server.mends_at => server.habit,
            Some(_) => Habit::Serves,
            None => Habit::Refuses,
        };
        if habit == Habit::Moody {
            habit = Habit::ALL.get(rng.below(6) as usize).copied().unwrap_or(Habit::Serves);
        }
        let mut behaviour = self.server(rng);
        match habit {
            Habit::Refuses => return failed(after, Errno::ECONNREFUSED),
            Habit::Hangs => return failed(SYN_TIMEOUT_MS, Errno::ETIMEDOUT),
            // A packet filter says EPERM.
            Habit::Unreachable if rng.chance(1, 4) => return failed(0, Errno::EPERM),
            Habit::Unreachable => return failed(after, Errno::EHOSTUNREACH),
            Habit::Resets if rng.chance(1, 4) => return failed(after, Errno::ECONNRESET),
            Habit::Resets => behaviour.break_after = Some((u64::from(rng.below(20)), Break::Reset)),
            Habit::Deaf => behaviour.read_stop = Some(u64::from(rng.below(100))),
            Habit::Serves | Habit::Moody => {}
        }
        Answer { after, outcome: Ok(behaviour) }
    }

    fn accept_error(&mut self, rng: &mut Prng, _now: Millis) -> Option<Errno> {
        let fault = rng.chance(self.local_faults, 1000);
        fault.then(|| if rng.chance(1, 4) { Errno::EIO } else { local_fault(rng).1 })
    }
}

fn local_fault(rng: &mut Prng) -> (Step, Errno) {
    match rng.below(4) {
        0 => (Step::Socket, Errno::EMFILE),
        1 => (Step::Socket, Errno::ENFILE),
        2 => (Step::Socket, Errno::ENOBUFS),
        _ => (Step::Connect, Errno::ENOBUFS),
    }
}

impl Weather {
    pub fn client(&self, rng: &mut Prng) -> Behaviour {
        let mut behaviour = common(rng);
        behaviour.end = match rng.below(10) {
            0..5 => End::Finish,
            5..8 => End::FinishAfterEof,
            _ => End::Close,
        };
        self.roughen(rng, &mut behaviour);
        behaviour
    }

    fn server(&self, rng: &mut Prng) -> Behaviour {
        let mut behaviour = common(rng);
        behaviour.start = match rng.below(4) {
            0 => Start::AtOnce,
            1 => Start::AfterEof,
            _ => Start::AfterBytes(1 + u64::from(rng.below(500))),
        };
        behaviour.end = match rng.below(10) {
            0..4 => End::Finish,
            4..9 => End::FinishAfterEof,
            _ => End::Close,
        };
        self.roughen(rng, &mut behaviour);
        behaviour
    }

    fn roughen(&self, rng: &mut Prng, behaviour: &mut Behaviour) {
        if !rng.chance(self.rough, 100) {
            return;
        }
        let after = u64::from(rng.below(200));
        match rng.below(8) {
            0 | 1 => behaviour.break_after = Some((after, Break::Reset)),
            2 => behaviour.break_after = Some((after, Break::Vanish)),
            3 => behaviour.end = End::Reset,
            4 => behaviour.end = End::Stay,
            5 => behaviour.read_stop = Some(u64::from(rng.below(20_000))),
            6 => (behaviour.read_max, behaviour.read_gap_ms) = (2048, 40),
            _ => (behaviour.write_max, behaviour.write_gap_ms) = (2048, 40),
        }
    }
}

fn common(rng: &mut Prng) -> Behaviour {
    let send_bytes = match rng.below(100) {
        0..10 => 0,
        10..70 => 8 + rng.below(1000),
        70..92 => 8 + rng.below(20_000),
        92..98 => 50_000 + rng.below(60_000),
        _ => 150_000 + rng.below(150_000),
    };
    Behaviour {
        send_bytes: u64::from(send_bytes),
        write_max: 1 << (10 + rng.below(6)),
        write_gap_ms: rng.below(8),
        read_max: 1 << (12 + rng.below(6)),
        read_gap_ms: rng.below(4),
        window: 1 << (12 + rng.below(6)),
        ..Behaviour::default()
    }
}
