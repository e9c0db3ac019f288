//! The agent of a pod: starts one process per rank, hosts the gang's store on index 0, keeps progress and metrics for
//! HTTP, and turns the first failure into an exit code and a termination message. It never trains.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use graft_crds::contract::{Device, ExitReason, OutputRef, TerminationSummary, TrainerConfig, TrainerFailure};
use graft_crds::names::GANG_TOKEN;
use graft_torch::Store;

use crate::event::{Event, Failure, RankStart};
use crate::gate::{self, Token};
use crate::serve::{self, Board};
use crate::stderr::Words;

/// After the first failure the other ranks have this long to tell theirs: the one that lost a peer often speaks first.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Whether an agent listens for HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// On the port of the configuration.
    On,
    /// Not at all.
    Off,
}

/// Called with the number of a rank and what it tells.
pub type Observer = Box<dyn FnMut(u32, &Event) + Send>;

/// How an agent works on this machine.
pub struct AgentOptions {
    /// Program and arguments of a rank process.
    pub rank_command: Vec<OsString>,
    /// HTTP.
    pub serve: Serve,
    /// File for the termination message.
    pub termination_log: Option<PathBuf>,
    /// Who hears the events.
    pub observer: Option<Observer>,
}

/// What the agent waits for.
pub(crate) enum Message {
    /// A rank said something.
    Event(u32, Box<Event>),
    /// A rank's output ended.
    Silent(u32),
    /// SIGTERM or an interrupt came.
    Terminate,
}

/// A rank process.
struct Rank {
    number: u32,
    child: Child,
    ended: Option<ExitStatus>,
    errors: Errors,
}

/// What a rank writes to standard error.
struct Errors {
    words: Arc<Mutex<Words>>,
    /// Closed when all of it was read.
    end: Receiver<()>,
}

impl Errors {
    /// The last lines; waits a moment for them, because a rank's outputs end in any order.
    fn last(&self) -> String {
        let _ = self.end.recv_timeout(Duration::from_secs(1));
        self.words.lock().map(|words| words.last()).unwrap_or_default()
    }
}

/// Supervise the ranks of pod `index` until all have ended; the summary's `exit` is the process's exit code.
pub fn run(config: TrainerConfig, index: u32, mut options: AgentOptions) -> TerminationSummary {
    let termination_log = options.termination_log.take();
    let gpus = if config.gang.device == Device::Cuda { config.gang.processes } else { 0 };
    let board = Arc::new(Mutex::new(Board::new(gpus)));
    let (sender, receiver) = channel();
    let mut agent = Agent { board: board.clone(), observer: options.observer.take(), failures: Vec::new(), output: None, terminated: false };
    let port = match options.serve {
        Serve::On => Some(config.gang.http_port),
        Serve::Off => None,
    };
    let result = serve::start(port, board, sender.clone()).and_then(|runtime| open_store(&config, index, &runtime, &sender)).and_then(
        |(store, store_port)| {
            let result = agent.supervise(&config, (index, store_port), &options.rank_command, &sender, &receiver);
            // The store outlives every rank.
            drop(store);
            result
        },
    );
    if let Err(failure) = result {
        agent.failures.push(failure.of_rank(None));
    }
    let summary = agent.summary();
    write_message(termination_log.as_deref(), &summary);
    summary
}

/// The summary of an agent that cannot even begin.
#[must_use]
pub fn refuse(failure: &Failure, termination_log: Option<&Path>) -> TerminationSummary {
    let summary = TerminationSummary {
        exit: failure.exit,
        progress: graft_crds::contract::Progress::default(),
        failure: Some(failure.of_rank(None)),
        output: None,
    };
    write_message(termination_log, &summary);
    summary
}

fn write_message(path: Option<&Path>, summary: &TerminationSummary) {
    if let Some(path) = path {
        // Outside a pod there is no such file, and the exit code says the most important thing.
        let _ = std::fs::write(path, summary.to_message());
    }
}

struct Agent {
    board: Arc<Mutex<Board>>,
    observer: Option<Observer>,
    failures: Vec<TrainerFailure>,
    output: Option<OutputRef>,
    terminated: bool,
}

impl Agent {
    fn supervise(
        &mut self,
        config: &TrainerConfig,
        (index, store_port): (u32, u16),
        command: &[OsString],
        sender: &Sender<Message>,
        receiver: &Receiver<Message>,
    ) -> Result<(), Failure> {
        let mut ranks = Vec::new();
        for local_rank in 0..config.gang.processes {
            let start = RankStart { config: config.clone(), rank: index * config.gang.processes + local_rank, local_rank, store_port, generation: 0 };
            match spawn(command, &start, sender) {
                Ok(rank) => {
                    if let Ok(mut board) = self.board.lock() {
                        board.started(rank.child.id());
                    }
                    ranks.push(rank);
                }
                Err(failure) => {
                    stop(&mut ranks);
                    return Err(failure);
                }
            }
        }
        self.listen(&mut ranks, receiver);
        stop(&mut ranks);
        // What was said last is heard, too.
        while let Ok(message) = receiver.try_recv() {
            if let Message::Event(rank, event) = message
                && matches!(*event, Event::Log { .. })
            {
                self.hear(rank, *event);
            }
        }
        Ok(())
    }

    /// Hear the ranks until all have ended, or one has failed and the others had their last words.
    fn listen(&mut self, ranks: &mut [Rank], receiver: &Receiver<Message>) {
        let mut deadline: Option<Instant> = None;
        while ranks.iter().any(|rank| rank.ended.is_none()) {
            let patience = deadline.map_or(Duration::from_secs(3600), |d| d.saturating_duration_since(Instant::now()));
            match receiver.recv_timeout(patience) {
                Ok(Message::Event(rank, event)) => self.hear(rank, *event),
                Ok(Message::Silent(number)) => self.bury(ranks, number),
                Ok(Message::Terminate) => {
                    self.terminated = true;
                    return;
                }
                Err(RecvTimeoutError::Timeout) if deadline.is_some() => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.failures.is_empty() {
                deadline = deadline.or_else(|| Some(Instant::now() + LAST_WORDS));
            }
        }
    }

    fn hear(&mut self, rank: u32, event: Event) {
        if let Ok(mut board) = self.board.lock() {
            board.record(rank, &event);
        }
        if let Some(observer) = &mut self.observer {
            observer(rank, &event);
        }
        match event {
            Event::Failed(failure) => self.failures.push(failure),
            Event::Output(output) => self.output = Some(output),
            Event::Progress(_) | Event::Log { .. } | Event::Epoch(_) | Event::FirstStep { .. } => {}
            Event::Steps { .. } | Event::Exchange(_) | Event::Checkpoint { .. } => {}
        }
    }

    /// A rank's output has ended, so the rank has, or soon will.
    fn bury(&mut self, ranks: &mut [Rank], number: u32) {
        let Some(rank) = ranks.iter_mut().find(|rank| rank.number == number) else { return };
        let Ok(status) = rank.child.wait() else { return };
        rank.ended = Some(status);
        let last = rank.errors.last();
        let told = self.failures.iter().any(|failure| failure.rank == Some(number));
        if !status.success() && !told {
            self.failures.push(silent_death(number, status, &last));
        }
    }

    fn summary(self) -> TerminationSummary {
        let progress = self.board.lock().map(|board| board.progress()).unwrap_or_default();
        if self.terminated {
            let failure = TrainerFailure {
                exit: ExitReason::Preempted,
                reason: "Terminated".into(),
                message: "stopped by SIGTERM; the next attempt goes on from the newest checkpoint".into(),
                rank: None,
            };
            return TerminationSummary { exit: ExitReason::Preempted, progress, failure: Some(failure), output: None };
        }
        // Who lost a peer is rarely who is to blame.
        let cause = self.failures.iter().find(|f| f.exit != ExitReason::CollectiveLost).or(self.failures.first()).cloned();
        TerminationSummary { exit: cause.as_ref().map_or(ExitReason::Ok, |f| f.exit), progress, failure: cause, output: self.output }
    }
}

/// Index 0 hosts the store behind a gate, the others lead to it; gives the port of loopback where ranks find it.
fn open_store(
    config: &TrainerConfig,
    index: u32,
    runtime: &tokio::runtime::Handle,
    sender: &Sender<Message>,
) -> Result<(Option<Store>, u16), Failure> {
    let gang = &config.gang;
    let failed = |error: std::io::Error| Failure::new(ExitReason::CollectiveLost, "RendezvousNotOpened", error.to_string());
    if index > 0 {
        let (listener, port) = gate::loopback().map_err(failed)?;
        let (sender, rank) = (sender.clone(), index * gang.processes);
        let tell = move |message| drop(sender.send(Message::Event(rank, Box::new(Event::Log { message }))));
        runtime.spawn(gate::lead(listener, gang.rendezvous_host.clone(), gang.rendezvous_port, Token::of_pod()?, tell));
        return Ok((None, port));
    }
    let store = Store::serve(Duration::from_secs(60))?;
    let port = store.port()?;
    if gang.replicas > 1 {
        let listener = std::net::TcpListener::bind(("0.0.0.0", gang.rendezvous_port)).map_err(failed)?;
        runtime.spawn(gate::guard(listener, port, Token::of_pod()?));
    }
    Ok((Some(store), port))
}

fn spawn(command: &[OsString], start: &RankStart, sender: &Sender<Message>) -> Result<Rank, Failure> {
    let bug = |what: &str, error: &dyn std::fmt::Display| Failure::new(ExitReason::Bug, "RankNotStarted", format!("{what}: {error}"));
    let Some((program, arguments)) = command.split_first() else { return Err(bug("rank command", &"empty")) };
    let mut process = Command::new(program);
    process.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.env_remove(GANG_TOKEN);
    // One rank never uses the cores of another.
    process.env("OMP_NUM_THREADS", start.config.gang.threads.to_string());
    // Between two operations threads wait awake for 1,000 turns. OpenMP's own 300,000 are lost where a processor is shared with other
    // pods: every wait for a thread that is not running burns them.
    if std::env::var_os("GOMP_SPINCOUNT").is_none() {
        process.env("GOMP_SPINCOUNT", "1000");
    }
    if start.config.gang.device == Device::Cuda {
        // cuBLAS gives the same bits each time only with workspaces of a fixed size.
        process.env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    }
    // glibc gives large blocks back to the kernel at once and gets them zeroed again in the next step: keep them.
    process.envs([("MALLOC_MMAP_THRESHOLD_", "4294967296"), ("MALLOC_TRIM_THRESHOLD_", "17179869184"), ("MALLOC_TOP_PAD_", "67108864")]);
    let mut child = process.spawn().map_err(|error| bug(&program.to_string_lossy(), &error))?;
    let line = serde_json::to_string(start).map_err(|error| bug("configuration", &error))?;
    if let Some(input) = &mut child.stdin {
        // A rank that dies at once is found by its exit, not by this pipe.
        let _ = writeln!(input, "{line}");
    }
    let number = start.rank;
    if let Some(output) = child.stdout.take() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                let event = serde_json::from_str(&line).unwrap_or(Event::Log { message: line });
                if sender.send(Message::Event(number, Box::new(event))).is_err() {
                    return;
                }
            }
            let _ = sender.send(Message::Silent(number));
        });
    }
    let errors = listen_to_errors(number, child.stderr.take(), sender.clone());
    Ok(Rank { number, child, ended: None, errors })
}

/// Standard error is read to its end, or a rank that writes much would stand still.
fn listen_to_errors(number: u32, output: Option<ChildStderr>, sender: Sender<Message>) -> Errors {
    let words = Arc::new(Mutex::new(Words::default()));
    let (ended, end) = channel();
    let heard = words.clone();
    std::thread::spawn(move || {
        let say = |message| drop(sender.send(Message::Event(number, Box::new(Event::Log { message }))));
        let note = |line: &str| heard.lock().ok().and_then(|mut words| words.hear(line));
        if let Some(output) = output {
            BufReader::new(output).split(b'\n').map_while(Result::ok).filter_map(|line| note(&String::from_utf8_lossy(&line))).for_each(say);
        }
        if let Some(message) = heard.lock().ok().and_then(|words| words.left_out()) {
            say(message);
        }
        drop(ended);
    });
    Errors { words, end }
}

/// Checkpoints are atomic, so a rank needs no time to stop.
fn stop(ranks: &mut [Rank]) {
    for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
        let _ = rank.child.kill();
    }
    for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
        let _ = rank.child.wait();
    }
}

/// A rank that ended without a word of its own; `last` are those of its libraries.
fn silent_death(rank: u32, status: ExitStatus, last: &str) -> TrainerFailure {
    use std::os::unix::process::ExitStatusExt;
    let (exit, reason, message) = match (status.code(), status.signal()) {
        (Some(code), _) => (ExitReason::from_code(code).unwrap_or(ExitReason::Bug), "RankFailed", format!("rank {rank} exited with code {code}")),
        (None, Some(9)) => {
            (ExitReason::CollectiveLost, "RankKilled", format!("rank {rank} was killed (signal 9); if nobody did, it ran out of memory"))
        }
        (None, signal) => (ExitReason::Bug, "RankCrashed", format!("rank {rank} crashed with signal {}", signal.unwrap_or_default())),
    };
    let message = if last.is_empty() { message } else { format!("{message}; its last words: {last}") };
    TrainerFailure { exit, reason: reason.into(), message, rank: Some(rank) }
}
