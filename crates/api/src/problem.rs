//! Errors, in the form that RFC 9457 gives them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// RFC 9457, 3.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A name to compare, such as `urn:fourfold:no-such-pool`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this type.
    pub title: String,
    pub status: u16,
    /// What was wrong this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Problem {
    #[must_use]
    pub fn new(status: u16, name: &str, title: &str) -> Self {
        Self { kind: format!("urn:fourfold:{name}"), title: title.to_owned(), status, detail: None }
    }

    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Problem {}
