//! A set of small numbers in fixed space.

/// Numbers below `64 * WORDS`.
#[derive(Debug)]
pub(crate) struct Bits<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Bits<WORDS> {
    /// The empty set.
    pub(crate) const fn new() -> Self {
        Self([0; WORDS])
    }

    /// Adds a number; one that the set can't hold is ignored.
    pub(crate) fn insert(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Takes a number out.
    pub(crate) fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// The least number in the set.
    pub(crate) fn first(&self) -> Option<usize> {
        let (at, word) = (self.0.iter().enumerate()).find(|(_, word)| **word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_number_comes_first() {
        let mut bits = Bits::<2>::new();
        assert_eq!(bits.first(), None);
        for number in [127, 64, 63, 128] {
            bits.insert(number);
        }
        for number in [63, 64, 127] {
            assert_eq!(bits.first(), Some(number));
            bits.remove(number);
        }
        assert_eq!(bits.first(), None);
    }
}
