//! `fourfold load http` and `fourfold load ws`.

use super::stages::{Counts, Order, Stages};
use super::{TICK, closing, duration};
use crate::args::{DriveArgs, HttpLoadArgs, OnOff, VerifyArg, WsLoadArgs};
use crate::origin::{count, engine};
use anyhow::{Context, bail};
use fourfold_config::SourceSet;
use fourfold_load::http::{self, HttpConfig, HttpReport, Pace, RunningHttpLoad, Verify};
use fourfold_load::{Latency, WaitError};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const DURATION: Duration = Duration::from_secs(5);

pub fn requests(args: &HttpLoadArgs) -> anyhow::Result<HttpConfig> {
    let (target, host, path) = parse_target(&args.drive.target)?;
    let connections = count(&args.drive.connections).context("--connections")?;
    let default = HttpConfig { host, path, ..HttpConfig::new(target, connections) };
    let pace = if args.hold { Pace::Hold } else { Pace::Closed };
    let config = HttpConfig {
        method: args.method.clone(),
        post_percent: args.post,
        identify: args.identify,
        body_bytes: count(&args.body_bytes).context("--body-bytes")?,
        keep_alive: args.keep_alive == OnOff::On,
        verify: match args.verify {
            VerifyArg::Framing => Verify::Framing,
            VerifyArg::Pattern => Verify::Pattern,
            VerifyArg::Echo => Verify::Echo,
        },
        expect_bytes: args.expect_bytes.as_deref().map(count).transpose().context("--expect-bytes")?,
        ..drive(default, &args.drive, pace)?
    };
    if args.hold && !config.keep_alive {
        bail!("--hold keeps connections, and --keep-alive off does not");
    }
    Ok(config)
}

pub fn websockets(args: &WsLoadArgs) -> anyhow::Result<HttpConfig> {
    let (target, host, path) = parse_target(&args.drive.target)?;
    let connections = count(&args.drive.connections).context("--connections")?;
    let default = HttpConfig::websockets(target, connections);
    let path = if path == "/" { default.path.clone() } else { path };
    let bytes = count(&args.message).context("--message")?;
    let pace = if args.busy { Pace::Closed } else { Pace::Hold };
    let config = drive(HttpConfig { host, path, ..default }, &args.drive, pace)?;
    let pending = args.pending.as_deref().map(count).transpose().context("--pending")?;
    let pending = pending.map_or(Ok(config.pending), u32::try_from).context("--pending")?;
    Ok(HttpConfig { body_bytes: bytes, expect_bytes: Some(bytes), pending, ..config })
}

/// Held ones are watched from here: the time of holding begins when all are up and, where that is asked, verified again.
pub fn run_websockets(args: &WsLoadArgs) -> anyhow::Result<ExitCode> {
    let mut config = websockets(args)?;
    let holds = config.pace == Pace::Hold && config.requests.is_none();
    if !holds && (args.held.verify > 0 || args.held.verify_all) {
        bail!("--verify and --verify-all are for WebSockets that are held");
    }
    let hold = if holds { config.duration.take() } else { None };
    // Without a time to hold, the load ends by itself, and only its progress is printed.
    let stages = Stages::new(&args.held, hold.unwrap_or(Duration::MAX), Instant::now())?;
    run(&config, Some(stages), args.drive.json)
}

/// What both have in common; `pace` unless the user sets one.
fn drive(config: HttpConfig, args: &DriveArgs, pace: Pace) -> anyhow::Result<HttpConfig> {
    let rate = args.rate.as_deref().map(count).transpose().context("--rate")?;
    let interval = args.interval.as_deref().map(duration).transpose().context("--interval")?;
    let requests = args.requests.as_deref().map(count).transpose().context("--requests")?;
    let length = args.duration.as_deref().map(duration).transpose().context("--duration")?;
    let sources = match args.source.as_slice() {
        [] => config.sources.clone(),
        sets => SourceSet::parse_all(sets.iter().map(String::as_str)).context("--source")?,
    };
    let timeout = duration(&args.timeout).context("--timeout")?;
    Ok(HttpConfig {
        path: args.path.clone().unwrap_or_else(|| config.path.clone()),
        fields: args.header.iter().map(|field| parse_field(field)).collect::<anyhow::Result<_>>()?,
        pace: match (rate, interval) {
            (Some(rate), _) => Pace::Rate(rate as f64),
            (None, Some(interval)) => Pace::Interval(interval),
            (None, None) => pace,
        },
        requests,
        duration: length.or_else(|| requests.is_none().then_some(DURATION)),
        connect_rate: args.connect_rate.map(f64::from),
        sources,
        connect_timeout: timeout,
        timeout,
        engine: engine(args.engine),
        shards: args.shards,
        ..config
    })
}

/// Where to connect, the Host field, and the path with the query.
fn parse_target(text: &str) -> anyhow::Result<(SocketAddr, String, String)> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("ws://"));
    if rest.is_none() && text.contains("://") {
        bail!("{text:?}: only http:// and ws:// are spoken");
    }
    let rest = rest.unwrap_or(text);
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let name = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let mut addresses = name.to_socket_addrs().with_context(|| format!("{text:?}: resolving {name}"))?;
    let target = addresses.next().with_context(|| format!("{name} has no address"))?;
    Ok((target, authority.to_owned(), if path.is_empty() { "/".into() } else { path.to_owned() }))
}

fn parse_field(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once(':').with_context(|| format!("--header {text:?}: no colon"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub fn run(config: &HttpConfig, stages: Option<Stages>, json: bool) -> anyhow::Result<ExitCode> {
    let mut running = http::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    let report = runtime.block_on(watch(&mut running, stages))?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    Ok(ExitCode::from(u8::from(!report.is_clean())))
}

/// Until it ends by itself, or by a signal.
async fn watch(running: &mut RunningHttpLoad, mut stages: Option<Stages>) -> anyhow::Result<HttpReport> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut asked = signal(SignalKind::user_defined1())?;
    let mut tick = tokio::time::interval(TICK);
    let live = std::io::stderr().is_terminal();
    let mut up = false;
    let report = loop {
        tokio::select! {
            _ = terminate.recv() => break stop(running)?,
            result = tokio::signal::ctrl_c() => { result?; break stop(running)? }
            _ = asked.recv() => eprintln!("{}", serde_json::to_string(&running.snapshot())?),
            _ = tick.tick() => {}
        }
        up = up || say_up(running, live);
        if let Some(stages) = &mut stages
            && !go_on(running, stages)?
        {
            break stop(running)?;
        }
        match running.wait(Duration::ZERO) {
            Ok(report) => break report,
            Err(WaitError::StillRunning) if live => print_live(running),
            Err(WaitError::StillRunning) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if live {
        eprintln!();
    }
    Ok(report)
}

/// `false`: held for long enough.
fn go_on(running: &RunningHttpLoad, stages: &mut Stages) -> anyhow::Result<bool> {
    let now = running.snapshot();
    stages.print_progress(&now, Instant::now())?;
    let counts = Counts { wanted: now.wanted, settled: now.settled, held: now.held, checked: now.checked };
    match stages.advance(counts, Instant::now()) {
        Some(Order::CheckEach) => running.check_each(),
        Some(Order::VerifyAt(rate)) => running.verify_at(rate),
        Some(Order::End) => return Ok(false),
        None => {}
    }
    Ok(true)
}

/// Says once, for a program that waits for it, that every connection is there or has failed.
fn say_up(running: &RunningHttpLoad, live: bool) -> bool {
    let now = running.snapshot();
    let up = now.settled >= now.wanted;
    if up && !live {
        eprintln!("load: open {} of {} after {:.3} s", now.held, now.wanted, now.elapsed_s);
    }
    up
}

fn stop(running: &mut RunningHttpLoad) -> Result<HttpReport, WaitError> {
    running.stop();
    running.wait(closing(running.snapshot().held))
}

fn print_live(running: &RunningHttpLoad) {
    let now = running.snapshot();
    eprint!(
        "\r\x1b[Kopen {} of {}  answered {}  under way {}  failed {}  lost {}  {:.1} s",
        now.held, now.wanted, now.answered, now.in_flight, now.failed, now.lost, now.elapsed_s
    );
}

fn print(report: &HttpReport) {
    let HttpReport { connections, opened, held, lost, closed_idle, connect_failed, .. } = report;
    let HttpReport { started, answered, failed, never_sent, sent_unanswered, answering, .. } = report;
    println!("{}{} on {} with {} shards", report.target, report.path, report.engine, report.shards);
    println!(
        "connections  wanted {connections}  opened {opened}  failed {connect_failed}  held {held}  lost {lost}  \
         closed while idle {closed_idle}"
    );
    println!(
        "requests     started {started}  answered {answered}  failed {failed} (never sent {never_sent}, sent and \
         unanswered {sent_unanswered}, in the answer {answering})"
    );
    println!("schedule     late {}  never started {}", report.late, report.not_started);
    print_counts("status", &report.statuses);
    print_counts("connect", &report.connect_failed_by);
    print_counts("failed", &report.failed_by);
    print_counts("lost", &report.lost_by);
    print_latency("connect", &report.connect_us);
    print_latency("latency", &report.latency_us);
    println!("rate         {:.0} per second over {:.2} s", report.requests_per_s, report.duration_s);
}

fn print_counts(what: &str, counts: &BTreeMap<String, u64>) {
    for (name, n) in counts {
        println!("  {what} {name}: {n}");
    }
}

fn print_latency(name: &str, latency: &Latency) {
    let Latency { count, p50, p90, p99, p999, max } = latency;
    if *count > 0 {
        println!(
            "{name:<12} p50 {p50} us  p90 {p90} us  p99 {p99} us  p99.9 {p999} us  max {max} us  ({count})"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_url() {
        let target =
            |text: &str| parse_target(text).map(|(address, host, path)| (address.to_string(), host, path));
        let known = [
            ("127.0.0.1:81", "127.0.0.1:81", "127.0.0.1:81", "/"),
            ("http://127.0.0.1/a?b", "127.0.0.1:80", "127.0.0.1", "/a?b"),
            ("ws://[::1]:8080/ws", "[::1]:8080", "[::1]:8080", "/ws"),
            ("http://[::1]", "[::1]:80", "[::1]", "/"),
        ];
        for (text, address, host, path) in known {
            assert_eq!(target(text).unwrap(), (address.into(), host.into(), path.into()), "{text}");
        }
        assert!(target("https://127.0.0.1/").is_err() && target("").is_err());
    }
}
