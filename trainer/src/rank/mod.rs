//! One rank: joins the gang, then runs the stages in order. All ranks take the same decisions from the same data; what
//! only one may do (write a manifest, train the head) is rank 0's, and the others wait at a barrier.

mod affinity;
mod augment;
mod board;
mod checkpoint;
mod criterion;
mod features;
mod fine_tune;
mod frozen;
mod head;
mod inputs;
mod kept;
mod optimizer;
mod policy;
mod prepare;
mod recorded;
mod room;
mod step;
mod telling;

pub(crate) use checkpoint::to_json;
pub(crate) use fine_tune::judge;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use graft_crds::contract::{CheckpointRef, DataFindings, Device as Kind, ExitReason, Progress, Stage, TrainerConfig};
use graft_crds::spec::AfterFineTune;
use graft_torch::tch::{Device, Tensor};
use graft_torch::{Interface, ProcessGroup, Store, device};
use graft_trainer_core::progress::{Tracker, Work};
use graft_trainer_core::report::HistoryRow;
use graft_trainer_core::sampler;

use crate::event::{Event, Failure, RankStart};
use crate::output;

use board::Board;
use frozen::Frozen;
use telling::Telling;

pub use inputs::padding;
pub(crate) use inputs::{Normaliser, Recipe, said};

/// A lost peer is noticed by its broken connection; this only bounds waiting for one that is slow.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a rank waits for index 0's agent and for the other ranks to come.
const MEETING: Duration = Duration::from_secs(300);

/// The rank process: reads its start from standard input, and exits with a code of the contract.
pub fn main() -> ExitCode {
    let started = SystemTime::now();
    let start = match read_start() {
        Ok(start) => start,
        Err(failure) => {
            eprintln!("error: {failure}");
            return ExitCode::from(failure.exit.code());
        }
    };
    end_with_the_agent();
    let rank = start.rank;
    match run(&start, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // All ranks know all of them.
            if rank == 0 {
                tell_places(&failure.places);
            }
            say(&Event::Failed(failure.of_rank(Some(rank))));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// More lines than these would push out of the node's log what came before.
const PLACES: usize = 10_000;

fn tell_places(places: &[String]) {
    for place in places.iter().take(PLACES) {
        say(&Event::Log { message: place.clone() });
    }
    if let Some(more @ 1..) = places.len().checked_sub(PLACES) {
        say(&Event::Log { message: format!("and {more} more; `graft validate` lists all") });
    }
}

fn read_start() -> Result<RankStart, Failure> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let bug = |error: &dyn std::fmt::Display| Failure::new(ExitReason::Bug, "RankNotStarted", format!("a rank is started by an agent: {error}"));
    read.map_err(|error| bug(&error))?;
    serde_json::from_str(&line).map_err(|error| bug(&error))
}

/// A rank never outlives its agent: the agent holds the other end of standard input.
fn end_with_the_agent() {
    std::thread::spawn(|| {
        let mut line = String::new();
        while matches!(std::io::stdin().lock().read_line(&mut line), Ok(n) if n > 0) {
            line.clear();
        }
        std::process::exit(i32::from(ExitReason::CollectiveLost.code()));
    });
}

pub(crate) fn say(event: &Event) {
    let text = serde_json::to_string(event).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    // Without an agent to hear it there is nobody to tell.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// What every stage needs.
pub(crate) struct Rank {
    pub(crate) config: TrainerConfig,
    pub(crate) rank: usize,
    pub(crate) world: usize,
    pub(crate) group: Rc<ProcessGroup>,
    pub(crate) device: Device,
    pub(crate) output: PathBuf,
    started: SystemTime,
    clock: Instant,
    tracker: Tracker,
    progress: Progress,
    last_said: Option<Instant>,
    pub(crate) history: Vec<HistoryRow>,
    board: Option<Board>,
    /// The board cannot be written, which was said once.
    boardless: bool,
    /// What is done now is a part of another stage: it tells neither progress nor history.
    aside: bool,
    telling: Telling,
    /// Images in one forward pass without gradients.
    pub(crate) evaluated_at_once: usize,
}

fn run(start: &RankStart, started: SystemTime) -> Result<(), Failure> {
    let (config, gang) = (start.config.clone(), &start.config.gang);
    affinity::keep_to_own_processors(start.local_rank as usize, gang.processes as usize, gang.device == Kind::Cuda);
    device::set_threads(u16::try_from(gang.threads).unwrap_or(1), 1)?;
    device::set_log_level(device::LogLevel::Fatal)?;
    let (rank, world) = (start.rank as usize, gang.world_size() as usize);
    let device = match gang.device {
        Kind::Cpu => Device::Cpu,
        Kind::Cuda => {
            device::set_cuda_device(u16::try_from(start.local_rank).unwrap_or(0))?;
            graft_torch::graph::leave_default_stream(start.local_rank as usize)?;
            Device::Cuda(start.local_rank as usize)
        }
    };
    let settings = config.fine_tune.as_ref();
    device::set_determinism(match device {
        Device::Cuda(_) if !settings.is_some_and(|settings| settings.deterministic) => device::Determinism::Fast,
        _ => device::Determinism::Deterministic,
    })?;
    device::set_tf32(false)?;
    let store = Store::connect("127.0.0.1", start.store_port, MEETING)?;
    let interface = if gang.replicas == 1 { Interface::Named("lo".into()) } else { Interface::Default };
    let group = ProcessGroup::for_device(device, &store.prefix(&format!("generation-{}", start.generation))?, rank, world, PATIENCE, &interface)?;
    let output = crate::storage::open_output(&config.output.uri)?;
    let mut rank = Rank {
        rank,
        world,
        group: Rc::new(group),
        device,
        output,
        started,
        clock: Instant::now(),
        tracker: Tracker::new(Vec::new()),
        progress: Progress::default(),
        last_said: None,
        history: Vec::new(),
        board: None,
        boardless: false,
        aside: false,
        telling: Telling::from_environment(),
        evaluated_at_once: if device == Device::Cpu { 32 } else { 256 },
        config,
    };
    stages(&mut rank)
}

fn stages(rank: &mut Rank) -> Result<(), Failure> {
    let mut recipe = prepare::prepare(rank)?;
    rank.tracker = Tracker::new(plan(&rank.config, &recipe));
    let (trained, frozen) = match rank.config.fine_tune.clone() {
        Some(settings) => {
            if settings.head_first {
                rank.aside = true;
                probe(rank, &mut recipe)?;
                rank.aside = false;
            }
            let tuned = fine_tune::fine_tune(rank, &mut recipe, &settings)?;
            (Some(tuned.inputs), tuned.frozen)
        }
        None => (None, Frozen::backbone(&recipe.model)?),
    };
    let keep = trained.is_some() && rank.config.head.after_fine_tune == AfterFineTune::Keep;
    let features = features::extract(rank, &mut recipe, trained)?;
    if let Some(features) = features {
        if !keep {
            head::train(rank, &mut recipe, &features)?;
        }
        recipe.leave_unit()?;
        rank.begin(Stage::Evaluate, 0, 0);
        let frozen = frozen.check(&recipe.model)?;
        rank.log(format!("0 of {frozen} frozen tensors changed"));
        let written = output::write(rank, &recipe, &features, frozen)?;
        rank.progress.metrics = written.metrics;
        rank.tracker.finish();
        rank.report();
        say(&Event::Output(written.output));
    }
    rank.group.barrier()?;
    Ok(())
}

/// Linear probing: a head on the features of the backbone as it is. Fine-tuning begins with it on all ranks.
fn probe(rank: &mut Rank, recipe: &mut Recipe) -> Result<(), Failure> {
    if let Some(features) = features::extract(rank, recipe, None)? {
        head::train(rank, recipe, &features)?;
    }
    Ok(())
}

/// The work of each stage, in forward passes of the backbone; a training step costs about three of them.
fn plan(config: &TrainerConfig, recipe: &Recipe) -> Vec<Work> {
    let all = recipe.dataset.samples.len() as u64;
    let train = recipe.dataset.range(graft_data::Split::Train).len() as u64;
    let mut plan = Vec::new();
    if let Some(settings) = &config.fine_tune {
        plan.push(Work { stage: Stage::FineTune, samples: train * u64::try_from(settings.epochs).unwrap_or(1), cost: 2.0 });
    }
    plan.push(Work { stage: Stage::Features, samples: all, cost: 1.0 });
    plan.push(Work { stage: Stage::Head, samples: train * u64::try_from(config.head.epochs).unwrap_or(1), cost: 0.002 });
    plan.push(Work { stage: Stage::Evaluate, samples: 1, cost: 1.0 });
    plan
}

impl Rank {
    /// Seconds since this process joined the gang.
    fn now(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    /// Tell people once, not once per rank.
    pub(crate) fn log(&self, message: impl Into<String>) {
        if self.rank == 0 {
            say(&Event::Log { message: message.into() });
        }
    }

    /// A stage begins, with this many of its epochs done already.
    fn begin(&mut self, stage: Stage, epochs: u64, done: u64) {
        if self.aside {
            return;
        }
        let now = self.now();
        self.tracker.begin(stage, done, now);
        (self.progress.stage, self.progress.epochs, self.progress.epoch) = (stage, epochs, 0);
        self.report();
    }

    /// `samples` of the stage are done over all ranks.
    fn record(&mut self, samples: usize) {
        if self.aside {
            return;
        }
        let now = self.now();
        self.tracker.record(samples as u64, now);
        if self.last_said.is_none_or(|said| said.elapsed() > Duration::from_millis(500)) {
            self.report();
        }
    }

    fn epoch_done(&mut self, row: HistoryRow) {
        self.progress.epoch = row.epoch;
        self.progress.loss = Some(row.train_loss);
        for (name, value) in [
            ("validation_loss", row.validation_loss),
            ("validation_auroc", row.validation_auroc),
            ("validation_accuracy", row.validation_accuracy),
            ("validation_mae", row.validation_mae),
        ] {
            if let Some(value) = value {
                self.progress.metrics.insert(name.into(), value);
            }
        }
        say(&Event::Epoch(row.clone()));
        self.keep(row);
        self.report();
    }

    /// Into the history, and to where TensorBoard looks.
    fn keep(&mut self, row: HistoryRow) {
        if self.rank == 0 && !self.boardless {
            let board = self.board.take().map_or_else(|| Board::open(&self.output, self.config.run.attempt), Ok);
            match board.and_then(|mut board| board.epoch(&row).map(|()| board)) {
                Ok(board) => self.board = Some(board),
                Err(error) => {
                    self.boardless = true;
                    self.log(format!("nothing is written for TensorBoard: {error}"));
                }
            }
        }
        self.history.push(row);
    }

    /// Epochs of the head are many and short: told now and then.
    fn head_epoch_done(&mut self, row: HistoryRow) {
        if self.aside {
            return;
        }
        if row.epoch.is_multiple_of(10) {
            self.epoch_done(row);
        } else {
            self.progress.epoch = row.epoch;
            self.keep(row);
        }
    }

    fn checkpointed(&mut self, checkpoint: CheckpointRef) {
        self.progress.checkpoint = Some(checkpoint);
        self.progress.unsaved_steps = 0;
        self.report();
    }

    fn found(&mut self, findings: DataFindings) {
        self.progress.data = Some(findings);
        self.report();
    }

    /// A step is done; the first one is told.
    fn step_done(&mut self) {
        self.progress.step += 1;
        self.progress.unsaved_steps += 1;
        if self.progress.step == 1 {
            let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
            say(&Event::FirstStep { start_unix: unix(self.started), first_step_unix: unix(SystemTime::now()) });
        }
    }

    fn report(&mut self) {
        self.progress.percent = self.tracker.percent();
        self.progress.samples_per_second = self.tracker.samples_per_second();
        self.progress.eta_seconds = self.tracker.eta_seconds();
        self.last_said = Some(Instant::now());
        say(&Event::Progress(self.progress.clone()));
    }

    /// Rows of all ranks, `[n, …]`, where each has its [`sampler::shard`] of them.
    pub(crate) fn gather(&self, local: &Tensor, n: usize) -> Result<Tensor, Failure> {
        self.gather_counted(local, &(0..self.world).map(|r| sampler::shard(n, r, self.world).len()).collect::<Vec<_>>())
    }

    /// Rows of all ranks in the order of ranks, of which each has as many as `counts` says. Short parts are padded on the way and cut again.
    pub(crate) fn gather_counted(&self, local: &Tensor, counts: &[usize]) -> Result<Tensor, Failure> {
        let mut missing = local.size();
        missing[0] = counts.iter().max().copied().unwrap_or(0) as i64 - missing[0];
        let padded = match missing[0] {
            0 => local.shallow_clone(),
            _ => Tensor::f_cat(&[local.shallow_clone(), Tensor::f_zeros(missing, (local.kind(), local.device()))?], 0)?,
        };
        let parts = self.group.all_gather(&padded.f_contiguous()?)?;
        let cut: Result<Vec<Tensor>, _> = parts.iter().zip(counts).map(|(part, count)| part.f_narrow(0, 0, *count as i64)).collect();
        Ok(Tensor::f_cat(&cut?, 0)?)
    }

    /// Whether it is so on any rank.
    fn any(&self, here: Result<(), ()>) -> Result<bool, Failure> {
        let flag = Tensor::from_slice(&[f32::from(u8::from(here.is_err()))]).f_to_device(self.device)?;
        self.group.all_reduce(&flag, graft_torch::Reduction::Max)?;
        Ok(flag.f_double_value(&[0])? > 0.0)
    }
}
