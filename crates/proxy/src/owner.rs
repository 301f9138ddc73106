//! The number by which the engine knows a socket's owner: which table, which slot, which generation.

use fourfold_base::slab::Key;
use fourfold_engine::Event;

/// What a number's key is a key of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    TunnelClient,
    TunnelServer,
    HttpClient,
    HttpUpstream,
    Preface,
    Check,
}

/// A key's bits leave the four above them to its user.
const TAG_SHIFT: u32 = 60;

pub(crate) fn owner(key: Key, tag: Tag) -> u64 {
    key.to_bits() | (tag as u64) << TAG_SHIFT
}

pub(crate) fn parse(owner: u64) -> Option<(Key, Tag)> {
    let tag = match owner >> TAG_SHIFT {
        0 => Tag::TunnelClient,
        1 => Tag::TunnelServer,
        2 => Tag::HttpClient,
        3 => Tag::HttpUpstream,
        4 => Tag::Preface,
        5 => Tag::Check,
        _ => return None,
    };
    Some((Key::from_bits(owner & !(u64::MAX << TAG_SHIFT)), tag))
}

/// Whom an event of a socket concerns.
pub(crate) fn of(event: &Event) -> Option<(Key, Tag)> {
    match event {
        Event::Accepted { .. } | Event::AcceptFailed { .. } => None,
        Event::Connected { owner, .. }
        | Event::ConnectFailed { owner, .. }
        | Event::Received { owner, .. }
        | Event::Eof { owner, .. }
        | Event::Failed { owner, .. }
        | Event::Finished { owner, .. }
        | Event::Drained { owner, .. }
        | Event::Unspliced { owner, .. }
        | Event::Closed { owner } => parse(*owner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fourfold_engine::NO_OWNER;

    #[test]
    fn owner_carries_key_and_tag() {
        let key = Key { slot: u32::MAX, generation: 0x0FFF_FFFF };
        let http = [Tag::HttpClient, Tag::HttpUpstream];
        for tag in [Tag::TunnelClient, Tag::TunnelServer, Tag::Preface, Tag::Check].into_iter().chain(http) {
            assert_eq!(parse(owner(key, tag)), Some((key, tag)));
        }
        assert_eq!(parse(NO_OWNER), None);
    }
}
