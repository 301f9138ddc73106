//! `fourfold doctor`: looks at the machine, says what binds first, and lifts it when told to.

mod fix;
pub mod gather;
pub mod print;
mod undo;

use crate::args::DoctorArgs;
use crate::check;
use crate::origin::count;
use anyhow::Context;
use fourfold_config::{Checked, Plan};
use fourfold_doctor::{FOLKLORE, Facts, Report, Wanted, examine};
use gather::Depth;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    if args.folklore {
        print::folklore(FOLKLORE);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.undo {
        return undo::run(file.as_deref(), args.dry_run, args.json);
    }
    let Some(plan) = read(args.file.as_deref())? else { return Ok(ExitCode::from(1)) };
    let wanted = wanted(args, plan.as_ref())?;
    let patient = Patient { plan, wanted };
    let facts = patient.facts(Depth::Thorough);
    if args.facts {
        println!("{}", serde_json::to_string_pretty(&facts)?);
        return Ok(ExitCode::SUCCESS);
    }
    let report = examine(&facts, &patient.wanted);
    if args.fix {
        return fix::run(args, &patient, &facts, &report);
    }
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print::report(&report, &named(args)),
    }
    Ok(ExitCode::from(u8::from(report.has_failed())))
}

/// What is judged: a configuration, if there is one, and what is wanted.
struct Patient {
    plan: Option<Plan>,
    wanted: Wanted,
}

impl Patient {
    fn facts(&self, depth: Depth) -> Facts {
        gather::facts(self.plan.as_ref(), depth)
    }

    fn examine(&self, depth: Depth) -> Report {
        examine(&self.facts(depth), &self.wanted)
    }
}

fn named(args: &DoctorArgs) -> String {
    args.file.as_ref().map_or_else(|| "this machine".into(), |file| file.display().to_string())
}

/// `None`: it is wrong, which has been said.
fn read(file: Option<&Path>) -> anyhow::Result<Option<Option<Plan>>> {
    let Some(file) = file else { return Ok(Some(None)) };
    let bytes = check::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    match check::parse(file, &bytes) {
        Ok(Checked { plan, .. }) => Ok(Some(Some(plan))),
        Err(errors) => {
            eprint!("{}", errors.render_human());
            Ok(None)
        }
    }
}

fn wanted(args: &DoctorArgs, plan: Option<&Plan>) -> anyhow::Result<Wanted> {
    let mut wanted = plan.map(Wanted::of_plan).unwrap_or_default();
    let number =
        |text: &Option<String>, flag: &'static str| text.as_deref().map(count).transpose().context(flag);
    wanted.connections = number(&args.max_connections, "--max-connections")?.or(wanted.connections);
    wanted.rate = number(&args.rate, "--rate")?;
    wanted.burst = number(&args.burst, "--burst")?;
    wanted.queued_bytes = number(&args.queued, "--queued")?;
    wanted.busy_percent = args.busy;
    Ok(wanted)
}

/// One line for the log of `run`: what binds first, without making a connection to find out.
pub fn first_limit(plan: &Plan) -> Option<String> {
    let report = examine(&gather::facts(Some(plan), Depth::Glance), &Wanted::of_plan(plan));
    let first = report.first()?;
    let limit = first.limit?;
    Some(format!(
        "first limit: {} at {} {} ({}); see fourfold doctor",
        first.title,
        limit.number,
        limit.measure.noun(),
        first.what
    ))
}
