//! A histogram of base-2 logarithmic buckets with the interface of the crate of the same name, as
//! far as openraft uses it.
//!
//! openraft counts batches and delays in such histograms whether or not anybody can read them (that
//! takes its feature `runtime-stats`, which kvd has not). The crate makes tables for all of its
//! sixteen resolutions at the first use of one: 26 MiB of a member's memory, half of what an idle
//! one took. Here a bucket's bounds are computed instead. `[patch.crates-io]` in the workspace's
//! manifest puts this crate in its place.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value behind its highest set one that tell its bucket: four buckets for every power of
/// two, so a percentile is at most a fifth below the true one.
const BITS: u32 = 2;
const PER_POWER: usize = 1 << BITS;
const BUCKETS: usize = (u64::BITS - BITS + 1) as usize * PER_POWER;

/// Counts of values by their size. `T` is there for the interface only.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64]>,
    total: u64,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Histogram<T> {
        Histogram {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total: 0,
            data: PhantomData,
        }
    }

    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` as often as `count` says.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket(value)] += count;
        self.total += count;
    }

    /// Values counted so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The smallest value of the bucket in which the share `p` of all values, from 0 to 1, is
    /// reached; 0 if there are none.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = ((self.total as f64 * p).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return smallest(bucket);
            }
        }
        0
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram{}", self.percentile_stats())
    }
}

fn bucket(value: u64) -> usize {
    match value.checked_ilog2() {
        Some(power) if power >= BITS => {
            let behind = (value >> (power - BITS)) as usize & (PER_POWER - 1);
            (power - BITS + 1) as usize * PER_POWER + behind
        }
        _ => value as usize,
    }
}

fn smallest(bucket: usize) -> u64 {
    if bucket < PER_POWER {
        return bucket as u64;
    }
    let shift = bucket / PER_POWER - 1;
    (((bucket % PER_POWER) | PER_POWER) as u64) << shift
}

/// Percentiles of a [`Histogram`], in the unit of what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// One in a thousand is smaller.
    pub p0_1: u64,
    /// One in a hundred is smaller.
    pub p1: u64,
    /// One in twenty is smaller.
    pub p5: u64,
    /// One in ten is smaller.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// One in ten is larger.
    pub p90: u64,
    /// One in a hundred is larger.
    pub p99: u64,
    /// One in a thousand is larger.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[samples: {}, P50: {}, P90: {}, P99: {}, P99.9: {}]",
            self.samples, self.p50, self.p90, self.p99, self.p99_9
        )
    }
}

/// Several histograms under their names, a line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    series: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// An empty one.
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    /// With one more line.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> AsciiChart {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// What shows most.
    pub fn detailed(&self) -> &AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name:>24} {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_starts_at_or_below_it() {
        for power in 0..64 {
            for near in [0_u64, 1, 2, 3] {
                let value = (1_u64 << power).saturating_add(near << power.max(3) >> 3);
                let at = bucket(value);
                assert!(at < BUCKETS, "{value}");
                assert!(smallest(at) <= value, "{value}");
                assert_eq!(bucket(smallest(at)), at, "{value}");
                assert!(value - smallest(at) <= value / 5, "{value}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(smallest(bucket(0)), 0);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        (1..=1_000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1_000);
        assert!((400..=500).contains(&stats.p50), "{stats}");
        assert!((792..=990).contains(&stats.p99), "{stats}");
        assert_eq!(histogram.percentile(0.0), 1);
    }
}
