//! Sets of numbers as ranges: a million records that came in order are one entry.
//!
//! Owner: whoever holds it. Invariants: ranges are sorted, do not overlap and do not touch. Must not: grow without
//! bound; whoever inserts checks `is_full`.

use crate::limits::LEDGER_RANGES_MAX;

/// A set of `u64`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// First and behind the last.
    ranges: Vec<(u64, u64)>,
}

impl RangeSet {
    /// Whether so many ranges are apart that no more should be kept.
    pub(crate) fn is_full(&self) -> bool {
        self.ranges.len() >= LEDGER_RANGES_MAX
    }

    /// Numbers in the set.
    pub(crate) fn count(&self) -> u64 {
        self.ranges.iter().map(|(first, end)| end - first).sum()
    }

    /// Whether the set has a number.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number < self.ranges[after - 1].1
    }

    /// Adds the numbers from `first` to before `end`.
    pub(crate) fn insert(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        if let Some(last) = self.ranges.last_mut()
            && last.1 == first
        {
            last.1 = end;
            return;
        }
        // All ranges that overlap or touch become one.
        let from = self.ranges.partition_point(|(_, behind)| *behind < first);
        let to = self.ranges.partition_point(|(start, _)| *start <= end);
        let joined = self.ranges[from..to]
            .iter()
            .fold((first, end), |(low, high), (start, behind)| (low.min(*start), high.max(*behind)));
        self.ranges.splice(from..to, [joined]);
    }

    /// Adds all of another set.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (first, end) in &other.ranges {
            self.insert(*first, *end);
        }
    }

    /// The ranges of this set that the other does not have.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, end) in &self.ranges {
            let mut from = *first;
            let begin = other.ranges.partition_point(|(_, behind)| *behind <= *first);
            for (start, behind) in other.ranges[begin..].iter().take_while(|(start, _)| start < end) {
                if from < *start {
                    left.push((from, *start));
                }
                from = from.max(*behind);
            }
            if from < *end {
                left.push((from, *end));
            }
        }
        Self { ranges: left }
    }

    /// The numbers that both sets have.
    pub(crate) fn both(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// The first ranges, for people.
    pub(crate) fn show(&self) -> String {
        let some: Vec<String> = self
            .ranges
            .iter()
            .take(3)
            .map(|(first, end)| if end - first == 1 { first.to_string() } else { format!("{first}..{end}") })
            .collect();
        let more = if self.ranges.len() > 3 { ", ..." } else { "" };
        format!("{}{more}", some.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_are_sets() {
        let mut random = Random(11);
        for _ in 0..50 {
            let mut make = || {
                let (mut ranges, mut plain) = (RangeSet::default(), BTreeSet::new());
                for _ in 0..random.next() % 30 {
                    let first = random.next() % 200;
                    let end = first + random.next() % 9;
                    ranges.insert(first, end);
                    plain.extend(first..end);
                }
                assert!(ranges.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
                (ranges, plain)
            };
            let ((a, plain_a), (b, plain_b)) = (make(), make());
            let numbers = |set: &RangeSet| (0..220).filter(|n| set.contains(*n)).collect::<BTreeSet<u64>>();
            assert_eq!(numbers(&a), plain_a);
            assert_eq!(a.count() as usize, plain_a.len());
            assert_eq!(numbers(&a.without(&b)), plain_a.difference(&plain_b).copied().collect());
            assert_eq!(numbers(&a.both(&b)), plain_a.intersection(&plain_b).copied().collect());
            let mut sum = a.clone();
            sum.extend(&b);
            assert_eq!(numbers(&sum), plain_a.union(&plain_b).copied().collect());
        }
    }
}
