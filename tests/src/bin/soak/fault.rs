//! What is done to the pipeline.

use std::time::Duration;

use fastrand::Rng;

use crate::{MOST_REPLICAS, RATES, World};

/// The longest that something is away or frozen.
const LONGEST: u64 = 8;

/// One thing that happens; what it breaks is whole again when it ends, consumers apart.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing, for some seconds.
    Quiet(u64),
    /// kill -9 of a replica, but not of the one that is spared; another one starts at once.
    ReplicaKilled,
    /// SIGSTOP of a replica for longer than its session lasts.
    ReplicaFrozen(u64),
    /// One more, where there is room.
    ReplicaAdded,
    /// SIGTERM of one, but not of the one that is spared.
    ReplicaStopped,
    /// kill -9 of the database, away for some seconds.
    DatabaseKilled(u64),
    /// SIGSTOP of the database.
    DatabaseFrozen(u64),
    /// kill -9 of the broker, and its restart.
    BrokerKilled,
    /// SIGSTOP of the broker.
    BrokerFrozen(u64),
    /// Another rate.
    Edit(u32),
    /// Suspended for some seconds.
    Suspended(u64),
    /// A file that cannot be read, and then the good one.
    BrokenFile,
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

impl Fault {
    /// A fault by chance.
    pub fn choose(rng: &mut Rng) -> Self {
        let length = rng.u64(1..=LONGEST);
        match rng.u32(..16) {
            0 | 1 => Self::Quiet(length),
            2 | 3 => Self::ReplicaKilled,
            4 => Self::ReplicaFrozen(length + 3),
            5 => Self::ReplicaAdded,
            6 => Self::ReplicaStopped,
            7 => Self::DatabaseKilled(length),
            8 => Self::DatabaseFrozen(length),
            9 => Self::BrokerKilled,
            10 => Self::BrokerFrozen(length),
            11..=13 => Self::Edit(RATES[rng.usize(..RATES.len())]),
            14 => Self::Suspended(length),
            _ => Self::BrokenFile,
        }
    }

    /// Makes it happen, and ends it.
    pub async fn happen(self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::Quiet(length) => seconds(length).await,
            Self::ReplicaKilled if world.replicas.len() > 1 => {
                world.take_victim().kill().await?;
                world.add_replica()?;
            }
            Self::ReplicaFrozen(length) => {
                let index = world.any_replica();
                world.replicas[index].freeze()?;
                seconds(length).await;
                world.replicas[index].thaw()?;
            }
            Self::ReplicaAdded if world.replicas.len() < MOST_REPLICAS => world.add_replica()?,
            Self::ReplicaStopped if world.replicas.len() > 1 => {
                let victim = world.take_victim();
                crate::stop(victim).await?;
            }
            Self::ReplicaKilled | Self::ReplicaAdded | Self::ReplicaStopped => {}
            Self::DatabaseKilled(length) => {
                world.mariadb.server()?.kill().await?;
                seconds(length).await;
                world.mariadb.restart().await?;
            }
            Self::DatabaseFrozen(length) => {
                world.mariadb.server()?.freeze()?;
                seconds(length).await;
                world.mariadb.server()?.thaw()?;
            }
            Self::BrokerKilled => {
                world.kafka.kill().await?;
                world.kafka.restart().await?;
            }
            Self::BrokerFrozen(length) => {
                world.kafka.freeze()?;
                seconds(length).await;
                world.kafka.thaw()?;
            }
            Self::Edit(rate) => {
                world.pipeline.rate = rate;
                world.save()?;
                seconds(3).await;
            }
            Self::Suspended(length) => {
                world.pipeline.suspend = true;
                world.save()?;
                seconds(length).await;
                world.pipeline.suspend = false;
                world.save()?;
            }
            Self::BrokenFile => {
                world.home.save("spec: {")?;
                seconds(2).await;
                world.save()?;
            }
        }
        Ok(())
    }
}
