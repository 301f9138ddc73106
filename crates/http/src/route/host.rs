//! Host names in routes.

use crate::h1::Authority;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    Any,
    /// In lower case, without the dot that may end a name.
    Exact(String),
    /// Of `*.example.com` this is `.example.com`: every name below, at any depth, not the name itself.
    Suffix(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHost;

impl fmt::Display for InvalidHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("expected a host name without a port, *.name, or *")
    }
}

impl std::error::Error for InvalidHost {}

impl FromStr for HostMatch {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        match text.strip_prefix('*') {
            Some("") => Ok(Self::Any),
            Some(suffix) => {
                let name =
                    suffix.strip_prefix('.').filter(|name| !name.starts_with('[')).ok_or(InvalidHost)?;
                Ok(Self::Suffix(format!(".{}", plain(name)?)))
            }
            None => plain(text).map(Self::Exact),
        }
    }
}

fn plain(name: &str) -> Result<String, InvalidHost> {
    match Authority::parse(name.as_bytes()) {
        Ok(authority) if authority.port.is_none() => {
            Ok(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
        }
        _ => Err(InvalidHost),
    }
}

impl HostMatch {
    /// Straight from the definition; the router's own way is `table`.
    pub(super) fn holds(&self, host: &[u8]) -> bool {
        let host = name_of(host).to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::Exact(name) => host == name.as_bytes(),
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
        }
    }
}

/// `host` without its port and without the dot that may end it.
pub(super) fn name_of(host: &[u8]) -> &[u8] {
    let end = match host {
        [b'[', ..] => host.iter().position(|&byte| byte == b']').map_or(host.len(), |at| at + 1),
        _ => host.iter().position(|&byte| byte == b':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or_default();
    name.strip_suffix(b".").unwrap_or(name)
}
