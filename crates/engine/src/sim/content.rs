//! What streams are made of: every byte follows from the stream's number and its position, so that order, completeness and
//! the sender can be told from the bytes, and nothing needs to be kept to check them.

use fourfold_sys::buffers::BUFFER_BYTES;

/// A stream starts with its number, twice (the second time inverted). A stream is empty or at least this long.
pub const HEADER_BYTES: usize = 8;

/// Prime, so that no usual chunk length is a multiple: swapped or repeated chunks do not match.
const PERIOD: usize = 4093;
const STEP: u64 = 61;

static PATTERN: [u8; PERIOD + BUFFER_BYTES] = pattern();

const fn pattern() -> [u8; PERIOD + BUFFER_BYTES] {
    let mut bytes = [0; PERIOD + BUFFER_BYTES];
    let mut x: u32 = 0x2545_F491;
    let mut i = 0;
    while i < bytes.len() {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        bytes[i] = if i < PERIOD { (x >> 11) as u8 } else { bytes[i - PERIOD] };
        i += 1;
    }
    bytes
}

fn header(stream: u32) -> [u8; HEADER_BYTES] {
    (u64::from(stream) | u64::from(!stream) << 32).to_le_bytes()
}

/// `len` bytes of a stream from `position` on; both behind the header, `len` at most a buffer.
fn expected(stream: u32, position: u64, len: usize) -> &'static [u8] {
    let offset = ((position + u64::from(stream) * STEP) % PERIOD as u64) as usize;
    PATTERN.get(offset..offset + len).unwrap_or_default()
}

/// Writes the bytes of `stream` from `position` on. At most a buffer at once.
pub fn fill(stream: u32, position: u64, bytes: &mut [u8]) {
    let in_header = HEADER_BYTES.saturating_sub(position.min(HEADER_BYTES as u64) as usize).min(bytes.len());
    let (head, body) = bytes.split_at_mut(in_header);
    let from = HEADER_BYTES.min(position as usize);
    for (byte, value) in head.iter_mut().zip(header(stream).into_iter().skip(from)) {
        *byte = value;
    }
    let expected = expected(stream, position + in_header as u64, body.len());
    if expected.len() == body.len() {
        body.copy_from_slice(expected);
    }
}

/// Checks a stream as it comes, whichever it is.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    header: [u8; HEADER_BYTES],
    position: u64,
    stream: Option<u32>,
}

/// The position of the first byte that is not what its stream has there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong {
    pub position: u64,
}

impl Reader {
    pub fn position(&self) -> u64 {
        self.position
    }
    /// Known once the header has come.
    pub fn stream(&self) -> Option<u32> {
        self.stream
    }

    /// At most a buffer at once.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let missing = HEADER_BYTES.saturating_sub(self.position.min(HEADER_BYTES as u64) as usize);
        let (head, body) = bytes.split_at(missing.min(bytes.len()));
        for (slot, byte) in self.header.iter_mut().skip(HEADER_BYTES - missing).zip(head) {
            *slot = *byte;
        }
        self.position += head.len() as u64;
        if self.stream.is_none() && self.position >= HEADER_BYTES as u64 {
            let both = u64::from_le_bytes(self.header);
            let (stream, inverted) = (both as u32, (both >> 32) as u32);
            if stream != !inverted {
                return Err(Wrong { position: 0 });
            }
            self.stream = Some(stream);
        }
        if body.is_empty() {
            return Ok(());
        }
        let wanted = expected(self.stream.unwrap_or(0), self.position, body.len());
        if wanted != body {
            let same = wanted.iter().zip(body).take_while(|(a, b)| a == b).count();
            return Err(Wrong { position: self.position + same as u64 });
        }
        self.position += body.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fourfold_base::prng::Prng;

    #[test]
    fn any_split_reads_back_and_any_change_is_seen() {
        let mut rng = Prng::new(3);
        for stream in 0..50 {
            let mut whole = vec![0; 5000];
            fill(stream, 0, &mut whole);
            let (mut reader, mut at) = (Reader::default(), 0);
            while at < whole.len() {
                let n = (1 + rng.below(700) as usize).min(whole.len() - at);
                let mut part = vec![0; n];
                fill(stream, at as u64, &mut part);
                assert_eq!(part, whole[at..at + n]);
                reader.take(&part).unwrap();
                at += n;
            }
            assert_eq!((reader.position(), reader.stream()), (5000, Some(stream)));
            let at = HEADER_BYTES + rng.below(4900) as usize;
            whole[at] ^= 1;
            assert_eq!(Reader::default().take(&whole), Err(Wrong { position: at as u64 }));
        }
    }

    #[test]
    fn a_missing_piece_is_seen() {
        let mut whole = vec![0; 12_000];
        fill(9, 0, &mut whole);
        let mut reader = Reader::default();
        reader.take(&whole[..4096]).unwrap();
        assert_eq!(reader.take(&whole[8192..]).map_err(|w| w.position >= 4096), Err(true));
    }
}
