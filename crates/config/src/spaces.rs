//! Do two pools reach for the same four-tuples, or for the same port in two ways?
//!
//! Owns: the rules by which spaces (sources x ports per destination) of different pools collide.
//! Refuses: to guess; what depends on the machine's port range is decided in
//! [`Plan::check_ports`], when the program knows that range.
//! Driven by: `check.rs` on what was written, [`Plan::check_ports`] on what it comes to here.

use std::collections::{HashMap, HashSet};

use fourfold_ports::{PortSpan, SourceSet};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Place};
use crate::keys::{Choices, pool, server};
use crate::plan::{HostPort, Plan, Pool, PortMode};
use crate::section::Part;
use crate::value::quote;

/// What of a pool decides about its tuples.
pub(crate) struct SpaceView<'a> {
    name: &'a str,
    path: String,
    place: Place,
    sources: SourceSet,
    /// `None`: the machine's range, not known here.
    ports: Option<PortSpan>,
    mode: PortMode,
    destinations: Vec<&'a HostPort>,
}

impl<'a> SpaceView<'a> {
    /// `None` when a key that matters was wrong.
    pub(crate) fn of_part(part: &'a Part) -> Option<SpaceView<'a>> {
        let sources = match part.sources(&pool::SOURCES) {
            Some(sources) => sources.clone(),
            None if part.was_written(&pool::SOURCES) => return None,
            None => SourceSet::kernel_chosen(),
        };
        let ports = part.ports(&pool::PORTS).copied();
        if ports.is_none() && part.was_written(&pool::PORTS) {
            return None;
        }
        let nearest_key = [&pool::PORTS, &pool::PORT_MODE, &pool::SOURCES]
            .into_iter()
            .find(|key| part.was_written(key))
            .unwrap_or(&pool::NAME);
        Some(SpaceView {
            name: part.text(&pool::NAME)?,
            path: part.path_of(nearest_key),
            place: part.place_of(nearest_key).clone(),
            sources,
            ports,
            mode: part.choice(&pool::PORT_MODE)?,
            destinations: part
                .parts(&pool::SERVER)
                .iter()
                .filter_map(|one| one.server(&server::ADDRESS))
                .collect(),
        })
    }

    fn of_pool(n: usize, pool: &'a Pool, local: PortSpan, late_available: bool) -> SpaceView<'a> {
        let inside = |span: PortSpan| local.contains(span.first()) && local.contains(span.last());
        let span = pool.ports.unwrap_or(local);
        SpaceView {
            name: &pool.name,
            path: format!("pool[{n}].ports"),
            place: Place::Whole,
            sources: pool.sources.clone(),
            ports: Some(span),
            mode: match pool.port_mode {
                PortMode::Auto if late_available && inside(span) => PortMode::Late,
                PortMode::Auto => PortMode::Early,
                chosen => chosen,
            },
            destinations: pool.servers.iter().map(|server| &server.address).collect(),
        }
    }

    fn same_space(&self, other: &SpaceView<'_>) -> bool {
        self.sources == other.sources && self.ports == other.ports && self.mode == other.mode
    }
}

impl Plan {
    /// Collisions that only show when the pools that leave `ports` or `port_mode` to the machine have
    /// got theirs: `local` is its `net.ipv4.ip_local_port_range`, `late_available` whether its kernel
    /// can pin ports late. Whether each pool by itself can work here is not looked at.
    #[must_use]
    pub fn check_ports(&self, file: &str, local: PortSpan, late_available: bool) -> Diagnostics {
        let view = |(n, pool)| SpaceView::of_pool(n, pool, local, late_available);
        let views: Vec<_> = self.pools.iter().enumerate().map(view).collect();
        let mut found = Diagnostics::new(file, "");
        collisions(&views).into_iter().for_each(|item| found.push(item));
        found.finish()
    }
}

/// At most one finding for each pool: the first pool before it that is in its way.
pub(crate) fn collisions(views: &[SpaceView<'_>]) -> Vec<Diagnostic> {
    let mut before: HashMap<&HostPort, Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (n, view) in views.iter().enumerate() {
        let sharing: HashSet<usize> =
            view.destinations.iter().filter_map(|to| before.get(to)).flatten().copied().collect();
        let earlier = || views.iter().take(n).enumerate();
        let mixed = earlier().find_map(|(_, other)| mixed_modes(view, other));
        let shared =
            || earlier().filter(|(m, _)| sharing.contains(m)).find_map(|(_, other)| same_tuples(view, other));
        found.extend(mixed.or_else(shared));
        for to in &view.destinations {
            before.entry(to).or_default().push(n);
        }
    }
    found
}

/// A port held early is unusable for late binds from every source, and the other way round.
fn mixed_modes(view: &SpaceView<'_>, other: &SpaceView<'_>) -> Option<Diagnostic> {
    let opposed = matches!(
        (view.mode, other.mode),
        (PortMode::Early, PortMode::Late) | (PortMode::Late, PortMode::Early)
    );
    let common = view.ports?.intersection(other.ports?)?;
    opposed.then(|| {
        let message = format!(
            "pool {} takes {} {}, pool {} does so {}: a port can be held in one way only",
            quote(view.name),
            ports_words(common),
            mode_name(view.mode),
            quote(other.name),
            mode_name(other.mode)
        );
        Diagnostic::error(Code::MixedPortModes, &view.place, view.path.clone(), message)
            .help("give the pools disjoint `ports` or the same `port_mode`")
    })
}

/// Pools may share a destination when their spaces are the same one or have no tuple in common.
fn same_tuples(view: &SpaceView<'_>, other: &SpaceView<'_>) -> Option<Diagnostic> {
    if view.same_space(other) || !view.sources.overlaps(&other.sources) {
        return None;
    }
    let disjoint = |a: PortSpan, b: PortSpan| !a.intersects(b);
    let unknown = view.ports.is_some() != other.ports.is_some();
    if unknown || view.ports.zip(other.ports).is_some_and(|(a, b)| disjoint(a, b)) {
        return None;
    }
    // Which address the kernel picks is known only at run time.
    let certain = view.sources.is_kernel_chosen() == other.sources.is_kernel_chosen();
    let message = format!(
        "pools {} and {} {} the same four-tuples: they have a server in common, and their sources and ports overlap",
        quote(other.name),
        quote(view.name),
        if certain { "use" } else { "may use" }
    );
    let finding = if certain { Diagnostic::error } else { Diagnostic::warning };
    let help = "make `sources`, `ports` and `port_mode` of both pools the same, or make them disjoint";
    Some(finding(Code::OverlappingTuples, &view.place, view.path.clone(), message).help(help))
}

fn ports_words(span: PortSpan) -> String {
    if span.len() == 1 { format!("port {}", span.first()) } else { format!("ports {span}") }
}

fn mode_name(mode: PortMode) -> &'static str {
    PortMode::ALL.iter().find(|(_, value)| *value == mode).map_or("", |(name, _)| name)
}
