//! Randomness: the machine's for identities, a seeded one for simulations and tests.

use std::io::{self, Read};

use parking_lot::Mutex;

/// Where identities come from.
pub trait Randomness: Send + Sync {
    /// Fills `buf` with bytes nobody can foretell.
    ///
    /// # Errors
    /// The operating system's.
    fn fill(&self, buf: &mut [u8]) -> io::Result<()>;
}

/// The machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        std::fs::File::open("/dev/urandom")?.read_exact(buf)
    }
}

/// Numbers that follow from a seed (SplitMix64): the same on every machine, and no secret.
#[derive(Clone, Debug)]
pub struct SeededRandom {
    state: u64,
}

impl SeededRandom {
    #[must_use]
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom { state: seed }
    }

    /// Any number, each as likely.
    #[expect(clippy::should_implement_trait, reason = "an endless source is no iterator here")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True in `times` of `out_of` draws.
    pub fn chance(&mut self, times: u64, out_of: u64) -> bool {
        self.below(out_of) < times
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Fills `buf`.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// A source whose numbers are unrelated to what this one draws afterwards.
    #[must_use]
    pub fn fork(&mut self) -> SeededRandom {
        SeededRandom::new(self.next() ^ 0x5851_f42d_4c95_7f2d)
    }
}

impl Randomness for Mutex<SeededRandom> {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        self.lock().fill(buf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut random = SeededRandom::new(1);
        assert_eq!(random.next(), 0x910a_2dec_8902_5cc1);
        let (mut left, mut right) = (SeededRandom::new(7), SeededRandom::new(7));
        assert!((0..100).all(|_| left.next() == right.next()));
    }

    #[test]
    fn draws_stay_below_their_limit_and_reach_all_of_it() {
        let mut random = SeededRandom::new(3);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0, 5) && random.chance(5, 5));
    }

    #[test]
    fn the_machine_does_not_repeat_itself() {
        let (mut left, mut right) = ([0; 16], [0; 16]);
        SystemRandomness.fill(&mut left).unwrap();
        SystemRandomness.fill(&mut right).unwrap();
        assert_ne!(left, right);
    }
}
