//! An open file of the simulated disk.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::disk::{State, Verdict, killed};
use super::fault::Operation;
use super::names::Number;
use crate::io::DiskFile;

pub(super) struct SimFile {
    pub state: Arc<Mutex<State>>,
    pub number: Number,
    /// The life in which it was opened, and in which alone it can be used.
    pub life: u64,
    pub writable: bool,
}

impl SimFile {
    fn require_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

/// The largest offset, as the machine's.
fn require_offset(offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(Errno::FBIG.into()),
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.begin_whole(self.life, Operation::Read)?;
        let len = state.content(self.number)?.live.read(offset_bytes, buf);
        state.statistics.reads += 1;
        state.statistics.bytes_read += len as u64;
        Ok(len)
    }

    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.require_writable()?;
        require_offset(offset_bytes, bytes.len() as u64)?;
        let mut state = self.state.lock();
        let verdict = state.begin(self.life, Operation::Write);
        let len = match &verdict {
            Verdict::Dead(_) => 0,
            Verdict::Proceed => bytes.len(),
            // What is written before an error or a kill is anyone's guess.
            Verdict::Fail(_) | Verdict::KilledDuring => state.random().below(bytes.len() as u64 + 1) as usize,
        };
        if len > 0 {
            state.require_space(self.number, offset_bytes, len as u64)?;
            state.content(self.number)?.write(offset_bytes, &bytes[..len]);
        }
        match verdict {
            Verdict::Proceed => {
                state.statistics.writes += 1;
                state.statistics.bytes_written += len as u64;
                Ok(())
            }
            Verdict::Dead(error) | Verdict::Fail(error) => Err(error),
            Verdict::KilledDuring => Err(killed()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(self.life, Operation::Sync);
        let (content, random) = state.content_and_random(self.number)?;
        match verdict {
            Verdict::Proceed => content.sync(),
            Verdict::Dead(error) => return Err(error),
            Verdict::Fail(error) => {
                content.fail_sync(random);
                return Err(error);
            }
            Verdict::KilledDuring => {
                if random.chance(1, 2) {
                    content.sync();
                }
                return Err(killed());
            }
        }
        state.statistics.syncs += 1;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.begin_whole(self.life, Operation::Read)?;
        Ok(state.content(self.number)?.live.len)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        require_offset(len_bytes, 0)?;
        let mut state = self.state.lock();
        state.begin_whole(self.life, Operation::Write)?;
        state.content(self.number)?.set_len(len_bytes);
        Ok(())
    }

    fn preallocate(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        require_offset(offset_bytes, len_bytes)?;
        let mut state = self.state.lock();
        state.begin_whole(self.life, Operation::Write)?;
        state.require_space(self.number, offset_bytes, len_bytes)?;
        state.content(self.number)?.reserve(offset_bytes, len_bytes);
        Ok(())
    }
}
