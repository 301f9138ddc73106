//! What a connection sends, so that an echo proves whose it is: computed, never stored.

/// Length of the first message of every connection: its number, its round and 16 bytes that only this load would send.
pub const TOKEN_BYTES: u32 = 32;
const WORD: usize = 8;

/// One message. Two messages of a load agree in no word but by chance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub seed: u64,
    pub number: u64,
    pub round: u32,
}

impl Message {
    /// Writes the bytes from `offset` on.
    pub fn fill(&self, offset: usize, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(at / WORD);
            let skip = at % WORD;
            let n = (WORD - skip).min(rest.len());
            let (head, tail) = rest.split_at_mut(n);
            head.iter_mut().zip(word.iter().skip(skip)).for_each(|(to, from)| *to = *from);
            at += n;
            rest = tail;
        }
    }

    /// How many of `bytes` are not those that the message has from `offset` on.
    pub fn wrong(&self, offset: usize, bytes: &[u8]) -> usize {
        let mut wrong = 0;
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / WORD);
            let skip = at % WORD;
            let n = (WORD - skip).min(rest.len());
            let (head, tail) = rest.split_at(n);
            wrong += head.iter().zip(word.iter().skip(skip)).filter(|(a, b)| a != b).count();
            at += n;
            rest = tail;
        }
        wrong
    }

    fn word(&self, index: usize) -> [u8; WORD] {
        let word = match index {
            0 => self.number,
            1 => u64::from(self.round),
            _ => mix(mix(self.seed ^ self.number) ^ u64::from(self.round) << 32 ^ index as u64),
        };
        word.to_be_bytes()
    }
}

/// The finalizer of splitmix64: a bijection that spreads every bit.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes_and_one_wrong_byte_is_found() {
        let message = Message { seed: 9, number: 70_000, round: 3 };
        let mut whole = [0u8; 100];
        message.fill(0, &mut whole);
        for cut in 0..=whole.len() {
            let mut parts = [0u8; 100];
            let (head, tail) = parts.split_at_mut(cut);
            message.fill(0, head);
            message.fill(cut, tail);
            assert_eq!(parts, whole);
            assert_eq!(message.wrong(0, &whole[..cut]) + message.wrong(cut, &whole[cut..]), 0);
        }
        for at in 0..whole.len() {
            let mut bent = whole;
            bent[at] ^= 0x40;
            assert_eq!(message.wrong(0, &bent), 1);
        }
    }

    #[test]
    fn tokens_differ_between_connections_rounds_and_seeds() {
        let token = |seed, number, round| {
            let mut bytes = [0u8; TOKEN_BYTES as usize];
            Message { seed, number, round }.fill(0, &mut bytes);
            bytes
        };
        let mut tokens: Vec<_> = (0..20)
            .flat_map(|seed| (0..20).flat_map(move |number| (0..20).map(move |round| (seed, number, round))))
            .map(|(seed, number, round)| token(seed, number, round))
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 20 * 20 * 20);
    }
}
