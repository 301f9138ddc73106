//! The bytes of generated bodies: byte `i` is known from `i`, so that a receiver proves a body without a copy of it.

/// A line of text, so that a terminal survives it. Its length is prime to every power of two: a piece in the wrong place shows.
const LINE: &[u8; 63] = b"the quick brown fox jumps over the lazy dog 0123456789 ABCDEFG\n";

/// Writes what a body has from `offset` on.
pub fn fill(offset: u64, out: &mut [u8]) {
    let mut at = (offset % LINE.len() as u64) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let line = LINE.get(at..).unwrap_or_default();
        let n = line.len().min(rest.len());
        let (head, tail) = rest.split_at_mut(n);
        head.copy_from_slice(line.get(..n).unwrap_or_default());
        (at, rest) = (0, tail);
    }
}

/// How many of `bytes` are not those that a body has from `offset` on.
pub fn wrong(offset: u64, bytes: &[u8]) -> usize {
    let mut at = (offset % LINE.len() as u64) as usize;
    let mut rest = bytes;
    let mut wrong = 0;
    while !rest.is_empty() {
        let line = LINE.get(at..).unwrap_or_default();
        let (head, tail) = rest.split_at(line.len().min(rest.len()));
        if !line.starts_with(head) {
            wrong += head.iter().zip(line).filter(|(got, expected)| got != expected).count();
        }
        (at, rest) = (0, tail);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_gives_the_same_bytes_and_a_shifted_piece_is_wrong() {
        let mut whole = [0; 300];
        fill(0, &mut whole);
        for cut in 0..whole.len() {
            let mut tail = vec![0; whole.len() - cut];
            fill(cut as u64, &mut tail);
            assert_eq!(tail, whole[cut..]);
            assert_eq!(wrong(cut as u64, &whole[cut..]), 0);
        }
        assert!(wrong(64, &whole[..200]) > 100);
        whole[77] ^= 1;
        assert_eq!(wrong(0, &whole), 1);
    }
}
