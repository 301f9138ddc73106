//! A test's own network, and its place in the line for the processors.

use super::DEADLINE;
use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Held by a test for as long as it runs.
pub struct Lab {
    _turn: MutexGuard<'static, ()>,
    /// The calling thread, its children and the threads it starts have a network namespace of their own.
    pub private: bool,
}

impl Lab {
    /// Waits for its turn (tests compare memory, descriptors and processor time: one at a time), then leaves the machine's
    /// network for an empty one with a loopback device.
    pub fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        raise_descriptor_limit();
        // SAFETY: no pointers; concerns this thread only.
        let private = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        PRIVATE.set(private);
        if private {
            run("ip", &["link", "set", "lo", "up"]);
        }
        Self { _turn: turn, private }
    }

    /// For tests that add addresses, rules or other traffic. `None`, after saying so, when the namespace may not be had.
    pub fn private() -> Option<Self> {
        let lab = Self::new();
        if !lab.private {
            eprintln!("skipped: a network namespace needs CAP_SYS_ADMIN");
            return None;
        }
        Some(lab)
    }

    /// Sockets of this network namespace, the proxy's included, that are not in TIME_WAIT.
    pub fn tcp_sockets(&self) -> usize {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            let mut words = line.split_whitespace();
            words.find(|word| *word == "inuse");
            words.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0)
        };
        field("sockstat", "TCP:") + field("sockstat6", "TCP6:")
    }
}

/// A command that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// A kernel setting of this network namespace.
pub fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A free port of `ip`. In a namespace of one's own nobody takes it meanwhile, and it lies below the ports that connections
/// are made from: a listener's port is nobody's to connect from, which would be one tuple less.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    const RANGE: &str = "net/ipv4/ip_local_port_range";
    let private = PRIVATE.get();
    let range = fs::read_to_string(format!("/proc/sys/{RANGE}")).unwrap_or_default();
    if private {
        set(RANGE, "10000 19999");
    }
    let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
    if private {
        set(RANGE, range.trim());
    }
    address
}

thread_local! {
    /// This thread has a network namespace of its own.
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Polls until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(began.elapsed() < DEADLINE, "gave up waiting: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

/// An empty descriptor table for the calling thread alone: a test's clients and its origin each have the whole limit, and a
/// socket that one of them closes is closed. To be called before the thread opens anything.
pub fn own_descriptor_table() {
    // SAFETY: closes numbers of the new table only, of which this thread uses none.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
}
