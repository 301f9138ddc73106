//! Looks around about once a second, for as long as the program runs.
//!
//! Owns: the rhythm. Refuses: to judge what it sees; `headroom` and `kernel` do. Driven by: its runtime's clock.

use crate::Instance;
use crate::kernel::{Explainer, Sample, Scene};
use crate::view;
use fourfold_sys::clock::monotonic_ms;
use fourfold_sys::diag;
use fourfold_sys::events::{Counts, Gauges};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const INTERVAL: Duration = Duration::from_secs(1);

pub async fn follow(instance: Arc<Instance>) {
    let mut explainer = Explainer::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look(&instance, &mut explainer);
    }
}

fn look(instance: &Instance, explainer: &mut Explainer) {
    let now = monotonic_ms();
    let samples = view::samples(&instance.shared, now);
    let scene = scene(instance, &samples);
    instance.look_at_tuples(now, &samples);
    let sample = instance.set_machine(sample());
    let notices = explainer.handle_sample(now, &sample, &scene);
    notices.into_iter().for_each(|notice| instance.journal.tell(notice));
}

fn sample() -> Sample {
    let mut listening = Vec::new();
    // Where netlink is forbidden the queues are not known, and everything else is.
    let _ = diag::listening(|one| listening.push(one));
    Sample { counts: Counts::read(), gauges: Gauges::read(), listening }
}

fn scene(instance: &Instance, samples: &[crate::headroom::Sample]) -> Scene {
    let plan = &instance.shared.plan;
    let listeners = plan.binds().filter_map(|(n, bind)| Some((plan.listeners.get(n)?.name.clone(), bind)));
    let resting = |name: &String| {
        let own = samples.iter().filter(|sample| sample.pools.contains(name));
        own.map(|sample| sample.headroom.quarantined).sum()
    };
    let pools = plan.pools.iter().map(|pool| (pool.name.clone(), resting(&pool.name)));
    Scene { listeners: listeners.collect(), pools: pools.collect() }
}
