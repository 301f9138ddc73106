//! Tunnels that the kernel carries, of one shard.
//!
//! Owns: which sockets are spliced with which, and the state of each direction. Refuses to give a direction back before all that
//! the kernel has carried stands in the peer's send queue.
//! Driven by: the two real backends, which know descriptors and stop reading.
//!
//! ```text
//!            ended, slow, bulk, asked        all in the peer's queue
//! Carrying ────────────────────────▶ Leaving ──────────────────────▶ gone
//! ```

use crate::net::{Sock, Unspliced};
use fourfold_base::Millis;
use fourfold_sys::bpf::{Begun, End, Left, Splicer, TUNNELS_MAX, Told, Way};
use std::collections::HashMap;
use std::os::fd::RawFd;

/// How long to wait before a leaving direction is asked again whether all has arrived: at first, and at most.
const ASK_FIRST_MS: Millis = 1;
const ASK_MAX_MS: Millis = 64;
/// A peer that has taken everything its queue held, and still lacks bytes after this time, will never get them.
const LOST_MS: Millis = 5_000;

enum Phase {
    Carrying,
    Leaving(Leaving),
}

struct Leaving {
    left: Left,
    why: Unspliced,
    ask_at: Millis,
    wait_ms: Millis,
    /// Bytes that had not arrived when it was asked last.
    under_way: u64,
    /// Since when the peer has had an empty queue.
    idle_since: Option<Millis>,
}

/// What one socket receives.
struct Flow {
    peer: Sock,
    begun: Begun,
    phase: Phase,
}

/// A direction that is user space's again.
pub(crate) struct Returned {
    pub sock: Sock,
    pub peer: Sock,
    pub bytes: u64,
    /// What follows these bytes.
    pub rest: Vec<u8>,
    pub why: Unspliced,
}

pub(crate) struct Splices {
    splicer: Option<Splicer>,
    /// With whom each socket is spliced, until both directions are over.
    peers: HashMap<Sock, Sock>,
    flows: HashMap<Sock, Flow>,
    leaving: Vec<Sock>,
}

impl Splices {
    pub fn none() -> Self {
        Self { splicer: None, peers: HashMap::new(), flows: HashMap::new(), leaving: Vec::new() }
    }

    pub fn new(splicer: Splicer) -> Self {
        Self { splicer: Some(splicer), ..Self::none() }
    }

    /// Readable when [`Self::told`] has something.
    pub fn events_fd(&self) -> Option<RawFd> {
        self.splicer.as_ref().map(Splicer::events_fd)
    }

    pub fn has_room(&self) -> bool {
        self.splicer.is_some() && self.flows.len() < TUNNELS_MAX as usize * 2
    }

    pub fn begin(&mut self, [(a, a_fd), (b, b_fd)]: [(Sock, RawFd); 2]) -> bool {
        let Some(splicer) = self.splicer.as_mut() else { return false };
        let ends = [End { fd: a_fd, tag: pack(a) }, End { fd: b_fd, tag: pack(b) }];
        let Ok([from_a, from_b]) = splicer.begin(ends) else { return false };
        self.peers.extend([(a, b), (b, a)]);
        self.flows.insert(a, Flow { peer: b, begun: from_a, phase: Phase::Carrying });
        self.flows.insert(b, Flow { peer: a, begun: from_b, phase: Phase::Carrying });
        true
    }

    pub fn carried(&self, sock: Sock) -> u64 {
        let (Some(splicer), Some(flow)) = (&self.splicer, self.flows.get(&sock)) else { return 0 };
        match &flow.phase {
            Phase::Carrying => splicer.carried(flow.begun.key),
            Phase::Leaving(leaving) => leaving.left.carried,
        }
    }

    pub fn under_way(&self, sock: Sock) -> u64 {
        match self.flows.get(&sock).map(|flow| &flow.phase) {
            Some(Phase::Leaving(leaving)) => leaving.under_way,
            Some(Phase::Carrying) | None => 0,
        }
    }

    /// The other of two that have not been told to leave.
    pub fn carrying_with(&self, sock: Sock) -> Option<Sock> {
        self.flows.get(&sock).filter(|flow| matches!(flow.phase, Phase::Carrying)).map(|flow| flow.peer)
    }

    /// Takes both directions back; [`Self::returned`] tells when each is. No effect on what is leaving already.
    pub fn leave(&mut self, ends: [(Sock, RawFd); 2], why: Unspliced, now: Millis) {
        let Some(splicer) = self.splicer.as_mut() else { return };
        for (sock, fd) in ends {
            let Some(flow) = self.flows.get_mut(&sock) else { continue };
            if matches!(flow.phase, Phase::Leaving(_)) {
                continue;
            }
            let (left, why) = match splicer.leave(&flow.begun, fd) {
                Ok(left) => (left, why),
                Err(_) => {
                    let carried = splicer.carried(flow.begun.key);
                    (Left { carried, rest: Vec::new() }, Unspliced::Lost)
                }
            };
            let leaving =
                Leaving { left, why, ask_at: now, wait_ms: ASK_FIRST_MS, under_way: 0, idle_since: None };
            flow.phase = Phase::Leaving(leaving);
            self.leaving.push(sock);
        }
    }

    /// When [`Self::returned`] should be asked next.
    pub fn due(&self) -> Option<Millis> {
        let at = |sock: &Sock| match &self.flows.get(sock)?.phase {
            Phase::Leaving(leaving) => Some(leaving.ask_at),
            Phase::Carrying => None,
        };
        self.leaving.iter().filter_map(at).min()
    }

    /// A direction that is over. Call it until there is none.
    pub fn returned(&mut self, now: Millis, fd_of: impl Fn(Sock) -> Option<RawFd>) -> Option<Returned> {
        let splicer = self.splicer.as_mut()?;
        let over = self.leaving.iter().position(|sock| {
            let Some(flow) = self.flows.get_mut(sock) else { return true };
            let Phase::Leaving(leaving) = &mut flow.phase else { return true };
            leaving.ask_at <= now && leaving.is_over(splicer, &flow.begun, fd_of(flow.peer), now)
        })?;
        let sock = self.leaving.swap_remove(over);
        let flow = self.flows.remove(&sock)?;
        splicer.forget(flow.begun.key);
        if !self.flows.contains_key(&flow.peer) {
            self.peers.remove(&sock);
            self.peers.remove(&flow.peer);
        }
        let Phase::Leaving(Leaving { left, why, .. }) = flow.phase else { return None };
        Some(Returned { sock, peer: flow.peer, bytes: left.carried, rest: left.rest, why })
    }

    /// The next that the program wants taken back.
    pub fn told(&mut self) -> Option<(Sock, Unspliced)> {
        let (tag, told) = self.splicer.as_mut()?.told()?;
        let why = match told {
            Told::Slow => Unspliced::Slow,
            Told::Bulk => Unspliced::Bulk,
        };
        Some((Sock { index: tag as u32, generation: (tag >> 32) as u32 }, why))
    }

    /// One of the two is being closed: neither is carried any more, and nothing is told of either. The other.
    pub fn dissolve(&mut self, sock: Sock) -> Option<Sock> {
        let peer = self.peers.remove(&sock)?;
        self.peers.remove(&peer);
        for one in [sock, peer] {
            self.leaving.retain(|other| *other != one);
            if let (Some(splicer), Some(flow)) = (self.splicer.as_mut(), self.flows.remove(&one)) {
                splicer.forget(flow.begun.key);
            }
        }
        Some(peer)
    }
}

impl Leaving {
    fn is_over(&mut self, splicer: &Splicer, begun: &Begun, peer: Option<RawFd>, now: Millis) -> bool {
        if self.why == Unspliced::Lost {
            return true;
        }
        match peer.map(|fd| splicer.way(begun, self.left.carried, fd)) {
            Some(Ok(Way::Over)) => return true,
            Some(Ok(Way::Under { left, full: false })) => {
                self.under_way = left;
                if now >= *self.idle_since.get_or_insert(now) + LOST_MS {
                    self.why = Unspliced::Lost;
                    return true;
                }
            }
            Some(Ok(Way::Under { left, full: true })) => (self.under_way, self.idle_since) = (left, None),
            // The peer's socket is gone, which is told by itself.
            Some(Err(_)) | None => {}
        }
        self.ask_at = now + self.wait_ms;
        self.wait_ms = (self.wait_ms * 2).min(ASK_MAX_MS);
        false
    }
}

fn pack(sock: Sock) -> u64 {
    u64::from(sock.generation) << 32 | u64::from(sock.index)
}
