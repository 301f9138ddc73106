use serde::{Deserialize, Serialize};

/// Everything that is counted, since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub counters: Vec<Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    /// What is counted.
    pub help: String,
    pub value: u64,
}
