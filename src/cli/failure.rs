//! Errors as a person sees them: one sentence, what led to it, and the exit status.

use std::error::Error as StdError;

/// What the program could not do.
pub const FAILED: u8 = 1;
/// What it was asked made no sense.
pub const USAGE: u8 = 2;

/// A request that cannot be meant; exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Prints `error: …` on stderr: the whole chain in one line, each link once.
pub fn report(error: &anyhow::Error) {
    eprintln!("error: {}", sentence(error.as_ref()));
}

/// The exit status for `error`.
pub fn status(error: &anyhow::Error) -> u8 {
    let is_usage =
        error.chain().any(|link| link.is::<UsageError>() || link.is::<crate::types::ParsePointError>());
    if is_usage { USAGE } else { FAILED }
}

/// The chain of causes, without those that the link before already said.
fn sentence(error: &(dyn StdError + 'static)) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        next = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(cause).context("cannot read x: disk on fire").context("cannot show x");
        assert_eq!(sentence(error.as_ref()), "cannot show x: cannot read x: disk on fire");
    }

    #[test]
    fn usage_has_a_status_of_its_own() {
        let usage = anyhow::Error::new(UsageError("both".into())).context("cannot mount");
        assert_eq!((status(&usage), status(&anyhow::anyhow!("x"))), (USAGE, FAILED));
    }
}
