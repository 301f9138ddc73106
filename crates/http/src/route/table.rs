//! Routes by host, then by path.
//!
//! Host names are kept backwards, so that a wildcard's suffix is something that a name begins with: `*.example.com` is
//! `moc.elpmaxe.`, and its dot at the end tells it from a whole name.

use super::host::{HostMatch, name_of};
use super::keys::Keys;
use super::{PathMatch, Spec, begins_with_segments};
use std::collections::BTreeMap;

/// RFC 1035 2.3.4: a name has at most 255 bytes. Longer ones match no host but any.
const HOST_BYTES_MAX: usize = 255;

#[derive(Debug)]
pub(super) struct Table {
    hosts: Keys<Paths>,
    any: Paths,
}

type Paths = Keys<Group>;

/// The routes of one path, most conditions first, then in the order of the file.
#[derive(Default, Debug)]
struct Group {
    exact: Vec<usize>,
    prefix: Vec<usize>,
}

type PathsBuilt = BTreeMap<Vec<u8>, Group>;

impl Table {
    pub fn new(specs: &[Spec]) -> Self {
        let mut order: Vec<(usize, &Spec)> = specs.iter().enumerate().collect();
        order.sort_by_key(|(_, spec)| std::cmp::Reverse(spec.conditions()));
        let mut hosts: BTreeMap<Vec<u8>, PathsBuilt> = BTreeMap::new();
        let mut any = PathsBuilt::new();
        for (index, spec) in order {
            if spec.hosts.is_empty() {
                insert(&mut any, index, &spec.path);
            }
            for host in &spec.hosts {
                let paths = match host {
                    HostMatch::Any => &mut any,
                    HostMatch::Exact(name) | HostMatch::Suffix(name) => {
                        hosts.entry(name.bytes().rev().collect()).or_default()
                    }
                };
                insert(paths, index, &spec.path);
            }
        }
        Self {
            hosts: Keys::new(hosts.into_iter().map(|(key, paths)| (key, Keys::new(paths)))),
            any: Keys::new(any),
        }
    }

    /// The first route in order of rank of which `agrees` says that its conditions hold.
    pub fn find(&self, host: &[u8], path: &[u8], agrees: impl Fn(usize) -> bool) -> Option<usize> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let backwards = backwards(name_of(host), &mut buffer);
        let named = self.hosts.beginning(backwards).filter(|entry| is_whole(&entry.key, backwards));
        let mut paths = named.map(|entry| &entry.value).chain([&self.any]);
        paths.find_map(|paths| find_path(paths, path, &agrees))
    }
}

fn insert(paths: &mut PathsBuilt, index: usize, path: &PathMatch) {
    let (key, exact) = match path {
        // Everything begins with nothing, which is the shortest prefix.
        PathMatch::Any => ("", false),
        PathMatch::Exact(text) => (text.as_str(), true),
        PathMatch::Prefix(text) => (text.as_str(), false),
    };
    let group = paths.entry(key.into()).or_default();
    let routes = if exact { &mut group.exact } else { &mut group.prefix };
    // The same host twice in one route.
    if routes.last() != Some(&index) {
        routes.push(index);
    }
}

fn find_path(paths: &Paths, path: &[u8], agrees: impl Fn(usize) -> bool) -> Option<usize> {
    paths.beginning(path).find_map(|entry| {
        let exact = entry.value.exact.iter().filter(|_| *entry.key == *path);
        let under = |key: &[u8]| key.is_empty() || begins_with_segments(path, key);
        let prefix = entry.value.prefix.iter().filter(|_| under(&entry.key));
        exact.chain(prefix).copied().find(|&index| agrees(index))
    })
}

/// A wildcard's key has something before its dot; a name's key is all of it.
fn is_whole(key: &[u8], backwards: &[u8]) -> bool {
    key == backwards || (key.ends_with(b".") && backwards.len() > key.len())
}

/// `name` backwards in lower case; empty if it is too long.
fn backwards<'a>(name: &[u8], buffer: &'a mut [u8; HOST_BYTES_MAX]) -> &'a [u8] {
    let Some(buffer) = buffer.get_mut(..name.len()) else { return &[] };
    for (to, from) in buffer.iter_mut().zip(name.iter().rev()) {
        *to = from.to_ascii_lowercase();
    }
    buffer
}
