//! Servers that are killed, or stand still, at a steady rate of requests, half of them POST: what is lost, what is done twice, and
//! how long the slowest takes. The client is `fourfold load`, which never tries twice; the servers write down what they get.

use super::http::{number, report_of, start_load, start_origin_at};
use super::results::{FaultSample, Protocol, Results};
use super::rounds::{Settings, absent};
use super::subject::{Kind, Running, Size};
use anyhow::{Context, Result};
use fourfold_testkit::{Proc, Reserved, Signal};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const FAULTS: &str = "faults";
const RATE: &str = "3000";
/// As long as the other server alone must do, and as long as both have again.
const KILL_EVERY: Duration = Duration::from_secs(1);
const KILLS: u32 = 5;
const FROZEN: Duration = Duration::from_secs(6);
/// Before the first fault and after the last.
const CALM: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
}

impl Fault {
    const ALL: [Self; 2] = [Self::Killed, Self::Frozen];

    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
        }
    }

    /// Requests that a frozen server holds back occupy their connections.
    fn connections(self) -> &'static str {
        match self {
            Self::Killed => "64",
            Self::Frozen => "1000",
        }
    }

    fn lasts(self) -> Duration {
        match self {
            Self::Killed => 2 * KILL_EVERY * KILLS,
            Self::Frozen => FROZEN,
        }
    }
}

/// Two servers that write down what they get.
struct Servers {
    addresses: [SocketAddr; 2],
    records: [PathBuf; 2],
    /// The first is the one that things happen to.
    running: [Proc; 2],
}

impl Servers {
    fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let addresses = [Reserved::loopback()?.release(), Reserved::loopback()?.release()];
        let records = ["one", "other"].map(|name| folder.join(format!("{name}.record")));
        for record in &records {
            std::fs::write(record, b"").with_context(|| record.display().to_string())?;
        }
        let [one, other] = [0, 1].map(|index| start_server(addresses[index], &records[index]));
        Ok(Self { addresses, records, running: [one?, other?] })
    }

    fn befall(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => (0..KILLS).try_for_each(|_| self.kill_and_start()),
            Fault::Frozen => {
                self.running[0].signal(Signal::Stop)?;
                std::thread::sleep(FROZEN);
                self.running[0].signal(Signal::Cont)
            }
        }
    }

    fn kill_and_start(&mut self) -> Result<()> {
        self.running[0].signal(Signal::Kill)?;
        std::thread::sleep(KILL_EVERY);
        self.running[0] = start_server(self.addresses[0], &self.records[0])?;
        std::thread::sleep(KILL_EVERY);
        Ok(())
    }

    /// POSTs that were delivered more than once.
    fn done_twice(&self) -> Result<u64> {
        let (mut seen, mut twice) = (HashSet::new(), 0);
        for record in &self.records {
            let text = std::fs::read_to_string(record)?;
            let posts = text.lines().filter(|line| line.starts_with("POST"));
            twice += posts.filter(|line| !seen.insert((*line).to_owned())).count() as u64;
        }
        Ok(twice)
    }
}

fn start_server(address: SocketAddr, record: &Path) -> Result<Proc> {
    let record = record.display().to_string();
    start_origin_at(address, &["--shards", "1", "--engine", "epoll", "--record", &record])
}

/// Rounds take minutes.
const ROUNDS_MAX: u32 = 1;

pub fn measure(settings: &Settings, results: &mut Results, folder: &Path) {
    for round in 0..settings.rounds.min(ROUNDS_MAX) {
        for (fault, kind) in
            Fault::ALL.iter().flat_map(|fault| settings.kinds.iter().map(move |kind| (*fault, *kind)))
        {
            match measure_one(fault, kind, round, settings, folder) {
                Ok(sample) => {
                    println!(
                        "round {round} {:<8} {:<15} lost {} GET and {} POST of {}, {} twice, slowest {:.1} ms and {:.1} ms",
                        sample.fault,
                        sample.subject,
                        sample.lost_gets,
                        sample.lost_posts,
                        sample.started,
                        sample.posts_twice,
                        sample.slowest_get_us as f64 / 1e3,
                        sample.slowest_post_us as f64 / 1e3
                    );
                    results.faults.push(sample);
                }
                Err(error) => absent(results, kind, &error.context(format!("{FAULTS}: {}", fault.name()))),
            }
        }
    }
}

/// Fresh servers and a fresh subject: nothing is known of anybody's past.
fn measure_one(
    fault: Fault,
    kind: Kind,
    round: u32,
    settings: &Settings,
    folder: &Path,
) -> Result<FaultSample> {
    let mut servers = Servers::start(folder)?;
    let subject =
        Running::start(kind, (Protocol::Http, Size::Faults), &servers.addresses, &settings.programs, folder)?;
    let length = format!("{}s", (2 * CALM + fault.lasts()).as_secs());
    let arguments = [
        "--rate",
        RATE,
        "--duration",
        &length,
        "--connections",
        fault.connections(),
        "--shards",
        "1",
        "--path",
        "/echo",
        "--post",
        "50",
        "--body-bytes",
        "200",
        "--identify",
        "--timeout",
        "20s",
    ];
    let mut load = start_load("http", subject.address, &arguments)?;
    std::thread::sleep(CALM);
    servers.befall(fault)?;
    let report = report_of(&mut load)?;
    let of = |method: &str, what: &str| number(&report, &format!("/methods/{method}/{what}"));
    let lost = |method: &str| of(method, "answered") + of(method, "failed") - of(method, "statuses/200");
    Ok(FaultSample {
        round,
        subject: kind.name().into(),
        fault: fault.name().into(),
        started: number(&report, "/started"),
        not_started: number(&report, "/not_started"),
        lost_gets: lost("GET"),
        lost_posts: lost("POST"),
        posts_twice: servers.done_twice()?,
        slowest_get_us: of("GET", "latency_us/max"),
        slowest_post_us: of("POST", "latency_us/max"),
        p99_us: number(&report, "/latency_us/p99"),
    })
}
