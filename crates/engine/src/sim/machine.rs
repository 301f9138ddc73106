//! What all shards of one virtual machine share: the table of tuples in use, as a kernel keeps it.
//!
//! Refuses: a tuple that a live socket of ours holds. That is not weather but a broken promise, and is recorded as such.

use fourfold_base::Millis;
use fourfold_sys::Errno;
use fourfold_sys::socket::Step;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub type SharedMachine = Rc<RefCell<Machine>>;

/// An orphaned FIN_WAIT2 socket is dropped after this time (net.ipv4.tcp_fin_timeout).
const FIN_TIMEOUT_MS: Millis = 60_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Tuple {
    pub source: IpAddr,
    pub port: u16,
    pub remote: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
enum Hold {
    Live,
    /// Closed by the app, our FIN first, the peer's has not come.
    FinWait {
        closed_at: Millis,
    },
    TimeWait {
        closed_at: Millis,
        since: Millis,
    },
    /// Another program's.
    Foreign,
}

/// How the tuple is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taking {
    Late,
    Early,
}

#[derive(Debug)]
pub struct Machine {
    /// After how long a tuple in TIME_WAIT may be taken late.
    pub time_wait_ms: Millis,
    /// Whether one may be taken early at once.
    pub early_reuses: bool,
    holds: HashMap<Tuple, Hold>,
    live: usize,
    next_stream: u32,
    violations: Vec<String>,
}

impl Machine {
    pub fn new(time_wait_ms: Millis, early_reuses: bool) -> SharedMachine {
        Rc::new(RefCell::new(Self {
            time_wait_ms,
            early_reuses,
            holds: HashMap::new(),
            live: 0,
            next_stream: 1,
            violations: Vec::new(),
        }))
    }

    /// A socket of another program holds this tuple, for ever.
    pub fn add_foreign(&mut self, tuple: Tuple) {
        self.holds.insert(tuple, Hold::Foreign);
    }

    /// Tuples of sockets that the apps have not closed.
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    pub(super) fn next_stream(&mut self) -> u32 {
        self.next_stream += 1;
        self.next_stream - 1
    }

    pub(super) fn is_free(&self, tuple: &Tuple, now: Millis) -> bool {
        match self.holds.get(tuple) {
            None => true,
            Some(Hold::Live | Hold::Foreign) => false,
            Some(Hold::FinWait { closed_at }) => now >= closed_at + FIN_TIMEOUT_MS,
            Some(Hold::TimeWait { since, .. }) => now >= since + self.time_wait_ms,
        }
    }

    pub(super) fn acquire(&mut self, tuple: Tuple, taking: Taking, now: Millis) -> Result<(), (Step, Errno)> {
        let reused = taking == Taking::Early
            && self.early_reuses
            && matches!(self.holds.get(&tuple), Some(Hold::TimeWait { .. }));
        if !reused && !self.is_free(&tuple, now) {
            return Err(self.refuse(tuple, taking, now));
        }
        self.holds.insert(tuple, Hold::Live);
        self.live += 1;
        Ok(())
    }

    fn refuse(&mut self, tuple: Tuple, taking: Taking, now: Millis) -> (Step, Errno) {
        let hold = self.holds.get(&tuple).copied();
        match hold {
            Some(Hold::Live) => self.violations.push(format!("tuple leased twice: {tuple:?} at {now}")),
            // Our side closed first: the lease should rest this long at least.
            Some(Hold::FinWait { closed_at } | Hold::TimeWait { closed_at, .. })
                if (taking == Taking::Late || !self.early_reuses) && now < closed_at + self.time_wait_ms =>
            {
                self.violations.push(format!("tuple leased too early: {tuple:?} at {now}, {hold:?}"));
            }
            _ => {}
        }
        match (taking, hold) {
            (Taking::Early, Some(Hold::Foreign)) => (Step::Bind, Errno::EADDRINUSE),
            _ => (Step::Connect, Errno::EADDRNOTAVAIL),
        }
    }

    /// The app's close, or a failed connect: nothing stays behind.
    pub(super) fn release(&mut self, tuple: &Tuple) {
        self.holds.remove(tuple);
        self.live -= 1;
    }

    /// Closed with our FIN before the peer's.
    pub(super) fn release_to_fin_wait(&mut self, tuple: Tuple, now: Millis) {
        self.holds.insert(tuple, Hold::FinWait { closed_at: now });
        self.live -= 1;
    }

    pub(super) fn release_to_time_wait(&mut self, tuple: Tuple, since: Millis, now: Millis) {
        self.holds.insert(tuple, Hold::TimeWait { closed_at: now, since });
        self.live -= 1;
    }

    /// The peer's FIN has come after the app's close.
    pub(super) fn fin_in_fin_wait(&mut self, tuple: Tuple, now: Millis) {
        if let Some(Hold::FinWait { closed_at }) = self.holds.get(&tuple).copied() {
            self.holds.insert(tuple, Hold::TimeWait { closed_at, since: now });
        }
    }

    /// The peer's RST has come after the app's close.
    pub(super) fn reset_in_fin_wait(&mut self, tuple: &Tuple) {
        if let Some(Hold::FinWait { .. }) = self.holds.get(tuple) {
            self.holds.remove(tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(port: u16) -> Tuple {
        Tuple { source: [10, 0, 0, 1].into(), port, remote: ([10, 0, 1, 1], 80).into() }
    }

    #[test]
    fn a_tuple_rests_after_our_side_closed_first() {
        let machine = Machine::new(1000, true);
        let mut machine = machine.borrow_mut();
        machine.acquire(tuple(1), Taking::Late, 0).unwrap();
        machine.release_to_time_wait(tuple(1), 40, 50);
        assert!(machine.acquire(tuple(1), Taking::Late, 1039).is_err());
        assert_eq!(machine.take_violations().len(), 1, "it should not even have been tried");
        machine.acquire(tuple(1), Taking::Late, 1040).unwrap();
        machine.release_to_time_wait(tuple(1), 2000, 2000);
        machine.acquire(tuple(1), Taking::Early, 2001).unwrap();
        assert_eq!((machine.live(), machine.take_violations().len()), (1, 0));
    }

    #[test]
    fn a_live_tuple_taken_again_is_a_violation_and_a_foreign_one_is_not() {
        let machine = Machine::new(1000, true);
        let mut machine = machine.borrow_mut();
        machine.acquire(tuple(1), Taking::Late, 0).unwrap();
        assert_eq!(machine.acquire(tuple(1), Taking::Late, 0), Err((Step::Connect, Errno::EADDRNOTAVAIL)));
        assert!(machine.take_violations()[0].contains("twice"));
        machine.add_foreign(tuple(2));
        assert_eq!(machine.acquire(tuple(2), Taking::Late, 0), Err((Step::Connect, Errno::EADDRNOTAVAIL)));
        assert_eq!(machine.acquire(tuple(2), Taking::Early, 0), Err((Step::Bind, Errno::EADDRINUSE)));
        assert!(machine.take_violations().is_empty());
    }

    #[test]
    fn a_late_fin_starts_time_wait_and_a_late_reset_ends_it() {
        let machine = Machine::new(1000, true);
        let mut machine = machine.borrow_mut();
        for port in [1, 2, 3] {
            machine.acquire(tuple(port), Taking::Late, 0).unwrap();
            machine.release_to_fin_wait(tuple(port), 10);
        }
        machine.fin_in_fin_wait(tuple(1), 500);
        machine.reset_in_fin_wait(&tuple(2));
        assert!(!machine.is_free(&tuple(1), 1499) && machine.is_free(&tuple(1), 1500));
        assert!(machine.is_free(&tuple(2), 10));
        assert!(!machine.is_free(&tuple(3), 60_009) && machine.is_free(&tuple(3), 60_010));
    }
}
