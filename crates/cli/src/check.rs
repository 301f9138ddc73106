//! `fourfold check`, and reading a configuration for `fourfold run`.

use crate::args::CheckArgs;
use crate::machine;
use fourfold_config::{
    CONFIG_BYTES_MAX, Checked, Diagnostics, FILE_BYTES_MAX, HostPort, Plan, Question, Severity,
};
use fourfold_proxy::Machine;
use fourfold_sys::{Errno, socket};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

pub fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    let bytes = match read(&args.file) {
        Ok(bytes) => bytes,
        Err(error) => return Ok(report_unreadable(&name, &error, args.json)),
    };
    let (diagnostics, plan) = match parse(&args.file, &bytes) {
        Ok(Checked { plan, warnings, .. }) => (warnings, Some(plan)),
        Err(errors) => (errors, None),
    };
    if let (Some(url), Some(plan)) = (&args.explain, &plan) {
        eprint!("{}", diagnostics.render_human());
        return explain(args, url, plan);
    }
    let mut problems = plan.as_ref().map(fourfold_doctor::impossible).unwrap_or_default();
    problems.extend(plan.as_ref().filter(|_| args.online).map(problems_here).unwrap_or_default());
    let valid = plan.is_some() && problems.is_empty();
    if args.json {
        let mut json = diagnostics.to_json();
        if let Some(object) = json.as_object_mut() {
            object.insert("machine".into(), problems.into());
            object.insert("valid".into(), valid.into());
        }
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        eprint!("{}", diagnostics.render_human());
        problems.iter().for_each(|problem| eprintln!("{name}: error: {problem}"));
        if valid {
            println!("{name}: valid");
        }
    }
    Ok(ExitCode::from(u8::from(!valid)))
}

/// A configuration with the files that it names, which are looked for from its folder.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Checked, Diagnostics> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let read_one = |file: &str| {
        let mut bytes = Vec::new();
        let most = FILE_BYTES_MAX as u64 + 1;
        let result =
            open_regular(&folder.join(file)).and_then(|file| file.take(most).read_to_end(&mut bytes));
        result.map(|_| bytes).map_err(|error| error.to_string())
    };
    fourfold_config::parse(&path.display().to_string(), bytes)?.load_files(read_one)
}

/// A FIFO would be waited for, a device never ends.
fn open_regular(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

fn explain(args: &CheckArgs, url: &str, plan: &Plan) -> anyhow::Result<ExitCode> {
    let question = Question {
        url: url.to_owned(),
        method: args.method.clone(),
        headers: args.header.clone(),
        from: args.from,
    };
    let explanation = match fourfold_config::explain(plan, &question) {
        Ok(explanation) => explanation,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&explanation.to_json())?),
        false => print!("{explanation}"),
    }
    Ok(ExitCode::from(u8::from(!explanation.is_taken())))
}

fn report_unreadable(name: &str, error: &std::io::Error, json: bool) -> ExitCode {
    if json {
        let diagnostic = serde_json::json!({ "severity": "error", "code": "unreadable", "file": name, "message": error.to_string() });
        println!("{}", serde_json::json!({ "valid": false, "diagnostics": [diagnostic] }));
    } else {
        eprintln!("{name}: error: cannot read it: {error}");
    }
    ExitCode::from(1)
}

/// At most one byte more than a configuration may have; the parser refuses that.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sources of a large set that are tried: the first ones and the last.
const SOURCES_TRIED_MAX: u64 = 256;

/// What only this machine can tell: addresses that are not here, ports that are taken, names that do not resolve.
pub fn problems_here(plan: &Plan) -> Vec<String> {
    let mut problems = sources_missing(plan);
    for (listener, address) in plan.binds().filter_map(|(n, bind)| Some((plan.listeners.get(n)?, bind))) {
        if let Err((_, errno)) = socket::listen_probe(&address) {
            let step = fourfold_engine::Step::Bind;
            let error = fourfold_engine::SpawnError::Listen { address, step, errno };
            problems.push(format!("listener \"{}\": {error}", listener.name));
        }
    }
    for server in plan.pools.iter().flat_map(|pool| &pool.servers) {
        if let HostPort::Name { host, port } = &server.address
            && std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port)).is_err()
        {
            problems.push(format!("server {host} does not resolve"));
        }
    }
    let Some(facts) = machine::facts() else {
        problems.push("net.ipv4.ip_local_port_range holds no ports".into());
        return problems;
    };
    problems.extend(problems_of_ports(plan, &facts));
    match fourfold_proxy::Shared::new(std::sync::Arc::new(plan.clone()), facts, 1, 1, 1) {
        Err(error) => problems.push(error.to_string()),
        Ok(shared) => problems.extend(shared.set_literal_targets().err().map(|error| error.to_string())),
    }
    problems
}

/// Pools whose ports collide once the machine's own range and kernel are known.
pub fn problems_of_ports(plan: &Plan, facts: &Machine) -> Vec<String> {
    let found = plan.check_ports("", facts.local_port_range, facts.has_late());
    let errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors.map(|diagnostic| format!("{}: {}", diagnostic.key, diagnostic.message)).collect()
}

/// Source addresses that this machine does not have.
pub fn sources_missing(plan: &Plan) -> Vec<String> {
    let mut problems = Vec::new();
    for pool in plan.pools.iter().filter(|pool| !pool.sources.is_kernel_chosen()) {
        let count = u64::try_from(pool.sources.len()).unwrap_or(u64::MAX);
        let tried = (0..count.min(SOURCES_TRIED_MAX)).chain((count > SOURCES_TRIED_MAX).then(|| count - 1));
        let missing = |ip: &IpAddr| socket::probe_source(*ip) == Err(Errno::EADDRNOTAVAIL);
        let missing: Vec<IpAddr> =
            tried.filter_map(|index| pool.sources.get(index)).filter(missing).collect();
        if let Some(first) = missing.first() {
            let remedy = match first {
                IpAddr::V4(_) => format!("ip address add {first}/32 dev lo"),
                IpAddr::V6(_) => format!(
                    "ip address add {first}/128 dev lo, or for a prefix: ip -6 route add local PREFIX dev lo and sysctl -w net.ipv6.ip_nonlocal_bind=1"
                ),
            };
            let others =
                if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
            problems.push(format!(
                "pool \"{}\": source {first}{others} is not on this machine; {remedy}",
                pool.name
            ));
        }
    }
    problems
}
