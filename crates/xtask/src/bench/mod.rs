//! `cargo xtask bench`: peers against Fourfold on this machine, and the document made of the figures.
//!
//! ```text
//!   client ──► subject ──► origin        client and origin: this program, one thread each, epoll, the same for all;
//!                                        for HTTP the origin is Fourfold's
//! ```
//! What is compared is the CPU of the whole machine per operation, because work that a subject leaves to kernel threads or to
//! the interrupts of others does not show in its own time. The direct path is measured in the same round and subtracted.
//! Rounds are interleaved and rotated: a noisy minute hits every subject.

mod client;
mod faults;
mod hold;
mod http;
mod machine;
mod million;
mod origin;
mod pictures;
mod plot;
mod report;
mod results;
mod rounds;
mod slow;
mod subject;
mod tcp;

use anyhow::{Context, Result, bail};
use std::str::FromStr;

pub fn run(words: &[&str]) -> Result<()> {
    match words {
        ["tcp", flags @ ..] => tcp::run(&Flags::parse(flags)?),
        ["http", flags @ ..] => http::run(&Flags::parse(flags)?),
        ["million", flags @ ..] => million::run(&Flags::parse(flags)?),
        ["report"] => report::write(),
        // The two ends of a measurement, started by `bench tcp` as processes of their own.
        ["origin", flags @ ..] => origin::run(&Flags::parse(flags)?),
        ["client", flags @ ..] => client::run(&Flags::parse(flags)?),
        ["hold", flags @ ..] => hold::run(&Flags::parse(flags)?),
        _ => bail!(
            "bench what? `cargo xtask bench tcp`, `cargo xtask bench http`, `cargo xtask bench million` or `cargo xtask bench report`"
        ),
    }
}

/// `--name value` pairs and bare `--name`s.
pub struct Flags<'a> {
    pairs: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Flags<'a> {
    const KNOWN: &'static [&'static str] = &[
        "rounds",
        "seconds",
        "quick",
        "peers",
        "scenarios",
        "fourfold",
        "listen",
        "to",
        "threads",
        "connections",
        "watch",
        "scenario",
        "clients",
        "protocol",
        "engine",
        "ws",
        "hold",
        "descriptors",
        "pending",
    ];

    fn parse(words: &[&'a str]) -> Result<Flags<'a>> {
        let mut pairs: Vec<(&str, Option<&str>)> = Vec::new();
        for word in words {
            match (word.strip_prefix("--"), pairs.last_mut()) {
                (Some(name), _) if Self::KNOWN.contains(&name) => pairs.push((name, None)),
                (None, Some((_, value @ None))) => *value = Some(word),
                _ => bail!("what is {word:?}? flags: --{}", Self::KNOWN.join(" --")),
            }
        }
        Ok(Flags { pairs })
    }

    fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, _)| *known == name)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value)
    }

    fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.text(name).map(|text| text.parse().with_context(|| format!("--{name} {text}"))).transpose()
    }

    fn need<T: FromStr>(&self, name: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.get(name)?.with_context(|| format!("--{name} is missing"))
    }

    /// Comma-separated words.
    fn list(&self, name: &str) -> Option<Vec<&'a str>> {
        self.text(name).map(|text| text.split(',').filter(|word| !word.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_pairs_and_strangers_are_refused() {
        let flags = Flags::parse(&["--quick", "--rounds", "3", "--peers", "nginx,haproxy"]).unwrap();
        assert!(flags.has("quick"));
        assert_eq!(flags.need::<u32>("rounds").unwrap(), 3);
        assert_eq!(flags.list("peers").unwrap(), ["nginx", "haproxy"]);
        assert!(Flags::parse(&["--round", "3"]).is_err());
        assert!(flags.need::<u32>("threads").unwrap_err().to_string().contains("--threads"));
    }
}
