//! Data directories as their initialisers leave them. Each is made once on a machine, and copied by all servers that begin
//! with it: that takes a tenth of the time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use tokio::sync::Mutex;

use super::{Commands, carried_out, given_to};
use crate::component::Scratch;

/// Whoever starts at the same time in this process waits for the one who makes it.
static MAKING: Mutex<()> = Mutex::const_new(());

/// Copies the template of a server's data directory to `to`; makes the template in `cache` where there is none yet.
pub(super) async fn copied(
    name: &str,
    user: &str,
    commands: &impl Fn(&str) -> Commands,
    cache: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    let template = cache.join(format!("{name}-{:016x}", fingerprint(&commands(""))?));
    {
        let _one = MAKING.lock().await;
        if !template.exists() {
            make(name, user, commands, &template).await?;
        }
    }
    copy(&template, to).await
}

/// Another version of the server has another template, and so have other arguments of its initialiser.
fn fingerprint(commands: &Commands) -> anyhow::Result<u64> {
    let daemon = commands.run.first().context("no server")?;
    let file = std::fs::metadata(daemon).with_context(|| format!("cannot look at {daemon}"))?;
    let mut hasher = DefaultHasher::new();
    (&commands.initialise, daemon, file.len(), file.mtime()).hash(&mut hasher);
    Ok(hasher.finish())
}

async fn make(
    name: &str,
    user: &str,
    commands: &impl Fn(&str) -> Commands,
    template: &Path,
) -> anyhow::Result<()> {
    let dir = Scratch::new("sluice-template-")?;
    let mut words = given_to(user, dir.path())?;
    words.extend(commands(&dir.path().display().to_string()).initialise);
    carried_out(name, words, dir.path().join("initialise.log")).await?;
    // Complete or not there at all: another process may look for it meanwhile.
    let cache = template.parent().context("no cache")?;
    std::fs::create_dir_all(cache)?;
    let begun = tempfile::Builder::new().prefix("template-").tempdir_in(cache)?;
    let data = begun.path().join("data");
    copy(&dir.path().join("data"), &data).await?;
    match std::fs::rename(data, template) {
        // Another process was faster.
        Err(_) if template.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot make {}", template.display())),
    }
}

/// With owners and rights; what is empty takes no room.
async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let options = ["cp", "--archive", "--reflink=auto", "--sparse=always"].map(str::to_owned);
    let words = options.into_iter().chain([from, to].map(|path| path.display().to_string()));
    carried_out("cp", words.collect(), to.with_extension("log")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_template_is_made_once_for_servers_that_start_at_once_and_anew_for_other_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        let commands = |argument: &'static str| {
            let made = made.display().to_string();
            move |dir: &str| {
                let script = format!("mkdir {dir}/data; echo {argument} >{dir}/data/file; echo >>{made}");
                Commands {
                    initialise: ["sh", "-c", &script].map(str::to_owned).to_vec(),
                    alike: true,
                    run: vec!["/bin/sh".to_owned()],
                }
            }
        };
        let (old, new, cache) = (commands("old"), commands("new"), dir.path().join("cache"));
        let [one, two, three] = ["one", "two", "three"].map(|name| dir.path().join(name));
        let (first, second) = tokio::join!(
            copied("server", "root", &old, &cache, &one),
            copied("server", "root", &old, &cache, &two)
        );
        first.and(second).unwrap();
        copied("server", "root", &new, &cache, &three).await.unwrap();
        let found = [one, two, three].map(|copy| std::fs::read_to_string(copy.join("file")).unwrap());
        assert_eq!(found, ["old\n", "old\n", "new\n"]);
        assert_eq!(std::fs::read_to_string(&made).unwrap(), "\n\n");
        // Nothing but the two is left.
        assert_eq!(std::fs::read_dir(cache).unwrap().count(), 2);
    }
}
