//! What is written and how it is read: contents like a database's, random and sequential readers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::now;

pub const BLOCK_BYTES: usize = 8192;

/// SplitMix64: the same contents and offsets in every run.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// Fills a block with rows of which a quarter does not compress, as tables of numbers and short texts.
    pub fn fill_block(&mut self, block: &mut [u8]) {
        for row in block.chunks_mut(64) {
            row.fill(b' ');
            for byte in row.iter_mut().take(16) {
                *byte = self.number() as u8;
            }
        }
    }
}

/// Writes a file of `len_bytes` and syncs it.
pub fn write_table(path: &Path, len_bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut random = Random(1);
    let mut buf = vec![0; 1 << 20];
    for offset in (0..len_bytes).step_by(buf.len()) {
        random.fill_block(&mut buf);
        file.write_all_at(&buf, offset).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.sync_all().context("cannot sync it")
}

/// Overwrites `count` random blocks and syncs.
pub fn churn(path: &Path, count: u64, block_bytes: usize) -> Result<()> {
    let file =
        File::options().write(true).open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let blocks = file.metadata()?.len() / block_bytes as u64;
    let mut random = Random(2);
    let mut block = vec![0; block_bytes];
    for _ in 0..count {
        random.fill_block(&mut block);
        let offset = random.below(blocks) * block_bytes as u64;
        file.write_all_at(&block, offset).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.sync_all().context("cannot sync it")
}

/// Reads random 8 KiB blocks, none twice, in `jobs` threads for `duration`; returns reads per second.
pub fn random_reads(path: &Path, jobs: usize, duration: Duration) -> Result<f64> {
    let blocks = std::fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?.len()
        / BLOCK_BYTES as u64;
    let mut order: Vec<u64> = (0..blocks).collect();
    let mut random = Random(3);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let started = now();
    let counts: Vec<Result<u64>> = std::thread::scope(|scope| {
        let shares: Vec<_> = order.chunks(order.len().div_ceil(jobs)).collect();
        let jobs: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || read_share(path, share, duration))).collect();
        jobs.into_iter().map(|job| job.join().unwrap_or_else(|_| bail!("a reader panicked"))).collect()
    });
    let mut reads = 0;
    for count in counts {
        reads += count?;
    }
    Ok(reads as f64 / started.elapsed().as_secs_f64())
}

fn read_share(path: &Path, blocks: &[u64], duration: Duration) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut block = vec![0; BLOCK_BYTES];
    let started = now();
    let mut reads = 0;
    for &number in blocks {
        file.read_exact_at(&mut block, number * BLOCK_BYTES as u64).context("cannot read")?;
        reads += 1;
        if started.elapsed() >= duration {
            break;
        }
    }
    Ok(reads)
}

/// Reads the whole file in 1 MiB pieces; returns MiB per second.
pub fn sequential_read(path: &Path) -> Result<f64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buf = vec![0; 1 << 20];
    let started = now();
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buf, offset).context("cannot read")?;
        if read == 0 {
            break;
        }
        offset += read as u64;
    }
    Ok(offset as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64())
}

/// Makes the next reads come from storage: writes back what is dirty and drops the page cache.
pub fn drop_page_cache() -> Result<()> {
    let status = std::process::Command::new("sync").status().context("cannot run sync")?;
    if !status.success() {
        bail!("sync failed");
    }
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("cannot drop the page cache; the benchmark needs root")
}
