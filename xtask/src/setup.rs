//! What must be on this machine before anything runs: Debian packages and cargo's own tools. Installed if this is
//! root on a system with apt; else named.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::phase::Phases;

/// A file that a package brings, and the package, one a line.
const PACKAGES: &str = include_str!("../../.ci/packages");

const INSTALL_LIMIT: Duration = Duration::from_secs(1200);

/// Packages that are missing and stand in the list; all of them if `only` is empty.
fn missing_packages(only: &[&str]) -> Vec<&'static str> {
    let lines = PACKAGES.lines().filter_map(|line| line.split_once(' '));
    let mut missing: Vec<&str> = lines
        .filter(|(file, package)| (only.is_empty() || only.contains(package)) && !Path::new(file).exists())
        .map(|(_, package)| package)
        .collect();
    missing.dedup();
    missing
}

/// Installs the packages that are missing; `only` some of the list, or all if it is empty.
///
/// # Errors
/// Names them if this process may not install any.
pub fn packages(phases: &mut Phases, only: &[&str]) -> Result<()> {
    let missing = missing_packages(only);
    if missing.is_empty() {
        return Ok(());
    }
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !is_root || !Path::new("/usr/bin/apt-get").exists() {
        bail!("these packages are missing: {0}; as root: apt-get install {0}", missing.join(" "));
    }
    // Debian starts a cluster of its own when PostgreSQL is installed; none is wanted.
    let script = "mkdir -p /etc/postgresql-common; f=/etc/postgresql-common/createcluster.conf; \
        [ -e $f ] || echo 'create_main_cluster = false' > $f; \
        apt-get update -q && apt-get install -q -y --no-install-recommends \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(&missing).env("DEBIAN_FRONTEND", "noninteractive");
    phases.run(&format!("install {}", missing.join(" ")), INSTALL_LIMIT, &mut command);
    match missing_packages(only) {
        missing if missing.is_empty() => Ok(()),
        missing => bail!("cannot install {}", missing.join(" ")),
    }
}

/// Installs the cargo tools that are missing.
pub fn tools(phases: &mut Phases) {
    for (tool, words) in [("cargo-nextest", ["nextest", "--version"]), ("cargo-deny", ["deny", "--version"])]
    {
        let found = Command::new("cargo").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let mut command = Command::new("cargo");
            command.args(["install", "--debug", "--locked", tool]);
            phases.run(&format!("install {tool}"), INSTALL_LIMIT, &mut command);
        }
    }
}

/// Installs the suites of the long run that are missing.
pub fn suites(phases: &mut Phases) {
    for suite in ["pjdfstest", "fsx"] {
        let found = Command::new(suite).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let mut command = Command::new("cargo");
            command.args(["install", "--debug", "--locked", suite]);
            phases.run(&format!("install {suite}"), INSTALL_LIMIT, &mut command);
        }
    }
}
