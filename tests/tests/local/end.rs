//! What must not keep `sluice local` from its work or from its end, and what ends it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sluice_tests::eventually;
use sluice_tests::sluice::binary;

use crate::place::{JSON, Place, SOON, client, spans};

#[tokio::test]
async fn a_log_that_nobody_reads_keeps_the_process_neither_from_work_nor_from_its_end() -> anyhow::Result<()>
{
    let place = Place::new()?;
    let log = place.dir.path().join("pipe");
    mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut pipe =
        File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&log)?;
    // The next one who writes waits.
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    let (script, binary) = (format!("exec \"$0\" \"$@\" 2>'{}'", log.display()), binary()?);
    let before = ["-c", &script, binary.to_str().context("a path that is no text")?];
    let mut sluice = place.launch_as("unread", "/bin/sh".into(), &before, &[])?;
    place.ready(&mut sluice).await?;
    let posted = place.post(&client(), "/api/v2/spans", JSON, spans("463ac35c9f6413ad", 3)).await?;
    assert_eq!(posted.status, 202, "{}", posted.text());
    eventually("all to be stored", SOON, async || Ok((place.count().await? == 3).then_some(()))).await?;
    sluice.stop(SOON).await
}

#[tokio::test]
async fn a_terminal_that_is_closed_stops_it_in_order_but_not_under_nohup() -> anyhow::Result<()> {
    let place = Place::new()?;
    let binary = binary()?;
    let binary = binary.to_str().context("a path that is no text")?;
    // As it is on a terminal, also where whoever runs the tests ignores the signal.
    let mut sluice = place.launch_as("terminal", "env".into(), &["--default-signal=HUP", binary], &[])?;
    place.ready(&mut sluice).await?;
    sluice.signal(Signal::SIGHUP)?;
    assert_eq!(sluice.ended(SOON).await?, 0);
    assert!(sluice.log_tail(5).contains("stopped"), "{}", sluice.log_tail(5));

    let mut sluice = place.launch_as("nohup", "nohup".into(), &[binary], &[])?;
    place.ready(&mut sluice).await?;
    sluice.signal(Signal::SIGHUP)?;
    let posted = place.post(&client(), "/api/v2/spans", JSON, spans("463ac35c9f6413ad", 3)).await?;
    assert_eq!(posted.status, 202, "{}", posted.text());
    sluice.stop(SOON).await
}

#[tokio::test]
async fn a_folder_that_another_one_has_just_taken_is_refused_and_nothing_is_written_there()
-> anyhow::Result<()> {
    let place = Place::new()?;
    std::fs::create_dir(place.data())?;
    let lock = File::create(place.data().join("queue.lock"))?;
    lock.try_lock()?;
    let mut late = place.launch("late", &[])?;
    assert_eq!(late.ended(SOON).await?, 1);
    assert!(late.log_tail(5).contains("is in use by another sluice"), "{}", late.log_tail(5));
    assert_eq!(std::fs::read_dir(place.data())?.count(), 1, "only the lock is there");
    Ok(())
}
