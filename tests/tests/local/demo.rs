//! `sluice local --demo`: what a newcomer sees first.

use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use sluice_tests::eventually;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::place::{Place, SOON};

/// How long the demo takes from its start, in a fresh folder, to its first row.
async fn first_row_of_the_demo(name: &str) -> anyhow::Result<Duration> {
    let place = Place::new()?;
    let began = Instant::now();
    let mut demo = place.launch(name, &["--demo"])?;
    let options = SqliteConnectOptions::new().filename(place.data().join("sluice.db")).read_only(true);
    eventually("the first row", SOON, async || {
        ensure!(demo.is_running()?, "it ended; its log:\n{}", demo.log_tail(20));
        // Until it has made its file and its tables there is nothing to ask.
        let Ok(mut database) = SqliteConnection::connect_with(&options).await else { return Ok(None) };
        let row = sqlx::query("SELECT 1 FROM connectivity_trace LIMIT 1").fetch_optional(&mut database).await;
        Ok(row.ok().flatten().map(drop))
    })
    .await?;
    Ok(began.elapsed())
}

#[tokio::test]
async fn the_demo_logs_without_a_terminal_follows_the_edit_and_stops_on_ctrl_c() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut demo = place.start("demo", &["--demo"]).await?;
    let stored = |rate: u64| {
        let log = std::fs::read_to_string(demo.log()).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["message"] == "demo").any(|line| {
            line["set_rate"] == rate
                && line["backlog"].as_u64() > Some(0)
                && line["stored"].as_u64() > Some(0)
        })
    };
    eventually("the demo to store at the first rate", SOON, async || Ok(stored(2_000).then_some(()))).await?;
    place.set_rate(700)?;
    eventually("the demo to show the edit", SOON, async || Ok(stored(700).then_some(()))).await?;
    let log = std::fs::read_to_string(demo.log())?;
    assert!(log.contains("To change the rate, edit rateLimitQPS in"), "{log}");
    assert!(log.contains("curl http://127.0.0.1:"), "{log}");
    demo.signal(Signal::SIGINT)?;
    assert_eq!(demo.ended(SOON).await?, 0, "{}", demo.log_tail(10));
    assert!(demo.log_tail(3).contains("look at the rows"), "{}", demo.log_tail(3));
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_demo_left_counts_as_arrived() -> anyhow::Result<()> {
    let place = Place::new()?;
    place.start("made", &[]).await?.stop(SOON).await?;
    // Nearly all of the first burst waits when it ends.
    place.set_rate(100)?;
    for (name, least) in [("first", 55_000), ("second", 110_000)] {
        let mut demo = place.start(name, &["--demo"]).await?;
        let arrived = eventually("the burst to have arrived", SOON, async || {
            let log = std::fs::read_to_string(demo.log()).unwrap_or_default();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let mut lines = lines.filter(|line| line["message"] == "demo");
            Ok(lines.find(|line| line["arrived"].as_u64() >= Some(least)))
        });
        let arrived = arrived.await?;
        let count = |field: &str| arrived[field].as_u64().unwrap_or_default();
        ensure!(count("arrived") == count("stored") + count("backlog") + count("dead_letters"), "{arrived}");
        demo.signal(Signal::SIGINT)?;
        assert_eq!(demo.ended(SOON).await?, 0, "{}", demo.log_tail(10));
    }
    Ok(())
}

mod alone {
    use super::*;

    #[tokio::test]
    #[ignore = "measures a time"]
    async fn the_demo_has_stored_its_first_row_in_less_than_two_seconds() -> anyhow::Result<()> {
        // The best of three: what else the machine does at the moment is not what is measured.
        let mut best = Duration::MAX;
        for name in ["first", "second", "third"] {
            best = best.min(first_row_of_the_demo(name).await?);
            println!("the first row after {best:?}");
        }
        ensure!(best < Duration::from_secs(2), "the first row only after {best:?}");
        Ok(())
    }
}
