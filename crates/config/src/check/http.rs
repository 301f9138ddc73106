//! Listeners and the keys of their mode.

use std::collections::{HashMap, HashSet};

use fourfold_http::path::Slashes;

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::keys::{Key, Modes, Section, access_log, error_page, listener, pool, redirect, route};
use crate::plan::Mode;
use crate::plan::http::AccessFormat;
use crate::section::Part;
use crate::value::{quote, show_bytes};

use super::{label, references, routes};

pub(super) fn check(part: &Part, found: &mut Diagnostics) {
    let Some(mode) = part.choice::<Mode>(&listener::MODE) else { return };
    wrong_mode(part, mode, found);
    access_format(part, mode, found);
    match mode {
        Mode::Tcp => needs_pool(part, found),
        Mode::Http => http(part, found),
    }
}

fn wrong_mode(part: &Part, mode: Mode, found: &mut Diagnostics) {
    let wrong = |key: &&&Key| matches!(key.modes, Modes::Only(only) if only != mode) && part.was_written(key);
    for key in Section::Listener.keys().iter().filter(wrong) {
        let (have, help) = match mode {
            Mode::Tcp => ("tcp", "add mode = \"http\", or remove the key".to_owned()),
            Mode::Http => ("http", instead(key)),
        };
        let message = format!("`{}` means nothing in {have} mode", key.name);
        let error = Diagnostic::error(Code::WrongMode, part.place_of(key), part.path_of(key), message);
        found.push(error.help(help));
    }
}

fn instead(key: &Key) -> String {
    match key.name {
        "idle_timeout" => {
            "use `keep_alive_timeout` between requests, `upgrade_timeout` for WebSockets".into()
        }
        _ => "remove the key, or use mode = \"tcp\"".into(),
    }
}

fn access_format(part: &Part, mode: Mode, found: &mut Diagnostics) {
    let Some(log) = part.parts(&listener::ACCESS_LOG).first() else { return };
    let (format, line, help) = match (mode, log.choice(&access_log::FORMAT)) {
        (Mode::Tcp, Some(AccessFormat::Combined)) => {
            ("combined", "request, of which tcp mode has none", "tcplog")
        }
        (Mode::Http, Some(AccessFormat::Tcplog)) => {
            ("tcplog", "connection, and http mode logs each request", "combined")
        }
        _ => return,
    };
    let key = &access_log::FORMAT;
    let message = format!("`format` cannot be {} here: it is a line for a {line}", quote(format));
    let error = Diagnostic::error(Code::WrongMode, log.place_of(key), log.path_of(key), message);
    found.push(error.help(format!("use {} or \"json\"", quote(help))));
}

fn needs_pool(part: &Part, found: &mut Diagnostics) {
    if !part.was_written(&listener::POOL) {
        let message = format!("{} needs the key `pool`", label("listener", part, &listener::NAME));
        let error = Diagnostic::error(Code::MissingKey, &part.place, part.path_of(&listener::POOL), message);
        found.push(error.help("`pool`: the pool that connections go to"));
    }
}

fn http(part: &Part, found: &mut Diagnostics) {
    if !part.was_written(&listener::POOL) && !part.was_written(&listener::ROUTE) {
        let owner = label("listener", part, &listener::NAME);
        let message = format!("{owner} has neither `pool` nor a route, so that every request gets 404");
        let error = Diagnostic::error(Code::MissingKey, &part.place, part.path.clone(), message);
        found.push(error.help("add pool = \"…\", or [[listener.route]] below it"));
    }
    limits(part, found);
    error_pages(part, found);
    redirects(part, found);
    routes::check(part, found);
}

fn limits(part: &Part, found: &mut Diagnostics) {
    let (line, head) = (&listener::LINE_BYTES_MAX, &listener::HEADER_BYTES_MAX);
    if let (Some(&line_max), Some(&head_max)) = (part.count(line), part.count(head))
        && line_max > head_max
    {
        let key = if part.was_written(line) { line } else { head };
        let message = format!(
            "one line may have {}, but the whole header only {}",
            show_bytes(line_max),
            show_bytes(head_max)
        );
        let error = Diagnostic::error(Code::Conflict, part.place_of(key), part.path_of(key), message);
        found.push(error.help("raise `header_bytes_max`, or lower `line_bytes_max`"));
    }
}

fn error_pages(part: &Part, found: &mut Diagnostics) {
    let mut seen = HashSet::new();
    for page in part.parts(&listener::ERROR_PAGE) {
        for (status, place) in page.texts(&error_page::STATUS).into_iter().flatten() {
            if !seen.insert(status) {
                let message = format!("there is already a page for {}", quote(status));
                let path = page.path_of(&error_page::STATUS);
                let error = Diagnostic::error(Code::Conflict, place, path, message);
                found.push(error.help("keep one of the two"));
            }
        }
        let (file, body) = (page.was_written(&error_page::FILE), page.was_written(&error_page::BODY));
        if file == body {
            let message = match file {
                true => "an error page has a `file` and a `body`",
                false => "an error page has neither a `file` nor a `body`",
            };
            let code = if file { Code::Conflict } else { Code::MissingKey };
            let error = Diagnostic::error(code, &page.place, page.path.clone(), message);
            found.push(error.help("give one of the two"));
        }
    }
}

/// With `slashes = "keep"` a client chooses how its path begins, and `//name` is another host to a browser.
fn redirects(part: &Part, found: &mut Diagnostics) {
    if part.choice(&listener::SLASHES) != Some(Slashes::Keep) {
        return;
    }
    for table in part.parts(&listener::ROUTE).iter().flat_map(|route| route.parts(&route::REDIRECT)) {
        let key = &redirect::TO;
        if table.text(key).is_some_and(|to| to.starts_with("{path}") || to.starts_with("{uri}")) {
            let message = "with `slashes` = \"keep\" this can be led to any host: a path may begin with //";
            let error = Diagnostic::error(Code::Conflict, table.place_of(key), table.path_of(key), message);
            found.push(error.help("write \"{scheme}://{host}{uri}\""));
        }
    }
}

/// Keys that only http uses, in a pool that no http listener does.
pub(super) fn pools_in_use(listeners: &[Part], pools: &[Part], found: &mut Diagnostics) {
    let mut modes: HashMap<String, Vec<Mode>> = HashMap::new();
    for part in listeners {
        let Some(mode) = part.choice::<Mode>(&listener::MODE) else { return };
        for name in references(part).iter().filter_map(|one| one.name()) {
            modes.entry(name.to_owned()).or_default().push(mode);
        }
    }
    for part in pools {
        let used = part.text(&pool::NAME).and_then(|name| modes.get(name));
        if used.is_some_and(|modes| !modes.contains(&Mode::Http)) {
            tcp_only(part, found);
        }
    }
}

fn tcp_only(part: &Part, found: &mut Diagnostics) {
    let mut idle = |part: &Part, key: &Key, what: &str| {
        let message = format!("{what} has no effect: no listener in http mode uses this pool");
        let warning = Diagnostic::warning(Code::NoEffect, part.place_of(key), part.path_of(key), message);
        found.push(warning.help("remove it, or use mode = \"http\""));
    };
    for (section, part) in std::iter::once((Section::Pool, part))
        .chain(part.parts(&pool::SERVER).iter().map(|one| (Section::Server, one)))
    {
        let http = |key: &&&Key| key.modes == Modes::Only(Mode::Http) && part.was_written(key);
        section.keys().iter().filter(http).for_each(|key| idle(part, key, &format!("`{}`", key.name)));
    }
    if let Some(text) = part.text(&pool::HASH_KEY).filter(|text| *text != "address") {
        let message = format!("`hash_key` = {} needs http, and a tcp listener uses this pool", quote(text));
        let key = &pool::HASH_KEY;
        let error = Diagnostic::error(Code::WrongMode, part.place_of(key), part.path_of(key), message);
        found.push(error.help("tcp has the client's address only: hash_key = \"address\""));
    }
}
