//! What happened lately and why: a bounded ring for whoever asks, a line in the log for whoever reads.
//!
//! Owns: the numbers of events. Refuses: more than it keeps; the oldest go. Driven by: the watch.

use fourfold_api::v1::{Event, EventKind, Events, Severity};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Events that are kept.
pub const EVENTS_MAX: usize = 512;

/// An event that nobody has been told of so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub kind: EventKind,
    pub severity: Severity,
    /// Listeners, pools, destinations.
    pub of: Vec<String>,
    pub counter: Option<&'static str>,
    pub count: u64,
    pub message: String,
    pub remedy: Vec<String>,
}

#[derive(Default)]
pub struct Journal(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
}

impl Journal {
    /// Logs it and keeps it.
    pub fn tell(&self, notice: Notice) {
        let remedy = notice.remedy.join("; ");
        let sep = if remedy.is_empty() { "" } else { "; " };
        match notice.severity {
            Severity::Warning => tracing::warn!("{}{sep}{remedy}", notice.message),
            Severity::Info => tracing::info!("{}{sep}{remedy}", notice.message),
        }
        self.keep(notice, unix_ms(SystemTime::now()));
    }

    fn keep(&self, notice: Notice, at_ms: u64) {
        let Notice { kind, severity, of, counter, count, message, remedy } = notice;
        let mut ring = self.lock();
        let id = ring.next;
        ring.next += 1;
        if ring.events.len() >= EVENTS_MAX {
            ring.events.pop_front();
        }
        let counter = counter.map(str::to_owned);
        ring.events.push_back(Event { id, at_ms, kind, severity, of, counter, count, message, remedy });
    }

    #[must_use]
    pub fn since(&self, from: u64) -> Events {
        let ring = self.lock();
        let events = ring.events.iter().filter(|event| event.id >= from).cloned().collect();
        Events { events, next: ring.next }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(count: u64) -> Notice {
        Notice {
            kind: EventKind::SynDropped,
            severity: Severity::Warning,
            of: vec!["edge".into()],
            counter: Some("ListenDrops"),
            count,
            message: "m".into(),
            remedy: vec![],
        }
    }

    #[test]
    fn the_oldest_go_and_numbers_go_on() {
        let journal = Journal::default();
        for n in 0..EVENTS_MAX as u64 + 10 {
            journal.keep(notice(n), n);
        }
        let all = journal.since(0);
        assert_eq!((all.events.len(), all.events[0].id, all.next), (EVENTS_MAX, 10, EVENTS_MAX as u64 + 10));
        assert_eq!(journal.since(all.next - 1).events.len(), 1);
        assert!(journal.since(all.next).events.is_empty());
    }
}
