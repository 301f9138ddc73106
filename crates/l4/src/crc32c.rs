//! CRC32c (Castagnoli; RFC 9260, Appendix A): headers are short and rarely carry one, so one table and one byte a step do.

const POLYNOMIAL_REFLECTED: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL_REFLECTED } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

pub(crate) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        let index = (crc as u8 ^ byte) as usize;
        TABLE[index] ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_published_values() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
        // RFC 3720, B.4.
        assert_eq!(crc32c([0; 32].into_iter()), 0x8A91_36AA);
        assert_eq!(crc32c([0xFF; 32].into_iter()), 0x62A8_AB43);
        assert_eq!(crc32c(0..32), 0x46DD_794E);
    }
}
