//! The folder of a queue, which one process has at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::QueueError;

/// A folder that is this process's alone until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// Another process has it, or it cannot be used.
    pub fn lock(path: &Path) -> Result<Self, QueueError> {
        let failed = |source| QueueError::Directory { directory: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("queue.lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                // Only to be helpful; on a full disk it cannot be written, and the lock is held all the same.
                let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                if let Err(error) = noted {
                    tracing::debug!(%error, "the lock file does not name this process");
                }
                Ok(Self { path: path.to_owned(), _lock: file })
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only to be helpful: without it the message still tells what to do.
                let known = file.read_to_string(&mut pid).is_ok() && pid.parse::<u32>().is_ok();
                let holder = if known { format!(" (process {pid})") } else { String::new() };
                Err(QueueError::InUse { directory: path.to_owned(), holder })
            }
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
