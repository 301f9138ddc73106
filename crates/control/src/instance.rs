//! What is known of a running instance.
//!
//! Owns: what the watch has found out, and the journal. Refuses: to touch the data path. Driven by: the program, which makes
//! it, the watch, and the admin listener.

use crate::headroom::{Gauge, Sample};
use crate::journal::Journal;
use crate::kernel;
use crate::server::Counts;
use fourfold_base::Millis;
use fourfold_proxy::Shared;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct About {
    pub name: String,
    /// Of the program.
    pub version: String,
    /// The configuration's file.
    pub config: Option<String>,
    pub engine: String,
    pub started: SystemTime,
}

pub struct Instance {
    pub about: About,
    pub shared: Arc<Shared>,
    pub journal: Journal,
    /// Of the admin listener.
    pub counts: Counts,
    draining: AtomicBool,
    gauge: Mutex<Gauge>,
    machine: Mutex<Arc<kernel::Sample>>,
}

impl Instance {
    #[must_use]
    pub fn new(about: About, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            about,
            shared,
            journal: Journal::default(),
            counts: Counts::default(),
            draining: AtomicBool::new(false),
            gauge: Mutex::default(),
            machine: Mutex::default(),
        })
    }

    /// It accepts no more from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn gauge(&self) -> MutexGuard<'_, Gauge> {
        lock(&self.gauge)
    }

    /// The machine as it was when it was last looked at.
    pub(crate) fn machine(&self) -> Arc<kernel::Sample> {
        Arc::clone(&lock(&self.machine))
    }

    pub(crate) fn set_machine(&self, sample: kernel::Sample) -> Arc<kernel::Sample> {
        let sample = Arc::new(sample);
        *lock(&self.machine) = Arc::clone(&sample);
        sample
    }

    pub(crate) fn look_at_tuples(&self, now: Millis, samples: &[Sample]) {
        let notices = self.gauge().handle_sample(now, samples);
        notices.into_iter().for_each(|notice| self.journal.tell(notice));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
