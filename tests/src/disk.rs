//! A small disk, to be filled: a tmpfs that is mounted on a folder. Needs root.
//!
//! Guarantee: it is unmounted with its handle, or with the test process, however that ends.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Unmounts a folder when its input closes. Lazily: whoever still has a file open there does not hold it up.
const JANITOR: &str = r#"read -r _; umount --lazy "$1""#;
/// Name of the file that fills the disk.
const BALLAST: &str = "ballast";

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    janitor: Child,
}

impl Disk {
    /// Mounts an empty disk of so many bytes on a folder, which is created where it is missing.
    ///
    /// # Errors
    /// The system refuses: only root may mount.
    pub fn mount(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "sluice-tests"])
            .arg(path)
            .status()
            .context("cannot run mount")?;
        ensure!(mounted.success(), "cannot mount a disk on {}: this test must be root", path.display());
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(path)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Self { path: path.to_owned(), janitor })
    }

    /// Leaves no byte free.
    ///
    /// # Errors
    /// Writing fails for another reason than a full disk.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::options().create(true).append(true).open(self.path.join(BALLAST))?;
        // In pieces that end with a byte: what is left between them counts, too.
        for piece in [1 << 20, 4 << 10, 1] {
            let bytes = vec![0; piece];
            loop {
                match file.write(&bytes) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Ends [`Self::fill`].
    ///
    /// # Errors
    /// It was not filled.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path.join(BALLAST))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("cannot unmount {}: {error}", self.path.display());
        }
    }
}
