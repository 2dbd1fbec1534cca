//! `cargo xtask`: the project's own commands.

mod bench;
mod phase;
mod setup;
mod suite;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask check          formatting, lints, the project's rules, quick tests: before every commit
cargo xtask test [--long]  everything that CI runs; --long is the soak, for hours
cargo xtask demo [--database postgresql]
                           the main job, start to end, on this machine
cargo xtask bench NAME     comparisons with peers";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["check"] => suite::check(),
        ["test"] => suite::test(suite::Length::Short),
        ["test", "--long"] => suite::test(suite::Length::Long),
        ["demo", rest @ ..] => suite::demo(rest),
        ["bench", rest @ ..] => bench::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
