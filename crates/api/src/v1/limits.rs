use super::Fill;
use serde::{Deserialize, Serialize};

/// What bounds the instance, its own limits and the kernel's, fullest first. Tuples are apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// A configuration key or a kernel setting.
    pub name: String,
    /// The listener or pool that it is of.
    pub of: Option<String>,
    pub used: u64,
    pub max: u64,
    pub unit: String,
    pub state: Fill,
    /// How to have more.
    pub remedy: String,
}
