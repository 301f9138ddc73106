//! `--fix`: what may be changed is changed, what may not is named with who can.

use super::gather::Depth;
use super::undo::{self, Setting, Undo, Written};
use super::{Patient, named, print};
use crate::args::DoctorArgs;
use fourfold_doctor::{Change, DROP_IN_FILE, Facts, Report, SYSCTL_FILE, Scope, Status};
use fourfold_sys::facts;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(args: &DoctorArgs, patient: &Patient, facts: &Facts, report: &Report) -> anyhow::Result<ExitCode> {
    let elsewhere = facts.first_network.get() == Some(&false) && !args.whole_machine;
    let planned = Planned::of(report, elsewhere, args.persist.as_deref());
    if args.dry_run {
        return say(args, &planned.outcome("would be "), report, None);
    }
    let path = args.undo_file.clone().unwrap_or_else(undo::fresh_path);
    let outcome = apply(planned, &path)?;
    let after = patient.examine(Depth::Thorough);
    say(args, &outcome, &after, Some(&path))
}

/// What is about to be done.
struct Planned {
    settings: Vec<Setting>,
    files: Vec<Written>,
    refused: Vec<Refused>,
}

/// What was not done, and what to do instead.
#[derive(Serialize)]
struct Refused {
    what: String,
    why: String,
    instead: String,
}

impl Planned {
    fn of(report: &Report, elsewhere: bool, persist: Option<&Path>) -> Planned {
        let mut planned = Planned { settings: Vec::new(), files: Vec::new(), refused: Vec::new() };
        let changes = report.changes();
        for change in &changes {
            match plan_one(change, elsewhere) {
                Ok(Some(setting)) => planned.settings.push(setting),
                Ok(None) => {}
                Err(why) => planned.refused.push(refused(change, why)),
            }
        }
        planned.refused.extend(by_hand(report));
        if let Some(root) = persist {
            planned.files = files(report, &changes, root);
        }
        planned
    }

    fn outcome(self, verb: &str) -> Outcome {
        let setting = |one: &Setting| format!("{}: {verb}{} -> {}", one.setting, one.before, one.after);
        let file = |one: &Written| format!("{}: {verb}written", one.path.display());
        let done = self.settings.iter().map(setting).chain(self.files.iter().map(file)).collect();
        Outcome { done, refused: self.refused }
    }
}

/// `None`: it is so already.
fn plan_one(change: &Change, elsewhere: bool) -> Result<Option<Setting>, String> {
    if change.scope == Scope::Machine && elsewhere {
        return Err("it concerns the whole machine, and this is not its first network namespace".into());
    }
    let before = current(change.scope, &change.setting, &change.file)?;
    let after = normal(&change.value);
    let setting = Setting {
        setting: change.setting.clone(),
        file: change.file.clone(),
        before,
        after,
        scope: change.scope,
    };
    Ok((setting.before != setting.after).then_some(setting))
}

fn refused(change: &Change, why: String) -> Refused {
    let instead = match change.scope {
        Scope::Group => {
            format!("whoever runs the container or service: echo {} > {}", change.value, change.file)
        }
        Scope::Machine => {
            format!(
                "on the host as root: sysctl -w {}=\"{}\" (or --whole-machine)",
                change.setting, change.value
            )
        }
        Scope::Network => format!("as root: sysctl -w {}=\"{}\"", change.setting, change.value),
    };
    Refused { what: change.setting.clone(), why, instead }
}

/// Failures that no setting lifts.
fn by_hand(report: &Report) -> Vec<Refused> {
    let stuck =
        report.of(Status::Fail).filter(|one| one.remedies.iter().all(|remedy| remedy.change.is_none()));
    let named = |one: &fourfold_doctor::Finding| Refused {
        what: one.title.to_owned(),
        why: "no kernel setting lifts it".into(),
        instead: one.remedies.iter().map(|remedy| remedy.command.clone()).collect::<Vec<_>>().join("; or "),
    };
    stuck.map(named).collect()
}

/// Files that make the remedies last: settings, and limits of the service.
fn files(report: &Report, changes: &[Change], root: &Path) -> Vec<Written> {
    let settings = changes.iter().filter(|change| change.scope != Scope::Group);
    let sysctl: String = settings.map(|change| format!("{} = {}\n", change.setting, change.value)).collect();
    let drop_in: BTreeSet<&str> = report
        .findings
        .iter()
        .flat_map(|one| &one.remedies)
        .flat_map(|remedy| &remedy.lasting)
        .filter(|way| way.file == Some(DROP_IN_FILE))
        .flat_map(|way| way.text.lines())
        .filter(|line| !line.starts_with('['))
        .collect();
    let drop_in = drop_in.into_iter().map(|line| format!("{line}\n")).collect::<String>();
    let head = "# Written by fourfold doctor --fix --persist; fourfold doctor --undo removes it.\n";
    let file = |name: &str, section: &str, body: String| {
        let path = root.join(name.trim_start_matches('/'));
        let before = fs::read_to_string(&path).ok();
        (!body.is_empty()).then(|| Written { path, before, after: format!("{head}{section}{body}") })
    };
    [file(SYSCTL_FILE, "", sysctl), file(DROP_IN_FILE, "[Service]\n", drop_in)]
        .into_iter()
        .flatten()
        .collect()
}

#[derive(Serialize)]
struct Outcome {
    done: Vec<String>,
    refused: Vec<Refused>,
}

/// The undo file first, with everything that might be done; afterwards it names what was.
fn apply(planned: Planned, path: &PathBuf) -> anyhow::Result<Outcome> {
    let mut undo = Undo { settings: planned.settings.clone(), files: planned.files.clone(), ..Undo::new()? };
    if undo.settings.is_empty() && undo.files.is_empty() {
        return Ok(Outcome { done: Vec::new(), refused: planned.refused });
    }
    undo.save(path)?;
    let mut outcome = Outcome { done: Vec::new(), refused: planned.refused };
    undo.settings.clear();
    for mut one in planned.settings {
        match set(&mut one) {
            Ok(()) => {
                outcome.done.push(format!("{}: {} -> {}", one.setting, one.before, one.after));
                undo.settings.push(one);
            }
            Err(why) => outcome.refused.push(refused(&change_of(&one), why)),
        }
    }
    undo.files.clear();
    for one in planned.files {
        match undo::write_whole(&one.path, &one.after) {
            Ok(()) => {
                outcome.done.push(format!("{}: written", one.path.display()));
                undo.files.push(one);
            }
            Err(error) => outcome.refused.push(Refused {
                what: one.path.display().to_string(),
                why: format!("{error:#}"),
                instead: "--persist ROOT, and copy the files to where they belong".into(),
            }),
        }
    }
    match undo.settings.is_empty() && undo.files.is_empty() {
        true => fs::remove_file(path)?,
        false => undo.save(path)?,
    }
    Ok(outcome)
}

fn change_of(one: &Setting) -> Change {
    Change {
        setting: one.setting.clone(),
        file: one.file.clone(),
        before: Some(one.before.clone()),
        value: one.after.clone(),
        scope: one.scope,
    }
}

/// What the kernel makes of a value is what it is afterwards.
fn set(one: &mut Setting) -> Result<(), String> {
    write(one.scope, &one.file, &one.after)?;
    one.after = current(one.scope, &one.setting, &one.file)?;
    Ok(())
}

pub fn write(scope: Scope, file: &str, value: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{file}: {error}");
    let direct = facts::write(file, value).map_err(failed);
    match scope {
        // In another network namespace the file is missing, or may only be read.
        Scope::Machine if direct.is_err() && !facts::network::is_first() => {
            facts::write_in_first_network(file, value)
        }
        _ => direct,
    }
}

pub fn current(scope: Scope, setting: &str, file: &str) -> Result<String, String> {
    match scope {
        Scope::Group => undo::group_value(file),
        Scope::Network | Scope::Machine => facts::setting(setting).map(|value| normal(&value)),
    }
}

/// Values are compared without regard to blanks: the kernel writes tabs.
pub fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn say(
    args: &DoctorArgs,
    outcome: &Outcome,
    after: &Report,
    undo: Option<&PathBuf>,
) -> anyhow::Result<ExitCode> {
    let undo = undo.filter(|path| path.exists());
    let code = ExitCode::from(u8::from(after.has_failed()));
    if args.json {
        let json = serde_json::json!({
            "done": outcome.done, "refused": outcome.refused, "undo_file": undo, "report": after,
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(code);
    }
    outcome.done.iter().for_each(|line| println!("  ✓ {line}"));
    for one in &outcome.refused {
        println!("  ✗ {}: not changed: {}\n      do       {}", one.what, one.why, one.instead);
    }
    match (outcome.done.is_empty(), undo) {
        (true, _) => println!("nothing was changed"),
        (false, None) => println!("nothing was changed: --dry-run"),
        (false, Some(path)) => println!("undo with: fourfold doctor --undo {}", path.display()),
    }
    println!("{}: {}", named(args), print::headline(after));
    Ok(code)
}
