//! Samples and what is said about them.

use std::fmt;

use serde::Serialize;

/// Measurements of one thing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Samples {
    median: f64,
    least: f64,
    most: f64,
    p99: f64,
    all: Vec<f64>,
}

impl Samples {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The middle one; of an even number, the upper of the middle two.
    pub const fn median(&self) -> f64 {
        self.median
    }

    /// The one that 99 of 100 do not exceed.
    pub const fn p99(&self) -> f64 {
        self.p99
    }

    /// How much larger each sample is than the one of `other` that was taken in the same turn.
    pub fn ratios(&self, other: &Self) -> Self {
        let pairs = self.all.iter().zip(&other.all);
        pairs.map(|(this, other)| this / other).collect()
    }

    /// How much larger this median is than that of `other`.
    pub fn ratio(&self, other: &Self) -> f64 {
        self.median / other.median
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        let all: Vec<f64> = samples.into_iter().collect();
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = |per_cent: usize| {
            let last = sorted.len().saturating_sub(1);
            let at = (sorted.len() * per_cent / 100).min(last);
            sorted.get(at).copied().unwrap_or_default()
        };
        Self {
            median: rank(50),
            least: rank(0),
            most: rank(100),
            p99: rank(99),
            all,
        }
    }
}

/// The median, with the range if there are several.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median < 10.0 { 2 } else { 1 };
        write!(f, "{:.digits$}", self.median)?;
        if self.all.len() > 1 {
            write!(f, " ({:.digits$} to {:.digits$})", self.least, self.most)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_sorted_samples() {
        let samples: Samples = (0..200).rev().map(f64::from).collect();
        assert_eq!((samples.median, samples.p99), (100.0, 198.0));
        assert_eq!((samples.least, samples.most), (0.0, 199.0));
        let one: Samples = [3.0].into_iter().collect();
        assert_eq!((one.median, one.p99), (3.0, 3.0));
        assert_eq!(one.to_string(), "3.00");
        let turns: Samples = [4.0, 1.0].into_iter().collect();
        let other: Samples = [2.0, 1.0].into_iter().collect();
        assert_eq!(turns.ratios(&other).to_string(), "2.00 (1.00 to 2.00)");
    }
}
