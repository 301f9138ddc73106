//! The timeline of a run, drawn.

use super::Million;
use super::measured::Moment;
use super::text::grouped;
use crate::bench::plot::{Band, Lines, Panel, Scale, Series, Unit};

/// Of lines; a process has its own in every panel.
const PROXY: usize = 0;
const CLIENT: usize = 1;
const ORIGIN: usize = 2;
const MACHINE: usize = 5;

/// File name and content of each picture.
pub fn pictures(million: &Million) -> Vec<(String, String)> {
    let name = if million.websockets { "million-ws.svg" } else { "million-tcp.svg" };
    vec![(name.into(), timeline(million))]
}

fn timeline(million: &Million) -> String {
    let subtitle = format!(
        "{} sockets on {} cores and {} GiB, one Fourfold process, at most {} descriptors per table; {}",
        grouped(million.sockets()),
        million.machine.cores,
        million.machine.memory_gib,
        grouped(million.descriptors),
        million.date
    );
    Lines {
        title: format!(
            "{} {} through one port to one origin address",
            grouped(million.connections),
            million.what()
        ),
        subtitle,
        x: Scale::from_zero(Unit::Seconds),
        x_title: "since the client's start".into(),
        panels: panels(million),
        bands: bands(million),
        marks: false,
    }
    .draw()
}

fn panels(million: &Million) -> Vec<Panel> {
    let line = |name: &str, colour: usize, value: &dyn Fn(&Moment) -> f64| Series {
        name: name.into(),
        colour,
        points: million.moments.iter().map(|moment| (moment.at_s, value(moment))).collect(),
    };
    let count =
        |title: &str, series| Panel { title: title.into(), scale: Scale::from_zero(Unit::Count), series };
    let bytes =
        |title: &str, series| Panel { title: title.into(), scale: Scale::from_zero(Unit::Bytes), series };
    let over_idle = |bytes: u64| bytes.saturating_sub(million.idle_bytes) as f64;
    vec![
        count(
            "Connections",
            vec![
                line("held", PROXY, &|moment| moment.progress.held as f64),
                line("verified again", CLIENT, &|moment| moment.progress.checked as f64),
            ],
        ),
        count(
            "Tokens returned per second",
            vec![
                rate(million, ("first", PROXY), |moment| moment.progress.verified as f64),
                rate(million, ("later", CLIENT), |moment| later(million, moment)),
            ],
        ),
        bytes(
            "Memory of the machine, beyond what it used before",
            vec![
                line("all", MACHINE, &|moment| over_idle(moment.used_bytes)),
                line("slabs", PROXY, &|moment| slab(million, moment)),
            ],
        ),
        bytes(
            "User memory of the processes",
            vec![
                line("proxy", PROXY, &|moment| moment.proxy.private_bytes as f64),
                line("client", CLIENT, &|moment| moment.load.private_bytes as f64),
                line("origin", ORIGIN, &|moment| moment.origin.private_bytes as f64),
            ],
        ),
        cpu(million),
        Panel {
            title: "Time until connected, and until the first token is back: means".into(),
            scale: Scale::logarithmic(Unit::Microseconds),
            series: vec![
                mean(million, ("token back", PROXY), |moment| moment.progress.verify_us),
                mean(million, ("connected", CLIENT), |moment| moment.progress.connect_us),
            ],
        },
    ]
}

fn bands(million: &Million) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for moment in &million.moments {
        match bands.last_mut() {
            Some(band) if band.name == moment.progress.stage => band.to = moment.at_s,
            last => {
                let from = last.map_or(0.0, |band| band.to);
                bands.push(Band { name: moment.progress.stage.clone(), from, to: moment.at_s });
            }
        }
    }
    bands
}

/// Of a WebSocket, the first token is counted with all others.
fn later(million: &Million, moment: &Moment) -> f64 {
    let first = if million.websockets { moment.progress.verified } else { 0 };
    moment.progress.rounds.saturating_sub(first) as f64
}

fn slab(million: &Million, moment: &Moment) -> f64 {
    let before = million.empty.as_ref().map_or(0, |empty| empty.slab_bytes);
    moment.slab_bytes.saturating_sub(before) as f64
}

fn rate(million: &Million, (name, colour): (&str, usize), counter: impl Fn(&Moment) -> f64) -> Series {
    let pairs = million.moments.windows(2).filter_map(|pair| match pair {
        [before, now] => {
            Some((now.at_s, (counter(now) - counter(before)).max(0.0) / (now.at_s - before.at_s).max(1e-3)))
        }
        _ => None,
    });
    Series { name: name.into(), colour, points: pairs.collect() }
}

/// Of the connections that came since the moment before.
fn mean(million: &Million, (name, colour): (&str, usize), sum: impl Fn(&Moment) -> u64) -> Series {
    let pairs = million.moments.windows(2).filter_map(|pair| match pair {
        [before, now] => {
            let count =
                now.progress.verified.checked_sub(before.progress.verified).filter(|count| *count > 0)?;
            Some((now.at_s, sum(now).saturating_sub(sum(before)) as f64 / count as f64))
        }
        _ => None,
    });
    Series { name: name.into(), colour, points: pairs.collect() }
}

fn cpu(million: &Million) -> Panel {
    let cores = million.machine.cores.max(1) as f64;
    let share = |(name, colour): (&str, usize), seconds: &dyn Fn(&Moment) -> f64| {
        let series = rate(million, (name, colour), seconds);
        let points = series.points.iter().map(|(at, per_s)| (*at, (per_s / cores * 100.0).min(100.0)));
        Series { points: points.collect(), ..series }
    };
    Panel {
        title: "CPU, of all cores".into(),
        scale: Scale::from_zero(Unit::Percent),
        series: vec![
            share(("machine", MACHINE), &|moment| moment.cpu.busy()),
            share(("proxy", PROXY), &|moment| moment.proxy.cpu_s),
            share(("client", CLIENT), &|moment| moment.load.cpu_s),
            share(("origin", ORIGIN), &|moment| moment.origin.cpu_s),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::example;
    use super::*;

    #[test]
    fn stages_are_bands_that_meet() {
        let bands = bands(&example());
        let ends: Vec<_> = bands.iter().map(|band| (band.name.as_str(), band.from, band.to)).collect();
        assert_eq!(ends, [("opening", 0.0, 4.0), ("checking", 4.0, 6.0), ("holding", 6.0, 8.0)]);
        assert!(pictures(&example())[0].1.contains("through one port"));
    }

    #[test]
    fn times_are_means_of_what_came_since() {
        let series = mean(&example(), ("", 0), |moment| moment.progress.verify_us);
        assert_eq!(series.points, [(4.0, 300.0)]);
    }
}
