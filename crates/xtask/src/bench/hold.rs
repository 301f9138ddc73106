//! The client of the scenario `hold`: opens connections, proves each with a token of its own, and keeps them.
//!
//! Reads a line from stdin, obeys it, prints one [`Grown`] as JSON, and waits for the next. A number is a size to grow or shrink
//! to; `churn N` resets N random connections, opening another for each. At the end of stdin everything is reset. Threads have descriptor tables of their own, so the hard limit bounds a thread, not the client.

use super::Flags;
use super::origin::ECHO;
use super::results::Grown;
use anyhow::{Context, Result, anyhow, bail};
use fourfold_base::prng::Prng;
use fourfold_testkit::poll::{self, Epoll, Interest, Ready};
use std::collections::HashMap;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connects in flight per thread: enough to keep a subject busy, small next to any accept queue.
const IN_FLIGHT_MAX: usize = 32;
/// A connection without its token after this long has failed.
const PATIENCE: Duration = Duration::from_secs(15);
const TOKEN_BYTES: usize = 8;
/// Sources of one thread never meet those of another.
const SOURCES_PER_THREAD: u64 = 1 << 20;

pub fn run(flags: &Flags) -> Result<()> {
    let to: SocketAddr = flags.need("to")?;
    let threads: usize = flags.need("threads")?;
    poll::raise_descriptor_limit()?;
    let holders: Vec<Holder> = (0..threads).map(|index| Holder::start(index, to)).collect();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (kind, number): (fn(usize) -> Order, &str) = match line.trim().strip_prefix("churn ") {
            Some(rounds) => (Order::Churn, rounds),
            None => (Order::Hold, line.trim()),
        };
        let grown = order(&holders, kind, number.parse().context("a number of connections per line")?)?;
        println!("{}", serde_json::to_string(&grown)?);
    }
    for holder in holders {
        drop(holder.orders);
        holder.thread.join().map_err(|_| anyhow!("a thread of the client panicked"))??;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Order {
    Hold(usize),
    Churn(usize),
}

fn order(holders: &[Holder], kind: fn(usize) -> Order, number: usize) -> Result<Grown> {
    let began = Instant::now();
    for (index, holder) in holders.iter().enumerate() {
        // The remainder goes to the first ones.
        let share = number / holders.len() + usize::from(index < number % holders.len());
        holder.orders.send(kind(share)).context("a thread of the client has ended")?;
    }
    let mut grown = Grown::default();
    let mut waits_us = Vec::new();
    for holder in holders {
        let part = holder.report.recv().context("a thread of the client has ended")?;
        grown.held += part.held;
        grown.failed += part.failures.values().sum::<u64>();
        for (reason, count) in part.failures {
            *grown.failures.entry(reason).or_default() += count;
        }
        waits_us.push(part.waits_us);
    }
    grown.seconds = began.elapsed().as_secs_f64();
    (grown.first_tenth_us, grown.last_tenth_us) = tenths(&waits_us);
    grown.median_us = median(waits_us.into_iter().flatten().collect());
    Ok(grown)
}

/// Median wait in the first and in the last tenth of every thread's connections.
fn tenths(waits_us: &[Vec<u32>]) -> (u32, u32) {
    let pick = |range: fn(usize) -> std::ops::Range<usize>| {
        median(waits_us.iter().flat_map(|waits| &waits[range(waits.len())]).copied().collect())
    };
    (pick(|length| 0..length.div_ceil(10)), pick(|length| length - length.div_ceil(10)..length))
}

fn median(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

struct Part {
    held: u64,
    failures: HashMap<String, u64>,
    waits_us: Vec<u32>,
}

struct Holder {
    orders: Sender<Order>,
    report: Receiver<Part>,
    thread: JoinHandle<Result<()>>,
}

impl Holder {
    fn start(index: usize, to: SocketAddr) -> Holder {
        let (orders, queue) = channel();
        let (reports, report) = channel();
        let thread = thread::spawn(move || {
            poll::own_descriptor_table()?;
            let mut crowd = Crowd::new(to, index as u64 * SOURCES_PER_THREAD)?;
            for order in queue {
                let part = crowd.obey(order)?;
                reports.send(part).context("nobody waits for the report")?;
            }
            crowd.disperse()
        });
        Holder { orders, report, thread }
    }
}

struct Opening {
    stream: TcpStream,
    began: Instant,
    token: [u8; TOKEN_BYTES],
    sent: bool,
}

struct Crowd {
    to: SocketAddr,
    epoll: Epoll,
    source: u64,
    opening: HashMap<u64, Opening>,
    held: Vec<TcpStream>,
    failures: HashMap<String, u64>,
    waits_us: Vec<u32>,
    random: Prng,
}

impl Crowd {
    fn new(to: SocketAddr, source: u64) -> Result<Crowd> {
        Ok(Crowd {
            to,
            epoll: Epoll::new(IN_FLIGHT_MAX)?,
            source,
            opening: HashMap::new(),
            held: Vec::new(),
            failures: HashMap::new(),
            waits_us: Vec::new(),
            random: Prng::new(source),
        })
    }

    /// Every connection is tried once: what a subject refuses is counted, not hidden by a retry.
    fn obey(&mut self, order: Order) -> Result<Part> {
        self.waits_us.clear();
        self.failures.clear();
        let (mut to_start, churn) = match order {
            Order::Hold(target) => {
                (0..self.held.len().saturating_sub(target)).for_each(|_| self.reset_one());
                (target.saturating_sub(self.held.len()), false)
            }
            Order::Churn(rounds) => (rounds, true),
        };
        let mut ready: Vec<Ready> = Vec::new();
        while to_start > 0 || !self.opening.is_empty() {
            while to_start > 0 && self.opening.len() < IN_FLIGHT_MAX {
                to_start -= 1;
                if churn {
                    self.reset_one();
                }
                self.open()?;
            }
            self.epoll.wait(&mut ready, Some(Duration::from_millis(500)))?;
            for event in &ready {
                self.drive(event.token);
            }
            self.give_up_on_the_late();
        }
        let failures = std::mem::take(&mut self.failures);
        Ok(Part { held: self.held.len() as u64, failures, waits_us: std::mem::take(&mut self.waits_us) })
    }

    fn open(&mut self) -> Result<()> {
        self.source += 1;
        let key = self.source;
        let stream = poll::connect_start(self.to, Some(poll::loopback_source(key)))?;
        self.epoll.add(&stream, key, Interest::Write)?;
        let mut token = key.to_be_bytes();
        token[0] = ECHO;
        self.opening.insert(key, Opening { stream, began: Instant::now(), token, sent: false });
        Ok(())
    }

    /// A random one.
    fn reset_one(&mut self) {
        if !self.held.is_empty() {
            let index = self.random.below(self.held.len() as u32) as usize;
            // One that the subject has already ended needs no reset.
            let _ = poll::reset(self.held.swap_remove(index));
        }
    }

    fn drive(&mut self, key: u64) {
        let Some(mut opening) = self.opening.remove(&key) else { return };
        match opening.advance(&self.epoll, key) {
            Ok(true) => {
                self.waits_us.push(opening.began.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
                self.held.push(opening.stream);
            }
            Ok(false) => {
                self.opening.insert(key, opening);
            }
            Err(error) => self.failed(format!("{error:#}")),
        }
    }

    fn failed(&mut self, reason: String) {
        *self.failures.entry(reason).or_default() += 1;
    }

    fn give_up_on_the_late(&mut self) {
        let before = self.opening.len();
        self.opening.retain(|_, opening| opening.began.elapsed() < PATIENCE);
        for _ in self.opening.len()..before {
            self.failed(format!("no token within {PATIENCE:?}"));
        }
    }

    /// Resets leave no TIME_WAIT behind for the next subject.
    fn disperse(self) -> Result<()> {
        for stream in self.held {
            // One that the subject has already ended needs no reset.
            let _ = poll::reset(stream);
        }
        Ok(())
    }
}

impl Opening {
    /// `true` once the token has come back.
    fn advance(&mut self, epoll: &Epoll, key: u64) -> Result<bool> {
        if !self.sent {
            if let Some(error) = self.stream.take_error()? {
                return Err(error).context("connect");
            }
            self.stream.write_all(&self.token).context("send")?;
            self.sent = true;
            // Told once: a held connection that ends later must not keep waking us.
            epoll.modify(&self.stream, key, Interest::ReadEdge)?;
            return Ok(false);
        }
        let mut answer = [0; TOKEN_BYTES];
        match self.stream.read(&mut answer) {
            Ok(TOKEN_BYTES) if answer == self.token => Ok(true),
            Ok(0) => bail!("closed before the token came back"),
            Ok(_) => bail!("another token came back"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("receive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_are_taken_from_every_thread() {
        let rising: Vec<u32> = (0..100).collect();
        assert_eq!(tenths(&[rising.clone(), rising]), (5, 95));
        assert_eq!(tenths(&[]), (0, 0));
    }

    #[test]
    fn every_connection_is_proved_and_counted_and_a_refusal_is_a_failure() {
        let to = crate::bench::origin::tests::start();
        let holders: Vec<Holder> = (0..2).map(|index| Holder::start(100 + index, to)).collect();
        assert_eq!(order(&holders, Order::Hold, 51).unwrap().held, 51);
        let grown = order(&holders, Order::Hold, 200).unwrap();
        assert_eq!((grown.held, grown.failed), (200, 0));
        let churned = order(&holders, Order::Churn, 300).unwrap();
        assert_eq!((churned.held, churned.failed), (200, 0));
        assert_eq!(order(&holders, Order::Hold, 20).unwrap().held, 20);
        let nobody = fourfold_testkit::Reserved::loopback().unwrap().release();
        let refused = order(&[Holder::start(102, nobody)], Order::Hold, 3).unwrap();
        assert_eq!((refused.held, refused.failed), (0, 3));
    }
}
