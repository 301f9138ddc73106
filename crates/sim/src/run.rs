//! Plays a scenario: the shards take turns, by virtual time, and after every turn the promises that always hold are checked.

use crate::http::{HttpWeather, SharedLedger};
use crate::judge::judge;
use crate::scenario::{ClientPlan, Scenario};
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_engine::sim::{self, Director, Fault, SharedMachine, SimConfig, SimNet, Style};
use fourfold_engine::{App, BUFFER_BYTES, ListenerId, Mailbox, Net, SEND_QUEUE_HIGH, mailbox};
use fourfold_proxy::{Mail, Proxy, Shared, Totals};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Turns in a row in which neither time passes nor anything happens.
const IDLE_TURNS_MAX: u32 = 16;
/// Turns of one run; a world that needs more is going round in circles.
const TURNS_MAX: u64 = 400_000;
/// Connections that a shard tries to make in one run, at most: some hundred clients, and each may wait for some seconds and
/// find out now and then whether it still has to.
const CONNECTS_MAX: u64 = 20_000;
/// The buffer that fills a queue may reach beyond the mark; of completions two batches of four may still come after that.
fn queued_max(style: Style) -> usize {
    SEND_QUEUE_HIGH + BUFFER_BYTES * if style == Style::Readiness { 1 } else { 9 }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub at: Millis,
    /// Which promise.
    pub invariant: &'static str,
    pub detail: String,
    /// The last events, when they were kept.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, invariant, detail, .. } = self;
        write!(f, "seed {seed}: {invariant} (at {at} ms): {detail}")
    }
}

/// What a run came to; for totals over many seeds.
#[derive(Clone, Debug)]
pub struct Report {
    pub totals: Totals,
    pub ended_at: Millis,
    pub events: u64,
    pub turns: u64,
}

pub(crate) struct Shard {
    pub net: SimNet,
    pub app: Proxy,
    mailbox: Mailbox<Mail>,
    mail: VecDeque<Mail>,
    finished: bool,
}

pub(crate) struct Run<'a> {
    pub scenario: &'a Scenario,
    pub shared: Arc<Shared>,
    pub machine: SharedMachine,
    pub shards: Vec<Shard>,
    /// In the world of requests.
    pub ledger: SharedLedger,
    rng: Prng,
    now: Millis,
    turns: u64,
    /// What is to happen to the proxy, latest first.
    orders: Vec<(Millis, Order)>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Move(usize),
    Drain(Millis),
}

type Checked = Result<(), (&'static str, String)>;

/// Plays `scenario`, with `trace` events kept per shard.
pub fn run(scenario: &Scenario, fault: Option<Fault>, trace: usize) -> Result<Report, Box<Failure>> {
    let failed = |invariant, detail, at, trace| {
        Box::new(Failure { seed: scenario.seed, at, invariant, detail, trace })
    };
    let mut run = Run::new(scenario, fault, trace)
        .map_err(|why| failed("the scenario can be set up", why, 0, Vec::new()))?;
    match run.play().and_then(|()| judge(&run)) {
        Ok(()) => Ok(run.report()),
        Err((invariant, detail)) => Err(failed(invariant, detail, run.now, run.trace())),
    }
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, fault: Option<Fault>, trace: usize) -> Result<Self, String> {
        let machine = sim::Machine::new(scenario.time_wait_ms(), scenario.machine.tcp_timestamps);
        scenario.foreign.iter().for_each(|tuple| machine.borrow_mut().add_foreign(*tuple));
        let shared = Shared::new(
            Arc::new(scenario.plan.clone()),
            scenario.machine.clone(),
            scenario.shards,
            scenario.connections_max,
            scenario.connections_per_shard,
        )
        .map_err(|error| error.to_string())?;
        shared.set_literal_targets().map_err(|error| error.to_string())?;
        let mut run = Self {
            scenario,
            shards: Vec::new(),
            ledger: SharedLedger::default(),
            rng: Prng::new(!scenario.seed),
            now: 0,
            turns: 0,
            orders: orders(scenario),
            shared,
            machine,
        };
        for number in 0..scenario.shards {
            let shard = run.shard(number, fault, trace)?;
            run.shards.push(shard);
        }
        Ok(run)
    }

    fn shard(&self, number: usize, fault: Option<Fault>, trace: usize) -> Result<Shard, String> {
        let scenario = self.scenario;
        let config = SimConfig {
            seed: scenario.seed ^ (number as u64 + 1) << 48,
            style: scenario.style,
            listeners: scenario.plan.listeners.len(),
            backlog: scenario.backlog,
            accept_slots: scenario.accept_slots,
            connect_slots: scenario.connect_slots,
            buffers_max: scenario.buffers_max,
            delay_ms: scenario.delay_ms,
            fault,
            trace,
        };
        let mut net = SimNet::new(config, self.machine.clone(), self.director());
        for (nth, client) in scenario.clients.iter().enumerate().filter(|client| client.1.shard == number) {
            let ClientPlan { listener, from, at, behaviour, .. } = client.clone();
            let listener = ListenerId(listener);
            match scenario.web.as_ref().and_then(|web| web.client(&self.ledger, nth)) {
                Some(script) => net.add_speaker(listener, from, at, behaviour, script),
                None => net.add_client(listener, from, at, behaviour),
            };
        }
        let (sender, mailbox) = mailbox().map_err(|errno| errno.to_string())?;
        if let Some(shard) = self.shared.shards.get(number) {
            shard.set_sender(sender);
        }
        let app = Proxy::new(Arc::clone(&self.shared), number, 0);
        Ok(Shard { net, app, mailbox, mail: VecDeque::new(), finished: false })
    }

    fn director(&self) -> Box<dyn Director> {
        let weather = self.scenario.weather.clone();
        match &self.scenario.web {
            Some(web) => {
                let (manners, sides) = (web.manners, web.sides.clone());
                Box::new(HttpWeather { weather, manners, sides, ledger: self.ledger.clone() })
            }
            None => Box::new(weather),
        }
    }

    fn play(&mut self) -> Checked {
        for shard in &mut self.shards {
            shard.app.start(&mut shard.net);
        }
        while self.shards.iter().any(|shard| !shard.finished) {
            let Some(next) = self.next_wake() else {
                return Err(("a shard that is not finished has something to wait for", self.state()));
            };
            self.now = self.now.max(next);
            self.give_orders();
            self.round()?;
        }
        self.let_peers_finish()
    }

    /// When anything happens next, anywhere.
    fn next_wake(&mut self) -> Option<Millis> {
        let order = self.orders.last().map(|order| order.0);
        let now = self.now;
        let wakes = self.shards.iter_mut().filter(|shard| !shard.finished).map(|shard| shard.wake(now));
        wakes.chain([order]).flatten().min()
    }

    fn give_orders(&mut self) {
        while let Some((_, order)) = self.orders.pop_if(|order| order.0 <= self.now) {
            match order {
                Order::Drain(deadline) => {
                    for shard in &mut self.shards {
                        shard.mail.push_back(Mail::Drain { deadline });
                    }
                }
                Order::Move(number) => {
                    if let Some(order) = self.scenario.moves.get(number) {
                        // Refused only if the pool's rules do not fit the address; all of ours do.
                        let _ = self.shared.set_target(order.pool, order.server, order.to);
                    }
                }
            }
        }
    }

    /// Every shard that has something to do at this time has its turn, in any order.
    fn round(&mut self) -> Checked {
        let count = self.shards.len();
        let first = self.rng.below(count as u32) as usize;
        for index in (0..count).map(|step| (first + step) % count) {
            let now = self.now;
            let Some(shard) = self.shards.get_mut(index) else { continue };
            if shard.finished || shard.wake(now).is_none_or(|at| at > now) {
                continue;
            }
            shard.turn(now);
            self.turns += 1;
            self.check(index)?;
        }
        if self.turns > TURNS_MAX {
            return Err(("a run comes to its end", self.state()));
        }
        Ok(())
    }

    fn check(&mut self, index: usize) -> Checked {
        if let Some(text) = self.machine.borrow_mut().take_violations().pop() {
            return Err(("every lease is one tuple, given back once and not too early", text));
        }
        if let Some(broken) = self.ledger.borrow_mut().broken.pop() {
            return Err(broken);
        }
        let Some(shard) = self.shards.get_mut(index) else { return Ok(()) };
        if let Some(text) = shard.net.take_violations().pop() {
            return Err(("bytes arrive in order", text));
        }
        let (stats, sim) = (shard.net.stats(), shard.net.sim_stats());
        let broken = |invariant, detail: String| Err((invariant, format!("shard {index}: {detail}")));
        if sim.idle_turns_max > IDLE_TURNS_MAX {
            return broken("the event loop does not spin", format!("{} turns", sim.idle_turns_max));
        }
        if sim.stale_operations > 0 {
            return broken("no operation on a closed socket", format!("{sim:?}"));
        }
        let most = queued_max(self.scenario.style);
        if sim.queued_max > most || sim.queued_buffers_max > 2 * most / BUFFER_BYTES + 2 {
            return broken("a send queue is bounded", format!("{sim:?}"));
        }
        if sim.connects > CONNECTS_MAX {
            return broken("a shortage is not answered by trying without end", format!("{sim:?}"));
        }
        if stats.buffers_in_use > stats.buffers_max {
            return broken("buffers are bounded", format!("{stats:?}"));
        }
        // Who is refused after a PROXY header has no tunnel any more while its socket closes.
        let plain = self.scenario.plan.listeners.iter().all(|one| one.proxy_protocol.is_none());
        if plain && sim.adopted > shard.app.len() {
            let detail = format!("{} sockets, {} tunnels", sim.adopted, shard.app.len());
            return broken("a client's socket has a tunnel", detail);
        }
        self.check_limits()
    }

    fn check_limits(&self) -> Checked {
        let connections = self.shared.connections.load(Relaxed);
        if connections > self.shared.connections_max {
            return Err(("max_connections holds", connections.to_string()));
        }
        for (listener, plan) in self.shared.listener_connections.iter().zip(&self.scenario.plan.listeners) {
            let open = listener.load(Relaxed);
            if plan.max_connections.is_some_and(|most| open > most) {
                return Err(("a listener's max_connections holds", format!("{open} at {}", plan.name)));
            }
        }
        for (pool, plan) in self.shared.pools.iter().zip(&self.scenario.plan.pools) {
            let waiting = pool.waiting.load(Relaxed);
            if waiting > pool.queue_max {
                return Err(("queue_max holds", format!("{waiting} in {}", plan.name)));
            }
            for (server, plan) in pool.servers.iter().zip(&plan.servers) {
                let active = server.active.load(Relaxed);
                if plan.max_connections.is_some_and(|most| active > most) {
                    return Err(("a server's max_connections holds", format!("{active} at {plan:?}")));
                }
            }
        }
        Ok(())
    }

    /// The shards have ended; what is still on its way arrives.
    fn let_peers_finish(&mut self) -> Checked {
        for index in 0..self.shards.len() {
            while let Some(shard) = self.shards.get_mut(index)
                && let Some(next) = shard.net.next_event()
            {
                self.now = self.now.max(next);
                shard.turn(self.now);
                self.turns += 1;
                self.check(index)?;
                if self.turns > TURNS_MAX {
                    return Err(("a run comes to its end", self.state()));
                }
            }
        }
        Ok(())
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    fn state(&self) -> String {
        let mut text = format!("{}", Totals::of(&self.shared));
        for shard in &self.shards {
            let (stats, sim) = (shard.net.stats(), shard.net.sim_stats());
            text += &format!(
                "\n  tunnels {} waiting {} finished {} {stats:?} {sim:?}",
                shard.app.len(),
                shard.app.waiting(),
                shard.finished
            );
        }
        text
    }

    fn trace(&self) -> Vec<String> {
        let lines = |(number, shard): (usize, &Shard)| {
            shard.net.trace().map(|line| format!("shard {number} {line}")).collect::<Vec<_>>()
        };
        self.shards.iter().enumerate().flat_map(lines).collect()
    }

    fn report(&self) -> Report {
        Report {
            totals: Totals::of(&self.shared),
            ended_at: self.now,
            events: self.shards.iter().map(|shard| shard.net.sim_stats().events).sum(),
            turns: self.turns,
        }
    }
}

fn orders(scenario: &Scenario) -> Vec<(Millis, Order)> {
    let mut orders = vec![(scenario.drain_at, Order::Drain(scenario.drain_deadline))];
    orders.extend(scenario.stop_at.map(|at| (at, Order::Drain(at))));
    orders.extend(scenario.moves.iter().enumerate().map(|(number, order)| (order.at, Order::Move(number))));
    orders.sort_by_key(|order| std::cmp::Reverse(order.0));
    orders
}

impl Shard {
    /// When it has something to do.
    fn wake(&mut self, now: Millis) -> Option<Millis> {
        while let Some(mail) = self.mailbox.take() {
            self.mail.push_back(mail);
        }
        if !self.mail.is_empty() {
            return Some(now);
        }
        let timer = App::<SimNet>::poll_timeout(&self.app);
        [timer, self.net.next_event()].into_iter().flatten().min()
    }

    /// As `run_app` does it.
    fn turn(&mut self, now: Millis) {
        // The virtual net has no way to fail.
        let _ = self.net.turn(Some(now), &mut self.app);
        while let Some(mail) = self.mail.pop_front() {
            self.app.on_mail(&mut self.net, mail);
        }
        self.app.on_turn(&mut self.net);
        self.finished = App::<SimNet>::is_finished(&self.app);
    }
}
