//! Tuples over time: how fast they go, when there will be none, and when somebody should hear of it (pure).
//!
//! Owns: averages per (source, destination), and how full each destination was when it was last looked at. Refuses: to read a
//! clock or a space. Driven by: the watch, with samples, about once a second.

use fourfold_api::v1::{EventKind, Fill, Flow, Headroom, Severity};
use fourfold_base::Millis;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::journal::Notice;

/// Averages reach back about so long.
const MEMORY_MS: f64 = 5_000.0;
/// From here on a destination is half full, nearly full.
const HALF_PERCENT: u64 = 50;
const NEAR_PERCENT: u64 = 85;
/// Half full, and full within this time: nearly full.
const NEAR_MS: u64 = 60_000;
/// How far back it must go to count as relieved: without this, a load that stays at a border would be told of again and again.
const SLACK_PERCENT: u64 = 5;
const SLACK_FREE_PERCENT: u64 = 1;
/// A destination that goes up and down is told of once in this time for each state.
const TOLD_INTERVAL_MS: Millis = 60_000;
/// Beyond this, "when" means nothing.
const HORIZON_MS: f64 = 30.0 * 86_400_000.0;

/// One destination at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The same for the same set of tuples at all times.
    pub key: usize,
    pub destination: SocketAddr,
    pub pools: Vec<String>,
    pub headroom: Headroom,
    pub sources: Vec<SourceSample>,
}

#[derive(Clone, Debug)]
pub struct SourceSample {
    pub index: u64,
    pub address: Option<IpAddr>,
    pub headroom: Headroom,
    /// Ever made.
    pub leases: u64,
}

#[derive(Default)]
pub struct Gauge {
    at: Option<Millis>,
    spaces: HashMap<usize, SpaceGauge>,
}

#[derive(Default)]
struct SpaceGauge {
    state: Fill,
    /// Somebody has been told that it is nearly full, and not yet that it is not.
    alarmed: bool,
    seen: Millis,
    told: HashMap<Fill, Millis>,
    all: Average,
    sources: HashMap<u64, Average>,
}

/// A mean in which what is long ago weighs little. While it is young it is the mean of what there was.
#[derive(Clone, Copy, Default)]
struct Average {
    before: Option<(u64, u64)>,
    leases: f64,
    growth: f64,
    weight: f64,
}

impl Average {
    fn add(&mut self, leases: u64, taken: u64, ms: Option<f64>) {
        if let (Some((leases_before, taken_before)), Some(ms)) = (self.before, ms) {
            let keep = (-ms / MEMORY_MS).exp();
            let rate = |change: f64| change * 1000.0 / ms;
            let blend = |old: f64, new: f64| old * keep + new * (1.0 - keep);
            self.leases = blend(self.leases, rate(leases.saturating_sub(leases_before) as f64));
            self.growth = blend(self.growth, rate(taken as f64 - taken_before as f64));
            self.weight = blend(self.weight, 1.0);
        }
        self.before = Some((leases, taken));
    }

    fn flow(&self, free: u64) -> Flow {
        if self.weight == 0.0 {
            return Flow::default();
        }
        let growth = self.growth / self.weight;
        let in_ms = free as f64 * 1000.0 / growth;
        Flow {
            leases_per_s: tenths(self.leases / self.weight),
            growth_per_s: tenths(growth),
            exhausted_in_ms: (growth > 0.0 && in_ms < HORIZON_MS).then_some(in_ms.round() as u64),
        }
    }
}

/// More digits would pretend to know more.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn taken(room: &Headroom) -> u64 {
    room.total.saturating_sub(room.free)
}

impl Gauge {
    /// What should be told of now. `now` must have moved on since the last time.
    pub fn handle_sample(&mut self, now: Millis, samples: &[Sample]) -> Vec<Notice> {
        let ms = self.at.map(|at| now.saturating_sub(at)).filter(|ms| *ms > 0).map(|ms| ms as f64);
        self.at = Some(now);
        let mut risen: Vec<(Fill, &Sample)> = Vec::new();
        let mut relieved: Vec<(Fill, &Sample)> = Vec::new();
        for sample in samples {
            let space = self.spaces.entry(sample.key).or_default();
            space.add(sample, ms);
            let before = space.state;
            space.seen = now;
            space.state = settle(before, &sample.headroom, &space.all.flow(sample.headroom.free));
            if space.state > before && space.may_tell(now) {
                space.alarmed |= space.state >= Fill::Near;
                risen.push((space.state, sample));
            } else if space.state == Fill::Ok && std::mem::take(&mut space.alarmed) {
                relieved.push((space.state, sample));
            }
        }
        self.spaces.retain(|_, space| space.seen == now);
        let mut notices = self.told_together(&risen);
        notices.extend(self.told_together(&relieved));
        notices
    }

    /// Destinations of the same pools that came to the same state at the same time: one line for all.
    fn told_together(&self, crossed: &[(Fill, &Sample)]) -> Vec<Notice> {
        let mut groups: Vec<(Fill, &[String], Vec<&Sample>)> = Vec::new();
        for (state, sample) in crossed {
            match groups.iter_mut().find(|group| (group.0, group.1) == (*state, &sample.pools)) {
                Some(group) => group.2.push(sample),
                None => groups.push((*state, &sample.pools, vec![sample])),
            }
        }
        let fullest = |samples: &[&Sample]| -> usize {
            let share = |n: &usize| samples.get(*n).map_or(0, |one| percent(&one.headroom));
            (0..samples.len()).max_by_key(share).unwrap_or(0)
        };
        let notice = |(state, _, samples): (Fill, &[String], Vec<&Sample>)| {
            let sample = samples.get(fullest(&samples))?;
            Some(notice(state, sample, self.flow(sample.key, None, sample.headroom.free), &samples))
        };
        groups.into_iter().filter_map(notice).collect()
    }

    /// Of one source, or of all.
    #[must_use]
    pub fn flow(&self, key: usize, source: Option<u64>, free: u64) -> Flow {
        let Some(space) = self.spaces.get(&key) else { return Flow::default() };
        match source {
            None => space.all.flow(free),
            Some(index) => space.sources.get(&index).map(|one| one.flow(free)).unwrap_or_default(),
        }
    }

    #[must_use]
    pub fn state(&self, key: usize, room: &Headroom) -> Fill {
        let before = self.spaces.get(&key).map_or(Fill::Ok, |space| space.state);
        settle(before, room, &self.flow(key, None, room.free))
    }
}

impl SpaceGauge {
    fn add(&mut self, sample: &Sample, ms: Option<f64>) {
        // A source that comes into use has had nothing for as long as the others were looked at.
        let fresh = Average {
            before: self.all.before.map(|_| (0, 0)),
            weight: self.all.weight,
            ..Average::default()
        };
        let leases = sample.sources.iter().map(|source| source.leases).sum();
        self.all.add(leases, taken(&sample.headroom), ms);
        for source in &sample.sources {
            let average = self.sources.entry(source.index).or_insert(fresh);
            average.add(source.leases, taken(&source.headroom), ms);
        }
    }

    fn may_tell(&mut self, now: Millis) -> bool {
        let told = self.told.get(&self.state).is_some_and(|at| now < at + TOLD_INTERVAL_MS);
        if !told {
            self.told.insert(self.state, now);
        }
        !told
    }
}

/// Up at once, down only with some distance.
fn settle(before: Fill, room: &Headroom, flow: &Flow) -> Fill {
    let at_once = fill(room, flow, 0, 1);
    at_once.max(fill(room, flow, SLACK_PERCENT, 2).min(before))
}

/// How full, by borders that lie `slack` lower and times that are so often as long.
fn fill(room: &Headroom, flow: &Flow, slack: u64, times: u64) -> Fill {
    let soon = flow.exhausted_in_ms.is_some_and(|ms| ms < NEAR_MS * times);
    let spare = if slack > 0 { room.total / 100 * SLACK_FREE_PERCENT } else { 0 };
    match percent(room) {
        _ if room.total == 0 => Fill::Ok,
        _ if room.free <= spare => Fill::Exhausted,
        full if full + slack >= NEAR_PERCENT => Fill::Near,
        full if full + slack >= HALF_PERCENT && soon => Fill::Near,
        full if full + slack >= HALF_PERCENT => Fill::Half,
        _ => Fill::Ok,
    }
}

/// The state of what has no history.
#[must_use]
pub fn fill_of(room: &Headroom, flow: &Flow) -> Fill {
    fill(room, flow, 0, 1)
}

fn percent(room: &Headroom) -> u64 {
    (u128::from(taken(room)) * 100 / u128::from(room.total.max(1))) as u64
}

fn notice(state: Fill, sample: &Sample, flow: Flow, together: &[&Sample]) -> Notice {
    let (kind, severity, what) = match state {
        Fill::Ok => (EventKind::TuplesRelieved, Severity::Info, "are free again"),
        Fill::Half => (EventKind::TuplesHalf, Severity::Info, "are more than half used"),
        Fill::Near => (EventKind::TuplesNear, Severity::Warning, "are nearly used up"),
        Fill::Exhausted => (EventKind::TuplesExhausted, Severity::Warning, "are used up: clients wait"),
    };
    let pools = match sample.pools.as_slice() {
        [] => String::new(),
        [one] => format!(" of pool {one}"),
        all => format!(" of pools {}", all.join(", ")),
    };
    let others = match together.len() {
        1 => String::new(),
        n => format!(" (the fullest of {n} destinations)"),
    };
    let Headroom { total, used, free, quarantined, foreign } = sample.headroom;
    let message = format!(
        "tuples{pools} towards {}{others} {what}: {used} used, {free} free, {quarantined} quarantined and {foreign} foreign of \
         {total}{}{}",
        sample.destination,
        fullest_source(sample),
        soon(&flow)
    );
    let of = sample.pools.iter().cloned().chain([sample.destination.to_string()]).collect();
    let remedy = if state == Fill::Ok { Vec::new() } else { remedy(&sample.headroom) };
    Notice { kind, severity, of, counter: None, count: together.len() as u64, message, remedy }
}

/// Sources are used evenly: one that stands out has another reason to.
fn fullest_source(sample: &Sample) -> String {
    let fullest = sample.sources.iter().max_by_key(|source| percent(&source.headroom));
    let Some(SourceSample { address: Some(address), headroom, .. }) = fullest else { return String::new() };
    match sample.sources.len() {
        1 => format!(", all from {address}"),
        n => format!(", over {n} sources, the fullest {address} with {} %", percent(headroom)),
    }
}

fn soon(flow: &Flow) -> String {
    match flow.exhausted_in_ms {
        Some(ms) if ms > 0 => {
            format!("; {} more per second, none left in {} s", flow.growth_per_s, ms.div_ceil(1000))
        }
        _ => String::new(),
    }
}

fn remedy(room: &Headroom) -> Vec<String> {
    let mut remedy =
        vec!["add addresses to the pool's `sources`, or servers, or widen its `ports`".to_owned()];
    if room.quarantined > room.used {
        remedy.push("sysctl -w net.ipv4.tcp_tw_reuse=1".to_owned());
        remedy.push("or port_mode = \"early\" on ports outside of net.ipv4.ip_local_port_range".to_owned());
    }
    if room.foreign > room.used {
        remedy.push("give this program sources or ports that no other uses".to_owned());
    }
    remedy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(total: u64, used: u64, quarantined: u64) -> Headroom {
        Headroom { total, used, free: total - used - quarantined, quarantined, foreign: 0 }
    }

    fn sample(key: usize, used: u64, leases: u64) -> Sample {
        let headroom = room(1000, used, 0);
        let source = SourceSample { index: 0, address: "10.0.0.1".parse().ok(), headroom, leases };
        Sample {
            key,
            destination: SocketAddr::from(([10, 0, 1, 1], 9000 + key as u16)),
            pools: vec!["chat".into()],
            headroom,
            sources: vec![source],
        }
    }

    fn kinds(notices: &[Notice]) -> Vec<EventKind> {
        notices.iter().map(|notice| notice.kind).collect()
    }

    #[test]
    fn rates_and_the_time_that_is_left_are_those_of_a_steady_climb() {
        let mut gauge = Gauge::default();
        // 10 new ones a second, of which 5 stay; samples at uneven times.
        for second in [0, 1, 2, 4, 5, 8] {
            let _ = gauge.handle_sample(second * 1000, &[sample(1, 100 + second * 5, second * 10)]);
            let flow = gauge.flow(1, None, 860);
            match second {
                0 => assert_eq!(flow, Flow::default(), "one sample says nothing"),
                _ => assert_eq!(
                    (flow.leases_per_s, flow.growth_per_s),
                    (10.0, 5.0),
                    "from the second sample on"
                ),
            }
        }
        assert_eq!(gauge.flow(1, None, 860).exhausted_in_ms, Some(172_000));
        assert_eq!(gauge.flow(1, Some(0), 860).growth_per_s, 5.0);
        assert_eq!(gauge.flow(2, None, 860), Flow::default());
    }

    #[test]
    fn rates_of_sources_add_up_to_that_of_all_even_when_one_begins_late() {
        let mut gauge = Gauge::default();
        for second in 0..6 {
            let mut one = sample(1, 10 * second, 10 * second);
            if second >= 4 {
                one.sources.push(SourceSample {
                    index: 1,
                    leases: 8 * (second - 3),
                    ..one.sources[0].clone()
                });
                one.sources[0].leases -= 8 * (second - 3);
            }
            let _ = gauge.handle_sample(second * 1000, &[one]);
        }
        let rate = |source| gauge.flow(1, source, 0).leases_per_s;
        assert!(rate(Some(1)) > 0.0);
        assert!(
            (rate(Some(0)) + rate(Some(1)) - rate(None)).abs() < 0.2,
            "{:?}",
            [rate(Some(0)), rate(Some(1)), rate(None)]
        );
    }

    #[test]
    fn what_shrinks_or_stands_is_never_exhausted() {
        let mut gauge = Gauge::default();
        for (second, used) in [(0, 900), (1, 800), (2, 700)] {
            let _ = gauge.handle_sample(second * 1000, &[sample(1, used, 0)]);
        }
        let flow = gauge.flow(1, None, 300);
        assert_eq!((flow.growth_per_s, flow.exhausted_in_ms), (-100.0, None));
    }

    #[test]
    fn the_cliff_is_told_of_on_the_way_up_and_once() {
        let mut gauge = Gauge::default();
        let mut told = Vec::new();
        // Slow enough for a minute to lie between half and nothing.
        for (second, used) in (0..).zip((0..=1000).step_by(5)) {
            for notice in gauge.handle_sample(second * 1000, &[sample(1, used, used)]) {
                told.push((notice.kind, used));
            }
        }
        let near = told.iter().find(|(kind, _)| *kind == EventKind::TuplesNear).map(|(_, used)| *used);
        assert_eq!(told.first(), Some(&(EventKind::TuplesHalf, 500)));
        assert_eq!(near, Some(705), "295 are left at 5 a second: less than a minute");
        assert_eq!(told.last(), Some(&(EventKind::TuplesExhausted, 1000)));
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_load_that_sways_at_a_border_is_told_of_once() {
        let mut gauge = Gauge::default();
        let mut told = Vec::new();
        for second in 0..300 {
            let used = if second % 2 == 0 { 848 } else { 852 };
            told.extend(kinds(&gauge.handle_sample(second * 1000, &[sample(1, used, 0)])));
        }
        let near = told.iter().filter(|kind| **kind == EventKind::TuplesNear).count();
        assert_eq!((near, told.len()), (1, 2), "{told:?}");
    }

    #[test]
    fn what_goes_up_and_down_is_told_of_once_in_an_interval() {
        let mut gauge = Gauge::default();
        let mut exhausted = 0;
        for second in 0..120 {
            let used = if second % 4 < 2 { 0 } else { 1000 };
            let told = kinds(&gauge.handle_sample(second * 1000, &[sample(1, used, 0)]));
            exhausted += told.iter().filter(|kind| **kind == EventKind::TuplesExhausted).count();
        }
        assert_eq!(exhausted, 2);
    }

    #[test]
    fn a_thousand_destinations_make_one_line() {
        let mut gauge = Gauge::default();
        let at = |used| (0..1000).map(|key| sample(key, used, used)).collect::<Vec<_>>();
        assert!(gauge.handle_sample(0, &at(100)).is_empty());
        let told = gauge.handle_sample(1000, &at(1000));
        let [notice] = told.as_slice() else { panic!("{} lines", told.len()) };
        assert!(notice.message.contains("(the fullest of 1000 destinations)"), "{}", notice.message);
        assert_eq!(notice.count, 1000);
    }

    #[test]
    fn a_line_names_pool_destination_source_numbers_and_remedy() {
        let mut gauge = Gauge::default();
        let mut full = sample(1, 100, 100);
        full.headroom = room(1000, 100, 800);
        full.sources[0].headroom = full.headroom;
        let told = gauge.handle_sample(0, &[full]);
        let [notice] = told.as_slice() else { panic!("{} lines", told.len()) };
        assert_eq!(
            notice.message,
            "tuples of pool chat towards 10.0.1.1:9001 are nearly used up: 100 used, 100 free, 800 quarantined and 0 foreign of \
             1000, all from 10.0.0.1"
        );
        assert!(notice.remedy.iter().any(|one| one.contains("tcp_tw_reuse")), "{:?}", notice.remedy);
        assert_eq!((notice.kind, notice.severity), (EventKind::TuplesNear, Severity::Warning));
        let relieved = gauge.handle_sample(1000, &[sample(1, 10, 100)]);
        assert_eq!(kinds(&relieved), [EventKind::TuplesRelieved]);
    }

    #[test]
    fn a_prefix_without_end_does_not_overflow() {
        let headroom = Headroom { total: u64::MAX, used: 5, free: u64::MAX - 5, quarantined: 0, foreign: 0 };
        let mut gauge = Gauge::default();
        for second in 0..3 {
            let source = SourceSample { index: 256, address: None, headroom, leases: second * 9 };
            let one = Sample { headroom, sources: vec![source], ..sample(1, 0, 0) };
            assert!(gauge.handle_sample(second * 1000, &[one]).is_empty());
        }
        assert_eq!(gauge.state(1, &headroom), Fill::Ok);
    }
}
