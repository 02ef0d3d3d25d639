//! Bytes with numbers such as Parquet has them in its footer and before its deltas: seven bits a byte, of signed ones the sign last.

/// What is left of the bytes. `None` where they end too early, or where a number has no end.
pub(super) struct Varints<'a>(pub(super) &'a [u8]);

impl<'a> Varints<'a> {
    pub(super) fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = left;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let number = self.unsigned()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}
