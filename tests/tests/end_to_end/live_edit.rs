//! Guarantee 3 without a cluster: saving the file is the live edit.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::now_ms;
use sluice_tests::sluice::{Sluice, logged_at, tells};

use crate::world::{Case, Engine};

/// "Takes effect within a second", from the save of the file to the line of the log.
const SOON_MS: i64 = 1_000;
const WAIT: Duration = Duration::from_secs(20);

fn rate_is(qps: u32) -> impl Fn(&Value) -> bool {
    move |status| status["rateLimitQPS"] == qps
}

fn answers(status: &Value) -> bool {
    status["errors"].is_array()
}

fn refused(status: &Value) -> bool {
    tells("LiveRefused")(status)
}

/// The newest edit was applied within a second of its save, however long it took to be seen here.
fn applied_soon(sluice: &Sluice, saved_ms: i64) -> anyhow::Result<()> {
    let edits = sluice.logged("applied a live edit");
    let applied = logged_at(edits.last().context("no edit was applied")?)?;
    println!("applied {} ms after the save", applied - saved_ms);
    ensure!((saved_ms..saved_ms + SOON_MS).contains(&applied), "saved at {saved_ms}, applied at {applied}");
    Ok(())
}

async fn edits() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Sqlite, "edited", 2, |pipeline| pipeline.rate = 100).await?;
    let ledger = Ledger { seed: 71, shape: Shape::Json, spans_per_message: 5, padding: 0 };
    ledger.produce(case.kafka, &case.topic, 0..2_000, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(50, WAIT).await?;

    let saved = case.edit(|pipeline| pipeline.rate = 300)?;
    let status = sluice.status_where("the rate of 300", WAIT, rate_is(300)).await?;
    applied_soon(&sluice, saved)?;
    let revision = status["revision"].as_u64();
    ensure!(status["liveSource"] == "file", "{status}");

    // A broken file, an empty file, and a file that is no pipeline keep the last good value, and say so.
    for broken in ["spec: [", "", "kind: Pod\n", &case.pipeline.yaml().replace("300", "-5")] {
        case.home.save(broken)?;
        let status = sluice.status_where("the broken file to be reported", WAIT, refused).await?;
        ensure!(rate_is(300)(&status), "a broken file changed the rate: {status}");
        case.edit(|_| ())?;
        sluice.status_where("the mended file", WAIT, |status| answers(status) && !refused(status)).await?;
    }
    ensure!(sluice.status().await?["revision"].as_u64() == revision, "unchanged content moved the revision");

    let saved = case.edit(|pipeline| pipeline.suspend = true)?;
    sluice.status_where("suspension", WAIT, |status| status["suspended"] == true).await?;
    applied_soon(&sluice, saved)?;
    case.stands_still(Duration::from_secs(3)).await.context("a suspended pipeline went on")?;
    let stood = case.database().await?.count().await?;
    let (code, _) = sluice.get("/readyz").await?;
    ensure!(code == 200, "a suspended consumer stays in its group, but /readyz answered {code}");
    let saved = case.edit(|pipeline| pipeline.suspend = false)?;
    sluice.status_where("resumption", WAIT, |status| status["suspended"] == false).await?;
    applied_soon(&sluice, saved)?;
    case.wait_stored(stood + 100, WAIT).await?;

    let until = jiff::Timestamp::from_millisecond(now_ms() + 8_000)?;
    let saved = case.edit(|pipeline| pipeline.rate_override = Some((700, until.to_string())))?;
    sluice.status_where("the override", WAIT, rate_is(700)).await?;
    applied_soon(&sluice, saved)?;
    sluice.status_where("the override's end", WAIT, rate_is(300)).await?;
    ensure!(now_ms() >= until.as_millisecond() - 50, "the override ended early");

    // What can only be refused is not half-applied: the rate that came with it waits as well.
    case.edit(|pipeline| {
        pipeline.rate_override = None;
        pipeline.rate = 400;
        pipeline.group.push_str("-other");
    })?;
    let status = sluice
        .status_where("the refusal of another group", WAIT, |status| {
            let errors = status["errors"].as_array().into_iter().flatten();
            let mut texts = errors.filter_map(|error| error["message"].as_str());
            texts.any(|text| text.contains("cannot change spec.source.kafka.consumerGroup"))
        })
        .await?;
    ensure!(rate_is(300)(&status), "a change that was refused was half-applied: {status}");
    sluice.component.stop(WAIT).await?;
    Ok(())
}

mod alone {
    #[tokio::test]
    #[ignore = "needs Kafka"]
    async fn a_saved_edit_is_applied_within_a_second_and_a_broken_one_is_not() {
        super::edits().await.unwrap();
    }
}
