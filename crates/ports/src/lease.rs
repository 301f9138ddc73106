//! One tuple in someone's hands, and how it comes back.

/// How the socket gets its port; see the crate's documentation. Never mix the two on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `IP_BIND_ADDRESS_NO_PORT` + `IP_LOCAL_PORT_RANGE`, the port is taken by connect().
    Late,
    /// An explicit bind(ip, port) with `SO_REUSEADDR`.
    Early,
}

/// One leased tuple: this source and this port belong to the holder until it is given back with
/// [`Slice::release`](crate::Slice::release). It is neither `Clone` nor `Copy`, so it comes back at most
/// once; a dropped lease is a lost tuple, hence `must_use`.
#[must_use = "a dropped lease is a lost tuple; give it back with Slice::release"]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    // Two halves keep the alignment at 4 and the size at 12: a million connections hold one each.
    source_low: u32,
    source_high: u32,
    port: u16,
}

const _: () = assert!(std::mem::size_of::<Lease>() <= 12);

impl Lease {
    pub(crate) fn new(source: u64, port: u16) -> Lease {
        Lease { source_low: source as u32, source_high: (source >> 32) as u32, port }
    }

    /// Index of the source in the space; [`Space::source_address`](crate::Space::source_address) has
    /// its address.
    #[must_use]
    pub fn source_index(&self) -> u64 {
        (u64::from(self.source_high) << 32) | u64::from(self.source_low)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// What became of the connection that used a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// The tuple can be used again at once: the peer closed first, the connection was reset, or it
    /// never came to be.
    Clean,
    /// Our side closed first, so the kernel holds the tuple in TIME_WAIT.
    TimeWait,
    /// EADDRNOTAVAIL or EADDRINUSE: a socket outside of this space has the tuple.
    Foreign,
}
