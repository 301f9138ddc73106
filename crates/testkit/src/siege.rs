//! Clients that do as little as they can, by the ten thousand: each says how it begins, then drips, and comes again when it was
//! thrown out.
//!
//! They live in threads of their own, each with a descriptor table of its own. Nothing is sent in bursts: openings and drips are
//! spread over time as those of a real attack are, so that what others notice is the attack and not this machine's client.

use crate::poll::{self, Epoll, Interest, Ready};
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Attackers of one thread: well below a descriptor table of 20 000.
const THREAD_MAX: usize = 10_000;
/// How often each thread looks at who is due.
const TICK: Duration = Duration::from_millis(5);
/// Descriptors reported by one wait.
const EVENTS: usize = 256;
/// What an attacker that listens for the end takes of it.
const END_BYTES: usize = 512;
/// Receive buffer of those that take little: what they do not take stays with whoever sent it.
const WINDOW_BYTES: libc::c_int = 4096;

#[derive(Debug, Clone, Copy)]
pub enum Drip {
    /// Sends these bytes, and listens for an answer, which ends it.
    Say(&'static str),
    /// Takes so many bytes of what it was sent.
    Take(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// What everybody says first.
    pub opening: &'static str,
    pub drip: Drip,
    /// From one drip of an attacker to its next.
    pub every: Duration,
    /// Attackers that come, or come again, within a second.
    pub per_second: usize,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    hushed: AtomicBool,
    standing: AtomicUsize,
    answered: AtomicU64,
    ended: AtomicU64,
    drips: AtomicU64,
    failed: AtomicU64,
}

/// Attackers at work until it is dropped.
#[derive(Debug)]
pub struct Siege {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Siege {
    /// Their sources are [`poll::loopback_source`], beginning where nobody else does.
    pub fn start(to: SocketAddr, attackers: usize, attack: Attack) -> Siege {
        let counts = Arc::new(Counts::default());
        let threads = attackers.div_ceil(THREAD_MAX);
        let start = |thread: usize| {
            let counts = Arc::clone(&counts);
            let size = attackers * (thread + 1) / threads - attackers * thread / threads;
            let attack = Attack { per_second: attack.per_second.div_ceil(threads), ..attack };
            std::thread::spawn(move || {
                poll::own_descriptor_table()?;
                Crowd::new(to, attack, size, (thread * SOURCES_PER_THREAD) as u64, counts)?.run()
            })
        };
        Siege { threads: (0..threads).map(start).collect(), counts }
    }

    /// Attackers that have said how they begin and have not noticed that they were thrown out.
    pub fn standing(&self) -> usize {
        self.counts.standing.load(Relaxed)
    }
    /// Those that were told something before their connection ended.
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Relaxed)
    }
    /// Those that were thrown out, answered or not.
    pub fn ended(&self) -> u64 {
        self.counts.ended.load(Relaxed)
    }
    pub fn drips(&self) -> u64 {
        self.counts.drips.load(Relaxed)
    }
    /// Connections that could not be made.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Relaxed)
    }

    /// Nobody drips any more.
    pub fn hush(&self) {
        self.counts.hushed.store(true, Relaxed);
    }

    /// Everybody leaves.
    pub fn stop(mut self) -> Result<()> {
        self.counts.stop.store(true, Relaxed);
        self.threads.drain(..).try_for_each(|thread| match thread.join() {
            Ok(ended) => ended,
            Err(_) => bail!("a thread of attackers panicked"),
        })
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.counts.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A tuple that was left may be in TIME_WAIT: each thread comes to the same one again only after so many others.
const SOURCES_PER_THREAD: usize = 1_000_000;

struct Attacker {
    stream: TcpStream,
    /// No other attacker of its thread has the same.
    number: u64,
    /// Has said how it begins.
    begun: bool,
}

struct Crowd {
    to: SocketAddr,
    attack: Attack,
    size: usize,
    epoll: Epoll,
    slots: Vec<Option<Attacker>>,
    free: Vec<usize>,
    /// By time: who speaks next. The interval is the same for all, so that a queue is in order.
    due: VecDeque<(Instant, usize, u64)>,
    /// Those whose handshake may not be over.
    fresh: VecDeque<usize>,
    source: u64,
    opened: usize,
    began: Instant,
    counts: Arc<Counts>,
}

impl Crowd {
    fn new(to: SocketAddr, attack: Attack, size: usize, source: u64, counts: Arc<Counts>) -> Result<Crowd> {
        Ok(Crowd {
            to,
            attack,
            size,
            epoll: Epoll::new(EVENTS)?,
            slots: Vec::new(),
            free: Vec::new(),
            due: VecDeque::new(),
            fresh: VecDeque::new(),
            source,
            opened: 0,
            began: Instant::now(),
            counts,
        })
    }

    fn run(mut self) -> Result<()> {
        let mut ready: Vec<Ready> = Vec::new();
        while !self.counts.stop.load(Relaxed) {
            self.begin_fresh();
            self.open_due()?;
            self.drip_due();
            self.epoll.wait(&mut ready, Some(TICK))?;
            ready.iter().for_each(|event| self.look(event.token as usize));
        }
        Ok(())
    }

    /// As many as the pace allows; what was missed is not made up for in a burst.
    fn open_due(&mut self) -> Result<()> {
        let allowed = (self.began.elapsed().as_secs_f64() * self.attack.per_second as f64) as usize;
        let tick = (self.attack.per_second as f64 * TICK.as_secs_f64()).ceil() as usize * 2;
        let missing = self.size - (self.slots.len() - self.free.len());
        let count = allowed.saturating_sub(self.opened).min(tick).min(missing);
        self.opened = allowed;
        (0..count).try_for_each(|_| self.open())
    }

    fn open(&mut self) -> Result<()> {
        self.source += 1;
        let (interest, window) = match self.attack.drip {
            Drip::Say(_) => (Interest::ReadEdge, None),
            Drip::Take(_) => (Interest::End, Some(WINDOW_BYTES)),
        };
        let source = Some(poll::loopback_source(self.source));
        let Ok(stream) = poll::connect_window(self.to, source, window) else {
            self.counts.failed.fetch_add(1, Relaxed);
            return Ok(());
        };
        let slot = self.free.pop().unwrap_or(self.slots.len());
        self.epoll.add(&stream, slot as u64, interest)?;
        let attacker = Some(Attacker { stream, number: self.source, begun: false });
        match self.slots.get_mut(slot) {
            Some(free) => *free = attacker,
            None => self.slots.push(attacker),
        }
        self.fresh.push_back(slot);
        Ok(())
    }

    fn begin_fresh(&mut self) {
        for _ in 0..self.fresh.len() {
            let Some(slot) = self.fresh.pop_front() else { return };
            let Some(Some(attacker)) = self.slots.get_mut(slot) else { continue };
            match (&attacker.stream).write(self.attack.opening.as_bytes()) {
                Ok(_) => {
                    attacker.begun = true;
                    self.counts.standing.fetch_add(1, Relaxed);
                    self.due.push_back((Instant::now() + self.attack.every, slot, attacker.number));
                }
                Err(error) if is_early(&error) => self.fresh.push_back(slot),
                Err(_) => self.over(slot),
            }
        }
    }

    fn drip_due(&mut self) {
        if self.counts.hushed.load(Relaxed) {
            return;
        }
        let now = Instant::now();
        while let Some((_, slot, number)) = self.due.pop_front_if(|(at, ..)| *at <= now) {
            // Whoever took a slot over has its own turn.
            let Some(Some(attacker)) = self.slots.get(slot) else { continue };
            if attacker.number == number && self.drip(slot) {
                self.due.push_back((now + self.attack.every, slot, number));
            }
        }
    }

    /// `false`: it was thrown out.
    fn drip(&mut self, slot: usize) -> bool {
        let Some(Some(attacker)) = self.slots.get(slot) else { return false };
        self.counts.drips.fetch_add(1, Relaxed);
        let mut stream = &attacker.stream;
        let done = match self.attack.drip {
            Drip::Say(text) => stream.write(text.as_bytes()),
            Drip::Take(bytes) => stream.read(&mut vec![0; bytes]),
        };
        match done {
            Ok(bytes) if bytes > 0 => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            _ => {
                self.over(slot);
                false
            }
        }
    }

    /// Something has come for those that listen, or it is over.
    fn look(&mut self, slot: usize) {
        let Some(Some(attacker)) = self.slots.get(slot) else { return };
        let mut bytes = [0; END_BYTES];
        match (&attacker.stream).read(&mut bytes) {
            Ok(0) => self.over(slot),
            Ok(_) if matches!(self.attack.drip, Drip::Say(_)) => {
                self.counts.answered.fetch_add(1, Relaxed);
                self.over(slot);
            }
            Ok(_) => {}
            Err(error) if is_early(&error) => {}
            Err(_) => self.over(slot),
        }
    }

    fn over(&mut self, slot: usize) {
        let Some(attacker) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        match attacker.begun {
            true => {
                self.counts.standing.fetch_sub(1, Relaxed);
                self.counts.ended.fetch_add(1, Relaxed);
            }
            false => {
                self.counts.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The handshake is not over, or there is nothing yet.
fn is_early(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}
