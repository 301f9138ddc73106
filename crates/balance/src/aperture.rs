//! The slice of the servers that a peer looks through.
//!
//! Servers lie on a ring, each as long as its weight, in the order of their ids, which all peers agree on. The
//! peers cut the same ring into equal lengths, and each takes its own and as many of the following ones as make
//! up its least number of servers. As all slices are equally long and evenly laid, every piece of the ring lies
//! in equally many of them. The server at a slice's end is shared with the neighbour: it counts for the part
//! that lies inside.

use crate::group::Member;
use crate::options::Aperture;

/// Splits the members into those inside the slice, with the share that lies in it, and the others.
pub(crate) fn split(members: Vec<Member>, ids: &[u64], aperture: &Aperture) -> (Vec<Member>, Vec<Member>) {
    let weighty = members.iter().filter(|member| member.share > 0).count() as u64;
    let peers = u64::from(aperture.peers.max(1));
    let slices = (u64::from(aperture.servers_min) * peers).div_ceil(weighty.max(1)).max(1);
    if slices >= peers {
        return (members, Vec::new());
    }
    let mut order = members;
    order.sort_by_key(|member| ids.get(member.server as usize));
    let total: u128 = order.iter().map(|member| u128::from(member.share)).sum();
    let ring = Ring { total, peers: u128::from(peers), slices: u128::from(slices) };
    let mut start = 0;
    let mut lengths = Vec::with_capacity(order.len());
    for member in &order {
        let piece = (start, start + u128::from(member.share) * ring.peers);
        start = piece.1;
        let own = ring.overlap(piece, u64::from(aperture.peer) % peers);
        let seen: u128 = neighbours(aperture, peers).map(|peer| ring.overlap(piece, peer)).sum();
        lengths.push((own, seen));
    }
    let shift = shift_to_u32(lengths.iter().map(|length| length.1));
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (member, (own, seen)) in order.into_iter().zip(lengths) {
        let scaled = |length: u128| ((length >> shift) as u32).max(1);
        match own {
            0 => outside.push(member),
            _ => inside.push(Member { share: scaled(own), capacity: scaled(seen), ..member }),
        }
    }
    (inside, outside)
}

/// Peers whose loads are counted together with this one's, itself included.
fn neighbours(aperture: &Aperture, peers: u64) -> impl Iterator<Item = u64> {
    let together = u64::from(aperture.together.max(1));
    let first = u64::from(aperture.peer) % peers / together * together;
    first..(first + together).min(peers)
}

/// In units of a weight's `peers`-th part, so that everything is whole.
struct Ring {
    total: u128,
    peers: u128,
    slices: u128,
}

impl Ring {
    /// How much of a piece lies in a peer's slice.
    fn overlap(&self, piece: (u128, u128), peer: u64) -> u128 {
        let start = u128::from(peer) * self.total;
        let end = start + self.slices * self.total;
        let round = self.total * self.peers;
        let common = |piece: (u128, u128)| piece.1.min(end).saturating_sub(piece.0.max(start));
        // A slice may run past the ring's end, into its beginning.
        common(piece) + common((piece.0 + round, piece.1 + round))
    }
}

fn shift_to_u32(lengths: impl Iterator<Item = u128>) -> u32 {
    let longest = lengths.max().unwrap_or(0);
    (u128::BITS - longest.leading_zeros()).saturating_sub(u32::BITS)
}
