//! The faults of a layer, drawn from its seed and the number of a call.

/// The number of calls in which each fault has exactly its share.
const BLOCK: u64 = 1_000;
/// The number of points in a part of a block.
const PART: u64 = 1 << 32;
/// The number of points from which one is drawn for each call.
pub(super) const SCALE: u64 = BLOCK * PART;

/// The faults and their shares of the points. Each call has at most one fault.
#[derive(Clone, Debug)]
pub(crate) struct Shares<F> {
    seed: u64,
    shares: Vec<(u64, F)>,
}

impl<F> Shares<F> {
    pub(super) fn new(seed: u64, shares: Vec<(u64, F)>) -> Self {
        Self { seed, shares }
    }
}

impl<F: Copy> Shares<F> {
    /// Returns the fault of a call, which depends only on the settings and the number.
    pub(crate) fn draw(&self, number: u64) -> Option<F> {
        let mut point = point(self.seed, number);
        for &(share, fault) in &self.shares {
            match point.checked_sub(share) {
                None => return Some(fault),
                Some(rest) => point = rest,
            }
        }
        None
    }
}

/// Returns the point of a call.
///
/// Of each block of calls, every one has its point in another part of the scale. A share of whole
/// parts is therefore exact in each block.
fn point(seed: u64, number: u64) -> u64 {
    let key = mix(mix(seed) ^ (number / BLOCK));
    let part = shuffle(key, number % BLOCK);
    part * PART + (mix(key ^ part) >> 32)
}

/// Returns the new place of a call in its block. No two places are mapped to the same one.
fn shuffle(key: u64, place: u64) -> u64 {
    let mut place = place;
    loop {
        // A Feistel network of 10 bits. It is repeated until the place is in the block.
        let (mut left, mut right) = (place >> 5, place & 31);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(key ^ (round << 5 | right)) & 31));
        }
        place = left << 5 | right;
        if place < BLOCK {
            return place;
        }
    }
}

/// Mixes the bits of a number, as the generator SplitMix64 does.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::config::Config;

    fn shares(seed: u64, ratios: &[(&'static str, f64)]) -> Shares<&'static str> {
        let mut config = Config::new();
        config.seed = seed;
        for &(setter, ratio) in ratios {
            config.set(setter, ratio, None, setter);
        }
        config.checked().unwrap().0
    }

    #[test]
    fn each_fault_has_exactly_its_share_of_each_thousand_calls_whatever_the_seed() {
        for seed in [0, 1, 2, 42, u64::MAX] {
            let shares = shares(seed, &[("a", 0.1), ("b", 0.25), ("c", 0.007)]);
            for block in [0, 1, 2, 77, u64::MAX / BLOCK - 1] {
                let drawn: Vec<_> =
                    (0..BLOCK).map(|place| shares.draw(block * BLOCK + place)).collect();
                let count = |of| drawn.iter().filter(|fault| **fault == of).count();
                let counts = [Some("a"), Some("b"), Some("c"), None].map(count);
                assert_eq!(counts, [100, 250, 7, 643], "seed {seed} block {block}");
            }
        }
    }

    #[test]
    fn a_share_of_less_than_one_in_a_thousand_is_reached_over_many_calls() {
        let shares = shares(5, &[("a", 0.000_1)]);
        let drawn = (0..1_000_000).filter(|number| shares.draw(*number).is_some()).count();
        assert!((70..130).contains(&drawn), "{drawn}");
    }

    #[test]
    fn faults_do_not_come_in_rows_or_in_turns() {
        let shares = shares(7, &[("a", 0.5)]);
        let drawn: Vec<_> = (0..10_000).map(|number| shares.draw(number).is_some()).collect();
        let changes = drawn.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((4_800..5_200).contains(&changes), "{changes}");
        // Two blocks do not repeat each other.
        let (first, second) = (&drawn[..1_000], &drawn[1_000..2_000]);
        let equal = first.iter().zip(second).filter(|(a, b)| a == b).count();
        assert!((400..600).contains(&equal), "{equal}");
    }

    #[test]
    fn another_seed_draws_other_faults() {
        let draw = |seed| {
            let shares = shares(seed, &[("a", 0.5)]);
            (0..64).map(|number| shares.draw(number)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(0), draw(u64::MAX));
    }

    #[test]
    fn a_share_of_one_is_every_call_and_a_share_of_zero_is_none() {
        let (all, none) = (shares(3, &[("a", 1.0)]), shares(3, &[("a", 0.0)]));
        for number in (0..10_000).chain(u64::MAX - 10..=u64::MAX) {
            assert_eq!((all.draw(number), none.draw(number)), (Some("a"), None));
        }
    }

    #[test]
    fn shares_may_add_up_to_one_in_any_order() {
        let thirds = [1.0 / 3.0; 3];
        let all = [[0.1, 0.2, 0.7], [0.7, 0.2, 0.1], [0.33, 0.56, 0.11], [0.8, 0.1, 0.1], thirds];
        for [a, b, c] in all {
            let drawn = shares(0, &[("a", a), ("b", b), ("c", c)]);
            assert!((0..10_000).all(|number| drawn.draw(number).is_some()));
            let mut config = Config::new();
            for (setter, ratio) in [("a", a), ("b", b), ("c", c + 1e-9)] {
                config.set(setter, ratio, None, ());
            }
            assert_eq!(config.checked().unwrap_err().knob(), "c");
        }
    }
}
