//! What `/metrics` of a pod says of its ranks. Labels are values of enums, so that the number of series does not grow with training.

use std::time::Instant;

use graft_crds::contract::Progress;
use graft_trainer_core::report::HistoryRow;
use prometheus::{Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, Opts, Registry, TextEncoder};

use crate::event::{GradientExchange, StepTimes};

/// The registry and all that is in it.
pub(crate) struct Metrics {
    registry: Registry,
    samples: IntCounter,
    loss: Gauge,
    rate: Gauge,
    epoch: Gauge,
    percent: Gauge,
    quality: GaugeVec,
    exchange: Gauge,
    overlapped: Gauge,
    buckets: Gauge,
    largest_bucket: Gauge,
    steps: HistogramVec,
    checkpoints: Histogram,
    memory: Gauge,
    gpu_seconds: Counter,
    gpus: Gpus,
}

/// The GPUs of a pod, and since when it has had them.
struct Gpus {
    count: u32,
    since: Instant,
}

impl Metrics {
    /// All metrics of a pod with so many GPUs, without values.
    ///
    /// # Errors
    /// A name is there twice.
    pub(crate) fn new(gpus: u32) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str| -> prometheus::Result<HistogramOpts> {
            Ok(HistogramOpts::new(name, help).buckets(prometheus::exponential_buckets(0.001, 2.0, 16)?))
        };
        let metrics = Self {
            registry: Registry::new(),
            samples: IntCounter::new("graft_trainer_samples_total", "Images that passed through training steps in this pod.")?,
            loss: Gauge::new("graft_trainer_loss", "Mean training loss of the last epoch.")?,
            rate: Gauge::new("graft_trainer_learning_rate", "Learning rate at the end of the last epoch.")?,
            epoch: Gauge::new("graft_trainer_epoch", "Epochs of the current stage that are done.")?,
            percent: Gauge::new("graft_trainer_progress_ratio", "Share of the whole job that is done, 0 to 1.")?,
            exchange: Gauge::new("graft_trainer_gradient_exchange_seconds", "Mean duration of the exchange of gradients in a training step.")?,
            overlapped: Gauge::new(
                "graft_trainer_gradient_exchange_overlapped_seconds",
                "The part of graft_trainer_gradient_exchange_seconds under the backward pass.",
            )?,
            buckets: Gauge::new("graft_trainer_gradient_buckets", "Buckets that gradients are sent in.")?,
            largest_bucket: Gauge::new("graft_trainer_gradient_bucket_max_bytes", "Size of the largest bucket of gradients.")?,
            quality: GaugeVec::new(Opts::new("graft_trainer_metric", "Metrics by split."), &["split", "name"])?,
            steps: HistogramVec::new(
                seconds("graft_trainer_step_seconds", "Duration of the parts of a training step; communication overlaps with backward.")?,
                &["part"],
            )?,
            checkpoints: Histogram::with_opts(seconds(
                "graft_trainer_checkpoint_seconds",
                "How long training waited for a checkpoint to be written.",
            )?)?,
            memory: Gauge::new("graft_trainer_memory_bytes", "Resident memory of this pod's ranks together.")?,
            gpu_seconds: Counter::new("graft_trainer_gpu_seconds_total", "Seconds that this pod's ranks have held GPUs, of all its GPUs together.")?,
            gpus: Gpus { count: gpus, since: Instant::now() },
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> prometheus::Result<()> {
        let exchange = [&self.exchange, &self.overlapped, &self.buckets, &self.largest_bucket];
        for gauge in [&self.loss, &self.rate, &self.epoch, &self.percent, &self.memory].into_iter().chain(exchange) {
            self.registry.register(Box::new(gauge.clone()))?;
        }
        self.registry.register(Box::new(self.samples.clone()))?;
        self.registry.register(Box::new(self.quality.clone()))?;
        self.registry.register(Box::new(self.steps.clone()))?;
        self.registry.register(Box::new(self.checkpoints.clone()))?;
        self.registry.register(Box::new(self.gpu_seconds.clone()))
    }

    pub(crate) fn progress(&self, progress: &Progress) {
        self.epoch.set(progress.epoch as f64);
        self.percent.set(progress.percent / 100.0);
        for (name, value) in &progress.metrics {
            let (split, name) = name.strip_prefix("validation_").map_or(("test", name.as_str()), |name| ("validation", name));
            self.quality.with_label_values(&[split, name]).set(*value);
        }
    }

    pub(crate) fn epoch(&self, row: &HistoryRow) {
        self.loss.set(row.train_loss);
        self.rate.set(row.learning_rate);
    }

    pub(crate) fn exchange(&self, exchange: &GradientExchange) {
        self.exchange.set(exchange.seconds);
        self.overlapped.set(exchange.overlapped_seconds);
        self.buckets.set(exchange.bucket_bytes.len() as f64);
        self.largest_bucket.set(exchange.bucket_bytes.iter().max().copied().unwrap_or(0) as f64);
    }

    pub(crate) fn step(&self, times: &StepTimes) {
        self.samples.inc_by(times.samples);
        for (part, seconds) in [("data", times.data), ("forward", times.forward), ("backward", times.backward), ("optimizer", times.optimizer)] {
            self.steps.with_label_values(&[part]).observe(seconds);
        }
    }

    pub(crate) fn checkpoint(&self, seconds: f64) {
        self.checkpoints.observe(seconds);
    }

    /// In Prometheus' text format, with what the ranks of these process ids use now.
    pub(crate) fn text(&self, ranks: &[u32]) -> Vec<u8> {
        self.memory.set(ranks.iter().filter_map(|rank| resident_bytes(*rank)).sum());
        let held = self.gpus.since.elapsed().as_secs_f64() * f64::from(self.gpus.count);
        self.gpu_seconds.inc_by((held - self.gpu_seconds.get()).max(0.0));
        let mut text = Vec::new();
        // Writing into memory cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

/// What a process has in memory, in bytes; nothing of one that is gone.
fn resident_bytes(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_a_process_has_in_memory() {
        let own = resident_bytes(std::process::id()).unwrap();
        assert!((1e6..1e11).contains(&own), "{own}");
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
