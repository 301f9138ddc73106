//! What a seed of the edge world has beyond requests: servers that are asked and judged, mirrors, tunnels after an upgrade, and
//! who the client is, by PROXY protocol from whoever is believed and to servers that want to know.

use super::Web;
use super::preface;
use crate::scenario::{Scenario, between, one, pool};
use crate::weather::{Habit, ServerPlan};
use fourfold_balance::health::{BreakerRules, CheckRules, LatencyRules, Streaks, SuccessRules};
use fourfold_balance::retry::BudgetRules;
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_config::http::{Action, Http, Mirror, Route, Routes};
use fourfold_config::pool::{
    ActiveCheck, CheckRequest, HashKey, Health, ProxyProtocol, SameSite, StickyCookie,
};
use fourfold_config::{Algorithm, HostPort, Listener, Pool, ProxyProtocolIn};
use fourfold_l4::Cidrs;
use std::net::SocketAddr;

/// What checks ask for.
pub(super) const CHECK: &str = "/up";
/// Bytes each way through a tunnel: more than queues hold.
pub(super) const TUNNEL_BYTES: u32 = 600_000;

/// What a pool's servers are told, and whose requests they get.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    /// Connections begin with who the client is.
    pub greeted: bool,
    /// Copies only.
    pub mirror: bool,
}

impl Scenario {
    /// Adds to a world of requests.
    pub(crate) fn add_edge(&mut self, rng: &mut Prng) {
        // What is beside requests is met only by those that come through.
        if rng.chance(1, 2) {
            self.weather.servers.values_mut().for_each(|server| server.habit = Habit::Serves);
            (self.weather.local_faults, self.weather.missing) = (0, Vec::new());
            self.weather.rough = self.weather.rough.min(10);
            if let Some(web) = &mut self.web {
                web.manners.rough = web.manners.rough.min(2);
                web.manners.requests_max = web.manners.requests_max.max(20);
            }
        }
        let direct = self.plan.pools.len();
        if rng.chance(1, 2) {
            self.add_mirror(rng);
        }
        let mirror = (self.plan.pools.len() > direct).then_some(direct);
        self.plan.pools.iter_mut().for_each(|pool| judge_servers(rng, pool));
        self.plan.listeners.iter_mut().for_each(|listener| lead(rng, listener, direct, mirror));
        let side = |(index, pool): (usize, &Pool)| Side {
            greeted: pool.proxy_protocol.is_some(),
            mirror: Some(index) == mirror,
        };
        let sides = self.plan.pools.iter().enumerate().map(side).collect();
        let Some(web) = &mut self.web else { return };
        web.sides = sides;
        let believes: Vec<bool> =
            self.plan.listeners.iter().map(|listener| listener.proxy_protocol.is_some()).collect();
        for (number, client) in self.clients.iter().enumerate() {
            upgrade(rng, web, number);
            if believes.get(client.listener as usize) == Some(&true) && !rng.chance(1, 8) {
                introduce(rng, web, number);
            }
        }
    }

    fn add_mirror(&mut self, rng: &mut Prng) {
        let number = self.plan.pools.len() as u8;
        let Some(mut mirror) = pool(rng, number, &self.machine) else { return };
        mirror.http = super::world::pool_http(rng);
        for server in &mirror.servers {
            let HostPort::Ip(address) = server.address else { continue };
            let habit = one(rng, &Habit::ALL).unwrap_or(Habit::Serves);
            self.weather.servers.insert(address, ServerPlan { habit, mends_at: u64::from(rng.below(3000)) });
        }
        self.plan.pools.push(mirror);
    }
}

fn ms(rng: &mut Prng, low: u32, high: u32) -> Millis {
    between(rng, low, high).into()
}

fn judge_servers(rng: &mut Prng, pool: &mut Pool) {
    pool.health = health(rng);
    if rng.chance(1, 2) {
        pool.balance = one(rng, &[Algorithm::PeakEwma, Algorithm::RingHash, Algorithm::Maglev])
            .unwrap_or(Algorithm::PeakEwma);
        pool.hash_key = one(rng, &[HashKey::Address, HashKey::Path, HashKey::Header("x-id".into())])
            .unwrap_or(HashKey::Address);
        pool.hash_bound_percent = one(rng, &[0, 125]).unwrap_or(0);
    }
    pool.slow_start_ms = one(rng, &[0, 0, 500, 3000]).unwrap_or(0);
    pool.proxy_protocol = one(rng, &[None, None, Some(ProxyProtocol::V1), Some(ProxyProtocol::V2)]).flatten();
    pool.sticky = rng.chance(1, 4).then(|| StickyCookie {
        name: "stay".into(),
        ttl_ms: 0,
        path: "/".into(),
        secure: false,
        same_site: SameSite::Lax,
    });
    pool.http.preconnect = if rng.chance(1, 6) { between(rng, 1, 4) } else { 0 };
    pool.http.max_requests = rng.chance(1, 6).then(|| between(rng, 1, 20));
    for server in &mut pool.servers {
        server.max_requests = rng.chance(1, 6).then(|| between(rng, 1, 10));
    }
    pool.http.retry_on.status_503 = rng.chance(1, 2);
    pool.http.retry_budget = BudgetRules {
        percent: one(rng, &[0, 10, 50]).unwrap_or(0),
        per_second_min: one(rng, &[0, 1, 10]).unwrap_or(0),
        window_ms: ms(rng, 100, 5000),
    };
}

fn health(rng: &mut Prng) -> Health {
    let active = rng.chance(2, 3).then(|| active(rng));
    let mut health = Health { active, ..Health::default() };
    let rules = &mut health.rules;
    if rng.chance(1, 2) {
        let mut limit = || between(rng, 0, 5) as u16;
        rules.streaks = Streaks { errors: limit(), gateway_errors: limit(), unreachable: limit() };
        rules.ejection.base_ms = ms(rng, 20, 800);
        rules.ejection.max_ms = 3000;
        rules.ejection.max_percent = one(rng, &[10, 50, 100]).unwrap_or(10);
        rules.ejection.interval_ms = ms(rng, 100, 1500);
    }
    if rng.chance(1, 3) {
        let (requests_min, servers_min) = (between(rng, 1, 20), 2);
        rules.success = Some(SuccessRules { points: between(rng, 5, 60), requests_min, servers_min });
        rules.latency = Some(LatencyRules { percent: 200, requests_min, servers_min });
    }
    rules.breaker = rng.chance(1, 2).then(|| BreakerRules {
        window_ms: ms(rng, 100, 3000),
        requests_min: between(rng, 1, 10),
        error_percent: between(rng, 5, 100),
        open_ms: ms(rng, 20, 600),
        open_ms_max: 1500,
        probes: between(rng, 1, 4),
    });
    rules.panic_percent = one(rng, &[0, 50, 100]).unwrap_or(50);
    health
}

fn active(rng: &mut Prng) -> ActiveCheck {
    let interval_ms = ms(rng, 30, 1000);
    let rules = CheckRules {
        interval_ms,
        fast_interval_ms: ms(rng, 10, interval_ms as u32),
        timeout_ms: ms(rng, 5, interval_ms as u32),
        rise: between(rng, 1, 3) as u8,
        fall: between(rng, 1, 3) as u8,
        jitter_percent: one(rng, &[0, 10, 50]).unwrap_or(0),
    };
    let request = CheckRequest { path: CHECK.into(), host: None, expect: vec![(200, 299)] };
    ActiveCheck { request: rng.chance(2, 3).then_some(request), rules }
}

/// Where requests go, and what of them is copied.
fn lead(rng: &mut Prng, listener: &mut Listener, direct: usize, mirror: Option<usize>) {
    let (Some(own), Some(http)) = (listener.pool, listener.http.as_mut()) else { return };
    let mut route = Route::everything(own);
    if direct > 1 && rng.chance(1, 2) {
        route.action = Action::Split((0..direct).map(|pool| (pool, between(rng, 1, 3))).collect());
    }
    route.mirror = mirror.map(|pool| Mirror { pool, percent: one(rng, &[20, 100]).unwrap_or(100) });
    **http =
        Http { routes: Routes::new(vec![route]), upgrade_timeout_ms: ms(rng, 100, 1500), ..(**http).clone() };
    if rng.chance(1, 3)
        && let Ok(trust) = Cidrs::parse(&["192.0.2.0/24"])
    {
        listener.proxy_protocol = Some(ProxyProtocolIn { trust, required: rng.chance(1, 2) });
    }
}

/// The last thing that this client asks for is another protocol.
fn upgrade(rng: &mut Prng, web: &mut Web, number: usize) {
    let Some(visit) = web.visits.get_mut(number).filter(|_| rng.chance(1, 3)) else { return };
    let Some(last) = visit.asks.last_mut().filter(|ask| ask.modern && ask.cut.is_none()) else { return };
    let bytes = if rng.chance(1, 4) { rng.below(TUNNEL_BYTES) } else { rng.below(3000) };
    last.upgrade_to(bytes);
    visit.speaks_on();
}

/// A proxy before us says who the client is.
fn introduce(rng: &mut Prng, web: &mut Web, number: usize) {
    let Some(visit) = web.visits.get_mut(number) else { return };
    visit.address = SocketAddr::from(([198, 51, 100, 1 + rng.below(200) as u8], 1000 + number as u16));
    visit.preface = preface::write(rng.chance(1, 2), visit.address);
}
