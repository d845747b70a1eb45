//! Room on the disk for records, beside what the database needs to store those that wait.
//!
//! Database and queue share a disk. What the queue holds is only deleted once it is stored: a backlog for whose rows there
//! is no room could never be stored. A database whose rows were deleted keeps its size on the disk, and has room for rows
//! within: without counting that, a disk that was full once would be so for good.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::statvfs::statvfs;

use crate::lock::lock;

/// Bytes that stay free besides, of a small disk half of it. A batch of large bodies is in the database's log and in its
/// file: one half of this may be room within the file.
const LEFT_FREE: u64 = 256 << 20;
/// What a record takes in the database at least, for each byte here: small spans one and a half times as much, with their
/// rows and index.
const STORED: u64 = 2;
/// Bytes of records that are told apart no further. The largest queue has some thousand times as many.
const RUN_BYTES: u64 = 4 << 20;

/// What may be appended until the disk is looked at again.
pub(super) struct Room {
    /// Bytes of the disk.
    left: AtomicU64,
    /// What the queue holds, oldest first; partitions are taken to be stored in step. An average over all that ever came
    /// would leave too little room for a backlog of spans that become longer than those before them.
    held: Mutex<VecDeque<Run>>,
}

/// Records that came one after the other.
#[derive(Clone, Copy)]
struct Run {
    /// What they take here, and then in the database.
    here: u64,
    there: u64,
}

impl Run {
    fn new(here: u64, there: u64) -> Self {
        Self { here, there: there.max(here.saturating_mul(STORED)) }
    }

    /// Without the first `bytes`, which are fewer than it has.
    fn without(self, bytes: u64) -> Self {
        let here = self.here - bytes;
        let there = u128::from(self.there) * u128::from(here) / u128::from(self.here);
        Self { here, there: u64::try_from(there).unwrap_or(u64::MAX) }
    }
}

impl Room {
    /// As much as one likes, until it is looked. The queue holds `held` bytes already. How long their rows become is known to
    /// the process alone that took them: after a restart they count as short ones.
    pub(super) fn new(held: u64) -> Self {
        let room = Self { left: AtomicU64::new(u64::MAX), held: Mutex::default() };
        room.hold(held);
        room
    }

    pub(super) fn is_left(&self) -> bool {
        self.left.load(Relaxed) > 0
    }

    /// Records were appended that take `here` bytes, and about `there` bytes once they are stored. The writer does this.
    pub(super) fn take(&self, here: u64, there: u64) {
        let taken = Run::new(here, there);
        let used = taken.here.saturating_add(taken.there);
        self.left.store(self.left.load(Relaxed).saturating_sub(used), Relaxed);
        append(&mut lock(&self.held), taken);
    }

    /// The queue holds `bytes`: what it held longest was stored and deleted. It may also hold more than was taken, if a
    /// transaction failed and is in the file all the same.
    pub(super) fn hold(&self, bytes: u64) {
        let mut held = lock(&self.held);
        let known: u64 = held.iter().map(|run| run.here).sum();
        if bytes > known {
            append(&mut held, Run::new(bytes - known, 0));
        }
        let mut deleted = known.saturating_sub(bytes);
        while let Some(oldest) = held.front_mut().filter(|_| deleted > 0) {
            if deleted < oldest.here {
                *oldest = oldest.without(deleted);
                break;
            }
            deleted -= oldest.here;
            held.pop_front();
        }
    }

    /// Looks how full the disk of `path` is; the database has `within` free bytes.
    pub(super) fn look(&self, path: &Path, within: u64) {
        match statvfs(path) {
            Ok(disk) => {
                let (free, all) = (disk.blocks_available(), disk.blocks());
                self.know(free * disk.fragment_size(), all * disk.fragment_size(), within);
            }
            Err(error) => tracing::debug!(%error, "the disk does not tell how full it is"),
        }
    }

    /// A disk of `size` bytes has `free` ones.
    fn know(&self, free: u64, size: u64, within: u64) {
        let besides = LEFT_FREE.min(size / 2);
        let rows = (besides / 2).saturating_add(self.there());
        let kept = (besides - besides / 2).saturating_add(rows.saturating_sub(within));
        self.left.store(free.saturating_sub(kept), Relaxed);
    }

    /// What the database needs for all that is held.
    pub(super) fn there(&self) -> u64 {
        lock(&self.held).iter().fold(0, |sum: u64, run| sum.saturating_add(run.there))
    }
}

/// Puts records behind those that are held.
fn append(held: &mut VecDeque<Run>, records: Run) {
    match held.back_mut() {
        Some(newest) if newest.here < RUN_BYTES => {
            newest.here += records.here;
            newest.there += records.there;
        }
        _ => held.push_back(records),
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
        room.know(free, SIZE, 0);
        while room.is_left() {
            for _ in 0..300 {
                if room.is_left() {
                    room.take(MIB, MIB * rows);
                    (free, held) = (free - MIB, held + MIB);
                }
            }
            room.know(free, SIZE, 0);
        }
        (free, held)
    }

    #[test]
    fn what_waits_can_always_be_stored() {
        let room = Room::new(0);
        let (free, held) = filled(&room, 1);
        assert!(free >= LEFT_FREE - 3 * MIB + held * 3 / 2, "{free} free, {held} held");
        assert!(held > 200 * MIB, "{held} held: most of the disk is left unused");
        // Row by row there is more room again, whether or not the queue gives back what it held.
        room.hold(held - 100 * MIB);
        room.know(free - 150 * MIB, SIZE, 0);
        assert!(room.is_left());
    }

    #[test]
    fn what_becomes_much_longer_in_the_database_leaves_more_room_for_it_whatever_came_before() {
        for before in [0, 10_000 * MIB] {
            let room = Room::new(0);
            room.take(before, 2 * before);
            room.hold(0);
            let (free, held) = filled(&room, 7);
            assert!(free >= LEFT_FREE - 8 * MIB + held * 7, "{free} free, {held} held, {before} before");
            assert!(held > 80 * MIB, "{held} held, {before} before");
        }
    }

    #[test]
    fn what_waits_longest_is_stored_first() {
        let room = Room::new(10 * MIB);
        room.take(100 * MIB, 200 * MIB);
        room.take(100 * MIB, 800 * MIB);
        assert_eq!(room.there(), 1_020 * MIB, "what was held at the start counts as short");
        room.hold(150 * MIB);
        assert_eq!(room.there(), 900 * MIB);
        room.hold(50 * MIB);
        assert_eq!(room.there(), 400 * MIB);
        room.hold(60 * MIB);
        assert_eq!(room.there(), 420 * MIB, "what was not taken is there all the same");
        room.hold(0);
        assert_eq!(room.there(), 0);
    }

    #[test]
    fn small_records_do_not_make_it_longer_one_by_one() {
        let room = Room::new(0);
        for _ in 0..10_000 {
            room.take(10_000, 0);
        }
        let runs = lock(&room.held).len() as u64;
        assert!(runs <= 100_000_000 / RUN_BYTES + 1, "{runs}");
    }

    #[test]
    fn rows_that_were_deleted_leave_room_for_others_and_none_for_records() {
        let left = |free, held, within| {
            let room = Room::new(held);
            room.know(free, SIZE, within);
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
        let room = Room::new(0);
        room.know(100 * MIB, 100 * MIB, 0);
        assert_eq!(room.left.load(Relaxed), 50 * MIB);
        room.know(0, 100 * MIB, 0);
        assert!(!room.is_left());
        let room = Room::new(u64::MAX);
        room.know(u64::MAX, u64::MAX, 0);
        assert!(!room.is_left());
    }
}
