//! What `--fix` has changed, in a file that is written before anything is, and the way back.
//!
//! A value is only put back where it is still as the fix left it: what somebody has set since is theirs.

use super::fix::normal;
use anyhow::{Context, bail};
use fourfold_doctor::Scope;
use fourfold_sys::facts::{self, network};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize, Default)]
pub struct Undo {
    pub version: u32,
    /// The network namespace (its inode) whose settings are meant.
    pub network: u64,
    pub settings: Vec<Setting>,
    pub files: Vec<Written>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Setting {
    pub setting: String,
    pub file: String,
    pub before: String,
    pub after: String,
    pub scope: Scope,
}

/// A file that was made or replaced.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Written {
    pub path: PathBuf,
    /// `None`: there was none.
    pub before: Option<String>,
    pub after: String,
}

impl Undo {
    pub fn new() -> anyhow::Result<Undo> {
        let network = network::own_id().map_err(anyhow::Error::msg)?;
        Ok(Undo { version: VERSION, network, ..Undo::default() })
    }

    /// All of it or nothing: a new file takes the name once it is on the disk.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        write_whole(path, &serde_json::to_string_pretty(self)?).with_context(|| {
            format!(
                "cannot write the undo file {}: name another with --undo-file; nothing is changed without it",
                path.display()
            )
        })
    }
}

pub fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let done = written.and_then(|()| fs::rename(&fresh, path));
    if done.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    Ok(done?)
}

/// Where undo files are kept, as the XDG base directory specification has it.
fn folder() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("fourfold")
}

/// A name that sorts by age.
pub fn fresh_path() -> PathBuf {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    folder().join(format!("undo-{:013}-{}.json", now.as_millis(), std::process::id()))
}

fn newest() -> anyhow::Result<PathBuf> {
    let folder = folder();
    let names =
        fs::read_dir(&folder).map(|entries| entries.flatten().map(|one| one.path()).collect::<Vec<_>>());
    let is_undo = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("undo-") && name.ends_with(".json")
    };
    let newest = names.unwrap_or_default().into_iter().filter(is_undo).max();
    newest.with_context(|| format!("nothing to undo: no file in {}", folder.display()))
}

pub fn run(file: Option<&Path>, dry: bool, json: bool) -> anyhow::Result<ExitCode> {
    let path = file.map_or_else(newest, |file| Ok(file.to_path_buf()))?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let undo: Undo =
        serde_json::from_str(&text).with_context(|| format!("{} is no undo file", path.display()))?;
    if undo.version != VERSION {
        bail!("{}: version {} is not known here, only {VERSION}", path.display(), undo.version);
    }
    let outcome = put_back(&undo, dry);
    if !dry {
        let left = Undo { settings: outcome.settings_left, files: outcome.files_left, ..undo };
        match left.settings.is_empty() && left.files.is_empty() {
            true => fs::remove_file(&path)?,
            false => left.save(&path)?,
        }
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&outcome.lines)?),
        false => outcome.lines.iter().for_each(|line| println!("{line}")),
    }
    if outcome.failed > 0 {
        eprintln!("fourfold: {} not put back; {} keeps them", outcome.failed, path.display());
    }
    Ok(ExitCode::from(u8::from(outcome.failed > 0)))
}

#[derive(Default)]
struct Outcome {
    lines: Vec<String>,
    failed: usize,
    settings_left: Vec<Setting>,
    files_left: Vec<Written>,
}

/// The last change first.
fn put_back(undo: &Undo, dry: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let here = network::own_id().unwrap_or(0);
    for one in undo.settings.iter().rev() {
        let elsewhere = one.scope == Scope::Network && here != undo.network;
        let result = match elsewhere {
            true => Err("it was changed in another network namespace: undo it there".to_owned()),
            false => put_setting_back(one, dry),
        };
        match result {
            Ok(line) => outcome.lines.push(line),
            Err(why) => {
                outcome.lines.push(format!("{}: left as it is: {why}", one.setting));
                outcome.settings_left.insert(0, one.clone());
                outcome.failed += 1;
            }
        }
    }
    for one in undo.files.iter().rev() {
        match put_file_back(one, dry) {
            Ok(line) => outcome.lines.push(line),
            Err(why) => {
                outcome.lines.push(format!("{}: left as it is: {why}", one.path.display()));
                outcome.files_left.insert(0, one.clone());
                outcome.failed += 1;
            }
        }
    }
    outcome
}

fn put_setting_back(one: &Setting, dry: bool) -> Result<String, String> {
    let now = super::fix::current(one.scope, &one.setting, &one.file)?;
    if now == one.before {
        return Ok(format!("{}: {now}, as it was", one.setting));
    }
    if now != one.after {
        return Err(format!("it is {now} by now, not {} as the fix left it", one.after));
    }
    if !dry {
        super::fix::write(one.scope, &one.file, &one.before)?;
        let read = super::fix::current(one.scope, &one.setting, &one.file)?;
        if read != normal(&one.before) {
            return Err(format!("the kernel made {read} of {}", one.before));
        }
    }
    Ok(format!("{}: {now} -> {}", one.setting, one.before))
}

fn put_file_back(one: &Written, dry: bool) -> Result<String, String> {
    let path = one.path.display();
    let now = fs::read_to_string(&one.path).ok();
    if now == one.before {
        return Ok(format!("{path}: as it was"));
    }
    if now.as_ref() != Some(&one.after) {
        return Err("somebody has changed it since".into());
    }
    let done = match &one.before {
        _ if dry => Ok(()),
        Some(before) => write_whole(&one.path, before),
        None => fs::remove_file(&one.path).map_err(Into::into),
    };
    done.map_err(|error| format!("{error:#}"))?;
    Ok(match one.before {
        Some(_) => format!("{path}: put back"),
        None => format!("{path}: removed"),
    })
}

/// What is now in a file of a control group.
pub fn group_value(file: &str) -> Result<String, String> {
    facts::read(file)
}
