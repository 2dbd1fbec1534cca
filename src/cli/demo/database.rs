//! What the demo asks of a database that plays the hospital's.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::types::Time;

/// The last visit that the database acknowledged, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub visit: u64,
    pub time: Time,
    pub transactions: u64,
}

/// What a database says when it is asked on a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Findings {
    pub visits: u64,
    pub last_visit: u64,
    /// Sum of all charges, and of the departments' ledgers: they must be equal.
    pub charges: i64,
    pub ledgers: i64,
    /// Visits without an order, result or charge: there must be none.
    pub incomplete_visits: u64,
}

/// A database in a directory. Every visit is one transaction: registration, order, result, charge, ledger.
pub trait Database {
    fn name(&self) -> &'static str;

    /// Makes an empty hospital with about `size_bytes` of documents in `directory`.
    fn create(&self, directory: &Path, size_bytes: u64) -> Result<()>;

    /// Admits visits in `directory` for `duration` and leaves the database as it then is, without a shutdown.
    fn load(&self, directory: &Path, duration: Duration) -> Result<Acknowledged>;

    /// Opens the database in `directory`, as after a power cut; `first_answer` is called when it has answered.
    /// With `write`, one more visit is admitted after the findings were taken.
    fn examine(&self, directory: &Path, write: bool, first_answer: &mut dyn FnMut()) -> Result<Findings>;
}

impl Findings {
    pub fn is_consistent(&self) -> bool {
        self.charges == self.ledgers && self.incomplete_visits == 0 && self.visits == self.last_visit
    }
}

/// The text of a document: readable, and as compressible as such text is.
pub fn document(number: u64, len_bytes: usize) -> String {
    const WORDS: [&str; 12] = [
        "patient",
        "reports",
        "no",
        "pain",
        "since",
        "admission",
        "mmol/l",
        "blood",
        "pressure",
        "stable",
        "dose",
        "given",
    ];
    let mut text = String::with_capacity(len_bytes + 16);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(WORDS[(state % WORDS.len() as u64) as usize]);
        text.push(' ');
        if state.is_multiple_of(5) {
            text.push_str(&(state >> 40).to_string());
            text.push(' ');
        }
    }
    text.truncate(len_bytes);
    text
}
