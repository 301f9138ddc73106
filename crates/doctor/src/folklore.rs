//! Settings that are recommended everywhere and do something else, or harm.

use crate::facts::Facts;
use crate::finding::{Found, Remedy};

pub struct Belief {
    pub id: &'static str,
    pub said: &'static str,
    pub truth: &'static str,
    pub reference: &'static str,
    /// When a setting of this machine shows that somebody has believed it.
    pub trace: fn(&Facts) -> Option<Found>,
}

const fn belief(
    id: &'static str,
    said: &'static str,
    truth: &'static str,
    reference: &'static str,
    trace: fn(&Facts) -> Option<Found>,
) -> Belief {
    Belief { id, said, truth, reference, trace }
}

pub const FOLKLORE: &[Belief] = &[
    belief(
        "tw-recycle",
        "set net.ipv4.tcp_tw_recycle to get rid of TIME_WAIT",
        "It dropped connections of clients behind one NAT, and Linux 4.12 took it out. net.ipv4.tcp_tw_reuse = 1 does the \
         part that is safe, for connections that this machine makes.",
        "kernel: commit 4396e46187ca, \"tcp: remove tcp_tw_recycle\"",
        |facts| {
            let value = facts.number("net.ipv4.tcp_tw_recycle").filter(|value| *value != 0)?;
            Some(
                harm(format!("net.ipv4.tcp_tw_recycle = {value}"), "clients behind one NAT cannot connect")
                    .remedy(Remedy::setting(facts, "net.ipv4.tcp_tw_recycle", 0, "none")),
            )
        },
    ),
    belief(
        "fin-timeout",
        "lower net.ipv4.tcp_fin_timeout to shorten TIME_WAIT",
        "TIME_WAIT takes 60 seconds, a constant (TCP_TIMEWAIT_LEN). tcp_fin_timeout bounds FIN_WAIT_2: how long a socket that \
         nobody owns any more waits for the peer's FIN.",
        "tcp(7), tcp_fin_timeout; kernel: include/net/tcp.h, TCP_TIMEWAIT_LEN",
        |facts| {
            let value = facts.number("net.ipv4.tcp_fin_timeout").filter(|value| *value < 30)?;
            Some(
                harm(
                    format!("net.ipv4.tcp_fin_timeout = {value}"),
                    "it does not shorten TIME_WAIT; peers that answer slowly are reset",
                )
                .remedy(Remedy::setting(facts, "net.ipv4.tcp_fin_timeout", 60, "none")),
            )
        },
    ),
    belief(
        "timestamps",
        "set net.ipv4.tcp_timestamps = 0 to save twelve bytes, or for security",
        "Without them tuples in TIME_WAIT cannot be used again before 60 seconds are over, old segments are not told from new \
         ones, and round trips are measured badly. Their start is random for each connection since Linux 4.10.",
        "RFC 7323; RFC 6191; kernel: net/ipv4/tcp_ipv4.c, tcp_twsk_unique",
        |facts| {
            facts.number("net.ipv4.tcp_timestamps").filter(|value| *value == 0)?;
            Some(
                harm(
                    "net.ipv4.tcp_timestamps = 0".into(),
                    "a tuple that our side closed cannot be used again for 60 seconds",
                )
                .remedy(Remedy::setting(facts, "net.ipv4.tcp_timestamps", 1, "none")),
            )
        },
    ),
    belief(
        "huge-buffers",
        "raise the default of net.ipv4.tcp_rmem and tcp_wmem to megabytes",
        "The middle number is what every socket begins with and may fill; the kernel grows windows by itself up to the third \
         (tcp_moderate_rcvbuf). A large middle lets slow peers take memory times the number of connections.",
        "tcp(7), tcp_rmem; kernel: net/ipv4/tcp_input.c, tcp_rcv_space_adjust",
        huge_buffers,
    ),
    belief(
        "two-descriptors",
        "a socket needs two descriptors",
        "One. A proxied connection is two sockets, which is two descriptors; and a limit bounds a table, of which every shard \
         has its own.",
        "getrlimit(2); close_range(2), CLOSE_RANGE_UNSHARE",
        |_| None,
    ),
    belief(
        "64k-clients",
        "a server holds at most 65 535 clients, since there are no more ports",
        "A port number is used up per source address, destination address and destination port, and only on the side that calls \
         connect(). A listener has one port for any number of clients; the wall is on the way to the servers, at one span of \
         ports for each source address and server.",
        "RFC 9293, 3.3.1 (a connection is identified by a pair of sockets)",
        |_| None,
    ),
];

/// Where a default becomes memory that slow peers can take.
const BUFFER_DEFAULT_MAX: u64 = 1 << 20;

fn huge_buffers(facts: &Facts) -> Option<Found> {
    let (name, default) = ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]
        .into_iter()
        .find_map(|name| Some((name, *facts.numbers(name).get(1).filter(|n| **n > BUFFER_DEFAULT_MAX)?)))?;
    let limits = facts.numbers(name);
    let middle = if name.ends_with("rmem") { 131_072 } else { 16_384 };
    let value = format!("{} {middle} {}", limits.first()?, limits.get(2)?);
    let harm = harm(
        format!("{name} begins with {default} bytes for every socket"),
        "slow peers can take that much on each",
    );
    Some(harm.remedy(Remedy::setting(facts, name, value, "windows grow from there as they are used")))
}

fn harm(what: String, why: &str) -> Found {
    Found::warn(what, why)
}
