//! Images made here, from binaries made here; no registry takes part.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "sluice.dev/pause:test";

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/image");

/// Builds an image from binaries, the first of which is its entry point; returns the archive's path.
///
/// # Errors
/// A binary or one of its libraries is missing.
pub fn build(name: &str, binaries: &[&Path], folder: &Path) -> anyhow::Result<PathBuf> {
    let archive = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let mut command = Command::new(format!("{FOLDER}/build"));
    run(command.arg(&archive).arg(name).args(binaries))?;
    Ok(archive)
}

/// Compiles and builds [`PAUSE`].
pub(super) fn build_pause(folder: &Path) -> anyhow::Result<PathBuf> {
    let binary = folder.join("pause");
    let mut command = Command::new("cc");
    run(command.args(["-static", "-Os", "-o"]).arg(&binary).arg(format!("{FOLDER}/pause.c")))?;
    build(PAUSE, &[&binary], folder)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let binary = std::env::current_exe().unwrap();
        let archives = folders.each_ref().map(|folder| {
            std::fs::read(build("sluice.dev/any:test", &[&binary], folder.path()).unwrap()).unwrap()
        });
        assert!(archives[0] == archives[1]);
        let manifest = r#""RepoTags": ["sluice.dev/any:test"]"#.as_bytes();
        assert!(archives[0].windows(manifest.len()).any(|window| window == manifest));
    }
}
