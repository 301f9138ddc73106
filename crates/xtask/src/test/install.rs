//! What the tests need beyond Rust and a C compiler: found, installed when we may, or named with what is lost without it.
//!
//! Installing means `apt-get` as root, and cargo-deny into `target/tools`. Debian starts daemons on installation; while
//! we install, a `policy-rc.d` that refuses is put in place, so that nothing listens that did not listen before.

use crate::{envoy, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program from a Debian package.
struct Need {
    /// The program, or a file that proves the package is there.
    proof: &'static str,
    package: &'static str,
    without: &'static str,
}

/// libFuzzer is C++.
const CXX: &str = "c++";

const NEEDS: &[Need] = &[
    Need { proof: "haproxy", package: "haproxy", without: "tests and benchmarks against HAProxy" },
    Need { proof: "nginx", package: "nginx", without: "tests and benchmarks against nginx" },
    Need {
        proof: "/usr/lib/nginx/modules/ngx_stream_module.so",
        package: "libnginx-mod-stream",
        without: "tests and benchmarks against nginx as a TCP proxy",
    },
    Need { proof: "clang", package: "clang", without: "the check that bpf/*.o is what bpf/*.c says" },
    Need { proof: "nft", package: "nftables", without: "tests with a black-holed upstream" },
    Need { proof: "ip", package: "iproute2", without: "tests in network namespaces" },
    Need { proof: "unshare", package: "util-linux", without: "tests without privileges" },
    Need { proof: "curl", package: "curl", without: "tests with a client that we did not write" },
    Need { proof: "wrk", package: "wrk", without: "tests with wrk as a client" },
    Need { proof: "h2load", package: "nghttp2-client", without: "tests with h2load as a client" },
    Need { proof: "python3", package: "python3-venv", without: "tests with Python's HTTP libraries" },
    Need { proof: "node", package: "nodejs", without: "tests with Node's HTTP libraries" },
    Need { proof: CXX, package: "g++", without: "fuzzing" },
    Need { proof: "npm", package: "npm", without: "tests with Node's HTTP libraries" },
];

/// Libraries that the clients under `crates/cli/tests/clients` use.
const PYTHON: &[&str] = &["requests==2.32.5", "httpx==0.28.1", "websockets==15.0.1"];
const NODE: &[&str] = &["undici@7.16.0", "ws@8.18.3"];

/// Components of the toolchain, and the cargo command that each brings.
const COMPONENTS: &[(&str, &str)] = &[("rustfmt", "fmt"), ("clippy", "clippy")];

pub struct Tools {
    pub root: bool,
    pub deny: Option<PathBuf>,
    /// There is a C++ compiler.
    pub cxx: bool,
    /// One line per tool that is not here: how to get it, and what is skipped without.
    pub missing: Vec<String>,
}

/// Never fails: what cannot be had is named, and the steps that need it say that they are skipped.
pub fn prepare(may_install: bool) -> Tools {
    println!("== tools");
    let root = is_root();
    components(may_install);
    if may_install
        && root
        && let Err(error) = apt_install()
    {
        println!("could not install packages: {error:#}");
    }
    let mut missing: Vec<String> = absent().iter().map(|need| line(need.package, need.without)).collect();
    let deny = match cargo_deny(may_install) {
        Ok(path) => Some(path),
        Err(error) => {
            missing.push(format!("cargo-deny: `cargo install cargo-deny --locked`; skipped without: licences, advisories ({error:#})"));
            None
        }
    };
    missing.extend(libraries(may_install));
    if !root {
        missing.push("root: run as root; skipped without: tests in network namespaces".into());
    }
    match missing.as_slice() {
        [] => println!("everything is here"),
        lines => lines.iter().for_each(|line| println!("missing {line}")),
    }
    Tools { root, deny, cxx: present(CXX), missing }
}

fn line(package: &str, without: &str) -> String {
    format!("{package}: `apt-get install {package}`; skipped without: {without}")
}

fn absent() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !present(need.proof)).collect()
}

fn present(proof: &str) -> bool {
    if proof.starts_with('/') { Path::new(proof).exists() } else { find_program(proof).is_some() }
}

/// Looks where daemons live too: an ordinary user's PATH often lacks the sbin folders.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own /proc entry is our effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn components(may_install: bool) {
    for (component, subcommand) in COMPONENTS {
        if quiet("cargo", &[subcommand, "--version"]) {
            continue;
        }
        let installed = may_install && quiet("rustup", &["component", "add", component]);
        if !installed {
            println!("missing {component}: `rustup component add {component}`; its step will fail");
        }
    }
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn apt_install() -> Result<()> {
    let packages: Vec<&str> = absent().iter().map(|need| need.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    let _no_daemons = NoDaemons::establish()?;
    // A stale index is the usual reason for a 404; a failing update is not yet a reason to give up.
    let _ = apt(&["update", "-q"]);
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("apt-get")?;
    if !output.status.success() {
        bail!("apt-get {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// While this lives, packages that are installed start no daemon. A policy that is already there is left alone: it is
/// the administrator's word, and containers have one that refuses.
struct NoDaemons {
    ours: Option<PathBuf>,
}

impl NoDaemons {
    fn establish() -> Result<NoDaemons> {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o755).open(&policy) {
            Ok(mut file) => {
                use std::io::Write;
                let guard = NoDaemons { ours: Some(policy) };
                file.write_all(
                    b"#!/bin/sh\n# Placed by cargo xtask test while it installs packages.\nexit 101\n",
                )?;
                Ok(guard)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(NoDaemons { ours: None }),
            Err(error) => Err(error).context("/usr/sbin/policy-rc.d"),
        }
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(policy) = &self.ours {
            let _ = fs::remove_file(policy);
        }
    }
}

/// Python's, Node's and Envoy, into `target/tools`: they disturb nothing, and a second run finds them there.
fn libraries(may_install: bool) -> Vec<String> {
    let (python, node) = (workspace::tools_dir().join("python"), workspace::tools_dir().join("node"));
    let (pip, modules) = (python.join("bin/pip"), node.join("node_modules"));
    let python = python.display().to_string();
    let node = node.display().to_string();
    let wanted = [
        (
            ("Python libraries", "tests with those clients"),
            python_has_all(&pip),
            vec![
                call("python3", &["-m", "venv", &python]),
                call(&pip.display().to_string(), &[&["install", "--quiet"], PYTHON].concat()),
            ],
        ),
        (
            ("Node libraries", "tests with those clients"),
            modules.join("undici").exists() && modules.join("ws").exists(),
            vec![call(
                "npm",
                &[&["install", "--silent", "--no-audit", "--no-fund", "--prefix", &node], NODE].concat(),
            )],
        ),
        (("Envoy", "the comparison with it"), envoy::find().is_some(), vec![envoy::install(&pip)]),
    ];
    let absent = |((name, without), here, calls): ((&str, &str), bool, Vec<Vec<String>>)| {
        let run = |call: &Vec<String>| {
            let words: Vec<&str> = call.iter().map(String::as_str).collect();
            words.split_first().is_some_and(|(program, arguments)| quiet(program, arguments))
        };
        let have = here || (may_install && calls.iter().all(run));
        let how: Vec<String> = calls.iter().map(|call| call.join(" ")).collect();
        (!have).then(|| format!("{name}: `{}`; skipped without: {without}", how.join(" && ")))
    };
    wanted.into_iter().filter_map(absent).collect()
}

fn call(program: &str, arguments: &[&str]) -> Vec<String> {
    std::iter::once(&program).chain(arguments).map(ToString::to_string).collect()
}

fn python_has_all(pip: &Path) -> bool {
    let names: Vec<&str> = PYTHON.iter().filter_map(|wanted| wanted.split("==").next()).collect();
    is_executable(pip)
        && quiet(&pip.display().to_string(), &[&["show", "--quiet"], names.as_slice()].concat())
}

/// The user's own cargo-deny, or one built into `target/tools`: two minutes once, nothing after that.
fn cargo_deny(may_install: bool) -> Result<PathBuf> {
    if let Some(path) = find_program("cargo-deny") {
        return Ok(path);
    }
    let tools = workspace::tools_dir();
    let built = tools.join("bin/cargo-deny");
    if is_executable(&built) {
        return Ok(built);
    }
    if !may_install {
        bail!("not installed");
    }
    println!("building cargo-deny into {} (about three minutes, once)", tools.display());
    let mut command = Command::new("cargo");
    command.args(["install", "cargo-deny", "--locked", "--quiet", "--root"]).arg(&tools);
    let output = command.stdin(Stdio::null()).output().context("cargo install")?;
    if !is_executable(&built) {
        let reason =
            String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or("no output").to_string();
        bail!("cargo install: {reason}");
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_daemons_live() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }

    #[test]
    fn a_missing_tool_is_one_line_that_says_how_and_what_for() {
        let text = line("nftables", "tests with a black-holed upstream");
        assert!(
            !text.contains('\n') && text.contains("apt-get install nftables") && text.contains("black-holed")
        );
    }
}
