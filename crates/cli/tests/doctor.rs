//! Eight machines with a small limit each: what `fourfold doctor` says binds first is what binds, at the number that it says; after
//! `--fix` it is lifted, after `--undo` it is back.
//!
//! A machine is a network namespace, a control group, a resource limit, or a setting of the whole machine for a moment, which is put
//! back whatever happens. What other programs use of a limit of the whole machine is in the prediction; where it changes while the limit is
//! approached, the run says nothing and is done again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;
#[path = "doctor/scene.rs"]
mod scene;

use common::lab::{run, set};
use common::{Config, Crowd, Engine, Lab, Origin};
use scene::{Group, Kept, Scene, drop_sys_admin, is_near, limit_descriptors, numbers};
use serde_json::Value;

const PORT_RANGE: &str = "net/ipv4/ip_local_port_range";
const RANGE: std::ops::RangeInclusive<usize> = 40_000..=40_999;

fn proxy(engine: Engine, origin: &Origin, connections: usize) -> Config {
    let pool = "sources = [\"127.0.0.2\"]\nqueue_timeout = \"1s\"";
    Config::to(engine, &[origin.address]).top(&format!("max_connections = {connections}")).pool(pool)
}

/// Drives the load to the number that was said, lifts the limit, drives on, and goes back.
fn predicted_hit_lifted_and_back(scene: &Scene<'_>, check: &str) {
    let predicted = scene.predict(check);
    let held = scene.drive(predicted + predicted / 3);
    assert!(is_near(held, predicted), "{check}: {predicted} predicted, {held} held");
    let undo = scene.fix();
    let held = scene.drive(predicted + predicted / 3);
    assert!(held >= predicted + predicted / 4, "{check}: {held} held after the fix");
    scene.undo(&undo);
    let again = scene.predict(check);
    let held = scene.drive(predicted + predicted / 3);
    println!("{check}: {predicted} predicted, {held} held");
    assert!(is_near(held, again), "{check}: {again} predicted after the undo, {held} held");
}

#[test]
fn narrow_port_range() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    set(PORT_RANGE, &format!("{} {}", RANGE.start(), RANGE.end()));
    let config = proxy(Engine::Epoll, &origin, 3_000);
    predicted_hit_lifted_and_back(&Scene::new(&config), "tuples");
}

/// The backlog takes those who come while nobody accepts.
#[test]
fn low_somaxconn() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    set("net/core/somaxconn", "100");
    let config = proxy(Engine::Epoll, &origin, 2_000).top("shards = 1");
    let scene = Scene::new(&config).flags(&["--burst", "500"]);
    let taken = || {
        let program = scene.start();
        program.freeze();
        let mut crowd = Crowd::from(program.address, "127.0.0.9");
        crowd.open(500);
        crowd.pump(0);
        let taken = crowd.tally().asking;
        program.signal(libc::SIGCONT);
        crowd.until("all are served in the end", |tally| tally.held == 500);
        taken
    };
    let predicted = scene.predict("somaxconn");
    let waiting = taken();
    println!("somaxconn: {predicted} predicted, {waiting} taken");
    assert!(is_near(waiting, predicted), "{predicted} predicted, {waiting} taken");
    let undo = scene.fix();
    assert_eq!(taken(), 500);
    scene.undo(&undo);
    assert!(is_near(taken(), scene.predict("somaxconn")));
}

/// A hard limit is lifted by whoever starts the program: the drop-in that `--persist` writes says to what.
#[test]
fn small_nofile() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    let config = proxy(Engine::Epoll, &origin, 1_000).top("shards = 1");
    let small = |command: &mut std::process::Command| limit_descriptors(command, 1_000);
    let scene = Scene::new(&config).adapt(small);
    let predicted = scene.predict("nofile");
    assert!(scene.refuses_to_start().contains("descriptor limit of 1000"));
    let just = proxy(Engine::Epoll, &origin, predicted).top("shards = 1");
    let held = Scene::new(&just).adapt(small).drive(predicted * 2);
    println!("nofile: {predicted} predicted, {held} held");
    assert!(is_near(held, predicted), "{predicted} predicted, {held} held");
    let root = scene::folder("persist");
    let undo = scene.fix_with(&["--persist", root.0.to_str().unwrap()]);
    let drop_in = root.0.join("etc/systemd/system/fourfold.service.d/60-fourfold.conf");
    let text = std::fs::read_to_string(&drop_in).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
    let lifted: u64 = line.parse().unwrap();
    assert!(text.contains("[Service]\n"), "{text}");
    // As systemd does before it starts the service.
    let held = Scene::new(&config).adapt(move |command| limit_descriptors(command, lifted)).drive(1_000);
    assert_eq!(held, 1_000);
    scene.undo(&undo);
    assert!(!drop_in.exists());
    assert_eq!(scene.predict("nofile"), predicted);
    assert!(scene.refuses_to_start().contains("descriptor limit of 1000"));
}

/// Files are counted over the whole machine, and CAP_SYS_ADMIN is exempt: only the proxy goes without.
#[test]
fn low_file_max() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    let kept = Kept::new("fs/file-max");
    let config = proxy(Engine::Epoll, &origin, 6_000);
    let scene = Scene::new(&config).adapt(drop_sys_admin).whole_machine();
    scene::while_others_rest("open files", scene::files_open, 600, || {
        kept.set(&(scene::files_open() + 14_000).to_string());
        predicted_hit_lifted_and_back(&scene, "file-max");
    });
}

#[test]
fn small_control_group() {
    let Some(_lab) = Lab::private() else { return };
    let Some(group) = Group::new(64 << 20) else { return };
    let origin = Origin::echo();
    let config = proxy(Engine::Epoll, &origin, 16_000);
    let scene = Scene::new(&config).adapt(|command| group.take(command));
    predicted_hit_lifted_and_back(&scene, "cgroup-memory");
}

/// The table's size is the machine's, what is in it the network namespace's own.
#[test]
fn tiny_conntrack_table() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    let rules = "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                 add rule inet t in ct state established accept";
    run("nft", &[rules]);
    let kept = Kept::new("net/netfilter/nf_conntrack_max");
    kept.set("4000");
    let config = proxy(Engine::Epoll, &origin, 5_000);
    let scene = Scene::new(&config).whole_machine().settle(|| {
        // Flows outlive their connections: none of the last run shall be in the table.
        scene::forget_flows();
        numbers("net/netfilter/nf_conntrack_count")[0] < 20
    });
    predicted_hit_lifted_and_back(&scene, "conntrack");
}

/// What each client sent lies in its server's queue, which nobody reads.
#[test]
fn low_tcp_mem() {
    const QUEUED: usize = 49_152;
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::start("127.0.0.1:0", common::Behaviour::Sink);
    let kept = Kept::new("net/ipv4/tcp_mem");
    let config = proxy(Engine::Epoll, &origin, 6_000);
    let queued = QUEUED.to_string();
    let scene = Scene::new(&config).flags(&["--queued", &queued]).whole_machine();
    let fill = |most| scene.fill(most, QUEUED, origin.address.port());
    scene::while_others_rest("pages of TCP", scene::tcp_pages, 800, || {
        let pages = scene::tcp_pages() + 15_000;
        kept.set(&format!("{pages} {pages} {pages}"));
        let predicted = scene.predict("tcp-mem");
        let filled = fill(predicted + predicted / 3);
        println!("tcp-mem: {predicted} predicted, {filled} filled");
        assert!(is_near(filled, predicted), "{predicted} predicted, {filled} filled");
        let undo = scene.fix();
        let filled = fill(predicted + predicted / 3);
        assert!(filled >= predicted + predicted / 4, "{filled} filled after the fix");
        scene.undo(&undo);
        let again = scene.predict("tcp-mem");
        let filled = fill(predicted + predicted / 3);
        assert!(is_near(filled, again), "{again} predicted after the undo, {filled} filled");
    });
}

/// `io_uring_disabled` = 1 leaves it to CAP_SYS_ADMIN, which everybody else here has.
#[test]
fn no_io_uring() {
    let Some(_lab) = Lab::private() else { return };
    if !Engine::Uring.works_here() {
        return;
    }
    let origin = Origin::echo();
    let kept = Kept::new("kernel/io_uring_disabled");
    kept.set("1");
    let config = proxy(Engine::Uring, &origin, 1_000);
    let scene = Scene::new(&config).adapt(drop_sys_admin).whole_machine();
    assert_eq!(scene.predict("io-uring"), 0);
    assert!(scene.refuses_to_start().contains("io_uring cannot be used"));
    let undo = scene.fix();
    assert_eq!(scene.drive(1_000), 1_000);
    scene.undo(&undo);
    assert_eq!(scene.predict("io-uring"), 0);
    assert!(scene.refuses_to_start().contains("io_uring cannot be used"));
}

#[test]
fn dry_run_changes_nothing_and_undo_leaves_what_others_set() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    set(PORT_RANGE, "40000 40999");
    let config = proxy(Engine::Epoll, &origin, 3_000);
    let scene = Scene::new(&config);
    let said = scene.doctor(&["--fix", "--dry-run"]);
    assert!(said.stdout.contains("would be 40000 40999 -> "), "{said:?}");
    assert_eq!(numbers(PORT_RANGE), [40_000, 40_999]);
    let undo = scene.fix();
    set(PORT_RANGE, "30000 50000");
    let said = scene::undo_with(&undo);
    assert_eq!(said.code(), Some(1), "{said:?}");
    assert!(said.stdout.contains("it is 30000 50000 by now"), "{said:?}");
    assert_eq!(numbers(PORT_RANGE), [30_000, 50_000]);
    // It is still written down how it was.
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&undo.0).unwrap()).unwrap();
    assert_eq!(kept["settings"][0]["before"], "40000 40999");
}

#[test]
fn settings_that_may_not_be_written_are_named_with_who_can() {
    let Some(_lab) = Lab::private() else { return };
    let origin = Origin::echo();
    set(PORT_RANGE, "40000 40999");
    let config = proxy(Engine::Epoll, &origin, 3_000);
    let scene = Scene::new(&config).adapt(scene::become_nobody).public();
    let said = scene.doctor(&["--fix", "--undo-file", "/tmp/fourfold-never-written/undo.json"]);
    assert_eq!(said.code(), Some(1), "{said:?}");
    assert!(said.stdout.contains("not changed: ") || said.stderr.contains("undo file"), "{said:?}");
    assert_eq!(numbers(PORT_RANGE), [40_000, 40_999]);
}

/// A file that promises more than its own sources and ports can hold.
#[test]
fn check_refuses_numbers_that_no_machine_can_make_true() {
    let text = |max: u64, sources: &str, ports: &str| {
        format!(
            "[[listener]]\nname = \"edge\"\nbind = \"127.0.0.1:8080\"\npool = \"chat\"\nmax_connections = {max}\n[[pool]]\nname = \
             \"chat\"\nsources = [\"{sources}\"]\n{ports}\n[[pool.server]]\naddress = \"10.0.1.1:9000\"\n"
        )
    };
    let check = |text: String| {
        let file = common::program::Scratch::new("check.toml", text.as_bytes());
        common::program::fourfold(&["check", file.0.to_str().unwrap()])
    };
    for (max, sources, ports, remedy) in [
        (64_513, "10.0.0.10", "", "give it 2 `sources`"),
        (101, "10.0.0.10", "ports = \"40000-40099\"", "widen `ports`"),
        (1_000_000, "10.0.0.10-10.0.0.24", "", "give it 16 `sources`"),
    ] {
        let said = check(text(max, sources, ports));
        assert_eq!(said.code(), Some(1), "{said:?}");
        assert!(said.stderr.contains("holds at most") && said.stderr.contains(remedy), "{said:?}");
    }
    for (max, sources, ports) in [
        (64_512, "10.0.0.10", ""),
        (100, "10.0.0.10", "ports = \"40000-40099\""),
        (1_000_000, "10.0.0.10-10.0.0.25", ""),
    ] {
        let said = check(text(max, sources, ports));
        assert_eq!(said.code(), Some(0), "{said:?}");
    }
}

#[test]
fn plan_says_what_a_load_takes_and_draws_it() {
    let Some(_lab) = Lab::private() else { return };
    set(PORT_RANGE, "32768 60999");
    let picture = common::program::Scratch::new("plan.svg", b"");
    let base = ["plan", "--max-connections", "100k", "--to", "10.0.1.1:9000", "--source"];
    let with = |more: &[&str]| common::program::fourfold(&[&base, more].concat());
    let said = with(&["10.0.0.10", "--json", "--svg", picture.0.to_str().unwrap()]);
    assert_eq!(said.code(), Some(1), "one source is not enough: {said:?}");
    let load: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(load["limits"][0]["check"], "tuples");
    assert_eq!(load["limits"][0]["connections"], 28_232);
    let need = |what: &str| {
        let all = load["needs"].as_array().unwrap();
        all.iter().find(|need| need["what"] == what).unwrap_or_else(|| panic!("{what}: {load:#}")).clone()
    };
    assert_eq!(
        (need("source addresses")["needed"].as_u64(), need("four-tuples")["here"].as_u64()),
        (Some(4), Some(28_232))
    );
    assert_eq!(need("descriptors")["needed"], 200_000);
    let svg = std::fs::read_to_string(&picture.0).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("100k wanted"), "{svg}");
    let said = with(&["10.0.0.10-10.0.0.13", "--hold", "60s"]);
    assert!(said.stdout.contains("1 667/s"), "100000 for a minute each: {said:?}");
    let said = with(&["10.0.0.10", "--mode", "http", "--requests", "50k", "--request-time", "20ms"]);
    assert!(said.stdout.contains("connections to servers                1 000"), "1000 in flight: {said:?}");
}

#[test]
fn run_says_at_the_start_what_binds_first() {
    let Some(_lab) = Lab::private() else { return };
    set(PORT_RANGE, "40000 40999");
    let origin = Origin::echo();
    let config = proxy(Engine::Epoll, &origin, 3_000);
    let program = Scene::new(&config).start();
    let said = program.messages();
    assert!(
        said.iter().any(|line| line.starts_with("first limit: tuples to the servers at 1000 connections")),
        "{said:?}"
    );
    program.stop();
}
