//! The algorithms by name, as configuration, help and schema spell them.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The server with the fewest connections for its weight.
    LeastConnections,
    /// Weighted random.
    Random,
    /// The better of two random servers.
    P2c,
    /// The quicker of two random servers, by latency and what it has in flight.
    PeakEwma,
    /// Consistent hashing on a ring, with bounded loads.
    RingHash,
    /// Consistent hashing by a Maglev table.
    Maglev,
}

impl Algorithm {
    pub const ALL: [Algorithm; 7] = [
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::Random,
        Algorithm::P2c,
        Algorithm::PeakEwma,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::RoundRobin => "round-robin",
            Algorithm::LeastConnections => "least-connections",
            Algorithm::Random => "random",
            Algorithm::P2c => "p2c",
            Algorithm::PeakEwma => "peak-ewma",
            Algorithm::RingHash => "ring-hash",
            Algorithm::Maglev => "maglev",
        }
    }

    /// The same key goes to the same server: [`Ask::key`](crate::Ask::key) is wanted.
    #[must_use]
    pub const fn is_keyed(self) -> bool {
        matches!(self, Algorithm::RingHash | Algorithm::Maglev)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownAlgorithm {
    pub name: String,
}

impl fmt::Display for UnknownAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Algorithm::ALL.map(Algorithm::name).join(", ");
        write!(f, "unknown balance algorithm \"{}\"; choose one of {names}", self.name)
    }
}

impl std::error::Error for UnknownAlgorithm {}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;
    fn from_str(name: &str) -> Result<Algorithm, UnknownAlgorithm> {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| UnknownAlgorithm { name: name.into() })
    }
}
