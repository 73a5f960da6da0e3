//! The marks of a log: offsets that its segments do not tell. Where it starts after DeleteRecords, and how far it is
//! compacted.
//!
//! Owner: one log; one small file in its directory (docs/FORMAT.md, "Marks"). Invariants: a mark is durable before
//! anything relies on it: `log_start` before DeleteRecords is answered, `gaps_end` before the first compacted segment
//! takes its place, `clean_end` after the last one has; marks only rise. It must not be written on a hot path.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::log::{Log, LogError};
use crate::fs;

/// The file's name.
pub(super) const MARKS_FILE: &str = "marks";

const MAGIC: &[u8; 8] = b"RLMARKS1";
const FILE_BYTES: usize = 8 + 3 * 8 + 4;

/// Offsets that the segments of a log do not tell; 0 for "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// First offset that DeleteRecords left.
    pub log_start: i64,
    /// Offset up to which the log is compacted: below it each key has one record.
    pub clean_end: i64,
    /// Offset up to which segments may have been compacted: below it offsets may be missing.
    pub gaps_end: i64,
}

impl Marks {
    /// The bytes of the file: little-endian, CRC32C at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for offset in [self.log_start, self.clean_end, self.gaps_end] {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Option<Marks> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != FILE_BYTES || crc32c::crc32c(body).to_le_bytes() != *crc || !body.starts_with(MAGIC)
        {
            return None;
        }
        let number = |at: usize| body[at..at + 8].try_into().map(i64::from_le_bytes).ok();
        Some(Marks { log_start: number(8)?, clean_end: number(16)?, gaps_end: number(24)? })
    }

    /// The marks of the log in `directory`; `None` for a damaged file. Blocking: start-up only.
    pub fn read(directory: &Path) -> io::Result<Option<Marks>> {
        match fs::read(directory.join(MARKS_FILE)) {
            Ok(bytes) => Ok(Marks::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Marks::default())),
            Err(error) => Err(error),
        }
    }
}

impl Log {
    /// Raises marks, durably. One writer at a time, so that an older state never overwrites a newer one.
    pub(super) async fn raise_marks(self: &Rc<Self>, raise: impl Fn(&mut Marks)) -> Result<(), LogError> {
        let _work = self.work();
        self.progress.wait_until(|| !self.marks_busy.get()).await;
        if self.failure() == Some(LogError::Deleted) {
            return Err(LogError::Deleted);
        }
        let old = self.marks.get();
        let mut new = old;
        raise(&mut new);
        new = Marks {
            log_start: new.log_start.max(old.log_start),
            clean_end: new.clean_end.max(old.clean_end),
            gaps_end: new.gaps_end.max(old.gaps_end),
        };
        if new == old {
            return Ok(());
        }
        self.marks_busy.set(true);
        #[cfg(test)]
        self.log_start_marked.set(new.log_start);
        let outcome = self.disk.write_small(self.directory.join(MARKS_FILE), new.encode(), true).await;
        self.marks_busy.set(false);
        self.progress.fire();
        match outcome {
            Ok(()) => {
                self.marks.set(new);
                Ok(())
            }
            // A later attempt writes a new file: nothing that failed is taken for done.
            Err(error) => {
                let text = format!("{}: marks cannot be written: {error}", self.directory.display());
                tracing::error!("{text}");
                Err(LogError::NoSpace(text.into()))
            }
        }
    }

    /// Moves the log start offset up to `before` (-1: to the high watermark), durably, and gives back what lies below.
    /// Returns the log start offset then. Errors: [`LogError::OutOfRange`] above the high watermark.
    pub async fn delete_records(self: &Rc<Self>, before: i64) -> Result<i64, LogError> {
        let high_watermark = self.high_watermark();
        let wanted = if before == -1 { high_watermark } else { before };
        if wanted < 0 || wanted > high_watermark {
            return Err(LogError::OutOfRange(before));
        }
        if wanted > self.log_start_offset() {
            // Else a power loss could leave a start behind the end.
            let end = self.state.borrow().commit.high_watermark_position();
            self.request_flush(end).wait().await?;
            self.raise_marks(|marks| marks.log_start = wanted).await?;
            {
                let mut state = self.state.borrow_mut();
                state.log_start_offset = state.log_start_offset.max(wanted);
            }
            self.apply_retention(self.clock.now_ms()).await;
        } else if wanted > self.marks.get().log_start {
            // Retention has moved the start already, and its mark may still be on the way.
            self.raise_marks(|marks| marks.log_start = marks.log_start.max(wanted)).await?;
        }
        Ok(self.log_start_offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_round_trip_and_every_flip_is_seen() {
        let marks = Marks { log_start: 5, clean_end: 70, gaps_end: 90 };
        let bytes = marks.encode();
        assert_eq!(Marks::decode(&bytes), Some(marks));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Marks::decode(&damaged), None, "flip at {at}");
            assert_eq!(Marks::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
