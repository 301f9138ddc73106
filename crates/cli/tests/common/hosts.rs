//! Servers on machines of their own: each host is a network namespace at the end of a wire to the proxy's, which can be cut, or
//! lose what comes from one address.

use super::http::{Line, Scripted};
use super::lab::{Lab, run};
use fourfold_testkit::Netns;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The proxy's addresses, on no wire in particular: every host knows the way back to both.
pub const SOURCES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// What checks ask for.
pub const CHECK: &str = "/up";
/// Nobody else is there to take it.
const PORT: u16 = 9000;

/// One request, as a host has seen it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The address that was asked.
    pub at: IpAddr,
    pub from: IpAddr,
    pub check: bool,
}

/// How a host answers, and what it was asked.
pub struct Manner {
    pub status: AtomicU16,
    pub check_status: AtomicU16,
    pub delay_ms: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Manner {
    fn good() -> Self {
        Self {
            status: AtomicU16::new(200),
            check_status: AtomicU16::new(200),
            delay_ms: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }

    /// Answers with the address that was asked.
    fn serve(&self, line: &mut Line) {
        let (Ok(at), Ok(from)) = (line.stream.local_addr(), line.stream.peer_addr()) else { return };
        while let Some(request) = line.request() {
            let check = request.target() == CHECK;
            let seen = Seen { at: at.ip(), from: from.ip(), check };
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
            let status = if check { &self.check_status } else { &self.status }.load(Relaxed);
            if !check {
                std::thread::sleep(Duration::from_millis(self.delay_ms.load(Relaxed)));
            }
            let name = at.ip().to_string();
            let length = name.len();
            line.say(format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{name}").as_bytes());
        }
    }
}

/// A machine that serves on each of its addresses.
pub struct Host {
    pub manner: Arc<Manner>,
    pub servers: Vec<SocketAddr>,
    gateway: String,
    device: String,
    // Ends before its network does.
    server: Scripted,
    netns: Netns,
}

impl Host {
    fn new(number: usize, addresses: usize) -> Self {
        let netns = Netns::new("host").unwrap();
        let gateway = format!("10.80.{number}.1");
        let own = |nth: usize| format!("10.80.{number}.{}", nth + 2);
        let (_, device) = netns.link_here(&format!("{gateway}/24"), &format!("{}/24", own(0))).unwrap();
        (1..addresses).for_each(|nth| netns.address(&device, &format!("{}/24", own(nth))).unwrap());
        netns.nft(RULES).unwrap();
        let manner = Arc::new(Manner::good());
        let serves = Arc::clone(&manner);
        let start = move || Scripted::at(([0, 0, 0, 0], PORT).into(), move |line| serves.serve(line));
        let server = netns.within(start).unwrap();
        let servers = (0..addresses).map(|nth| SocketAddr::new(own(nth).parse().unwrap(), PORT)).collect();
        let host = Self { manner, servers, gateway, device, server, netns };
        host.know_the_way();
        host
    }

    fn know_the_way(&self) {
        self.netns.run("ip", &["route", "add", "default", "via", &self.gateway]).unwrap();
    }

    /// The wire is out: what is sent is lost, and nobody says so.
    pub fn cut(&self) {
        self.netns.run("ip", &["link", "set", &self.device, "down"]).unwrap();
    }

    /// Its connections are no more. While the wire is out nobody hears of it.
    pub fn reset_all(&self) {
        self.server.reset_all();
    }

    pub fn mend(&self) {
        self.netns.run("ip", &["link", "set", &self.device, "up"]).unwrap();
        self.know_the_way();
    }

    /// What comes from there is lost.
    pub fn lose_from(&self, source: &str) {
        self.netns.nft(&format!("add rule inet t in ip saddr {source} drop")).unwrap();
    }

    /// Nothing serves at this address any more.
    pub fn refuse_at(&self, server: SocketAddr) {
        let rule = format!("add rule inet t in ip daddr {} reject with tcp reset", server.ip());
        self.netns.nft(&rule).unwrap();
    }

    /// No rule is left.
    pub fn relent(&self) {
        self.netns.nft("flush chain inet t in").unwrap();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.manner.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests of clients so far.
    pub fn asked(&self) -> usize {
        self.seen().iter().filter(|seen| !seen.check).count()
    }

    /// Requests of clients after the first so many requests, by source.
    pub fn asked_from(&self, mark: usize, source: &str) -> usize {
        let source: IpAddr = source.parse().unwrap();
        self.seen().iter().skip(mark).filter(|seen| !seen.check && seen.from == source).count()
    }

    pub fn name(&self) -> String {
        self.servers[0].ip().to_string()
    }
}

const RULES: &str = "add table inet t; add chain inet t in { type filter hook input priority 0; }";

/// The proxy's network, with the test in it, and its hosts.
pub struct Network {
    pub hosts: Vec<Host>,
    _lab: Lab,
}

impl Network {
    /// Hosts with so many addresses each. `None`, after saying so, without the privilege for it.
    pub fn new(addresses: &[usize]) -> Option<Self> {
        let lab = Lab::private()?;
        SOURCES.iter().for_each(|source| run("ip", &["addr", "add", source, "dev", "lo"]));
        let host = |(number, addresses): (usize, &usize)| Host::new(number + 1, *addresses);
        Some(Self { hosts: addresses.iter().enumerate().map(host).collect(), _lab: lab })
    }

    pub fn servers(&self) -> Vec<SocketAddr> {
        self.hosts.iter().flat_map(|host| host.servers.clone()).collect()
    }

    /// Requests of clients so far, by host.
    pub fn asked(&self) -> Vec<usize> {
        self.hosts.iter().map(Host::asked).collect()
    }
}
