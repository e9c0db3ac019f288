//! What TensorBoard shows of a run: a file of events in `tensorboard/` of the output, one for each attempt, to which every epoch
//! is appended as it ends. It is a convenience: when it cannot be written, training goes on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use graft_trainer_core::report::HistoryRow;
use graft_trainer_core::tensorboard::{self, Scalars};

/// A file of events.
pub(super) struct Board(File);

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Board {
    /// A new file below `output`, named as TensorBoard finds it.
    pub(super) fn open(output: &Path, attempt: u32) -> io::Result<Self> {
        let folder = output.join("tensorboard");
        fs::create_dir_all(&folder)?;
        let mut file = File::create(folder.join(format!("events.out.tfevents.{:010.0}.attempt-{attempt}", now())))?;
        file.write_all(&tensorboard::header(now()))?;
        Ok(Self(file))
    }

    /// The numbers of an epoch, under the stage's name.
    pub(super) fn epoch(&mut self, row: &HistoryRow) -> io::Result<()> {
        let numbers = [
            ("learning_rate", Some(row.learning_rate)),
            ("train_loss", Some(row.train_loss)),
            ("validation_loss", row.validation_loss),
            ("validation_accuracy", row.validation_accuracy),
            ("validation_auroc", row.validation_auroc),
            ("validation_mae", row.validation_mae),
            ("samples_per_second", row.samples_per_second),
        ];
        let values: Vec<_> = numbers.into_iter().filter_map(|(name, value)| Some((format!("{}/{name}", row.stage.name()), value?))).collect();
        self.0.write_all(&tensorboard::scalars(&Scalars { time: now(), step: row.epoch, values: &values }))
    }
}
