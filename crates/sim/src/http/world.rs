//! What a seed stands for in this world: time-outs, what clients come for, and how origins answer.

use super::client::{Client, Ending, Visit};
use super::edge::Side;
use super::ledger::{ASKS_MAX, Ask, Content, SharedLedger};
use super::origin::{Manners, Origin};
use crate::scenario::{ClientPlan, between, one};
use crate::weather::Weather;
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_config::http::Http;
use fourfold_config::pool::{PoolHttp, RetryOn};
use fourfold_config::{Listener, Mode, Plan};
use fourfold_engine::Errno;
use fourfold_engine::sim::{Answer, Attempt, Break, Director, Script};

#[derive(Clone, Debug)]
pub struct Web {
    /// One for each client.
    pub visits: Vec<Visit>,
    pub manners: Manners,
    /// One for each pool; none: they are all alike.
    pub sides: Vec<Side>,
}

impl Web {
    /// Turns a world of tunnels into one of requests.
    pub fn new(rng: &mut Prng, plan: &mut Plan, clients: &[ClientPlan], weather: &Weather) -> Self {
        plan.listeners.iter_mut().for_each(|listener| serve_http(rng, listener));
        plan.pools.iter_mut().for_each(|pool| pool.http = pool_http(rng));
        let rough = if weather.rough == 0 { 0 } else { between(rng, 0, 40) };
        let manners = Manners {
            rough,
            delay_ms: one(rng, &[0, 3, 30, 150]).unwrap_or(0),
            bytes_max: one(rng, &[200, 5000, 200_000]).unwrap_or(200),
            requests_max: one(rng, &[1, 3, 20, 1000]).unwrap_or(1),
            idle_ms: between(rng, 1, 2000),
        };
        let visit = |(number, client)| visit(rng, number as u32, client);
        Self { visits: clients.iter().enumerate().map(visit).collect(), manners, sides: Vec::new() }
    }
}

fn ms(rng: &mut Prng, low: u32, high: u32) -> Millis {
    between(rng, low, high).into()
}

fn serve_http(rng: &mut Prng, listener: &mut Listener) {
    let Some(pool) = listener.pool else { return };
    listener.mode = Mode::Http;
    listener.http = Some(Box::new(Http {
        requests_max: one(rng, &[0, 0, 1, 5]).unwrap_or(0),
        first_byte_timeout_ms: ms(rng, 50, 1500),
        header_timeout_ms: ms(rng, 50, 1500),
        body_timeout_ms: ms(rng, 100, 1500),
        send_timeout_ms: ms(rng, 100, 1500),
        keep_alive_timeout_ms: ms(rng, 20, 1500),
        body_bytes_max: rng.chance(1, 8).then(|| ms(rng, 1, 50_000)),
        ..Http::to_pool(pool)
    }));
}

pub(super) fn pool_http(rng: &mut Prng) -> PoolHttp {
    PoolHttp {
        response_timeout_ms: ms(rng, 50, 1500),
        response_idle_timeout_ms: ms(rng, 100, 1500),
        retries: rng.below(3) as u8,
        retry_on: if rng.chance(1, 4) { RetryOn::NEVER } else { RetryOn::default() },
        idle_max: one(rng, &[0, 1, 8, 128]).unwrap_or(0),
        idle_timeout_ms: ms(rng, 10, 2000),
        max_age_ms: if rng.chance(1, 4) { ms(rng, 1, 2000) } else { 0 },
        requests_max: one(rng, &[0, 0, 1, 4]).unwrap_or(0),
        ..PoolHttp::default()
    }
}

fn visit(rng: &mut Prng, number: u32, client: &ClientPlan) -> Visit {
    let count = between(rng, 1, 12).min(ASKS_MAX);
    let mut asks: Vec<Ask> = (0..count).map(|nth| ask(rng, 1 + number * ASKS_MAX + nth)).collect();
    // Nothing can follow a request that closes, or one of HTTP/1.0.
    if let Some(last) = asks.iter().position(|ask| ask.close || !ask.modern) {
        asks.truncate(last + 1);
    }
    if rng.chance(1, 12)
        // Whether half a head is one of HEAD, nobody can know.
        && let Some(last) = asks.last_mut().filter(|ask| ask.method != "HEAD")
    {
        last.expects = false;
        let (head, content) = last.render();
        last.cut = Some(1 + rng.below((head.len() + content.len()) as u32 - 1));
    }
    let ending = match rng.below(12) {
        0..7 => Ending::Close,
        7 => Ending::HalfClose,
        8..10 => Ending::Stay,
        _ => Ending::Leave { at: client.at + ms(rng, 0, 800), reset: rng.chance(1, 2) },
    };
    Visit {
        asks,
        depth: one(rng, &[1, 1, 1, 2, 8]).unwrap_or(1),
        think_ms: one(rng, &[0, 0, 10, 200]).unwrap_or(0),
        ending,
        // Twice the mean: pieces and gaps are half of their longest.
        kilobyte_ms: u64::from(2 * 1024 * client.behaviour.write_gap_ms)
            .div_ceil(client.behaviour.write_max.into()),
        listens: client.behaviour.read_stop.is_none()
            && !matches!(client.behaviour.break_after, Some((_, Break::Vanish | Break::Reset))),
        address: client.from,
        preface: Vec::new(),
    }
}

fn ask(rng: &mut Prng, id: u32) -> Ask {
    let method = one(rng, &["GET", "GET", "GET", "HEAD", "PUT", "POST", "POST", "DELETE"]).unwrap_or("GET");
    let modern = !rng.chance(1, 16);
    let len = match rng.below(12) {
        0 => 0,
        1..10 => 1 + rng.below(2000),
        _ => 1 + rng.below(150_000),
    };
    let content = match method {
        "PUT" | "POST" if modern && rng.chance(1, 2) => Content::Chunked(len),
        "PUT" | "POST" => Content::Length(len),
        _ => Content::None,
    };
    Ask {
        id,
        method,
        content,
        modern,
        close: rng.chance(1, 16),
        expects: modern && content.len() > 0 && rng.chance(1, 6),
        padding: if rng.chance(1, 6) { rng.below(4000) } else { 0 },
        cut: None,
        upgrade: None,
    }
}

/// The weather, with origins that speak.
pub(crate) struct HttpWeather {
    pub weather: Weather,
    pub manners: Manners,
    pub sides: Vec<Side>,
    pub ledger: SharedLedger,
}

impl Director for HttpWeather {
    fn connect(&mut self, rng: &mut Prng, attempt: &Attempt) -> Answer {
        self.weather.connect(rng, attempt)
    }

    fn script(&mut self, rng: &mut Prng, attempt: &Attempt) -> Option<Box<dyn Script>> {
        let pool = crate::scenario::pool_of(attempt.remote);
        let side = pool.and_then(|pool| self.sides.get(pool)).copied().unwrap_or_default();
        Some(Box::new(Origin::new(self.ledger.clone(), Prng::new(rng.next_u64()), self.manners, side)))
    }

    fn accept_error(&mut self, rng: &mut Prng, now: Millis) -> Option<Errno> {
        self.weather.accept_error(rng, now)
    }
}

impl Web {
    pub(crate) fn client(&self, ledger: &SharedLedger, number: usize) -> Option<Box<dyn Script>> {
        let visit = self.visits.get(number)?.clone();
        ledger.borrow_mut().clients.insert(number as u32, visit.address);
        Some(Box::new(Client::new(ledger.clone(), visit)))
    }
}
