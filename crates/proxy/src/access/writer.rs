//! The thread that empties a log's queue.
//!
//! ```text
//!              reopen asked, file deleted            error
//!  Open ──────────────────────────────▶ Open again ─────▶ the old one stays in use, another try each second
//! ```

use super::queue::{Queue, Stats};
use super::sink::{Outcome, Sink, Target};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

/// How long a line waits at most for a writer that has nothing else to do.
const POLL: Duration = Duration::from_millis(50);
/// Between two looks at the file, and two tries to open it.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// Between two reports of what was dropped or lost.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A log's thread. Dropped without [`stop`](Writer::stop) it goes on.
pub struct Writer {
    orders: Arc<Orders>,
    thread: Thread,
    ended: Receiver<()>,
}

#[derive(Default)]
struct Orders {
    reopen: AtomicBool,
    stop: AtomicBool,
}

impl Writer {
    /// `monotonic_us` is the shards' clock. Fails when the target cannot be opened; once started, a log survives that.
    pub fn start(queue: Arc<Queue>, target: Target, monotonic_us: fn() -> u64) -> io::Result<Self> {
        let sink = if target.may_block() { None } else { Some(target.open()?) };
        let orders = Arc::new(Orders::default());
        let (end, ended) = channel();
        let log = Log {
            queue: Arc::clone(&queue),
            target,
            sink,
            monotonic_us,
            orders: Arc::clone(&orders),
            report: Report::new(),
            reopen: false,
            looked: Instant::now(),
            spare: Vec::new(),
        };
        log.sample_clock();
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || log.run(end))?;
        let thread = thread.thread().clone();
        queue.set_writer(thread.clone());
        Ok(Self { orders, thread, ended })
    }

    /// Opens the file anew under its name, after the old one was renamed. Returns at once.
    pub fn reopen(&self) {
        self.orders.reopen.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Writes what shards have flushed and ends. False: that takes longer than `patience`, and the thread is left to itself.
    pub fn stop(self, patience: Duration) -> bool {
        self.orders.stop.store(true, Ordering::Release);
        self.thread.unpark();
        self.ended.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

struct Log {
    queue: Arc<Queue>,
    target: Target,
    /// `None`: it could not be opened yet.
    sink: Option<Sink>,
    monotonic_us: fn() -> u64,
    orders: Arc<Orders>,
    report: Report,
    /// A reopening is due, or failed and will be tried again.
    reopen: bool,
    looked: Instant,
    spare: Vec<u8>,
}

impl Log {
    /// Dropping `_ended` tells [`Writer::stop`].
    fn run(mut self, _ended: Sender<()>) {
        loop {
            let stop = self.orders.stop.load(Ordering::Acquire);
            self.sample_clock();
            self.look_after_sink();
            self.drain();
            self.report.say_what_is_due(&self.target, self.queue.stats());
            if stop {
                return self.report.say(&self.target, self.queue.stats());
            }
            thread::park_timeout(POLL);
        }
    }

    fn sample_clock(&self) {
        self.queue.set_unix_offset_us(unix_us().saturating_sub_unsigned((self.monotonic_us)()));
    }

    fn look_after_sink(&mut self) {
        let asked = self.orders.reopen.swap(false, Ordering::Acquire);
        let due = asked || self.looked.elapsed() >= REOPEN_INTERVAL || self.sink.is_none();
        if !due {
            return;
        }
        self.looked = Instant::now();
        self.reopen |= asked || self.sink.as_ref().is_none_or(Sink::is_deleted);
        if self.reopen {
            match self.target.open() {
                Ok(sink) => (self.sink, self.reopen) = (Some(sink), false),
                Err(error) => self.report.error = Some(error),
            }
        }
    }

    fn drain(&mut self) {
        let Self { queue, sink, report, spare, .. } = self;
        let now = unix_us();
        queue.drain(spare, |lines| {
            let Outcome { written, lost, error } = match sink {
                Some(sink) => sink.write(lines, now),
                None => Outcome { lost: super::sink::count_lines(lines), ..Outcome::default() },
            };
            queue.count(written, lost);
            report.error = error.or(report.error.take());
        });
    }
}

fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Says what went wrong, once in an interval.
struct Report {
    said: Stats,
    /// The latest error that has not been said.
    error: Option<io::Error>,
    next: Instant,
}

impl Report {
    fn new() -> Self {
        Self { said: Stats::default(), error: None, next: Instant::now() }
    }

    fn say_what_is_due(&mut self, target: &Target, stats: Stats) {
        if Instant::now() >= self.next {
            self.say(target, stats);
        }
    }

    fn say(&mut self, target: &Target, stats: Stats) {
        let (dropped, lost) = (stats.dropped - self.said.dropped, stats.lost - self.said.lost);
        let error = self.error.take();
        if dropped == 0 && lost == 0 && error.is_none() {
            return;
        }
        if dropped > 0 {
            tracing::warn!(
                "access log {target}: {dropped} lines dropped, it takes them more slowly than they come"
            );
        }
        if let Some(error) = error {
            tracing::warn!(
                "access log {target}: {error}; {lost} lines lost, more follow until this is mended"
            );
        }
        self.said = stats;
        self.next = Instant::now() + REPORT_INTERVAL;
    }
}
