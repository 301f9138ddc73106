//! `fourfold plan`: the arithmetic for a wanted load, as a table, as JSON, as a picture.

use crate::args::PlanArgs;
use crate::doctor::gather::{self, Depth};
use crate::doctor::print::number;
use crate::load::duration;
use crate::origin::count;
use anyhow::Context;
use fourfold_config::Flags;
use fourfold_doctor::{Load, Need, Traffic, Wanted, picture, plan};
use std::process::ExitCode;

pub fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let checked = fourfold_config::from_flags(&Flags {
        listen: std::slice::from_ref(&args.listen),
        mode: Some(&args.mode),
        to: &args.to,
        source: &args.source,
        max_connections: Some(&args.max_connections),
        engine: Some(args.engine.as_str()),
        ..Flags::default()
    });
    let checked = match checked {
        Ok(checked) => checked,
        Err(errors) => {
            eprint!("{}", errors.render_human());
            return Ok(ExitCode::from(2));
        }
    };
    let wanted = wanted(args, Wanted::of_plan(&checked.plan))?;
    let facts = gather::facts(Some(&checked.plan), Depth::Thorough);
    let load = plan(&facts, &wanted, traffic(args)?);
    if let Some(file) = &args.svg {
        std::fs::write(file, picture(&load)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&load)?),
        false => print(&load),
    }
    let short = load.limits.first().is_some_and(|limit| limit.connections < load.connections);
    Ok(ExitCode::from(u8::from(short)))
}

fn wanted(args: &PlanArgs, base: Wanted) -> anyhow::Result<Wanted> {
    let number =
        |text: &Option<String>, flag: &'static str| text.as_deref().map(count).transpose().context(flag);
    let requests = number(&args.requests, "--requests")?;
    let busy = match (requests, base.connections) {
        (Some(requests), Some(connections)) => {
            let ms = duration(&args.request_time).context("--request-time")?.as_millis() as u64;
            (requests.saturating_mul(ms) / 10).div_ceil(connections.max(1)).clamp(1, 100)
        }
        _ => 100,
    };
    Ok(Wanted {
        rate: number(&args.rate, "--rate")?,
        burst: number(&args.burst, "--burst")?,
        queued_bytes: number(&args.queued, "--queued")?,
        busy_percent: busy,
        ..base
    })
}

fn traffic(args: &PlanArgs) -> anyhow::Result<Traffic> {
    let ms = |text: &str| anyhow::Ok(duration(text)?.as_millis() as u64);
    Ok(Traffic {
        hold_ms: args.hold.as_deref().map(ms).transpose().context("--hold")?,
        requests: args.requests.as_deref().map(count).transpose().context("--requests")?,
        request_ms: ms(&args.request_time).context("--request-time")?,
    })
}

fn print(load: &Load) {
    println!("{} connections\n", number(load.connections));
    println!("{:<26} {:>16} {:>16}  how", "what", "needed", "here");
    for need in &load.needs {
        let here = need.here.map_or_else(|| "-".into(), |here| amount(here, need));
        let short = need.here.is_some_and(|here| here < need.needed);
        let sign = if short { "✗" } else { " " };
        println!("{:<26} {:>16} {:>16} {sign} {}", need.what, amount(need.needed, need), here, need.how);
    }
    println!("\nmachines like this one     {:>16}", number(load.machines));
    println!("\nlimits of this machine, the first one first");
    for limit in &load.limits {
        let sign = if limit.connections < load.connections { "✗" } else { "✓" };
        println!("  {sign} {:<38} {:>16} connections", limit.title, number(limit.connections));
    }
}

fn amount(n: u64, need: &Need) -> String {
    match need.unit {
        "B" => format!("{} MiB", number(n >> 20)),
        _ if n == u64::MAX => "no limit".into(),
        unit => format!("{}{unit}", number(n)),
    }
}
