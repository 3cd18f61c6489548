//! Clients that read and write all the time, whose history must be linearizable.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_tests::wait;
use kvd_tests::workload::{self, Histories, Options, Workload};

/// A workload over all pods and the Service, checked piece by piece.
pub struct Checked {
    urls: Vec<String>,
    options: Options,
    running: Workload,
    all: Histories,
    acknowledged: u64,
}

impl Checked {
    /// Starts the clients.
    pub fn start(cluster: &Cluster, seed: u64) -> Result<Checked> {
        // By address through the Service, and by name to each member: names are resolved again at
        // each connection, as a client should.
        let mut urls = vec![format!("http://{}:2379", cluster.service("etcd-client")?)];
        urls.extend((0..3).map(|number| format!("http://etcd-{number}.etcd:2379")));
        Checked::start_at(urls, seed)
    }

    /// The same with members at `urls`.
    pub fn start_at(urls: Vec<String>, seed: u64) -> Result<Checked> {
        // Every write without an answer doubles what the check may have to try for its key: few
        // clients and many keys keep that small.
        let options = Options {
            clients: 4,
            keys: 12,
            seed,
            operations: 1_600,
            pause: Duration::from_millis(5),
        };
        let running = Workload::start(&urls, &options)?;
        Ok(Checked {
            urls,
            options,
            running,
            all: Histories::new(),
            acknowledged: 0,
        })
    }

    /// Waits until the pods are ready, all members are equal, and clients get answers.
    pub async fn converged(&self, cluster: &Cluster) -> Result<()> {
        let before = self.running.acknowledged();
        let well = async {
            cluster.wait_ready(CONVERGENCE).await?;
            cluster.equal_hashes(CONVERGENCE).await?;
            wait::until("answers to clients", CONVERGENCE, || async {
                let now = self.running.acknowledged();
                ensure!(now > before + 10, "{} since", now - before);
                Ok(())
            })
            .await
        };
        tokio::time::timeout(CONVERGENCE, well)
            .await
            .unwrap_or_else(|_| {
                Err(anyhow::anyhow!(
                    "not well within {CONVERGENCE:?}\n{}",
                    cluster.logs()
                ))
            })
    }

    /// Checks what was seen so far and goes on from there: pieces of bounded length.
    pub async fn check(&mut self) -> Result<()> {
        self.options.seed = self.options.seed.wrapping_add(1);
        let next = Workload::start(
            &[],
            &Options {
                clients: 0,
                ..self.options.clone()
            },
        )?;
        let done = std::mem::replace(&mut self.running, next);
        self.acknowledged += done.acknowledged();
        let piece = done.finish(&self.all).await?;
        let deadline = Duration::from_secs(20);
        let piece = wait::until("reading everything back", deadline, || async {
            let mut read = piece.clone();
            workload::read_back(&mut read, &self.urls[0]).await?;
            Ok(read)
        })
        .await?;
        workload::verify(&workload::continued(&piece, &self.all))?;
        self.all = piece;
        self.running = Workload::start(&self.urls, &self.options)?;
        Ok(())
    }

    /// The last check; returns how many operations were acknowledged in all.
    pub async fn finish(mut self) -> Result<u64> {
        self.check().await?;
        self.running.finish(&self.all).await?;
        Ok(self.acknowledged)
    }
}
