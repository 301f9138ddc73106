//! `fourfold show`: asks the running instance, and prints a table or what it answered.

mod table;
mod tables;

use crate::args::{FillArg, ShowArgs, ShowCommand, ShowConnectionsArgs, ShowTuplesArgs};
use anyhow::Context;
use fourfold_api::v1;
use fourfold_control::client::{ask, the_instance};
use fourfold_control::place::Place;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// What is asked for at once; more connections take several questions.
const PAGE: usize = 1000;
const NO_QUERY: [(&str, &str); 0] = [];

pub fn run(command: &ShowCommand) -> anyhow::Result<ExitCode> {
    let args = command.args();
    let interval = args.watch.as_deref().map(fourfold_config::parse_duration_ms).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let place = match &args.admin {
            Some(text) => place_of(text)?,
            None => the_instance()?,
        };
        loop {
            let text = command.answer(&place, interval.is_some()).await?;
            if !print(&text, interval.is_some() && !args.json) {
                return Ok(ExitCode::SUCCESS);
            }
            let Some(ms) = interval else { return Ok(ExitCode::SUCCESS) };
            tokio::time::sleep(Duration::from_millis(ms.max(100))).await;
        }
    })
}

/// `unix:PATH`, `PATH`, `ip:port`.
fn place_of(text: &str) -> anyhow::Result<Place> {
    let path = text.strip_prefix("unix:").or_else(|| text.contains('/').then_some(text));
    match path {
        Some(path) => Ok(Place::Unix(path.into())),
        None => Ok(Place::Tcp(
            text.parse().with_context(|| format!("--admin {text}: a socket's path or ip:port"))?,
        )),
    }
}

/// `false`: nobody reads it any more.
fn print(text: &str, anew: bool) -> bool {
    let mut out = std::io::stdout().lock();
    // ECMA-48: the cursor home, and everything after it erased.
    let clear = if anew && out.is_terminal() { "\x1b[H\x1b[J" } else { "" };
    let written = write!(out, "{clear}{text}").and_then(|()| out.flush());
    !written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

impl ShowCommand {
    fn args(&self) -> &ShowArgs {
        match self {
            Self::Instance(args)
            | Self::Listeners(args)
            | Self::Pools(args)
            | Self::Limits(args)
            | Self::Counters(args)
            | Self::Events(args) => args,
            Self::Tuples(args) => &args.show,
            Self::Connections(args) => &args.show,
        }
    }

    async fn answer(&self, place: &Place, again: bool) -> anyhow::Result<String> {
        let form = Form { json: self.args().json, compact: again };
        match self {
            Self::Instance(_) => form.of(place, v1::INSTANCE, &NO_QUERY, tables::instance).await,
            Self::Listeners(_) => form.of(place, v1::LISTENERS, &NO_QUERY, tables::listeners).await,
            Self::Pools(_) => form.of(place, v1::POOLS, &NO_QUERY, tables::pools).await,
            Self::Limits(_) => form.of(place, v1::LIMITS, &NO_QUERY, tables::limits).await,
            Self::Counters(_) => form.of(place, v1::COUNTERS, &NO_QUERY, tables::counters).await,
            Self::Events(_) => form.of(place, v1::EVENTS, &NO_QUERY, tables::events).await,
            Self::Tuples(args) => {
                form.of(place, v1::TUPLES, &tuples_query(args), |all| tables::tuples(all, args.sum)).await
            }
            Self::Connections(args) => {
                let all = connections(place, args).await?;
                if form.json { form.json(&all) } else { Ok(tables::connections(&all)) }
            }
        }
    }
}

/// How an answer is printed.
#[derive(Clone, Copy)]
struct Form {
    json: bool,
    /// On one line.
    compact: bool,
}

impl Form {
    async fn of<T: DeserializeOwned>(
        self,
        place: &Place,
        path: &str,
        query: &impl Serialize,
        table: impl Fn(&T) -> String,
    ) -> anyhow::Result<String> {
        let (body, value) = ask::<T>(place, path, query).await?;
        match self.json {
            // What this program does not know is shown as well.
            true => self.json(&serde_json::from_slice::<serde_json::Value>(&body)?),
            false => Ok(table(&value)),
        }
    }

    fn json(self, value: &impl Serialize) -> anyhow::Result<String> {
        let text =
            if self.compact { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
        Ok(text? + "\n")
    }
}

fn tuples_query(args: &ShowTuplesArgs) -> v1::TuplesQuery {
    let at_least = args.at_least.map(|fill| match fill {
        FillArg::Half => v1::Fill::Half,
        FillArg::Near => v1::Fill::Near,
        FillArg::Exhausted => v1::Fill::Exhausted,
    });
    v1::TuplesQuery { pool: args.pool.clone(), destination: args.to, at_least }
}

/// Page after page, until there are enough.
async fn connections(place: &Place, args: &ShowConnectionsArgs) -> anyhow::Result<v1::Connections> {
    let limit = fourfold_config::parse_count(&args.limit)
        .with_context(|| format!("--limit {}", args.limit))? as usize;
    let mut all = v1::Connections { total: 0, connections: Vec::new(), next: None, silent_shard: None };
    loop {
        let missing = limit.saturating_sub(all.connections.len());
        let query = v1::ConnectionsQuery { limit: Some(missing.clamp(1, PAGE)), after: all.next.take() };
        let (_, page) = ask::<v1::Connections>(place, v1::CONNECTIONS, &query).await?;
        all.connections.extend(page.connections);
        all.connections.truncate(limit);
        let silent_shard = all.silent_shard.or(page.silent_shard);
        (all.total, all.next, all.silent_shard) = (page.total, page.next, silent_shard);
        if all.next.is_none() || all.connections.len() >= limit {
            return Ok(all);
        }
    }
}
