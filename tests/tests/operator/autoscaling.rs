//! The number of consumers, by what they say of themselves.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::eventually;
use sluice_tests::responder::Responder;

use crate::bed::{Bed, condition, pipeline};
use crate::kubelet::{Kubelet, is_settled};

/// Consumers are added half a minute after the processor has begun to be the limit; it is looked at as often.
const STEP: Duration = Duration::from_secs(90);
/// Of each topic.
const PARTITIONS: u64 = 4;
/// A pipeline for each thing that may limit its consumers, and what it says.
const LIMITS: [(&str, &str); 5] =
    [("store", "Store"), ("guard", "Guard"), ("limiter", "Limiter"), ("idle", "Idle"), (CPU, "Cpu")];
const CPU: &str = "cpu";

/// An address of this machine's own, one for each pipeline.
fn address(pipeline: usize) -> IpAddr {
    Ipv4Addr::new(127, 64, 0, 1 + pipeline as u8).into()
}

/// What one of so many consumers says; every so many answers in a row share the partitions.
fn answer(number: u64, bottleneck: &str, consumers: u64) -> Value {
    let own = PARTITIONS / consumers + u64::from(number % consumers < PARTITIONS % consumers);
    let partition = json!({ "topic": "spans", "partition": 0, "position": 1, "lag": 9_000 });
    json!({
        "revision": 1, "rateLimitQPS": 5_000, "effectiveQPS": 2_500.0, "achievedQPS": 900.0,
        "bottleneck": bottleneck, "partitions": vec![partition; own as usize],
    })
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn consumers_are_added_while_the_processor_limits_them_and_for_nothing_else() {
    let bed = Bed::start("autoscale").await;
    let addresses = LIMITS.iter().enumerate().map(|(index, (name, _))| ((*name).to_owned(), address(index)));
    let kubelet = Kubelet::new(&bed, addresses.collect()).await;
    let limited_by_cpu = Arc::new(AtomicU64::new(2));
    let mut responders = Vec::new();
    for (index, (name, bottleneck)) in LIMITS.into_iter().enumerate() {
        let consumers = if name == CPU { limited_by_cpu.clone() } else { Arc::new(AtomicU64::new(2)) };
        let answer = move |number| answer(number, bottleneck, consumers.load(Relaxed));
        responders.push(Responder::start(address(index), answer).await.unwrap());
        let mut spec = pipeline();
        spec["metadata"]["name"] = name.into();
        spec["spec"]["source"]["kafka"]["topic"] = name.into();
        spec["spec"]["autoscaling"] = json!({ "min": 2, "max": 10 });
        bed.create(&spec).await;
    }
    // A half more each time, and never more than there are partitions.
    for consumers in [2, 3, PARTITIONS] {
        let grown = eventually("the consumers", STEP, async || {
            kubelet.run_pods(None).await?;
            let deployment =
                bed.namespace.get(&format!("deployment/{CPU}-consumer")).await.unwrap_or_default();
            let wanted = deployment["spec"]["replicas"].as_u64();
            assert!(wanted <= Some(consumers), "{wanted:?} instead of {consumers}");
            Ok((wanted == Some(consumers) && is_settled(&deployment)).then_some(()))
        });
        bed.namespace.explain(grown.await).await.unwrap();
        limited_by_cpu.store(consumers, Relaxed);
    }
    for (name, bottleneck) in LIMITS {
        let deployment = bed.namespace.get(&format!("deployment/{name}-consumer")).await.unwrap();
        let wanted = if name == CPU { PARTITIONS } else { 2 };
        assert_eq!(deployment["spec"]["replicas"], wanted, "limited by {bottleneck}");
        // They were asked, and said so.
        bed.until(&format!("tp/{name}"), |pipeline| condition(pipeline, "RateConfirmed").0 == "True").await;
    }
    bed.operator.log_is_clean(&[]).unwrap();
}
