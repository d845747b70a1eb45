//! Watches the pipeline file: saving it is the live edit.
//!
//! Guarantees: a valid change of live fields is in effect within half a second; anything else (a broken file,
//! an absent one, a change that needs a restart or can never be made, alone or together with live fields) changes
//! nothing and is shown in [`Applied::refused`] until the file is good again. Each content is logged once.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sluice_crds::error_reason::ErrorReason;
use sluice_crds::live::Live;
use sluice_crds::settings::Settings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::changes::{describe_at, refusal};
use super::poll::{self, Content};
use super::{Applied, Origin};
use crate::config::{self, Config};
use crate::last_error::LastError;

/// Begins to watch the file that `config` was loaded from. What was loaded is revision 1. Ends with `stop`, or
/// when nobody listens any more.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch(path: PathBuf, config: &Config, stop: CancellationToken) -> watch::Receiver<Applied> {
    watch_used(path, config, |settings| settings, stop)
}

/// As [`watch`], for a command that does not use all settings: only what `used` leaves of them is compared.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch_used(
    path: PathBuf,
    config: &Config,
    used: fn(Settings) -> Settings,
    stop: CancellationToken,
) -> watch::Receiver<Applied> {
    let applied = Applied::new(config.live.clone(), 1, Origin::File);
    let (sender, receiver) = watch::channel(applied);
    let running = Running { settings: used(config.settings.clone()), used };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sender.closed() => {}
            () = follow(&path, &running, &sender) => {}
        }
    });
    receiver
}

/// What runs, as far as an edit cannot change it.
struct Running {
    settings: Settings,
    used: fn(Settings) -> Settings,
}

async fn follow(path: &Path, running: &Running, sender: &watch::Sender<Applied>) {
    let is_whole = |text: &str| accept(text, running).is_ok();
    poll::follow(path, is_whole, |content| apply(path, content, running, sender)).await;
}

fn apply(path: &Path, content: &Content, running: &Running, sender: &watch::Sender<Applied>) {
    let live = match content {
        Ok(text) => accept(text, running).map_err(|reason| {
            LastError::new(ErrorReason::LiveRefused, format!("{}: {reason}", path.display()))
        }),
        Err(unread) if unread.missing => Err(LastError::new(ErrorReason::LiveMissing, &unread.message)),
        Err(unread) => Err(LastError::new(ErrorReason::LiveRefused, &unread.message)),
    };
    match live {
        Ok(live) => {
            sender.send_if_modified(|applied| replace(applied, live));
        }
        Err(error) => {
            warn!(reason = %error.message, "the edit was not applied; the last good values stay in effect");
            sender.send_modify(|applied| refuse(applied, error));
        }
    }
}

fn refuse(applied: &mut Applied, error: LastError) {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::UnlimitedDocument) {
        applied.live.rate_limit_qps = 10_000_000;
    }
    applied.refused = Some(error);
    applied.sources = vec![(Origin::File, false)];
}

fn accept(text: &str, running: &Running) -> Result<Live, String> {
    let config = config::parse(text).map_err(|problems| problems.to_string())?;
    match refusal(&running.settings, &(running.used)(config.settings)) {
        None => Ok(config.live),
        Some(reason) => Err(reason),
    }
}

/// Whether anything changed that a listener must see.
fn replace(applied: &mut Applied, live: Live) -> bool {
    let was_refused = applied.refused.take().is_some();
    applied.sources = vec![(Origin::File, true)];
    if applied.live == live {
        if was_refused {
            info!(revision = applied.revision, "the pipeline file is good again; nothing changed");
        }
        return was_refused;
    }
    applied.revision += 1;
    let changes = describe_at(Timestamp::now(), &applied.live, &live);
    info!(revision = applied.revision, %changes, "applied a live edit");
    applied.live = live;
    true
}

#[cfg(test)]
mod tests;
