//! When an origin accepts: up to its limit, not while it stops, and after a failed accept not at once.

use fourfold_base::Millis;
use fourfold_engine::{ListenerId, Net};

/// After a failed accept the origin waits so long before it tries again: no spin at the descriptor limit.
pub const ACCEPT_RETRY_MS: Millis = 50;

pub(crate) struct Door {
    /// Stops accepting at this many; those already on their way are let in.
    connections_max: usize,
    full: bool,
    stopping: bool,
    again_at: Option<Millis>,
}

impl Door {
    pub fn new(connections_max: usize) -> Self {
        Self { connections_max, full: false, stopping: false, again_at: None }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub fn open<N: Net>(&mut self, net: &mut N) {
        self.again_at = None;
        (0..net.listeners() as u32).for_each(|listener| net.accept(ListenerId(listener)));
    }

    /// One has come in.
    pub fn entered<N: Net>(&mut self, net: &mut N, inside: usize) {
        if inside >= self.connections_max && !std::mem::replace(&mut self.full, true) {
            (0..net.listeners() as u32).for_each(|listener| net.stop_accepting(ListenerId(listener)));
        }
    }

    /// One has gone.
    pub fn left<N: Net>(&mut self, net: &mut N, inside: usize) {
        if self.full && !self.stopping && inside < self.connections_max {
            self.full = false;
            self.open(net);
        }
    }

    pub fn failed(&mut self, now: Millis) {
        self.again_at = Some(now + ACCEPT_RETRY_MS).filter(|_| !self.stopping && !self.full);
    }

    /// Tries again when it is time.
    pub fn handle_timeout<N: Net>(&mut self, net: &mut N) {
        if self.again_at.is_some_and(|at| at <= net.now()) && !self.full {
            self.open(net);
        }
    }

    pub fn poll_timeout(&self) -> Option<Millis> {
        self.again_at
    }

    pub fn stop<N: Net>(&mut self, net: &mut N) {
        (self.stopping, self.again_at) = (true, None);
        (0..net.listeners() as u32).for_each(|listener| net.close_listener(ListenerId(listener)));
    }
}
