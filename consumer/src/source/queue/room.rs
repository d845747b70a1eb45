//! Room on the disk for records, beside what the database needs to store those that wait.
//!
//! Database and queue share a disk. What the queue holds is only deleted once it is stored: a backlog for whose rows there
//! is no room could never be stored. A database whose rows were deleted keeps its size on the disk, and has room for rows
//! within: without counting that, a disk that was full once would be so for good.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::statvfs::statvfs;

/// Bytes that stay free besides, of a small disk half of it. A batch of large bodies is in the database's log and in its
/// file: one half of this may be room within the file.
const LEFT_FREE: u64 = 256 << 20;
/// What a record takes in the database at least, for each byte here: small spans one and a half times as much, with their
/// rows and index.
const STORED: u64 = 2;

/// What may be appended until the disk is looked at again.
pub(super) struct Room {
    /// Bytes of the disk.
    left: AtomicU64,
    /// Of records that were appended: what they take here, and then there.
    here: AtomicU64,
    there: AtomicU64,
}

impl Room {
    /// As much as one likes, until it is looked.
    pub(super) fn new() -> Self {
        Self { left: AtomicU64::new(u64::MAX), here: AtomicU64::new(0), there: AtomicU64::new(0) }
    }

    pub(super) fn is_left(&self) -> bool {
        self.left.load(Relaxed) > 0
    }

    /// Records were appended that take `here` bytes, and about `there` bytes once they are stored. The writer does this.
    pub(super) fn take(&self, here: u64, there: u64) {
        let there = there.max(here * STORED);
        self.here.fetch_add(here, Relaxed);
        self.there.fetch_add(there, Relaxed);
        self.left.store(self.left.load(Relaxed).saturating_sub(here + there), Relaxed);
    }

    /// Looks how full the disk of `path` is; the queue holds `held` bytes, and the database has `within` free ones.
    pub(super) fn look(&self, path: &Path, held: u64, within: u64) {
        match statvfs(path) {
            Ok(disk) => {
                let (free, all) = (disk.blocks_available(), disk.blocks());
                self.know(free * disk.fragment_size(), all * disk.fragment_size(), held, within);
            }
            Err(error) => tracing::debug!(%error, "the disk does not tell how full it is"),
        }
    }

    /// A disk of `size` bytes has `free` ones.
    fn know(&self, free: u64, size: u64, held: u64, within: u64) {
        let besides = LEFT_FREE.min(size / 2);
        let rows = (besides / 2).saturating_add(self.there_for(held));
        let kept = (besides - besides / 2).saturating_add(rows.saturating_sub(within));
        self.left.store(free.saturating_sub(kept), Relaxed);
    }

    /// What the database needs for records of `held` bytes, if they are like those that were appended.
    fn there_for(&self, held: u64) -> u64 {
        let (here, there) = (self.here.load(Relaxed), self.there.load(Relaxed));
        let needed = match here {
            0 => u128::from(held) * u128::from(STORED),
            _ => u128::from(held) * u128::from(there) / u128::from(here),
        };
        u64::try_from(needed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 1_000 * MIB;

    /// How much is held and free once no more is taken, where each byte here becomes `rows` bytes of rows.
    fn filled(room: &Room, rows: u64) -> (u64, u64) {
        let (mut free, mut held) = (SIZE, 0);
        // A second may bring as much as it likes.
        room.know(free, SIZE, held, 0);
        while room.is_left() {
            for _ in 0..300 {
                if room.is_left() {
                    room.take(MIB, MIB * rows);
                    (free, held) = (free - MIB, held + MIB);
                }
            }
            room.know(free, SIZE, held, 0);
        }
        (free, held)
    }

    #[test]
    fn what_waits_can_always_be_stored() {
        let room = Room::new();
        let (free, held) = filled(&room, 1);
        assert!(free >= LEFT_FREE - 3 * MIB + held * 3 / 2, "{free} free, {held} held");
        assert!(held > 200 * MIB, "{held} held: most of the disk is left unused");
        // Row by row there is more room again, whether or not the queue gives back what it held.
        room.know(free - 150 * MIB, SIZE, held - 100 * MIB, 0);
        assert!(room.is_left());
    }

    #[test]
    fn what_becomes_much_longer_in_the_database_leaves_more_room_for_it() {
        let room = Room::new();
        let (free, held) = filled(&room, 7);
        assert!(free >= LEFT_FREE - 8 * MIB + held * 7, "{free} free, {held} held");
        assert!(held > 80 * MIB, "{held} held");
    }

    #[test]
    fn rows_that_were_deleted_leave_room_for_others_and_none_for_records() {
        let room = Room::new();
        let left = |free, held, within| {
            room.know(free, SIZE, held, within);
            room.left.load(Relaxed)
        };
        assert_eq!(left(300 * MIB, 0, 0), 44 * MIB);
        assert_eq!(left(300 * MIB, 0, 500 * MIB), 172 * MIB, "the log still needs its half of what is kept");
        assert_eq!(left(300 * MIB, 100 * MIB, 500 * MIB), 172 * MIB, "what waits goes there, too");
        assert_eq!(left(300 * MIB, 300 * MIB, 600 * MIB), 44 * MIB, "as far as there is room");
        assert_eq!(left(128 * MIB, 0, 500 * MIB), 0);
    }

    #[test]
    fn a_small_disk_has_room_and_a_full_one_has_none() {
        let room = Room::new();
        room.know(100 * MIB, 100 * MIB, 0, 0);
        assert_eq!(room.left.load(Relaxed), 50 * MIB);
        room.know(0, 100 * MIB, 0, 0);
        assert!(!room.is_left());
        room.know(u64::MAX, u64::MAX, u64::MAX, 0);
        assert!(!room.is_left());
    }
}
