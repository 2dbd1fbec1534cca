//! What the journal costs a database's writes: processor time for each 8 KiB, and the time a commit takes
//! beside a plain write and `fdatasync` on the same disk.
//!
//! `cargo bench --bench journal`; `PITGATE_BENCH_DIR` (default `/var/tmp`) says on which disk. One line of
//! JSON for each figure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitgate::io::{Clock, Disk, RealDisk, SeededRandom, SystemClock, thread_cpu_time};
use pitgate::journal::{
    JournalIdentity, LogConfig, LogState, PublishError, Publisher, SealedSegment, SegmentOpened, Writer,
    WriterConfig,
};
use pitgate::types::{ChangeBody, ChangeSink, DataChange, Epoch, FileId, PageWrite, Position, Time};

const WRITE_BYTES: usize = 8192;

/// Keeps nothing: the benchmark is of the writer alone.
struct Nobody;

impl Publisher for Nobody {
    fn opened(&mut self, _: &SegmentOpened) {}

    fn sealed(&mut self, _: SealedSegment) -> Result<(), PublishError> {
        Ok(())
    }
}

/// Pages such as pgbench writes: tuples of 128 bytes, mostly blanks, with a few numbers that differ.
fn heap_page(random: &mut SeededRandom) -> Bytes {
    let mut page = vec![0u8; WRITE_BYTES];
    page[..8].copy_from_slice(&random.next().to_le_bytes());
    for (number, tuple) in page.chunks_mut(128).enumerate().skip(2) {
        tuple[0..4].copy_from_slice(&(random.below(1 << 20) as u32).to_le_bytes());
        tuple[16..24].copy_from_slice(&[number as u8, 0, 3, 0, 2, 9, 24, 0]);
        tuple[24..28].copy_from_slice(&(number as u32).to_le_bytes());
        tuple[32..36].copy_from_slice(&(random.below(10_000) as u32).to_le_bytes());
        tuple[40..124].fill(b' ');
    }
    Bytes::from(page)
}

fn change(file: u64, page: u64, bytes: Bytes, mtime: Time) -> ChangeBody {
    let pages = vec![PageWrite { first_page: page, bytes }];
    let (file, mtime) = (FileId(file), Some(mtime));
    ChangeBody::Data(DataChange { file, size_after: 1 << 30, mtime, cut: false, zero: None, pages })
}

fn start(disk: &Arc<dyn Disk>, directory: &str, config: WriterConfig) -> Writer {
    let directory = PathBuf::from(directory);
    disk.create_directories(&directory).expect("a directory for segments");
    let identity = JournalIdentity { repository: [1; 16], source: [2; 16] };
    let first_position = Position(1);
    let state = LogState { identity, directory, epoch: Epoch(1), first_position, last_time: Time(0) };
    Writer::start(config, state, disk.clone(), Arc::new(SystemClock), Box::new(Nobody)).expect("a writer")
}

fn report(case: &str, value: f64, unit: &str, peer: &str, peer_value: f64) {
    let ratio = value / peer_value;
    println!(
        r#"{{"bench":"journal","case":"{case}","value":{value:.2},"unit":"{unit}","peer":"{peer}","peer_value":{peer_value:.2},"ratio":{ratio:.3}}}"#
    );
}

/// As fast as it goes, one commit at the end: processor time and bytes stored.
fn ingest(disk: &Arc<dyn Disk>, pages: &[Bytes]) {
    let config = WriterConfig { sync_interval: Duration::from_secs(60), ..WriterConfig::default() };
    let writer = start(disk, "ingest", config);
    let clock = SystemClock;
    let mut random = SeededRandom::new(1);
    let (before, began) = (thread_cpu_time(), clock.monotonic());
    let count = 40_000u64;
    for _ in 0..count {
        let page = pages[random.below(pages.len() as u64) as usize].clone();
        writer.append(change(2, random.below(100_000) * 2, page, clock.now())).expect("an append");
    }
    let appended = thread_cpu_time() - before;
    writer.commit(writer.written()).expect("a commit");
    let elapsed = clock.monotonic() - began;
    let sealing = clock.monotonic();
    writer.seal().expect("a seal");
    let sealed_ms = (clock.monotonic() - sealing).as_secs_f64() * 1e3;
    let status = writer.status();
    let us_each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let total = us_each(appended + status.cpu);
    report("cpu of an append, caller", us_each(appended), "us", "all threads", total);
    report("ingest of one core", WRITE_BYTES as f64 / total, "MB/s", "wanted", 300.0);
    report("ingest", WRITE_BYTES as f64 / us_each(elapsed), "MB/s", "wanted", 300.0);
    report(
        "bytes stored of a byte written",
        status.stored_bytes as f64 / status.captured_bytes as f64,
        "",
        "wanted",
        0.25,
    );
    let stored_mib = status.stored_bytes as f64 / f64::from(1 << 20);
    report("seal of the segment", sealed_ms, "ms", "its MiB", stored_mib);
    writer.close().expect("a clean stop");
}

/// One write and one commit after the other, by `threads` at once: the mean time of one.
fn commits(disk: &Arc<dyn Disk>, pages: &[Bytes], threads: u64) {
    let writer = start(
        disk,
        &format!("commits-{threads}"),
        WriterConfig { log: LogConfig::default(), ..WriterConfig::default() },
    );
    let clock = SystemClock;
    let each = 2000 / threads;
    let began = clock.monotonic();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let writer = &writer;
            scope.spawn(move || {
                let mut random = SeededRandom::new(thread);
                for number in 0..each {
                    let page = pages[random.below(pages.len() as u64) as usize].clone();
                    let position = writer
                        .append(change(3 + thread, number * 2, page, SystemClock.now()))
                        .expect("an append");
                    writer.commit(position).expect("a commit");
                }
            });
        }
    });
    let count = (each * threads) as f64;
    let ours = (clock.monotonic() - began).as_secs_f64() * 1e6 / count;
    let cpu = writer.status().cpu.as_secs_f64() * 1e6 / count;
    let peer = plain(disk, pages, threads, each);
    report(&format!("write and commit, {threads} at once"), ours, "us", "write, fdatasync", peer);
    report(&format!("cpu of the writer, {threads} at once"), cpu, "us", "whole commit", ours);
    writer.close().expect("a clean stop");
}

/// The same without a journal: each thread overwrites a file of its own that has all its blocks.
fn plain(disk: &Arc<dyn Disk>, pages: &[Bytes], threads: u64, each: u64) -> f64 {
    let files: Vec<_> = (0..threads)
        .map(|thread| {
            let file = disk.create_new(Path::new(&format!("plain-{threads}-{thread}"))).expect("a file");
            file.write_at(0, &vec![1; each as usize * WRITE_BYTES]).expect("a write");
            file.sync().expect("a sync");
            file
        })
        .collect();
    let began = SystemClock.monotonic();
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(move || {
                for number in 0..each {
                    let page = &pages[number as usize % pages.len()];
                    file.write_at(number * WRITE_BYTES as u64, page).expect("a write");
                    file.sync().expect("a sync");
                }
            });
        }
    });
    (SystemClock.monotonic() - began).as_secs_f64() * 1e6 / (each * threads) as f64
}

fn main() {
    let base = std::env::var("PITGATE_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    let directory = tempfile::tempdir_in(base).expect("a scratch directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("a disk"));
    let mut random = SeededRandom::new(7);
    let pages: Vec<Bytes> = (0..512).map(|_| heap_page(&mut random)).collect();
    ingest(&disk, &pages);
    commits(&disk, &pages, 1);
    commits(&disk, &pages, 4);
}
