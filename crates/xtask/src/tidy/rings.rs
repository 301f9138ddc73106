//! The rings: which crate may depend on which.
//!
//! ```text
//! ring 0  pure            base < ports, balance, http, l4, dns, bgp, api < config < doctor
//! ring 1  the machine     sys < engine < tls, xdp
//! ring 2  features        proxy  load  control  speakers  kube
//! ring 3  programs        cli  sim          testkit, xtask: free, and nothing but tests depends on them
//! ```
//! Arrows point inward. A crate that is not in the table fails: its place is a decision somebody has to write down here.

use super::Finding;
use cargo_metadata::{DependencyKind, Package};
use std::path::PathBuf;

/// What a crate is made of, and what it may therefore reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// No sockets, files, threads, clock or randomness.
    Pure,
    /// The only ring that speaks to the kernel.
    Machine,
    Features,
    Programs,
    /// Test helpers and tasks: may use anything, and only tests and tasks may use them.
    Free,
}

struct Place {
    name: &'static str,
    ring: Ring,
    /// Crates of this workspace that it may name in `[dependencies]`.
    may_use: &'static [&'static str],
}

const fn place(name: &'static str, ring: Ring, may_use: &'static [&'static str]) -> Place {
    Place { name, ring, may_use }
}

const PURE: &[&str] = &[
    "fourfold-base",
    "fourfold-ports",
    "fourfold-balance",
    "fourfold-http",
    "fourfold-l4",
    "fourfold-dns",
    "fourfold-bgp",
    "fourfold-api",
    "fourfold-config",
    "fourfold-doctor",
];

const BELOW_CONFIG: &[&str] =
    &["fourfold-base", "fourfold-ports", "fourfold-balance", "fourfold-http", "fourfold-l4", "fourfold-api"];

/// What a feature may stand on: every pure crate and the machine, never another feature unless listed with it.
const BELOW_FEATURES: &[&str] = &[
    "fourfold-base",
    "fourfold-ports",
    "fourfold-balance",
    "fourfold-http",
    "fourfold-l4",
    "fourfold-dns",
    "fourfold-bgp",
    "fourfold-api",
    "fourfold-config",
    "fourfold-doctor",
    "fourfold-sys",
    "fourfold-engine",
    "fourfold-tls",
    "fourfold-xdp",
];

/// `load` drives peers and origins of any make: were it to know the proxy, it would measure its own assumptions.
const BELOW_LOAD: &[&str] = &[
    "fourfold-base",
    "fourfold-ports",
    "fourfold-http",
    "fourfold-l4",
    "fourfold-sys",
    "fourfold-engine",
    "fourfold-tls",
];

/// `control` shows and changes what the proxy does.
const BELOW_CONTROL: &[&str] = &[
    "fourfold-base",
    "fourfold-ports",
    "fourfold-balance",
    "fourfold-api",
    "fourfold-config",
    "fourfold-doctor",
    "fourfold-sys",
    "fourfold-engine",
    "fourfold-proxy",
];

const ALL_FEATURES: &[&str] =
    &["fourfold-proxy", "fourfold-load", "fourfold-control", "fourfold-speakers", "fourfold-kube"];

const TABLE: &[Place] = &[
    place("fourfold-base", Ring::Pure, &[]),
    place("fourfold-ports", Ring::Pure, &["fourfold-base"]),
    place("fourfold-balance", Ring::Pure, &["fourfold-base"]),
    place("fourfold-http", Ring::Pure, &["fourfold-base"]),
    place("fourfold-l4", Ring::Pure, &["fourfold-base"]),
    place("fourfold-dns", Ring::Pure, &["fourfold-base"]),
    place("fourfold-bgp", Ring::Pure, &["fourfold-base"]),
    place("fourfold-api", Ring::Pure, &["fourfold-base"]),
    place("fourfold-config", Ring::Pure, BELOW_CONFIG),
    place(
        "fourfold-doctor",
        Ring::Pure,
        &["fourfold-base", "fourfold-ports", "fourfold-api", "fourfold-config"],
    ),
    place("fourfold-sys", Ring::Machine, &["fourfold-base", "fourfold-ports"]),
    place("fourfold-engine", Ring::Machine, &["fourfold-base", "fourfold-sys"]),
    place(
        "fourfold-tls",
        Ring::Machine,
        &["fourfold-base", "fourfold-l4", "fourfold-sys", "fourfold-engine"],
    ),
    place("fourfold-xdp", Ring::Machine, &["fourfold-base", "fourfold-l4", "fourfold-sys"]),
    place("fourfold-proxy", Ring::Features, BELOW_FEATURES),
    place("fourfold-load", Ring::Features, BELOW_LOAD),
    place("fourfold-control", Ring::Features, BELOW_CONTROL),
    place("fourfold-speakers", Ring::Features, BELOW_FEATURES),
    place("fourfold-kube", Ring::Features, BELOW_FEATURES),
    place("fourfold", Ring::Programs, &[]),
    place("fourfold-sim", Ring::Programs, &[]),
    place("fourfold-testkit", Ring::Free, &[]),
    place("xtask", Ring::Free, &[]),
];

/// Crates from outside that would smuggle the machine into a pure crate.
const NOT_IN_RING_0: &[&str] = &[
    "libc",
    "io-uring",
    "mio",
    "tokio",
    "async-std",
    "smol",
    "rand",
    "getrandom",
    "socket2",
    "nix",
    "rustix",
    "chrono",
];

pub fn ring_of(package: &str) -> Option<Ring> {
    TABLE.iter().find(|place| place.name == package).map(|place| place.ring)
}

pub fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let manifest = PathBuf::from("crates")
        .join(package.manifest_path.parent().and_then(|folder| folder.file_name()).unwrap_or_default())
        .join("Cargo.toml");
    let found = |what: String| Finding { path: manifest.clone(), line: 0, what };
    let Some(place) = TABLE.iter().find(|place| place.name == package.name.as_str()) else {
        let what =
            format!("{} is in no ring: give it a place in crates/xtask/src/tidy/rings.rs", package.name);
        return vec![found(what)];
    };
    let complaint = |name: &str, kind: DependencyKind| complain(place, name, kind).map(found);
    package
        .dependencies
        .iter()
        .filter_map(|dependency| complaint(&dependency.name, dependency.kind))
        .collect()
}

/// Why `place` may not depend on `name`, or `None` when it may.
fn complain(place: &Place, name: &str, kind: DependencyKind) -> Option<String> {
    let test_only = kind == DependencyKind::Development;
    let Some(ring) = ring_of(name) else {
        let forbidden = place.ring == Ring::Pure && !test_only && NOT_IN_RING_0.contains(&name);
        return forbidden.then(|| {
            format!(
                "{} is pure (ring 0) and may not use {name}: pass what it needs as an argument",
                place.name
            )
        });
    };
    let allowed = match place.ring {
        _ if ring == Ring::Free => test_only || place.ring == Ring::Free,
        Ring::Free => true,
        Ring::Programs => may_program_use(name),
        _ => place.may_use.contains(&name),
    };
    (!allowed)
        .then(|| format!("{} may not depend on {name}: arrows between crates point inward only", place.name))
}

fn may_program_use(name: &str) -> bool {
    PURE.contains(&name) || BELOW_FEATURES.contains(&name) || ALL_FEATURES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(from: &str, to: &str, kind: DependencyKind) -> Option<String> {
        complain(TABLE.iter().find(|place| place.name == from).unwrap(), to, kind)
    }

    #[test]
    fn inward_is_allowed() {
        for (from, to) in [
            ("fourfold-ports", "fourfold-base"),
            ("fourfold-config", "fourfold-balance"),
            ("fourfold-engine", "fourfold-sys"),
            ("fourfold-proxy", "fourfold-engine"),
            ("fourfold", "fourfold-load"),
            ("fourfold-sim", "fourfold-proxy"),
            ("xtask", "fourfold-testkit"),
        ] {
            assert_eq!(verdict(from, to, DependencyKind::Normal), None, "{from} -> {to}");
        }
    }

    #[test]
    fn outward_and_sideways_are_refused() {
        for (from, to) in [
            ("fourfold-base", "fourfold-ports"),
            ("fourfold-ports", "fourfold-sys"),
            ("fourfold-sys", "fourfold-engine"),
            ("fourfold-engine", "fourfold-proxy"),
            ("fourfold-load", "fourfold-proxy"),
            ("fourfold-proxy", "fourfold-load"),
            ("fourfold-sim", "fourfold"),
            ("fourfold-proxy", "fourfold-testkit"),
            ("fourfold-ports", "tokio"),
            ("fourfold-base", "libc"),
        ] {
            assert!(verdict(from, to, DependencyKind::Normal).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn tests_may_use_the_testkit_and_a_runtime() {
        assert_eq!(verdict("fourfold", "fourfold-testkit", DependencyKind::Development), None);
        assert_eq!(verdict("fourfold-ports", "tokio", DependencyKind::Development), None);
        assert!(verdict("fourfold-ports", "fourfold-proxy", DependencyKind::Development).is_some());
    }
}
