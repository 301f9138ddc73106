//! What a check says: what binds, when, why, and what lifts it.

use crate::facts::{Facts, Scope, scope_of};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Fail,
    Warn,
    Pass,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Connections held at the same time.
    Held,
    /// Connections that come in one moment.
    AtOnce,
    /// Connections per second that last.
    PerSecond,
}

impl Measure {
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Measure::Held => "connections",
            Measure::AtOnce => "connections in one moment",
            Measure::PerSecond => "connections per second",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub measure: Measure,
    /// Where it binds.
    pub number: u64,
    pub wanted: u64,
    /// `max_connections` at which it binds, the rest of what is wanted growing alike.
    pub connections: u64,
}

impl Limit {
    #[must_use]
    pub fn held(number: u64, connections: u64) -> Limit {
        Limit { measure: Measure::Held, number, wanted: connections, connections: number }
    }

    #[must_use]
    pub fn scaled(measure: Measure, number: u64, wanted: u64, connections: u64) -> Limit {
        let scaled = u128::from(connections) * u128::from(number) / u128::from(wanted.max(1));
        Limit { measure, number, wanted, connections: u64::try_from(scaled).unwrap_or(u64::MAX) }
    }

    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.number >= self.wanted
    }

    fn status(&self) -> Status {
        let spare = self.wanted.saturating_add(self.wanted / 10);
        match self.number {
            number if number < self.wanted => Status::Fail,
            number if number < spare => Status::Warn,
            _ => Status::Pass,
        }
    }
}

/// A kernel setting, or a control group's limit, to be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its dotted name, or the file of a control group.
    pub setting: String,
    pub file: String,
    pub before: Option<String>,
    pub value: String,
    pub scope: Scope,
}

/// How a remedy outlives the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lasting {
    /// `sysctl.d`, `systemd`, `container`, `kubernetes`, `configuration`.
    pub way: &'static str,
    /// A file that may be written as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<&'static str>,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What `--fix` does; `None`: it is left to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// To be typed as it is.
    pub command: String,
    pub lasting: Vec<Lasting>,
    pub risk: String,
}

pub const SYSCTL_FILE: &str = "/etc/sysctl.d/60-fourfold.conf";
pub const DROP_IN_FILE: &str = "/etc/systemd/system/fourfold.service.d/60-fourfold.conf";

impl Remedy {
    #[must_use]
    pub fn setting(facts: &Facts, name: &str, value: impl ToString, risk: &str) -> Remedy {
        let (value, scope) = (value.to_string(), scope_of(name));
        let command = format!("sysctl -w {name}=\"{value}\"");
        let change = Change {
            setting: name.to_owned(),
            file: setting_file(name),
            before: facts.setting(name).map(str::to_owned),
            value: value.clone(),
            scope,
        };
        let sysctl = Lasting { way: "sysctl.d", file: Some(SYSCTL_FILE), text: format!("{name} = {value}") };
        let mut lasting = vec![sysctl];
        lasting.extend(in_containers(name, &value, scope));
        Remedy { change: Some(change), command, lasting, risk: risk.to_owned() }
    }

    /// A control group's limit, which an administrator may write while it is in use.
    #[must_use]
    pub fn group_limit(file: &str, before: u64, value: u64, lasting: Vec<Lasting>, risk: &str) -> Remedy {
        let change = Change {
            setting: file.to_owned(),
            file: file.to_owned(),
            before: Some(before.to_string()),
            value: value.to_string(),
            scope: Scope::Group,
        };
        let command = format!("echo {value} > {file}");
        Remedy { change: Some(change), command, lasting, risk: risk.to_owned() }
    }

    /// Nothing that could be done by itself.
    #[must_use]
    pub fn by_hand(command: impl Into<String>, lasting: Vec<Lasting>, risk: &str) -> Remedy {
        Remedy { change: None, command: command.into(), lasting, risk: risk.to_owned() }
    }

    #[must_use]
    pub fn configuration(text: impl Into<String>, risk: &str) -> Remedy {
        let text = text.into();
        let lasting = Lasting { way: "configuration", file: None, text: text.clone() };
        Remedy::by_hand(format!("in the configuration: {text}"), vec![lasting], risk)
    }
}

/// A name's dots are the path's slashes; a slash in a name (an interface's dot) would be a dot.
#[must_use]
pub fn setting_file(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// Settings of a network namespace are a container's own; those of the machine are its host's.
fn in_containers(name: &str, value: &str, scope: Scope) -> Vec<Lasting> {
    match scope {
        Scope::Network => vec![
            lasting("container", format!("docker run --sysctl {name}=\"{value}\"")),
            lasting(
                "kubernetes",
                format!(
                    "securityContext: {{ sysctls: [ {{ name: {name}, value: \"{value}\" }} ] }} (and kubelet \
                     --allowed-unsafe-sysctls {name})"
                ),
            ),
        ],
        Scope::Machine | Scope::Group => {
            let where_to = "on the host or node: a container cannot have its own";
            vec![lasting("container", where_to.into()), lasting("kubernetes", where_to.into())]
        }
    }
}

#[must_use]
pub fn lasting(way: &'static str, text: String) -> Lasting {
    Lasting { way, file: None, text }
}

/// What one check found, before it is put into the report under the check's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub status: Status,
    pub what: String,
    pub limit: Option<Limit>,
    pub why: String,
    pub remedies: Vec<Remedy>,
}

impl Found {
    #[must_use]
    pub fn pass(what: impl Into<String>) -> Found {
        Found {
            status: Status::Pass,
            what: what.into(),
            limit: None,
            why: String::new(),
            remedies: Vec::new(),
        }
    }

    #[must_use]
    pub fn warn(what: impl Into<String>, why: impl Into<String>) -> Found {
        Found { status: Status::Warn, why: why.into(), ..Found::pass(what) }
    }

    /// As bad as the limit is near.
    #[must_use]
    pub fn at(limit: Limit, what: impl Into<String>, why: impl Into<String>) -> Found {
        let why = why.into();
        Found { status: limit.status(), limit: Some(limit), why, ..Found::pass(what) }
    }

    /// No worse than a warning: it may never come to it.
    #[must_use]
    pub fn at_most_warn(mut self) -> Found {
        self.status = self.status.max(Status::Warn);
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Found {
        if self.status != Status::Pass {
            self.remedies.push(remedy);
        }
        self
    }
}
